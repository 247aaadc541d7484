"""Checkpoints: a folder of safetensors and JSON, written beside, fsynced and renamed; nothing in it can run code.

    checkpoints/step-000000432000/  tensors.safetensors  state.json  manifest.json
    checkpoints/best-000000400000/  the same, weights only

The manifest holds size and digest of every file and a digest of itself, so a flipped bit or a missing file is detected; and it
names the segments of the replay (segments.py).  What is read is compared with a template, the state of a new agent made from the
configuration, before it is loaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as pack
from torch import Tensor

from arcturus.errors import CheckpointError, TrainingFailed
from arcturus.replay.ring import Ring
from arcturus.runs.files import (
    JSON_LIMIT,
    check_values,
    digest,
    flatten,
    nbytes,
    parse_json,
    read_file,
    read_json,
    shapes_of,
    size_limit,
    sync_folder,
    unflatten,
    unpack,
    unpack_all,
    write_file,
)
from arcturus.runs.segments import NAME, Plan, Segments
from arcturus.telling import say, shortened

FORMAT = 2
STEP, NAMED = re.compile(r"step-\d{12}"), re.compile(r"(step|best)-\d{12}")
TOLD = 3  # unusable checkpoints that are named in messages
TRIED = 50  # checkpoints, newest first, before a run is given up
OPTIONAL = ("course/", "account/", "agent/noise_rng", "agent/new_at")  # not in every checkpoint: by when it was made, and by which version
FILES = {"tensors.safetensors", "state.json"}
COURSE_BYTES = 32 << 20  # of actions since the last restart; more are not kept
LARGEST_AGENT = 1 << 32  # bytes of the tensors of one that is read without knowing its shapes
LEARNING_BYTES = 80 << 20  # of what a playing agent doesn't need: priorities have 8 bytes a step


class Snapshot(NamedTuple):
    """A copy of a run's state, so that training can continue while it is written."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]
    replay: Plan | None


class Loaded(NamedTuple):
    state: dict[str, Any]
    step: int
    replay: dict[str, Any]  # the manifest's list; {} where no replay was saved
    moved: bool = False  # its random generators were another kind of device's, and begin anew


def not_finite(tensors: dict[str, Tensor]) -> str:
    """The first tensor with numbers that are not finite; "" if there is none."""
    return next((k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()), "")


def _seal(manifest: dict[str, Any]) -> bytes:
    body = json.dumps(manifest, sort_keys=True)
    return json.dumps(manifest | {"digest": digest(body.encode())}, sort_keys=True, indent=1).encode()


