"""A whole run: builds environments and agent, reads the loop, and logs, evaluates and saves along the way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcturus import agents
from arcturus.api import EnvSpec
from arcturus.config import write_yaml
from arcturus.envs import open_envs
from arcturus.errors import ArcturusError, CheckpointError, ConfigError, TrainingFailed
from arcturus.loop import run as run_loop
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run, write_atomically
from arcturus.runs.monitor import Monitor
from arcturus.runs.settings import RunConfig, validate
from arcturus.scoring.evaluation import evaluate
from arcturus.scoring.instruments import HeldOut, collect_heldout, first_filters
from arcturus.scoring.statistics import summary
from arcturus.seeding import Seeds


def build_agent(config: RunConfig, spec: EnvSpec, device: torch.device | str) -> Any:
    return agents.load(config.agent_name).Agent(config.agent, spec, device, Seeds(config.run.seed))


def restore(agent: Any, state: dict[str, Any], where: str) -> None:
    """An agent's saved state, with every way not to fit told in one error."""
    try:
        agent.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, TypeError, IndexError) as e:
        raise CheckpointError(
            f"the checkpoint doesn't fit this agent: {str(e).splitlines()[0]}",
            where=where,
            fix="was config.yaml changed, or is it another version's run?",
        ) from e


@contextmanager
def torch_settings(config: RunConfig) -> Iterator[None]:
    """Threads and determinism for as long as a run lasts."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32, benchmark = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    cudnn_tf32 = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(config.run.torch_threads)
    torch.use_deterministic_algorithms(config.run.deterministic)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not config.run.deterministic
    torch.backends.cudnn.benchmark = not config.run.deterministic
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark
        torch.backends.cudnn.allow_tf32 = cudnn_tf32


class Signals:
    """SIGINT, SIGTERM and SIGUSR1 ask for a checkpoint and the end; a second SIGINT leaves at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Trainer:
    """One run from where it stands to its end, or to a signal."""

    def __init__(self, config: RunConfig, open_run: Callable[[], Run], *, resume: bool, quiet: bool):
        self.config, self.open_run, self.resume, self.quiet = config, open_run, resume, quiet
        self.seeds = Seeds(config.run.seed)
        self.steps, self.best = 0, -float("inf")
        self.signals = Signals()
        self._cut = False

    def train(self) -> Run:
        """A new run's folder is made once its environments and agent have been built, so that a mistake leaves none."""
        with torch_settings(self.config), open_envs(self.config.env, self.config.run.seed, self.config.device) as envs:
            self.agent = build_agent(self.config, envs.spec, self.config.device)
            self.generator = self.seeds.branch("policy").torch(self.config.device)
            self.run = self.open_run()
            self.checkpoints = Checkpoints(self.run.path)
            saved = self._restore() if self.resume else None
            if self.steps >= self.config.run.steps:
                raise ConfigError(
                    f"{self.run.path} has its {self.steps:,} steps already",
                    where="train-agent resume",
                    fix=f"go on to more with --steps {2 * self.steps}",
                )
            try:
                with self.signals:
                    self._train(envs, saved)
            except BaseException as e:
                with suppress(OSError, ArcturusError):  # the disk may be what failed
                    self.run.update(status="failed", steps=self.steps, error=f"{type(e).__name__}: {e}")
                raise
        return self.run

    def _train(self, envs: Any, saved: dict[str, Any] | None) -> None:
        if self.resume:  # a new total of steps is the run's from now on
            write_atomically(self.run.path / "config.yaml", write_yaml(self.config.to_mapping()))
        self.run.update(status="running", steps=self.steps)
        self.heldout = self._hold_out_states()
        self.monitor = Monitor(self.run.path, self.config, self.steps, self.quiet, saved)
        try:
            self._loop(envs)
        finally:
            self.monitor.close()

    # -- the loop's readers --------------------------------------------------------------------------------------------

    def _loop(self, envs: Any) -> None:
        total = self.config.run.steps
        rows = run_loop(
            envs,
            self.agent,
            steps=total,
            start=self.steps,
            generator=self.generator,
            cut_due=self._cut_due,
            seeds=lambda: self.seeds.branch("env", self.steps).environments(envs.num_envs),
        )
        try:
            for row in rows:
                before, self.steps = self.steps, row.steps
                self.monitor.row(self.steps, row.metrics, envs.take_finished())
                if self.monitor.is_due(self.steps):
                    self._log()
                every = self.config.eval_every
                if self.steps >= total or (every and self.steps // every > before // every):
                    self._evaluate()
                if self._cut or self.steps >= total:
                    self._save()
                if self.signals.received is not None and self._cut and self.steps < total:
                    self.run.update(status="preempted", steps=self.steps, signal=signal.Signals(self.signals.received).name)
                    return
        finally:
            rows.close()  # type: ignore[attr-defined]
        self._finish()

    def _cut_due(self, steps: int) -> bool:
        every = self.config.checkpoint_every
        scheduled = bool(every) and steps // every > (steps - self.config.env.num_envs) // every
        self._cut = scheduled or self.signals.received is not None
        return self._cut

    def _log(self) -> None:
        extra = self.agent.scalars() if hasattr(self.agent, "scalars") else {}
        if self.heldout:
            extra |= self.heldout.read(self.agent)[0]
        self.monitor.log(self.steps, extra)

    def _evaluate(self) -> None:
        if not self.config.eval_every:
            return
        began = time.perf_counter()
        result = evaluate(
            self.agent,
            self.config.env,
            self.config.run.eval_episodes,
            seed=self.seeds.branch("selection"),
            device=self.config.device,
        )
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
        self.monitor.scalars(self.steps, values)
        if getattr(self.agent, "network", None) is not None and (picture := first_filters(self.agent.network)) is not None:
            self.monitor.picture("network/first_layer_filters", picture, self.steps)
        new_best = score["mean"] > self.best
        if new_best:
            try:
                self.checkpoints.save_best(self.steps, {"agent": self._weights(), "steps": self.steps, "score": score["mean"]})
                self.best = score["mean"]
            except CheckpointError as e:
                self.monitor.text(f"warning: {e.what}; training goes on")
        self.monitor.text(
            f"{self.steps:,} steps: evaluation {score['mean']:.2f} [{score['ci95_low']:.2f}, {score['ci95_high']:.2f}] over "
            f"{len(result.episodes)} episodes, {result.policy}, {time.perf_counter() - began:.0f} s{'; the best so far' if new_best else ''}"
        )

    def _weights(self) -> dict[str, Any]:
        """Enough to play."""
        return {k: v for k, v in self.agent.state_dict().items() if k not in ("optimizer", "replay_rng")}

    def _save(self) -> None:
        state = {
            "agent": self.agent.state_dict(),
            "policy_rng": self.generator.get_state(),
            "steps": self.steps,
            "best": self.best if np.isfinite(self.best) else None,
            "monitor": self.monitor.state(),
        }
        try:
            self.checkpoints.save(self.steps, state, getattr(self.agent, "replay", None), keep=self.config.run.keep)
            self.run.update(steps=self.steps)
        except CheckpointError as e:
            if self.steps >= self.config.run.steps or self.signals.received is not None:
                raise
            self.monitor.text(f"warning: {e.what}; training goes on and tries again at the next checkpoint")

    def _restore(self) -> dict[str, Any]:
        state, manifest = self.checkpoints.load_newest()
        restore(self.agent, state["agent"], str(self.run.path))
        if getattr(self.agent, "replay", None) is not None:
            self.checkpoints.load_replay(self.agent.replay, manifest)
        self.generator.set_state(state["policy_rng"])
        self.steps = state["steps"]
        self.best = state["best"] if state["best"] is not None else -float("inf")
        return state["monitor"]

    def _hold_out_states(self) -> HeldOut | None:
        count = self.config.run.heldout_states
        if not count or getattr(self.agent, "network", None) is None:
            return None
        return HeldOut(collect_heldout(self.config.env, count, self.seeds.branch("heldout"), self.config.device))

    def _finish(self) -> None:
        if self.heldout:
            arrays = self.heldout.read(self.agent)[1]
            if "hidden" in arrays:
                names = [str(a) for a in arrays["action"].tolist()]
                values = [f"{v:.4f}" for v in arrays.get("value", np.zeros(len(names))).tolist()]
                obs, frames = self.heldout.obs, None
                if obs.dtype == torch.uint8 and obs.dim() == 4:
                    frames = obs[:, -1:].float().cpu() / 255
                rows = [list(pair) for pair in zip(values, names, strict=True)]
                self.monitor.embedding(arrays["hidden"], rows, ["value", "action"], frames, self.steps)
        self.run.update(status="finished", steps=self.steps, best=self.best if np.isfinite(self.best) else None)


def start_run(
    config: RunConfig, argv: list[str], *, quiet: bool = False, announce: Callable[[Run], None] = lambda run: None
) -> Run:
    """Trains a new run from its beginning; its folder says what happened, however it ends."""

    def open_run() -> Run:
        run = Run.create(config, argv)
        announce(run)
        return run

    return _guarded(Trainer(config, open_run, resume=False, quiet=quiet))


def resume_run(path: Path | str, *, quiet: bool = False, trust: tuple[str, ...] = (), steps: int | None = None) -> Run:
    """Goes on from the newest checkpoint that verifies.  steps: a new total."""
    run = Run(path)
    config = run.config(trust)
    config = validate(replace(config, run=replace(config.run, steps=steps if steps is not None else config.run.steps)))
    return _guarded(Trainer(config, lambda: run, resume=True, quiet=quiet))


def _guarded(trainer: Trainer) -> Run:
    try:
        return trainer.train()
    except (OSError, MemoryError, torch.OutOfMemoryError) as e:
        raise TrainingFailed(f"training stopped at step {trainer.steps:,}: {e}") from e
