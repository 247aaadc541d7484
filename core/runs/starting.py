"""Starting a run, resuming one, and continuing a copy under other settings."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from arcturus.device import learner_threads, torch_settings
from arcturus.envs import check_settings, open_envs, open_training
from arcturus.errors import ArcturusError, CheckpointError, ConfigError, TrainingFailed, by_users_code
from arcturus.extensions import find_listeners
from arcturus.runs.action_log import ActionLog
from arcturus.runs.building import agent_class, build_agent, check_training
from arcturus.runs.checkpoint import TRIED, Checkpoints
from arcturus.runs.depending import begin_with, pinned, with_pins
from arcturus.runs.folder import Run
from arcturus.runs.forking import fork_run
from arcturus.runs.renamed import todays
from arcturus.runs.settings import RunConfig, validate
from arcturus.runs.signals import Signals, Watchdog
from arcturus.runs.state import Health, RunState
from arcturus.runs.training import Training
from arcturus.seeding import Seeds
from arcturus.speed import eagerly, in_bf16
from arcturus.telling import say
from arcturus.tracking.start import Trackers, check_trackers
from arcturus.trusting import outside

# What may change when a run is resumed: its end, its logging, and where it is computed.
FREE = {
    "run.steps", "run.device", "run.log_every", "run.heldout_states", "run.keep", "run.checkpoint_replay",
    "run.torch_threads", "run.learner_threads", "run.env_timeout", "run.listeners", "run.profile", "run.track", "env.threads",
}  # fmt: skip


def start_run(
    config: RunConfig, argv: list[str], *, quiet: bool = False, announce: Callable[[Run], None] = lambda run: None
) -> Run:
    """Trains a new run from its beginning; its folder records what happened, however it ends."""
    check_settings(config.env)
    config = pinned(config)

    def open_run() -> Run:
        run = Run.create(config, argv)
        announce(run)
        return run

    return Trainer(config, open_run, resume=False, quiet=quiet).train()


def start_or_resume(
    config: RunConfig, argv: list[str], *, quiet: bool = False, announce: Callable[[Run], None] = lambda run: None
) -> Run:
    """Starts the run, or resumes the one that is in its folder, or leaves it as it is if it has finished: for a command that a
    scheduler gives again and again.  The command has all settings; ConfigError where those of the run differ."""
    path = Path(config.run.run_dir)
    if not (path / "run.json").is_file():
        return start_run(config, argv, quiet=quiet, announce=announce)
    run = Run(path)
    plain = config.to_mapping()
    named = outside(plain["agent"], config.env.id, config.env.options, config.run.listeners)
    trust = tuple(part.name for part in named)  # by this command

    def change(before: RunConfig) -> RunConfig:
        pinned = with_pins(config, before)
        return replace(pinned, run=replace(pinned.run, run_dir=before.run.run_dir))  # that is one folder, however it is written

    before = run.config(trust)
    if run.status == "finished" and before.run.steps >= config.run.steps:
        refuse_changes(run, change(before))
        return run
    return resume_run(path, change=change, quiet=quiet, trust=trust, argv=argv)


def resume_run(
    path: Path | str,
    *,
    change: Callable[[RunConfig], RunConfig] = lambda config: config,
    fork: Path | str | None = None,
    quiet: bool = False,
    trust: tuple[str, ...] = (),
    argv: Sequence[str] = ("arcturus.resume",),
) -> Run:
    """Resumes from the newest checkpoint that verifies.

    change: maps the run's settings to the wanted ones.  fork: leaves the run as it is and continues a copy, in this new folder
    ("" makes a name); then any setting may change.
    """
    run = Run(path)
    before = run.config(trust)
    if not agent_class(before.agent_name).resumable:
        raise ConfigError(
            f"a run of {before.agent_name} can't be resumed: only its policy is saved", where=str(path), fix="train a new one"
        )
    config = validate(change(before))
    if config.run.run_dir != before.run.run_dir:
        raise ConfigError("a resumed run stays in its folder", where="--run-dir", fix="use --fork DIR to continue with a copy elsewhere")
    if fork is not None:
        check_settings(config.env)
        config = pinned(replace(config, run=replace(config.run, run_dir=str(fork))))
        trainer = Trainer(config, lambda: fork_run(run, config), resume=True, quiet=quiet, argv=argv)
        try:
            return trainer.train()
        except ArcturusError:
            if not trainer.restored and trainer.run is not None:
                shutil.rmtree(trainer.run.path, ignore_errors=True)
            raise
    refuse_changes(run, config)
    return Trainer(config, lambda: run, resume=True, quiet=quiet, argv=argv).train()


def refuse_changes(run: Run, config: RunConfig) -> None:
    """ConfigError for settings that a run's checkpoint was not made with, and that can't change in a resumed run."""
    changed = differences(with_defaults(saved_settings(run), config), config.to_mapping())
    refused = [line for line in changed if line.split(":")[0] not in FREE]
    if refused:
        raise ConfigError(
            "\n".join(["these settings differ from those of the checkpoint:", *(f"  {line}" for line in refused[:10])]),
            where="train-agent resume",
            fix="add --fork to continue a copy of the run with the new settings, or use the old settings",
        )


def saved_settings(run: Run) -> dict[str, Any] | None:
    """The settings in the newest checkpoint that has them."""
    checkpoints = Checkpoints(run.path)
    for path in checkpoints.resumable()[: -TRIED - 1 : -1]:
        try:
            return todays(json.loads(checkpoints.values(path)["config"]))
        except (CheckpointError, ConfigError, KeyError, TypeError, ValueError, RecursionError):
            continue
    return None


def with_defaults(saved: dict[str, Any] | None, config: RunConfig) -> dict[str, Any] | None:
    """The same, with defaults for settings that an older version didn't have: its runs continue with these."""
    for part in ("agent", "env", "run") if saved else ():
        for field in dataclasses.fields(getattr(config, part)):
            if isinstance(saved.get(part), dict) and field.default is not dataclasses.MISSING:  # type: ignore[union-attr]
                saved[part].setdefault(field.name, field.default)  # type: ignore[index]
    return saved


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """'env.num_envs: 8 -> 16' for every setting that differs."""
    if not isinstance(before, dict):
        return []
    out = []
    for key in sorted({*before, *now}, key=str):
        old, new, name = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(new, dict):
            out += differences(old if isinstance(old, dict) else {}, new, f"{name}.")
        elif old != new:
            out.append(f"{name}: {str(old)[:60]} -> {str(new)[:60]}")
    return out