@contextmanager
def _writing(what: str, where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise CheckpointError(f"{what} could not be written: {e.strerror or e}", where=str(where)) from e


class Checkpoints:
    """The checkpoints of one run folder.  Every failure to write or to trust one is a CheckpointError.

    own: called before anything is written; raises if the folder is another run's by now.  snapshot() belongs to the thread that
    trains; the rest to any one thread.
    """

    def __init__(self, run_path: Path, own: Callable[[], None] = lambda: None):
        self.folder, self.segments, self.own = run_path / "checkpoints", Segments(run_path, own), own

    # -- writing -----------------------------------------------------------------------------------------------------

    def snapshot(self, step: int, state: dict[str, Any], replay: Ring | None = None) -> Snapshot:
        if replay is None:
            return Snapshot(step, *flatten(state), None)
        with _writing(f"the replay at step {step:,}", self.segments.folder):
            self.segments.catch_up(replay)
        return Snapshot(step, *flatten(state), self.segments.plan(replay))

    def write(self, snapshot: Snapshot, keep: int = 2) -> Path:
        """A resumable checkpoint; older ones beyond `keep` go, and the segments that none of the rest names."""
        with _writing(f"checkpoint at step {snapshot.step:,}", self.folder):
            replay = self.segments.finish(snapshot.replay) if snapshot.replay is not None else {}
            path = self._save(f"step-{snapshot.step:012d}", snapshot, replay)
        older = [p for p in self.resumable() if p < path]
        self._tidy(older[: max(0, len(older) + 1 - keep)])
        return path

    def write_best(self, snapshot: Snapshot) -> Path:
        """Weights only, for playing; replaces the best before."""
        with _writing(f"best weights at step {snapshot.step:,}", self.folder):
            path = self._save(f"best-{snapshot.step:012d}", snapshot, {})
        self._tidy([old for old in self.folder.glob("best-*") if old != path], sweep=False)
        return path

    def _tidy(self, unwanted: list[Path], sweep: bool = True) -> None:
        """Cleans up after a checkpoint is written; the checkpoint stays even if this fails."""
        try:
            for old in unwanted:
                self._remove(old)
            if sweep:
                self._sweep()
        except OSError as e:
            say(f"warning: old files in {self.folder.parent} could not be removed: {e.strerror or e}")

    def _save(self, name: str, snapshot: Snapshot, replay: dict[str, Any]) -> Path:
        if bad := not_finite(snapshot.tensors):
            raise TrainingFailed(
                f"{bad} holds numbers that are not finite, so nothing was saved", where=f"step {snapshot.step:,}"
            )
        self.own()
        self.folder.mkdir(parents=True, exist_ok=True)
        final, temporary = self.folder / name, self.folder / f".tmp-{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            values = json.dumps(snapshot.values, indent=1).encode()
            if len(values) > JSON_LIMIT:
                raise ValueError(f"the agent's state holds {len(values):,} bytes of plain values: keep them in tensors")
            files = {
                "tensors.safetensors": write_file(temporary / "tensors.safetensors", pack(snapshot.tensors)),
                "state.json": write_file(temporary / "state.json", values),
            }
            sealed = _seal({"format": FORMAT, "step": snapshot.step, "files": files, "replay": replay})
            write_file(temporary / "manifest.json", sealed)
            sync_folder(temporary)
            if final.exists():
                if (final / "manifest.json").read_bytes() == sealed and self.intact(final):
                    return final  # the same state of the same run
                self._remove(final)
            os.rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(self.folder)
        return final

    def set_aside_after(self, step: int) -> None:
        """Renames checkpoints newer than the one at `step`, which were passed over: the run that resumes from there must not
        mistake them for its own."""
        for path in self.resumable():
            if path.name > f"step-{step:012d}":
                path.rename(path.with_name(f"damaged-{path.name}"))

    def adopt(self, source: Path, changes: dict[str, Any]) -> None:
        """Copies another run's checkpoint with some of its plain values changed (not in a best one); a damaged one is left out with
        a message."""
        try:
            manifest, values = self._manifest(source), self.values(source) | (changes if source.name.startswith("step-") else {})
            data = self._file(source, "tensors.safetensors", 1 << 40, manifest)
        except CheckpointError as e:
            say(f"warning: {source.name} is left out: {shortened(e.what, 120)}")
            return
        path = self.folder / source.name
        path.mkdir(parents=True)
        manifest["files"] = {
            "tensors.safetensors": write_file(path / "tensors.safetensors", data),
            "state.json": write_file(path / "state.json", json.dumps(values, indent=1).encode()),
        }
        write_file(path / "manifest.json", _seal(manifest))

    @staticmethod
    def _remove(path: Path) -> None:
        hidden = path.with_name(f".del-{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _sweep(self) -> None:
        """What a stopped process left half written or half removed, and the segments that no checkpoint names."""
        for path in [*self.folder.glob(".tmp-*"), *self.folder.glob(".del-*")]:
            shutil.rmtree(path, ignore_errors=True)
        self.segments.drop_all_but({name for path in self.resumable() for name in self.segments_of(path)})

    @staticmethod
    def segments_of(path: Path) -> list[str]:
        """The replay segments a checkpoint names; none if it is damaged, as nothing could be read back."""
        try:
            names = read_json(path / "manifest.json")["replay"].get("segments", [])
            return [name for name in names if NAME.fullmatch(name)]
        except (CheckpointError, KeyError, TypeError, AttributeError):
            return []

    # -- reading -----------------------------------------------------------------------------------------------------

    def resumable(self) -> list[Path]:
        """Oldest first, unverified."""
        return sorted(p for p in self.folder.glob("step-*") if STEP.fullmatch(p.name) and p.is_dir() and not p.is_symlink())

    def find(self, which: str = "last") -> Path:
        """last, best, a step's number, or a checkpoint's whole name."""
        found = self.resumable()
        if which == "best":
            found = sorted(self.folder.glob("best-*")) or found
            if found and found[-1].name.startswith("step-"):
                say("warning: this run was never evaluated during training: its last checkpoint is used as the best")
        elif NAMED.fullmatch(which):
            found = [p for p in (self.folder / which,) if p.is_dir()]
        elif which != "last":
            try:
                found = [p for kind in ("best", "step") if (p := self.folder / f"{kind}-{int(which):012d}").is_dir()]
            except ValueError:
                raise CheckpointError(f"unknown checkpoint {which!r}: use last, best, or a step's number", where="--checkpoint") from None
        if not found:
            there = ", ".join(p.name for p in self.resumable()) or "none"
            raise CheckpointError(
                f"there is no checkpoint {which!r} in {self.folder}", where="--checkpoint", fix=f"checkpoints: {there}"
            )
        return found[-1]

    def values(self, path: Path) -> dict[str, Any]:
        """The plain values of a checkpoint, by flat names, unchecked but for their digest."""
        return parse_json(self._file(path, "state.json", JSON_LIMIT, self._manifest(path)), path / "state.json")

    def load(self, path: Path, template: dict[str, Any]) -> Loaded:
        """The verified state that was saved.  Every name, dtype and shape of it must be in the template.

        One tensor may have any number of rows: course/actions has as many as course/rows says, up to COURSE_BYTES.
        """
        tensors, values = flatten(template)
        manifest, parsed = self._manifest(path), self.values(path)
        check_values(parsed, values, path / "state.json")
        shapes = shapes_of(tensors)
        if (rows := parsed.get("course/rows")) is not None:
            dtype, shape = shapes["course/actions"]
            shapes["course/actions"] = dtype, (max(0, min(rows, COURSE_BYTES)), *shape[1:])
            if nbytes({"": shapes["course/actions"]}) > COURSE_BYTES:
                raise CheckpointError(f"{path.name} holds too many recorded actions: {rows:,} rows", where=str(path))
        data = self._file(path, "tensors.safetensors", size_limit(shapes), manifest)
        loaded = unpack(data, shapes, path / "tensors.safetensors")
        missing = [k for k in sorted({*tensors, *values} - {*loaded, *parsed}) if not k.startswith(OPTIONAL)]
        if missing:
            raise CheckpointError(f"{path.name} lacks {missing[0]}", where=str(path))
        if bad := not_finite(loaded):
            raise CheckpointError(f"{path.name} holds numbers that are not finite, in {bad}", where=str(path))
        moved = {k: tensors[k] for k, v in loaded.items() if k.endswith("_rng") and v.shape != tensors[k].shape}
        return Loaded(unflatten(loaded | moved, parsed), manifest["step"], manifest["replay"], bool(moved))

    def load_agent(self, path: Path, template: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The agent's part of a checkpoint, checked against a template of a playing agent; and its steps of training.

        Priorities are not read, as a playing agent has no replay.
        """
        tensors, values = flatten({"agent": template})
        manifest, parsed = self._manifest(path), self.values(path)
        parsed = {k: v for k, v in parsed.items() if k.startswith("agent/")}
        check_values(parsed, values, path / "state.json")
        shapes, file = shapes_of(tensors), path / "tensors.safetensors"
        data = self._file(path, file.name, size_limit(shapes) + COURSE_BYTES + LEARNING_BYTES, manifest)
        return unflatten(unpack(data, shapes, file, "agent/", without="agent/priorities/"), parsed).get("agent", {}), manifest[
            "step"
        ]

    def weights(self, path: Path) -> dict[str, Tensor]:
        """All tensors of the agent in a checkpoint, by their names in its state, verified but compared with nothing: for another
        agent, which knows what it can use."""
        file = path / "tensors.safetensors"
        data = self._file(path, file.name, LARGEST_AGENT, self._manifest(path))
        return {name.removeprefix("agent/"): x for name, x in unpack_all(data, file).items() if name.startswith("agent/")}

    @staticmethod
    def _manifest(path: Path) -> dict[str, Any]:
        if path.is_symlink():
            raise CheckpointError(f"{path.name} is a link, which is not allowed", where=str(path))
        file = path / "manifest.json"
        data = read_file(file, JSON_LIMIT)
        manifest = parse_json(data, file)
        manifest.pop("digest", None)
        if _seal(manifest) != data:
            raise CheckpointError(f"{path.name} is damaged: its manifest doesn't verify", where=str(path))
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{path.name} has format {str(manifest.get('format'))[:20]}, this version reads {FORMAT}", where=str(path)
            )
        step, replay, files = manifest.get("step"), manifest.get("replay"), manifest.get("files")
        if not isinstance(files, dict) or files.keys() != FILES or type(step) is not int or not isinstance(replay, dict):
            raise CheckpointError(f"{path.name}/manifest.json does not list the files of a checkpoint", where=str(path))
        return manifest

    @staticmethod
    def _file(path: Path, name: str, limit: int, manifest: dict[str, Any]) -> bytes:
        data = read_file(path / name, limit)
        if {"size": len(data), "digest": digest(data)} != manifest["files"][name]:
            raise CheckpointError(f"{path.name}/{name} is damaged: its digest doesn't match", where=str(path))
        return data

    def intact(self, path: Path) -> bool:
        """Whether a checkpoint of our own making is still as it was written."""
        try:
            manifest = self._manifest(path)
            for name in FILES:
                self._file(path, name, 1 << 40, manifest)
        except CheckpointError:
            return False
        return True

    def load_newest(self, template: dict[str, Any], replay: Ring | None = None, *, need_replay: bool = True) -> Loaded:
        """The newest checkpoint that verifies, its replay's segments included; older ones are tried in turn, and said so.

        need_replay: False takes one whose segments don't verify without them.
        """
        whole = ""  # the newest that is intact except for its replay
        problems: list[CheckpointError] = []
        real = [path for path in self.resumable() if (path / "manifest.json").exists()]
        if others := [path for path in self.resumable() if path not in real]:
            more = f", and so are {len(others) - 1} more" * (len(others) > 1)
            say(f"warning: {others[-1].name} is skipped: it has no manifest.json{more}")
        newest = real[: -TRIED - 1 : -1]
        for path in newest:
            try:
                loaded = self.load(path, template)
                if replay is not None and loaded.replay:
                    whole = whole or path.name
                    try:
                        self.segments.verify(loaded.replay, replay)
                    except CheckpointError as e:
                        if need_replay:
                            raise
                        say(f"warning: the replay of {path.name} is skipped: {shortened(e.what, 120)}")
                        return loaded._replace(replay={})
                return loaded
            except CheckpointError as e:
                problems.append(e)
                if len(problems) <= TOLD or path == newest[-1]:
                    say(f"warning: {path.name} is skipped: {shortened(e.what, 120)}")
                elif len(problems) == TOLD + 1:
                    say("older ones are skipped too")
        fix = problems[0].fix if problems else ""
        if whole and need_replay and not fix:
            fix = f"only the replay of {whole} is damaged: --checkpoint.replay none continues without it, which is not an exact continuation"
        raise CheckpointError(
            f"no checkpoint in {self.folder} can be used: {problems[0].what if problems else 'there is none'}",
            where=str(self.folder),
            fix=fix or "start a new run in a new folder",
        )
