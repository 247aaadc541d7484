"""What a run reports besides its losses: evaluations during training, and the last hidden layer at its end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from arcturus.api import state_leaves
from arcturus.envs import family, single
from arcturus.losses import annealed
from arcturus.runs.monitor import Monitor
from arcturus.runs.settings import RunConfig
from arcturus.scoring.evaluation import Evaluation
from arcturus.scoring.instruments import HeldOut, first_filters
from arcturus.scoring.sequences import score_lengths, watched_lengths
from arcturus.scoring.statistics import summary
from arcturus.seeding import Seeds

WATCHED = 64  # tapes of each length that an evaluation in training scores
THUMBNAIL = 128  # pixels of a side in the projector: 512 of them fit on its largest sheet
SLOW_OPENING = 1.0  # seconds to open one environment, from which on the cost is reported


def introduce(monitor: Monitor, config: RunConfig, agent: Any, envs: Any, saved: dict[str, Any] | None) -> None:
    """The first lines of a run: how its observations are read, and what may be unexpected.  saved: the state from which a run is
    resumed."""
    backend: Any = getattr(envs, "backend", None)
    if saved is None and envs.spec.told:
        torso = getattr(getattr(agent.network, "torso", None), "name", "")
        monitor.text(f"observations: {envs.spec.told}" + (f"; read by the torso {torso}" if torso else ""))
    forgets = agent.network is not None and not state_leaves(agent.initial_state(1))
    if saved is None and forgets and family(config.env.id) in ("memory", "ntm", "tape"):
        fix = "--agent.core lstm gives it one" if hasattr(config.agent, "core") else "train-agent drqn has one"
        monitor.text(f"{config.env.id} asks for memory, but this agent has none: {fix}")
    if config.env.reopen and getattr(backend, "opening", 0.0) > SLOW_OPENING:
        monitor.text(
            f"{config.env.id} takes {backend.opening:.1f} s to open, and is opened at every checkpoint and scored episode; if reset(seed) "
            "resets all of its state, --env.reopen False avoids that"
        )
    if saved is None and single(config.env) and agent.own_loop and config.eval_every:
        monitor.text("no evaluations during training: with --num-envs 1 no second environment is opened for them")
    if saved is not None:
        for line in _moved_schedules(config, saved):
            monitor.text(line)


def _moved_schedules(config: RunConfig, saved: dict[str, Any]) -> list[str]:
    """How schedules over the whole run change if the run's number of steps has changed."""
    before, now, at = json.loads(saved["config"])["run"]["steps"], config.run.steps, saved["steps"]
    c, out = config.agent, []
    if before != now and getattr(c, "anneal_steps", 0) == -1:
        was, is_ = (annealed(c.learning_rate, at, steps) for steps in (before, now))
        out.append(
            f"the learning rate falls to 0 over the whole run: with {now:,} steps instead of {before:,} it continues at {is_:.3g} instead "
            f"of {was:.3g} (--fork --agent.anneal-steps {before} keeps the old schedule)"
        )
    if before != now and getattr(c, "prioritised", False) and getattr(c, "importance_steps", 0) == -1:
        out.append(f"the importance exponent reaches 1 at step {now:,} instead of {before:,}: it continues from a lower value")
    return out


def report_evaluation(monitor: Monitor, agent: Any, result: Evaluation, steps: int, seconds: float, best: bool) -> None:
    score = summary(result.scores)
    cut, stalled = (sum(getattr(e, kind) for e in result.episodes) for kind in ("cut", "stalled"))
    values = {
        "eval/episodic_return_mean": score["mean"],
        "eval/episodic_return_median": score["median"],
        "eval/ci_low": score["ci95_low"],
        "eval/ci_high": score["ci95_high"],
        "eval/episodic_length": float(np.mean([e.length for e in result.episodes])),
        "eval/cut_episodes": cut,
    }
    extra = result.to_json()
    if extra.get("human_normalised") is not None:
        values["eval/human_normalized"] = extra["human_normalised"]
    if "start_value" in extra:
        values |= {f"eval/start_value_{k}": v for k, v in extra["start_value"].items()}
    monitor.scalars(steps, values)
    if agent.network is not None and (picture := first_filters(agent.network)) is not None:
        monitor.picture("network/first_layer_filters", picture, steps)
    of = f" of {result.about['highest']:.2f}" if "highest" in result.about else ""
    monitor.text(
        f"{steps:,} steps: evaluation {score['mean']:.2f} [{score['ci95_low']:.2f}, {score['ci95_high']:.2f}]{of} over "
        f"{len(result.episodes)} episodes, {result.policy}, {seconds:.0f} s"
        + (f"; {cut} were cut at {result.about['max_steps']:,} steps" if cut else "")
        + (f"; {stalled} stalled and were stopped" if stalled else "")
        + ("; the best so far" if best else "")
    )


