"""A run that depends on another (a teacher, an initial network) records which of its checkpoints it uses, and that one's digest.

In settings: RUN as the user wrote it; RUN#step-000000002000:DIGEST, absolute, once the run has begun.  The other run may then continue,
and the dependent run is resumed with the checkpoint it began with, or not at all.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcturus.config import user_path
from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.files import digest
from arcturus.runs.folder import trained_already
from arcturus.telling import say

PINNED = re.compile(r"(?P<run>.+)#(?P<checkpoint>(?:step|best)-\d{12}):(?P<digest>[0-9a-f]{40})")
DEPENDING = {"agent": ("teachers",), "run": ("init_from",)}  # settings that name runs: one, or several with commas between


def pinned(config: Any) -> Any:
    """A RunConfig with every run it names pinned to its present checkpoint.  ConfigError for one that can't be read."""
    for part, names in DEPENDING.items():
        settings = getattr(config, part)
        found = {name: getattr(settings, name) for name in names if getattr(settings, name, "")}
        if found:
            changes = {
                k: ",".join(_pin(one, f"--{'agent.' * (part == 'agent')}{k.replace('_', '-')}") for one in split(v))
                for k, v in found.items()
            }
            config = replace(config, **{part: replace(settings, **changes)})
    return config


def split(runs: str) -> list[str]:
    return [one.strip() for one in runs.split(",") if one.strip()]


def _pin(text: str, where: str) -> str:
    if PINNED.fullmatch(text):
        return text
    run = trained_already(user_path(text)).resolve()
    if not (run / "checkpoints").is_dir():
        raise ConfigError(f"{text} is not a run folder", where=where, fix="give a folder that train-agent made")
    try:
        checkpoint = Checkpoints(run).find()
    except CheckpointError as e:
        raise ConfigError(f"{text} has no checkpoint yet", where=where, fix=e.fix) from e
    if any(c in str(run) for c in ",#"):
        raise ConfigError(f"{run} has a comma or # in its name", where=where, fix="rename the folder")
    return f"{run}#{checkpoint.name}:{_digest(checkpoint)}"


def shown(runs: str) -> str:
    """Runs that are kept, in a few letters: name, checkpoint, and the beginning of the digest."""
    found = [(one, PINNED.fullmatch(one)) for one in split(runs)]
    return ",".join(f"{Path(m['run']).name}#{m['checkpoint']}:{m['digest'][:8]}" if m else one for one, m in found)


def _digest(checkpoint: Path) -> str:
    """Of its manifest, which holds the digests of everything in it."""
    try:
        return digest((checkpoint / "manifest.json").read_bytes())
    except OSError:
        return "0" * 40


def opened(text: str) -> tuple[Path, Path]:
    """The run folder and the checkpoint that a setting names.  CheckpointError if that is gone or has changed."""
    match = PINNED.fullmatch(text)
    if match is None:  # of a run that was begun before they were kept
        run = user_path(text)
        say(f"warning: this run did not record which checkpoint of {run} it depends on; the newest one is used")
        return run, Checkpoints(run).find()
    run, checkpoint = Path(match["run"]), Path(match["run"]) / "checkpoints" / match["checkpoint"]
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"this run depends on {match['checkpoint']} of {run}, which no longer exists",
            where=str(run),
            fix="restore that folder",
        )
    if _digest(checkpoint) != match["digest"]:
        raise CheckpointError(
            f"this run depends on {match['checkpoint']} of {run}, which has changed since the run began", where=str(run)
        )
    return run, checkpoint
