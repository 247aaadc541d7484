"""The replay on disk: immutable compressed segments that checkpoints share, so that each writes only rows that are new.

    replay/seg-FIRST-END-DIGEST.z    rows [FIRST, END) as zlib-compressed safetensors; DIGEST is of the compressed bytes

Segments begin at multiples of their length, and a full one never changes.  It is written as soon as it is full, so that a
checkpoint, which may be asked for at any time, has little left to write.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save as pack
from torch import Tensor

from arcturus.errors import CheckpointError
from arcturus.replay.ring import Ring
from arcturus.runs.files import Shapes, digest, read_file, size_limit, sync_folder, unpack, write_atomically

SEGMENT_STEPS = 16_384  # agent steps in a segment
COPIED = 4  # missing blocks of which copies are held at once
NAME = re.compile(r"seg-(\d{12})-(\d{12})-([0-9a-f]{40})\.z")


class Piece(NamedTuple):
    """Rows copied from the ring, so that training can't overwrite them."""

    first: int
    end: int
    rows: dict[str, Tensor]


class Plan(NamedTuple):
    """What a checkpoint needs of the replay: rows [blocks[0][0], end), of which `pieces` are still to be written."""

    end: int
    blocks: list[tuple[int, int]]
    pieces: list[Piece]


class Segments:
    """The segments of one run.  full() and plan() belong to the thread that trains; write() and the rest to any one thread."""

    def __init__(self, run_path: Path, own: Callable[[], None] = lambda: None):
        self.folder, self.own = run_path / "replay", own
        self._names: dict[tuple[int, int], str | None] = {}  # blocks handed out for writing or loaded; None: not yet written

    # -- writing -----------------------------------------------------------------------------------------------------

    @staticmethod
    def length(ring: Ring) -> int:
        return max(1, SEGMENT_STEPS // ring.spec.num_envs)

    def full(self, ring: Ring) -> Piece | None:
        """The newest block, once its last row is there."""
        length = self.length(ring)
        if ring.count < length or ring.count % length or length > ring.rows:
            return None
        return self._take(ring, ring.count - length, ring.count)

    def _take(self, ring: Ring, first: int, end: int) -> Piece:
        if end - first == self.length(ring):
            self._names[first, end] = None
        return Piece(first, end, ring.read_rows(first, end))

    def far_behind(self, ring: Ring) -> list[tuple[int, int]]:
        """The full blocks that are missing on disk, if they are many (a folder was removed, a disk was full for long)."""
        length = self.length(ring)
        blocks = [
            (b, b + length) for b in range(-(-max(0, ring.count - ring.rows) // length) * length, ring.count - length + 1, length)
        ]
        missing = [key for key in blocks if not self._there(key)]
        return missing if len(missing) > COPIED else []

    def catch_up(self, ring: Ring) -> None:
        """Writes those here, one by one: a plan would hold copies of them all.  No other thread may be writing."""
        for first, end in self.far_behind(ring):
            self.write(self._take(ring, first, end))

    def _there(self, key: tuple[int, int]) -> bool:
        """Whether a block was handed out, and its file, if it was written already, still exists."""
        name = self._names.get(key, "")
        return name is None or name != "" and (self.folder / name).exists()

    def forget_last(self, ring: Ring) -> None:
        """The newest row was changed: a block that ends with it must be written again."""
        self._names.pop((ring.count - self.length(ring), ring.count), None)

    def plan(self, ring: Ring) -> Plan:
        """Every row of the ring, by blocks.

        Only blocks that this process wrote or loaded are reused, and only while their file exists: a file of the same rows
        may come from steps of the run that were lost.
        """
        length, first = self.length(ring), max(0, ring.count - ring.rows)
        blocks, pieces = [], []
        for block in range(first // length * length, ring.count, length):
            key = (block, block + length)
            if self._there(key):
                blocks.append(key)
                continue
            start, end = max(block, first), min(block + length, ring.count)
            pieces.append(self._take(ring, start, end))
            blocks.append((start, end))
        return Plan(ring.count, blocks, pieces)

    def write(self, piece: Piece) -> str:
        """The segment's name, once it is on the disk."""
        key = (piece.first, piece.end)
        try:
            self.own()
            self.folder.mkdir(parents=True, exist_ok=True)
            data = zlib.compress(pack(piece.rows), 1)
            name = f"seg-{piece.first:012d}-{piece.end:012d}-{digest(data)}.z"
            write_atomically(self.folder / name, data)
        except OSError:
            self._names.pop(key, None)  # it will be handed out again
            raise
        self._names[key] = name
        return name

    def finish(self, plan: Plan) -> dict[str, Any]:
        """Writes what a plan still needs; the manifest's entry."""
        try:
            for piece in plan.pieces:
                self.write(piece)
        except OSError:
            for piece in plan.pieces:  # those that were not reached are handed out again, too
                if self._names.get(key := (piece.first, piece.end)) is None:
                    self._names.pop(key, None)
            raise
        names = [self._names.get(key) for key in plan.blocks]
        if None in names:
            raise CheckpointError("a piece of the replay could not be written", where=str(self.folder))
        if names:
            sync_folder(self.folder)
        return {"count": plan.end, "segments": names}

    def drop_all_but(self, used: set[str]) -> None:
        """Removes what no checkpoint names."""
        for path in [*self.folder.glob("seg-*"), *self.folder.glob(".tmp-seg-*")]:
            if path.name not in used and not path.is_dir():
                path.unlink(missing_ok=True)
        for key, name in list(self._names.items()):
            if name is not None and name not in used:
                del self._names[key]

    # -- reading -----------------------------------------------------------------------------------------------------

    def verify(self, replay: dict[str, Any], ring: Ring) -> None:
        """Everything a manifest says of the replay, against the ring it is for and the files it names."""
        for name, start, end in self._listed(replay, ring):
            self._read(name, start, end, ring)

    def load(self, ring: Ring, replay: dict[str, Any]) -> None:
        """Fills the ring with what a manifest lists."""
        oldest = max(0, replay["count"] - ring.rows)
        for name, start, end in self._listed(replay, ring):
            if end - start == self.length(ring):
                self._names[start, end] = name
            rows = self._unpacked(name, start, end, ring)
            skip = max(0, oldest - start)
            ring.write_rows(start + skip, {k: v[skip:] for k, v in rows.items()})
        ring.count = replay["count"]

    def _listed(self, replay: dict[str, Any], ring: Ring) -> list[tuple[str, int, int]]:
        count, names = replay.get("count"), replay.get("segments")
        wrong = CheckpointError("the manifest's list of replay segments is invalid", where=str(self.folder))
        if type(count) is not int or not 0 <= count < 2**60 or not isinstance(names, list):
            raise wrong
        out, at = [], None
        for name in names:
            match = NAME.fullmatch(name) if isinstance(name, str) else None
            if match is None:
                raise CheckpointError(f"{str(name)[:100]!r} is not a replay segment", where=str(self.folder))
            start, end = int(match[1]), int(match[2])
            if not 0 < end - start <= self.length(ring) or (at is not None and start != at):
                raise wrong
            out.append((name, start, end))
            at = end
        if (out[-1][2] if out else 0) != count:
            raise wrong
        oldest = max(0, count - ring.rows)
        if out and out[0][1] > oldest:
            raise CheckpointError(
                f"the saved replay begins at row {out[0][1]:,}, but a replay of {ring.capacity:,} steps needs the rows from {oldest:,} on",
                where=str(self.folder),
                fix="keep --agent.capacity as it was, or make it smaller",
            )
        if out and out[0][2] <= oldest:
            out = [listed for listed in out if listed[2] > oldest]  # a smaller replay than before
        return out

    def _expected(self, start: int, end: int, ring: Ring) -> Shapes:
        return {k: (dtype, (end - start, *shape)) for k, (dtype, shape) in ring.row_shapes.items()}

    def _read(self, name: str, start: int, end: int, ring: Ring) -> bytes:
        limit = size_limit(self._expected(start, end, ring))
        data = read_file(self.folder / name, limit + limit // 1000 + 64)  # zlib adds 5 bytes to 16 KB that it can't compress
        if digest(data) != name.removesuffix(".z").rsplit("-", 1)[-1]:
            raise CheckpointError(f"replay segment {name} is damaged: its digest doesn't match", where=str(self.folder))
        return data

    def _unpacked(self, name: str, start: int, end: int, ring: Ring) -> dict[str, Tensor]:
        expected, where = self._expected(start, end, ring), self.folder / name
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(self._read(name, start, end, ring), size_limit(expected))
        except zlib.error as e:
            raise CheckpointError(f"replay segment {name} is damaged: {e}", where=str(where)) from e
        if not unpacker.eof:
            raise CheckpointError(f"replay segment {name} decompresses to more data than its rows hold", where=str(where))
        rows = unpack(data, expected, where)
        if rows.keys() != expected.keys():
            raise CheckpointError(f"replay segment {name} lacks {sorted(expected.keys() - rows.keys())}", where=str(where))
        return rows
