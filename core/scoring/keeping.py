"""Evaluations on the disk: RUN/evaluations/step-S-PROTOCOL-POLICY-seedN/ with evaluation.json, and episodes.safetensors (every action
and reward); by length of a task lengths.json.

Each is written under another name and renamed, and numbered: the newest is the one with the highest number, whatever its date.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes

from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.files import read_file, read_json, write_atomically
from arcturus.scoring.evaluation import ScoredEpisode
from arcturus.telling import say, typed

REPORT, LENGTHS = "evaluation.json", "lengths.json"
EPISODES_LIMIT = 1 << 28  # bytes of episodes.safetensors


def keep(run: Path, name: str, fill: Callable[[Path, int], None]) -> Path:
    """The folder RUN/evaluations/NAME with what fill(folder, number) puts into it, whole or not at all.

    Where the run folder can't be written to it is a folder here, or in the system's folder for temporary files: what was played is
    not lost.  CheckpointError if none of them can be written.
    """
    number = 1 + max((order(path)[0] for path in kept(run)), default=0)
    problem: OSError | None = None
    for home in homes(run):
        try:
            return _swap(home / name, lambda folder: fill(folder, number))
        except OSError as e:
            problem = problem or e
            say(f"warning: {home} can't be written: {e.strerror or e}")
    raise CheckpointError(f"the scores could not be saved anywhere: {problem}", where=str(run)) from problem


def homes(run: Path) -> list[Path]:
    """Where a run's evaluations are kept, the first that can be written to.  Two runs of one name have folders of their own."""
    place = run.resolve()
    included = "site-packages" in place.parts  # a policy that comes along: nothing is written among installed files
    name = place.name if included else f"{place.name}-{hashlib.sha256(bytes(place)).hexdigest()[:8]}"
    beside = [Path(f"{name}-evaluations"), Path(tempfile.gettempdir()) / "arcturus-evaluations" / name]
    return beside if included else [run / "evaluations", *beside]


def _swap(folder: Path, fill: Callable[[Path], None]) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{word}-{folder.name}-{os.getpid()}") for word in ("tmp", "del"))
    try:
        new.mkdir()
        fill(new)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
    return folder


def write_lengths(report: dict[str, Any], folder: Path, number: int) -> None:
    write_atomically(folder / LENGTHS, json.dumps(report | {"number": number}, indent=2))


def kept(run: Path, file: str = REPORT) -> list[Path]:
    """The reports of a run's evaluations, oldest first; none that is being made."""
    found = [p for home in homes(run) for p in home.glob(f"*/{file}") if not p.parent.name.startswith(".")]
    return sorted(found, key=order)


def order(path: Path) -> tuple[int, float]:
    """An evaluation's number; of one that was kept before they had any, 0 and its file's date."""
    try:
        number = read_json(path).get("number", 0)
        return (number if isinstance(number, int) else 0), path.stat().st_mtime
    except (CheckpointError, OSError):
        return 0, 0.0


def whole(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Complete evaluations without an attack, newest first; what can't be read is skipped with a message."""
    for path in reversed(kept(run)):
        try:
            report = read_json(path)
        except CheckpointError as e:
            say(f"warning: {path.parent} is skipped: {e.what}")
            continue
        if not {"attack", "asked"} & report.keys():
            yield path, report


def episode_of(run: Path, number: int, kept: Path | None = None) -> tuple[ScoredEpisode, int, str, int | None]:
    """Episode `number` of an evaluation that is kept, by default the newest; the checkpoint's step, the protocol it was scored under, and
    the memory's number of slots if it was changed."""
    path, report = (kept, read_json(kept)) if kept else next(whole(run), (None, {}))
    if path is None:
        raise ConfigError(f"{run} has no evaluation to film from", where="--episode", fix=f"run evaluate-agent {typed(run)} first")
    try:
        episodes, step, rules = report["per_episode"], int(report["checkpoint"]), str(report["protocol"])
        slots = int(report["memory_slots"]) if "memory_slots" in report else None
        if not 0 <= number < len(episodes):
            raise ConfigError(f"there is no episode {number}, only 0 to {len(episodes) - 1}", where="--episode")
        chosen = episodes[number]
        data = read_file(path.with_name("episodes.safetensors"), EPISODES_LIMIT)
        if int.from_bytes(data[:8], "little") > 1 << 20:
            raise ValueError("its header is too long")
        arrays = tensors_from_bytes(data)
        told = int(chosen["seed"]), float(chosen["score"]), int(chosen["length"]), bool(chosen["stalled"])
        episode = ScoredEpisode(*told, arrays[f"{number}/actions"], arrays[f"{number}/rewards"], None, None)
    except (KeyError, TypeError, ValueError, OverflowError, SafetensorError) as e:
        raise CheckpointError(f"{path.parent} holds no evaluation that can be read: {e}", where="--episode") from e
    return episode, step, rules, slots