class Trainer:
    """Makes a run and trains it, or resumes one."""

    def __init__(self, config: RunConfig, open_run: Callable[[], Run], *, resume: bool, quiet: bool, argv: Sequence[str] = ()):
        """open_run: makes the run's folder, or finds it.  argv: the command, as run.json keeps it of every start."""
        self.config, self.open_run, self.resume, self.quiet, self.argv = config, open_run, resume, quiet, argv
        self.signals = Signals()
        self.run: Run | None = None
        self.training: Training | None = None

    @property
    def steps(self) -> int:
        return 0 if self.training is None else self.training.state.steps

    @property
    def restored(self) -> bool:
        """Whether something of the run may have changed."""
        return self.training is not None and self.training.restored

    def train(self) -> Run:
        try:
            return self._train()
        except (OSError, MemoryError, torch.OutOfMemoryError) as e:
            if isinstance(e, OSError) and by_users_code(e):
                raise
            raise TrainingFailed(f"training stopped at step {self.steps:,}: {e}") from e

    def _train(self) -> Run:
        """A new run's folder is made once its environments and agent have been built, so that a mistake leaves none."""
        with self._machine() as threads, self._environments() as envs:
            state = self._build(envs)
            self.run = run = self.open_run()
            with run.locked():
                trackers = Trackers(self.trackers, run.path)
                self.training = Training(state, run, self.signals, self.listeners, self.resume, self.quiet, threads, self.argv)
                try:
                    self.training.train()
                except KeyboardInterrupt:
                    run.note(status="preempted", signal="SIGINT")
                    raise
                except BaseException as e:
                    if self.restored:  # else the run is unchanged
                        run.note(status="failed", steps=self.steps, error=f"{type(e).__name__}: {e}")
                    raise
                finally:
                    trackers.let_go()
        return run

    @contextmanager
    def _machine(self) -> Iterator[int]:
        """Torch's settings, signals and the watchdog, for as long as the run lasts; the threads an on-policy agent learns with."""
        options = self.config.run
        threads = options.learner_threads or learner_threads(options.deterministic)
        tf32 = not (options.deterministic or options.eager)
        with ExitStack() as stack:
            stack.enter_context(torch_settings(options.torch_threads, options.deterministic, tf32))
            stack.enter_context(eagerly(options.eager))
            stack.enter_context(in_bf16(options.bf16))
            stack.enter_context(self.signals)
            stack.enter_context(Watchdog(options.env_timeout, self._on_hang))
            yield threads

    def _environments(self) -> Any:
        own_loop = agent_class(self.config.agent_name).own_loop  # it restarts environments one by one
        open_ = open_envs if own_loop else open_training
        return open_(self.config.env, self.config.run.seed, self.config.run.device)

    def _build(self, envs: Any) -> RunState:
        config, seeds = self.config, Seeds(self.config.run.seed)
        agent = build_agent(config, envs.spec, config.run.device)
        if config.run.init_from and not self.resume:
            begin_with(agent, config.run.init_from, config.run.new_head)
        check_training(agent, envs.spec, envs.schedule is not None and envs.schedule.adaptive)
        self.listeners = find_listeners(config)
        self.trackers = check_trackers(config.run.track)
        generator = seeds.branch("policy").torch(config.run.device)
        return RunState(config, seeds, agent, ActionLog(envs), generator, Health(config.env.id))

    def _on_hang(self, verdict: TrainingFailed) -> None:
        """Called when the watchdog is about to end the process."""
        if self.run is not None:
            self.run.note(status="failed", steps=self.steps, error=f"TrainingFailed: {verdict}")
        say(f"error: {verdict}")
