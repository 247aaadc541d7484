"""A copy of a run that continues under other settings; the run itself is not touched."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcturus.errors import CheckpointError
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run
from arcturus.runs.settings import RunConfig


def fork_run(run: Run, config: RunConfig) -> Run:
    """A new run that begins at the old one's newest intact checkpoint; the old one is not touched, and may continue."""
    if not config.run.run_dir:
        number = 1
        while (path := run.path.with_name(f"{run.path.name}-fork{number}")).exists():
            number += 1
        config = replace(config, run=replace(config.run, run_dir=str(path)))

    def fill(folder: Path) -> dict[str, Any]:
        for attempt in range(5):
            try:
                _copy(run.path, folder, config)
                kept = {k: run.known[k] for k in ("versions", "core_seconds") if k in run.known}  # versions: to be compared with today's
                return {"forked_from": str(run.path)} | kept
            except FileNotFoundError:  # the old run removed it meanwhile, having newer ones
                if attempt == 4:
                    raise
        raise AssertionError

    return Run.create(config, ["train-agent", "resume", str(run.path), "--fork", config.run.run_dir], fill)


def _copy(old: Path, new: Path, config: RunConfig) -> None:
    """Checkpoints with the segments they name, the best weights, and the logs, which resuming cuts back."""
    source, mine = Checkpoints(old), Checkpoints(new)
    for folder in (mine.folder, mine.segments.folder, new / "tensorboard"):
        shutil.rmtree(folder, ignore_errors=True)
    if not source.resumable():
        raise CheckpointError(f"{old} has no checkpoint to fork from", where="--fork")
    for path in [*source.folder.glob("best-*"), *source.resumable()]:
        mine.adopt(path, {"config": json.dumps(config.to_mapping())})
    if not mine.resumable():
        raise CheckpointError(f"every checkpoint of {old} is damaged", where="--fork", fix="start a new run")
    mine.segments.folder.mkdir()
    for name in {name for path in mine.resumable() for name in mine.segments_of(path)}:
        theirs, ours = source.segments.folder / name, mine.segments.folder / name
        try:
            os.link(theirs, ours)  # segments never change, so two runs may share them
        except OSError:
            shutil.copyfile(theirs, ours)
    for file in [old / "metrics.jsonl", *(old / "tensorboard").glob("events.out.tfevents.*")]:
        if file.is_file():
            target = new / file.relative_to(old)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)
