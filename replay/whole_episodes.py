"""Which rows of a rollout belong to whole episodes, and in which order they are unrolled."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from arcturus.api import EnvSpec
from arcturus.errors import ConfigError
from arcturus.replay.rollout import Trajectory


def ends_inside(rows: Trajectory) -> Tensor:
    """[T, N] bool: the episode of row t ends by itself (not interrupted) within the rows."""
    ended, out = torch.zeros_like(rows.last[0]), []
    for own, last in zip((rows.terminated | rows.truncated).flip(0), rows.last.flip(0), strict=True):
        ended = torch.where(last, own, ended)
        out.append(ended)
    return torch.stack(out[::-1])


def from_first_rows(x: Tensor, first: Tensor) -> Tensor:
    """[T, N]: at every row what x is at the first row of its episode.  first [T, N] bool."""
    out = [x[0]]
    for now, opens in zip(x[1:], first[1:], strict=True):
        out.append(torch.where(opens, now, out[-1]))
    return torch.stack(out)


def check_horizon(spec: EnvSpec, rows: int) -> None:
    """ConfigError if the longest episodes don't fit into so many rows: their last answers would never be learnt from."""
    if spec.episode_rows > rows:
        raise ConfigError(
            f"the longest episodes of {spec.env_id} have {spec.episode_rows:,} rows, but the horizon is {rows:,} rows",
            where="--agent.horizon",
            fix=f"use {spec.episode_rows:,} or more",
        )


def single_rows(counts: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor, Tensor, bool]]:
    """For networks without memory: the rows of counts [T, N] bool, at most `chunk` at once, as episode_pieces() gives them with L = 1."""
    for part in counts.nonzero().split(chunk):
        t, n = part[None, :, 0], part[None, :, 1]
        yield t, n, torch.ones_like(t, dtype=torch.bool), True


def episode_pieces(inside: Tensor, counts: Tensor, length: int, chunk: int) -> Iterator[tuple[Tensor, Tensor, Tensor, bool]]:
    """Whole episodes side by side, `length` rows (0: all) at a time and at most `chunk` in all, the longest first, so that the episodes
    that continue are always the first ones.

    inside [T, N] bool: the rows of the episodes; counts [T, N] bool: those of them that are learnt from.  Of each piece the rows t
    [L, B], environments n [L, B], which of them count [L, B], and whether the episodes begin there.
    """
    before = torch.cat([torch.zeros_like(inside[:1]), inside[:-1]])
    begin = (inside & ~before).T.nonzero()  # [K, 2]: environment, row; in order of both, as the ends are
    after = torch.cat([inside[1:], torch.zeros_like(inside[:1])])
    lengths = (inside & ~after).T.nonzero()[:, 1] - begin[:, 1] + 1
    order = lengths.argsort(descending=True, stable=True)
    begin, lengths = begin[order], lengths[order]
    longest = int(lengths[0])
    L = min(length or longest, longest)
    for part in torch.arange(len(lengths), device=counts.device).split(max(chunk // L, 1)):
        for start in range(0, int(lengths[part[0]]), L):
            going = part[lengths[part] > start]
            ahead = start + torch.arange(min(L, int(lengths[part[0]]) - start), device=counts.device)[:, None]
            t = begin[going, 1] + torch.minimum(ahead, lengths[going] - 1)
            n = begin[going, 0].expand_as(t)
            yield t, n, (ahead < lengths[going]) & counts[t, n], start == 0
