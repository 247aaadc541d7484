"""Encodes observations for torsos: pictures with channels first, everything else as a vector of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from arcturus.errors import ConfigError

SAY = "change it with --env.channels"


class Encoding(NamedTuple):
    """How observations of one space are read."""

    shape: tuple[int, ...]  # of one encoded observation
    dtype: torch.dtype  # uint8 or float32
    encode: Callable[[np.ndarray], np.ndarray]  # a batch [N, ...] of observations -> [N, *shape]
    told: str  # in words, for the first lines of a run


def encoding(space: gym.Space, env_id: str, channels: str = "auto") -> Encoding:
    """channels: the position of a picture's channels (first, last); none: not a picture; auto: bytes of rank 2 to 4 are pictures, with
    channels where their shape suggests.  ConfigError for a space that no agent here can read."""
    if isinstance(space, spaces.Box):
        picture = len(space.shape) in (2, 3, 4) and (space.dtype == np.uint8 if channels == "auto" else channels != "none")
        if picture:
            return _picture(space, channels)
        if channels in ("first", "last"):
            raise ConfigError(f"{env_id} shows {space.shape}, which is not a picture", where="--env.channels", fix="leave it out")
        return _flat(space)
    if channels != "auto":
        raise ConfigError(f"observations of {env_id} are not a Box, so they are not pictures", where="--env.channels", fix="leave it out")
    if isinstance(space, spaces.Discrete):
        n, start = int(space.n), int(space.start)
        return Encoding((n,), torch.float32, lambda x: _one_hot(x.reshape(-1, 1) - start, [n]), f"one of {n:,} states")
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = [int(n) for n in space.nvec.ravel()], space.start.ravel()
        told = f"{len(sizes)} numbers out of {', '.join(map(str, sizes[:8]))}{' ...' if len(sizes) > 8 else ''}"
        return Encoding((sum(sizes),), torch.float32, lambda x: _one_hot(x.reshape(len(x), -1) - starts, sizes), told)
    if isinstance(space, spaces.MultiBinary):
        count = int(np.prod(space.shape))
        return Encoding((count,), torch.float32, lambda x: x.reshape(len(x), -1).astype(np.float32), f"{count} bits")
    raise ConfigError(
        f"{env_id} has {type(space).__name__} observations{_entries(space)}, which no agent here can read as they are",
        where="--env",
        fix="choose the entry that the agent sees: --env.observation NAME"
        if isinstance(space, spaces.Dict)
        else "register an environment id of your own, with a wrapper that makes one array of its observations",
    )


def entry(space: gym.Space, env_id: str, name: str) -> gym.Space:
    """One entry of a Dict space, by its name; a ConfigError where there is none."""
    if not isinstance(space, spaces.Dict):
        raise ConfigError(f"observations of {env_id} are not a Dict", where="--env.observation", fix="leave it out")
    if name not in space.spaces:
        raise ConfigError(f"{env_id} has no entry {name!r}{_entries(space)}", where="--env.observation", fix="choose one of these")
    return space.spaces[name]


def picture_entry(space: gym.Space) -> str:
    """The name of a Dict's only picture, a Box of bytes of rank 2 to 4; "" if there is none, or more than one."""
    named = space.spaces.items() if isinstance(space, spaces.Dict) else ()
    found = [str(k) for k, s in named if isinstance(s, spaces.Box) and s.dtype == np.uint8 and len(s.shape) in (2, 3, 4)]
    return found[0] if len(found) == 1 else ""


def _entries(space: gym.Space) -> str:
    """' (direction: Discrete(4), image: Box(7, 7, 3))' of a Dict."""
    if not isinstance(space, spaces.Dict):
        return ""
    parts = [f"{k}: {type(s).__name__}{tuple(s.shape) if isinstance(s, spaces.Box) else ''}" for k, s in space.spaces.items()]
    return f" ({', '.join(parts[:12])}{' ...' if len(parts) > 12 else ''})"


def _one_hot(index: np.ndarray, sizes: list[int]) -> np.ndarray:
    """[N, sum(sizes)] float32 of index [N, len(sizes)]; one row has sum(sizes) numbers."""
    out = np.zeros((len(index), sum(sizes)), np.float32)
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    out[np.arange(len(index))[:, None], index + begins] = 1
    return out


def _flat(space: spaces.Box) -> Encoding:
    count = int(np.prod(space.shape))
    told = "a number" if count == 1 else f"{count:,} numbers"
    return Encoding((count,), torch.float32, lambda x: x.reshape(len(x), -1).astype(np.float32), told)


def _picture(space: spaces.Box, channels: str) -> Encoding:
    """Of rank 2 (no channels), 3, or 4 (several pictures in a row)."""
    byte = space.dtype == np.uint8
    dtype = torch.uint8 if byte else torch.float32
    kind = np.uint8 if byte else np.float32
    before, shape = space.shape[:-3], space.shape[-3:]
    if len(space.shape) == 2:
        height, width = shape
        grey = (height, width) if byte else (1, height, width)
        return Encoding(
            grey, dtype, lambda x: x.reshape(len(x), *grey).astype(kind, copy=False), f"grey pictures of {height} x {width}"
        )
    guessed = channels == "auto"
    where = _where(shape) if guessed else channels
    if where == "last":
        height, width, count = shape
    else:
        count, height, width = shape
    several = f"{before[0]} in a row, each " if before else ""
    told = f"pictures of {height} x {width}, {several}with {count} channels, which come {where}"

    def encode(x: np.ndarray) -> np.ndarray:
        x = np.moveaxis(x, -1, -3) if where == "last" else x
        return np.ascontiguousarray(x, kind)

    return Encoding((*before, count, height, width), dtype, encode, f"{told} (by their shape; {SAY})" if guessed else told)


def _where(shape: tuple[int, ...]) -> str:
    """The position of a picture's channels: the axis beside two equal sides, if there are two; else the shorter end; else last."""
    a, b, c = shape
    if (a == b) != (b == c):
        return "last" if a == b else "first"
    return "first" if a < c else "last"