def report_lengths(monitor: Monitor, agent: Any, config: RunConfig, seeds: Seeds, steps: int) -> None:
    """For tasks with lengths: how well the answers are known, for a few lengths and over all (sequences.py), and a picture of how
    the longest of these is answered and remembered."""
    lengths = watched_lengths(config.env)
    if not lengths:
        return
    scores = score_lengths(agent, config.env, lengths, WATCHED, seed=seeds, device=config.run.device)
    values: dict[str, float] = {}
    for name, kind in (("bits_per_sequence", "bits"), ("error_bits", "error_bits"), ("exact", "exact"), ("excess", "excess")):
        each = {s.name: getattr(s, kind) for s in scores if getattr(s, kind) is not None}
        if each:
            values[f"eval/{name}"] = float(np.mean(list(each.values())))
        values |= {f"eval_lengths/{name}/{length}": x for length, x in each.items()}
    monitor.scalars(steps, values)
    monitor.text(f"{steps:,} steps: exact by length  " + ", ".join(f"{s.name}: {100 * s.exact:.0f}%" for s in scores))
    monitor.board_sink(lambda: _show_tape(monitor, agent, config, lengths[-1], seeds, steps))


def _show_tape(monitor: Monitor, agent: Any, config: RunConfig, lengths: tuple[int, ...], seeds: Seeds, steps: int) -> None:
    from arcturus.pictures.album import panels  # it loads matplotlib, which other runs needn't

    for name, picture in panels(agent, config.env, lengths, seeds.branch("picture"), config.run.device).items():
        monitor.picture(f"task/{name}_{'x'.join(map(str, lengths))}", picture, steps)


def report_hidden_layer(monitor: Monitor, agent: Any, heldout: HeldOut, steps: int) -> None:
    """The last hidden layer on the held-out states, for TensorBoard's projector (Mnih et al. 2015, figure 4)."""
    arrays = heldout.read(agent)[1]
    if "hidden" not in arrays:
        return
    names = [str(a) for a in arrays["action"].tolist()]
    values = [f"{v:.4f}" for v in arrays.get("value", np.zeros(len(names))).tolist()]
    rows = [list(pair) for pair in zip(values, names, strict=True)]
    monitor.embedding(arrays["hidden"], rows, ["value", "action"], thumbnails(heldout.obs), steps)


def thumbnails(obs: torch.Tensor) -> torch.Tensor | None:
    """Pictures for the projector, which wants them square and all of them on one sheet: [B, 1 or 3, S, S] float32 in [0, 1] of the newest
    of byte pictures [B, ..., H, W], in colour if they have three channels; None of other observations."""
    if obs.dtype != torch.uint8 or obs.dim() < 3:
        return None
    x = obs[:, None] if obs.dim() == 3 else obs
    x = x[:, -1] if x.dim() == 5 else x  # [B, K, C, H, W]: the newest
    x = (x if x.shape[1] == 3 else x[:, -1:]).float().cpu() / 255
    height, width = x.shape[-2:]
    side = max(height, width)
    x = torch.nn.functional.pad(x, ((side - width) // 2, side - width - (side - width) // 2, 0, side - height))
    return x if side <= THUMBNAIL else torch.nn.functional.interpolate(x, (THUMBNAIL, THUMBNAIL), mode="area")
