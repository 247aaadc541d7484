"""Checkpoints: a folder of safetensors and JSON, written beside, fsynced and renamed; nothing in it can run code.

    checkpoints/step-000000432000/  tensors.safetensors  state.json  manifest.json
    checkpoints/best-000000400000/  the same, weights only
    replay/seg-...                  immutable compressed pieces of the replay, shared between checkpoints

The manifest holds size and digest of every file and a digest of itself, so a flipped bit or a missing file is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from arcturus.errors import CheckpointError, TrainingFailed
from arcturus.replay.ring import Ring
from arcturus.runs.folder import read_json

FORMAT = 1
SEGMENT_STEPS = 16_384  # agent steps in a segment of replay


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def flatten(state: dict[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A nest of dicts as its tensors (contiguous, on the host) and its plain values, by 'outer/inner' names."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for key, value in state.items():
        if "/" in key:
            raise ValueError(f"state name {key!r} holds a slash")
        if isinstance(value, dict):
            inner = flatten(value, f"{prefix}{key}/")
            tensors |= inner[0]
            values |= inner[1]
            if not value:
                values[f"{prefix}{key}/"] = None
        elif isinstance(value, Tensor):
            tensors[prefix + key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            values[prefix + key] = value
    return tensors, values


def unflatten(tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in [*tensors.items(), *values.items()]:
        *outer, last = name.split("/")
        here = out
        for key in outer:
            here = here.setdefault(key, {})
        if last:
            here[last] = value
    return out


def _write(path: Path, data: bytes) -> dict[str, Any]:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return {"size": len(data), "digest": digest(data)}


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(manifest: dict[str, Any]) -> bytes:
    body = json.dumps(manifest, sort_keys=True)
    return json.dumps(manifest | {"digest": digest(body.encode())}, sort_keys=True, indent=1).encode()


class Checkpoints:
    """The checkpoints of one run folder.  Every failure to write or to trust one is a CheckpointError."""

    def __init__(self, run_path: Path):
        self.folder, self.segments = run_path / "checkpoints", run_path / "replay"
        self._full: dict[tuple[int, int], str] = {}  # whole segments of this course of the run, by their rows

    # -- writing -----------------------------------------------------------------------------------------------------

    def save(self, step: int, state: dict[str, Any], replay: Ring | None = None, *, keep: int = 2) -> Path:
        """A resumable checkpoint; older ones beyond `keep` go, and the segments that none of the rest names."""
        try:
            path = self._save(f"step-{step:012d}", step, state, self._write_replay(replay) if replay else {})
            for old in self.resumable()[:-keep]:
                self._remove(old)
            self._drop_unused_segments()
        except OSError as e:
            raise CheckpointError(f"checkpoint at step {step:,} could not be written: {e}", where=str(self.folder)) from e
        return path

    def save_best(self, step: int, state: dict[str, Any]) -> Path:
        """Weights only, for playing; replaces the best before."""
        try:
            path = self._save(f"best-{step:012d}", step, state, {})
            for old in self.folder.glob("best-*"):
                if old != path:
                    self._remove(old)
        except OSError as e:
            raise CheckpointError(f"best weights at step {step:,} could not be written: {e}", where=str(self.folder)) from e
        return path

    def _save(self, name: str, step: int, state: dict[str, Any], replay: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        final, temporary = self.folder / name, self.folder / f".tmp-{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            tensors, values = flatten(state)
            bad = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
            if bad:
                raise TrainingFailed(f"{bad[0]} holds numbers that are not finite, so nothing was saved", where=f"step {step:,}")
            files = {
                "tensors.safetensors": _write(temporary / "tensors.safetensors", tensors_to_bytes(tensors)),
                "state.json": _write(temporary / "state.json", json.dumps(values, indent=1).encode()),
            }
            manifest = {"format": FORMAT, "step": step, "files": files, "replay": replay}
            _write(temporary / "manifest.json", _seal(manifest))
            _sync_folder(temporary)
            if final.exists():
                self._remove(final)
            os.rename(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(self.folder)
        return final

    def _write_replay(self, ring: Ring) -> dict[str, Any]:
        """Segments of rows aligned to multiples of their length: one that is full never changes, so it is written once.

        Only segments that this process wrote or loaded are taken over: a file of the same rows may stem from a course of
        the run that was lost.
        """
        self.segments.mkdir(parents=True, exist_ok=True)
        length = max(1, SEGMENT_STEPS // ring.spec.num_envs)
        first = max(0, ring.count - ring.rows)
        listed = []
        for block in range(first // length * length, ring.count, length):
            name = self._full.get((block, block + length))
            if name is None:
                start, end = max(block, first), min(block + length, ring.count)
                data = zlib.compress(tensors_to_bytes(ring.read_rows(start, end)), 1)
                name = f"seg-{start:012d}-{end:012d}-{digest(data)}.z"
                if not (self.segments / name).exists():
                    temporary = self.segments / f".tmp-{name}"
                    _write(temporary, data)
                    os.rename(temporary, self.segments / name)
                if (start, end) == (block, block + length):
                    self._full[start, end] = name
            listed.append(name)
        _sync_folder(self.segments)
        return {"count": ring.count, "segments": listed}

    @staticmethod
    def _remove(path: Path) -> None:
        hidden = path.with_name(f".del-{path.name}")
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _drop_unused_segments(self) -> None:
        used = set()
        for path in self.resumable():
            try:
                used |= set(read_json(path / "manifest.json").get("replay", {}).get("segments", []))
            except CheckpointError:
                continue  # a damaged one names nothing that could be read back
        for path in self.segments.glob("*seg-*"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    # -- reading -----------------------------------------------------------------------------------------------------

    def resumable(self) -> list[Path]:
        """Oldest first, unverified."""
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir())

    def find(self, which: str = "last") -> Path:
        """last, best, or a step's number."""
        found = self.resumable()
        if which == "best":
            found = sorted(self.folder.glob("best-*")) or found
        elif which != "last":
            try:
                found = [p for kind in ("best", "step") if (p := self.folder / f"{kind}-{int(which):012d}").is_dir()]
            except ValueError:
                raise CheckpointError(f"checkpoint {which!r}: say last, best, or a step's number", where="--checkpoint") from None
        if not found:
            there = ", ".join(p.name for p in self.resumable()) or "none"
            raise CheckpointError(
                f"there is no checkpoint {which!r} in {self.folder}", where="--checkpoint", fix=f"there: {there}"
            )
        return found[-1]

    def load(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The verified state that was saved, and the manifest."""
        manifest = read_json(path / "manifest.json")
        claimed = manifest.pop("digest", None)
        if digest(json.dumps(manifest, sort_keys=True).encode()) != claimed or manifest.get("format") != FORMAT:
            raise CheckpointError(f"{path.name} is damaged: its manifest doesn't verify", where=str(path))
        data = {name: self._verified(path, name, entry) for name, entry in manifest["files"].items()}
        try:
            tensors = tensors_from_bytes(data["tensors.safetensors"])
            values = json.loads(data["state.json"])
        except (KeyError, ValueError, SafetensorError) as e:
            raise CheckpointError(f"{path.name} is damaged: {e}", where=str(path)) from e
        return unflatten(tensors, values), manifest

    @staticmethod
    def _verified(path: Path, name: str, entry: dict[str, Any]) -> bytes:
        file = path / name
        try:
            if Path(name).name != name or file.is_symlink() or file.stat().st_size != entry["size"]:
                raise CheckpointError(f"{path.name}/{name} is not what was saved", where=str(path))
            data = file.read_bytes()
        except OSError as e:
            raise CheckpointError(f"{path.name}/{name} can't be read: {e}", where=str(path)) from e
        if digest(data) != entry["digest"]:
            raise CheckpointError(f"{path.name}/{name} is damaged: its digest doesn't match", where=str(path))
        return data

    def load_newest(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The newest checkpoint that verifies, its replay's segments included; older ones are tried in turn, and said so."""
        problems = []
        for path in reversed(self.resumable()):
            try:
                state, manifest = self.load(path)
                for name in manifest["replay"].get("segments", []):
                    self._segment(name)
                return state, manifest
            except CheckpointError as e:
                problems.append(str(e))
                print(f"warning: {path.name} is passed over: {e.what}", file=sys.stderr)
        raise CheckpointError(
            f"no checkpoint in {self.folder} can be used" + (f": {problems[0]}" if problems else ": there is none yet"),
            where=str(self.folder),
            fix="start the run again in a new folder",
        )

    def _segment(self, name: str) -> bytes:
        path = self.segments / name
        try:
            if Path(name).name != name or path.is_symlink():
                raise CheckpointError(f"segment {name!r} lies outside the run", where=str(path))
            data = path.read_bytes()
        except OSError as e:
            raise CheckpointError(f"replay segment {name} can't be read: {e}", where=str(path)) from e
        if digest(data) != path.stem.rsplit("-", 1)[-1]:
            raise CheckpointError(f"replay segment {name} is damaged", where=str(path))
        return data

    def load_replay(self, ring: Ring, manifest: dict[str, Any]) -> None:
        replay = manifest["replay"]
        if not replay:
            return
        oldest = max(0, replay["count"] - ring.rows)
        for name in replay["segments"]:
            start, end = map(int, Path(name).stem.split("-")[1:3])
            self._full[start, end] = name
            limit = (end - start) * ring.spec.num_envs * ring.row_bytes + 65_536
            unpacker = zlib.decompressobj()
            try:
                rows = tensors_from_bytes(unpacker.decompress(self._segment(name), limit))
            except (zlib.error, SafetensorError) as e:
                raise CheckpointError(f"replay segment {name} is damaged: {e}", where=str(self.segments)) from e
            skip = max(0, oldest - start)
            ring.write_rows(start + skip, {k: v[skip:] for k, v in rows.items()})
        ring.count = replay["count"]
