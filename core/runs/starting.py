"""Starting a run, resuming one, and continuing a copy under other settings."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from arcturus.envs import check_settings
from arcturus.errors import ArcturusError, CheckpointError, ConfigError, TrainingFailed, by_users_code
from arcturus.runs.building import agent_class
from arcturus.runs.checkpoint import TRIED, Checkpoints
from arcturus.runs.depending import pinned
from arcturus.runs.folder import Run
from arcturus.runs.forking import fork_run
from arcturus.runs.renamed import todays
from arcturus.runs.settings import RunConfig, validate
from arcturus.runs.trainer import Trainer

# What may change when a run is resumed: its end, its logging, and where it is computed.
FREE = {
    "run.steps", "run.device", "run.log_every", "run.heldout_states", "run.keep", "run.checkpoint_replay",
    "run.torch_threads", "run.learner_threads", "run.env_timeout", "run.listeners", "run.profile", "env.threads",
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

    return _guarded(Trainer(config, open_run, resume=False, quiet=quiet))


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
            return _guarded(trainer)
        except ArcturusError:
            if not trainer.restored and trainer.run is not None:
                shutil.rmtree(trainer.run.path, ignore_errors=True)
            raise
    changed = differences(with_defaults(saved_settings(run), config), config.to_mapping())
    refused = [line for line in changed if line.split(":")[0] not in FREE]
    if refused:
        raise ConfigError(
            "\n".join(["these settings differ from those of the checkpoint:", *(f"  {line}" for line in refused[:10])]),
            where="train-agent resume",
            fix="add --fork to continue a copy of the run with the new settings, or use the old settings",
        )
    return _guarded(Trainer(config, lambda: run, resume=True, quiet=quiet, argv=argv))


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


def _guarded(trainer: Trainer) -> Run:
    try:
        return trainer.train()
    except (OSError, MemoryError, torch.OutOfMemoryError) as e:
        if isinstance(e, OSError) and by_users_code(e):
            raise
        raise TrainingFailed(f"training stopped at step {trainer.steps:,}: {e}") from e
