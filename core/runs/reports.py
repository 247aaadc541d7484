"""What a run tells beside its losses: evaluations during training, and the last hidden layer at its end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from arcturus.runs.monitor import Monitor
from arcturus.runs.settings import RunConfig
from arcturus.scoring.evaluation import Evaluation
from arcturus.scoring.instruments import HeldOut, first_filters
from arcturus.scoring.sequences import score_lengths, watched_lengths
from arcturus.scoring.statistics import summary
from arcturus.seeding import Seeds

WATCHED = 64  # tapes of each length that an evaluation in training scores


def report_evaluation(monitor: Monitor, agent: Any, result: Evaluation, steps: int, seconds: float, best: bool) -> None:
    score = summary(result.scores)
    values = {
        "eval/episodic_return_mean": score["mean"],
        "eval/episodic_return_median": score["median"],
        "eval/ci_low": score["ci95_low"],
        "eval/ci_high": score["ci95_high"],
        "eval/episodic_length": float(np.mean([e.length for e in result.episodes])),
    }
    extra = result.to_json()
    if extra.get("human_normalised") is not None:
        values["eval/human_normalized"] = extra["human_normalised"]
    if "start_value" in extra:
        values |= {f"eval/start_value_{k}": v for k, v in extra["start_value"].items()}
    monitor.scalars(steps, values)
    if getattr(agent, "network", None) is not None and (picture := first_filters(agent.network)) is not None:
        monitor.picture("network/first_layer_filters", picture, steps)
    monitor.text(
        f"{steps:,} steps: evaluation {score['mean']:.2f} [{score['ci95_low']:.2f}, {score['ci95_high']:.2f}] over "
        f"{len(result.episodes)} episodes, {result.policy}, {seconds:.0f} s{'; the best so far' if best else ''}"
    )


def report_lengths(monitor: Monitor, agent: Any, config: RunConfig, seeds: Seeds, steps: int) -> None:
    """Of tasks with lengths: how well the answers are known, for a few of them and over all (sequences.py), and a picture of how the
    longest of these is answered and remembered."""
    lengths = watched_lengths(config.env)
    if not lengths:
        return
    scores = score_lengths(agent, config.env, lengths, WATCHED, seed=seeds, device=config.device)
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

    for name, picture in panels(agent, config.env, lengths, seeds.branch("picture"), config.device).items():
        monitor.picture(f"task/{name}_{'x'.join(map(str, lengths))}", picture, steps)


def report_hidden_layer(monitor: Monitor, agent: Any, heldout: HeldOut, steps: int) -> None:
    """The last hidden layer on the held-out states, for TensorBoard's projector (Mnih et al. 2015, figure 4)."""
    arrays = heldout.read(agent)[1]
    if "hidden" not in arrays:
        return
    names = [str(a) for a in arrays["action"].tolist()]
    values = [f"{v:.4f}" for v in arrays.get("value", np.zeros(len(names))).tolist()]
    obs, frames = heldout.obs, None
    if obs.dtype == torch.uint8 and obs.dim() == 4:
        frames = obs[:, -1:].float().cpu() / 255
    rows = [list(pair) for pair in zip(values, names, strict=True)]
    monitor.embedding(arrays["hidden"], rows, ["value", "action"], frames, steps)
