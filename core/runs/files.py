"""Files that can be trusted: written under another name, fsynced and renamed; read only as what they are expected to be.

Nothing here can run code.  What is read may be malicious: it must be a regular file, not a link, and not longer than
expected, and a tensor file's header is compared with the expected names, dtypes and shapes before any of it is loaded.
Every refusal is a CheckpointError.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from arcturus.errors import CheckpointError

PLAIN_FILES = ("config.yaml", "run.json", "metrics.jsonl")  # of a run folder
JSON_LIMIT = 4 << 20  # bytes of a JSON file
DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64", torch.bool: "BOOL",
}  # fmt: skip

Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # what a tensor file is to hold, by name


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


# -- a nest of dicts as tensors and plain values ---------------------------------------------------------------------------


def flatten(state: dict[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A nest of dicts as its tensors (contiguous copies, on the host) and its plain values, by 'outer/inner' names."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for key, value in state.items():
        if "/" in key:
            raise ValueError(f"state name {key!r} contains a slash")
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


def shapes_of(tensors: dict[str, Tensor]) -> Shapes:
    return {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}


# -- writing -----------------------------------------------------------------------------------------------------------------


def write_file(path: Path, data: bytes) -> dict[str, Any]:
    """Writes and fsyncs a file; returns its entry in a manifest.  Never writes through a link."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with open(handle, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return {"size": len(data), "digest": digest(data)}


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: str | bytes) -> None:
    """The old content or the new, never half of one."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        write_file(temporary, data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# -- reading -----------------------------------------------------------------------------------------------------------------


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes, links not followed."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as f:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise CheckpointError(f"{path.name} is not a regular file", where=str(path))
            if about.st_size > limit:
                raise CheckpointError(f"{path.name} has {about.st_size:,} bytes; at most {limit:,} are read", where=str(path))
            return f.read(about.st_size)
    except OSError as e:
        raise CheckpointError(f"{path.name} can't be read: {e.strerror or e}", where=str(path)) from e


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{path.name} can't be read: {e}", where=str(path)) from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} does not hold a JSON object", where=str(path))
    return value


def read_json(path: Path) -> dict[str, Any]:
    return parse_json(read_file(path, JSON_LIMIT), path)


def refuse_strangers(folder: Path) -> None:
    """What a run writes, truncates or removes must lie inside its folder, and what it reads must end: no links, pipes or devices."""
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            kind = os.lstat(path := os.path.join(place, name)).st_mode
            if stat.S_ISLNK(kind) or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                what = "a link" if stat.S_ISLNK(kind) else "a pipe, a socket or a device"
                raise CheckpointError(f"{path} is {what}, which a run folder must not contain", where=str(folder), fix="remove it")
    for name in PLAIN_FILES:
        if os.path.isdir(path := os.path.join(folder, name)):
            raise CheckpointError(f"{path} is a folder, where a file should be", where=str(folder), fix="move it away")


def nbytes(expected: Shapes) -> int:
    return sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in expected.values())


def size_limit(expected: Shapes) -> int:
    """The most bytes a tensor file of these shapes may have, with a few small tensors beside them."""
    return 8 + nbytes(expected) + _header_limit(expected) + 65_536


def _header_limit(expected: Shapes) -> int:
    return 65_536 + sum(256 + 2 * len(name) for name in expected)


def unpack(data: bytes, expected: Shapes, where: Path, part: str = "", without: str = "") -> dict[str, Tensor]:
    """The tensors in `data`, each with an expected name, dtype and shape; expected tensors may be missing.

    part: only names with this prefix are checked and returned; without: none with this prefix.  A generator's state (NAME_rng) may
    come from another device.
    """
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(len(data) - 8, _header_limit(expected)):
        raise CheckpointError(f"{where.name} has an invalid header of {length:,} bytes", where=str(where))
    header = parse_json(data[8 : 8 + length], where)

    def wanted(name: str) -> bool:
        return name.startswith(part) and not (without and name.startswith(without))

    for name, entry in header.items():
        if name == "__metadata__" or not wanted(name):
            continue
        if name not in expected:
            raise CheckpointError(f"{where.name} holds {name[:100]!r}, which is unknown here", where=str(where))
        dtype, shape = expected[name]
        found = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        if name.endswith("_rng") and found[0] == "U8" and isinstance(found[1], list) and found[1] in ([16], [5_056]):
            continue
        if found != (DTYPES[dtype], list(shape)):
            raise CheckpointError(
                f"{where.name} holds {name} as {str(found[0])[:20]} {str(found[1])[:80]}, not {DTYPES[dtype]} {list(shape)}",
                where=str(where),
                fix="check whether config.yaml was changed, or whether another version made the run",
            )
    return {name: tensor for name, tensor in unpack_all(data, where).items() if wanted(name)}


def unpack_all(data: bytes, where: Path) -> dict[str, Tensor]:
    """Whatever tensors are in `data`."""
    try:
        return tensors_from_bytes(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{where.name} is damaged: {e}", where=str(where)) from e


def check_values(values: dict[str, Any], expected: dict[str, Any], where: Path) -> None:
    """Checks that plain values, by flat names, have the expected values' types; where None is expected any number or text will do.
    Whole numbers are counters and must not be negative."""
    for name, value in values.items():
        if name not in expected:
            raise CheckpointError(f"{where.name} holds {name[:100]!r}, which is unknown here", where=str(where))
        like = expected[name]
        kinds: tuple[type, ...] = (type(like),)
        if like is None or isinstance(like, float):
            kinds = (type(None), float, int, str) if like is None else (float, int)
        if type(value) not in kinds or (isinstance(value, int) and not 0 <= value < 2**63):
            raise CheckpointError(f"{where.name} holds an invalid value of {name}: {str(value)[:50]!r}", where=str(where))
