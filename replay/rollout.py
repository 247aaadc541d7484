"""On-policy experience: the rows since the last update, stored once as in replay, with the extras and the memory of acting.

Every tensor is allocated at the start and keeps its shape, so a half-full rollout is saved and restored like weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcturus.api import ActedStep, EnvSpec, State, TimeStep, map_state, state_leaves
from arcturus.errors import ConfigError
from arcturus.replay.ring import LAST, LIFE_LOST, ROW_TENSORS, TERMINATED, TRUNCATED, VALID, Ring


class Minibatch(NamedTuple):
    """Part of a rollout: B sequences of L rows; L = 1 without memory.  What an agent doesn't use is None."""

    obs: Tensor  # [L, B, *obs_shape]
    first: Tensor  # [L, B] bool: the row opens an episode
    state: State  # [B, ...] memory before the first row
    action: Tensor  # [L, B, *action_shape] int64
    valid: Tensor  # [L, B] bool: the rows that count
    target: Tensor  # [L, B, ...] what the network's answer should be: returns, or probabilities of actions
    value: Tensor = None  # type: ignore[assignment]  # [L, B] v when it acted
    advantage: Tensor = None  # type: ignore[assignment]  # [L, B]
    log_prob: Tensor = None  # type: ignore[assignment]  # [L, B] log pi_old(action)


class Trajectory(NamedTuple):
    """T rows of N environments: where they acted (row t), and what came of it (row t + 1).  obs and states stay in the rollout."""

    first: Tensor  # [T, N] bool: row t opens an episode
    valid: Tensor  # [T, N] bool: the action at row t counts
    action: Tensor  # [T, N, *action_shape] int64
    reward: Tensor  # [T, N] float32 raw, at row t + 1, as the following
    terminated: Tensor  # [T, N] bool
    truncated: Tensor  # [T, N] bool
    life_lost: Tensor  # [T, N] bool
    last: Tensor  # [T, N] bool: row t + 1 closes its episode (terminated, truncated or interrupted)

    def rewards(self, clip: float) -> Tensor:
        """[T, N] clipped to [-clip, clip]; 0: raw."""
        return self.reward.clamp(-clip, clip) if clip else self.reward

    def discounts(self, gamma: float, *, bootstrap_truncated: bool = True, end_on_life_loss: bool = False) -> Tensor:
        """[T, N] gamma, or 0 where row t + 1 ends the return: terminated; truncated if that doesn't bootstrap; a life lost."""
        ends = self.terminated
        if not bootstrap_truncated:
            ends = ends | self.truncated
        if end_on_life_loss:
            ends = ends | self.life_lost
        return gamma * ~ends


class Rollout:
    """At most `rows` rows [N], on `device`; 0: whole episodes, of environments whose episodes begin and end together.

    extras: name -> shape of one environment's float32 entry in Act.extras that is kept for every row ([T, N, *shape]).
    state: an agent's memory [N, ...]; the memory before acting is kept for every `every`-th row, [T / every, N, ...]; (): no memory.
    """

    def __init__(
        self,
        rows: int,
        spec: EnvSpec,
        device: torch.device | str,
        *,
        extras: dict[str, tuple[int, ...]] | None = None,
        state: State = (),
        every: int = 0,
        flag: str = "--agent.horizon",
    ):
        self.whole = not rows
        if self.whole and not spec.episode_rows:
            raise ConfigError(
                f"the episodes of {spec.env_id} don't begin and end together, so a rollout can't consist of whole episodes",
                where=flag,
                fix="choose a number of rows, such as 16",
            )
        rows = rows or spec.episode_rows
        self.rows, self.spec, self.every = rows, spec, every or rows
        if self.whole and 1 < self.every < rows:  # pieces would leave out the last rows of shorter episodes, which ask
            raise ConfigError(
                "whole episodes can't be split into pieces: their lengths differ", where="--agent.bptt", fix=f"use 0, or rows for {flag}"
            )
        if rows % self.every:
            raise ConfigError(
                f"a rollout of {rows} rows can't be unrolled in pieces of {self.every}",
                where="--agent.bptt",
                fix=f"choose a divisor of {flag} ({rows}), or 0 for all of it",
            )
        self.ring = Ring((rows + spec.frame_stack) * spec.num_envs, spec, device, flag=flag)  # + the frames before its first row
        self.begin = 0  # the absolute row it begins with
        n = spec.num_envs
        self.extras = {k: torch.zeros((rows, n, *shape), device=device) for k, shape in (extras or {}).items()}
        pieces = rows // self.every
        self.states = map_state(lambda x: torch.zeros((pieces, *x.shape), dtype=x.dtype, device=device), state)
        self._leaves = state_leaves(self.states)

    @property
    def count(self) -> int:
        """Rows since the last update."""
        return self.ring.count - self.begin

    @property
    def full(self) -> bool:
        return self.count == self.rows

    def complete(self, ts: TimeStep) -> bool:
        """Whether the rollout is ready to be learnt from; ts is the row that follows the newest."""
        return self.full or (self.whole and self.count > 0 and bool(ts.last.all()))

    def append(self, step: ActedStep) -> None:
        t = self.count
        if self.whole and t == 0 and not bool((step.timestep.first & ~step.timestep.interrupted).all()):
            return  # an autoreset row between two batches of episodes
        for name, kept in self.extras.items():
            kept[t].copy_(step.extras[name])
        if self._leaves and t % self.every == 0:
            for kept, now in zip(self._leaves, state_leaves(step.state), strict=True):
                kept[t // self.every].copy_(now)
        self.ring.append(step)

    def kept(self, name: str) -> Tensor:
        """[T, N, *shape] of the rows so far."""
        return self.extras[name][: self.count]

    def restart(self) -> None:
        """The next row is the first again; older frames stay, for the stacks that reach back to them."""
        self.begin = self.ring.count

    def read(self, ts: TimeStep) -> Trajectory:
        """All rows so far, and what came of them; ts is the row that follows the newest."""
        slots = torch.arange(self.begin, self.ring.count, device=self.ring.device) % self.ring.rows
        flags = self.ring.flags[slots]

        def arrived(bit: int, now: Tensor) -> Tensor:
            return torch.cat([(flags[1:] & bit).ne(0), now[None]])

        return Trajectory(
            first=self.ring.age[slots].eq(0),
            valid=(flags & VALID).ne(0),
            action=self.ring.action[slots].long(),
            reward=torch.cat([self.ring.reward[slots[1:]], ts.reward[None]]),
            terminated=arrived(TERMINATED, ts.terminated),
            truncated=arrived(TRUNCATED, ts.truncated),
            life_lost=arrived(LIFE_LOST, ts.life_lost),
            last=arrived(LAST, ts.last),
        )

    def obs(self, t: Tensor, n: Tensor) -> Tensor:
        """Observations [*t.shape, *obs_shape] at rows t of this rollout, of environments n (int64, of one shape)."""
        flat = self.ring.obs(t.flatten() + self.begin, n.flatten())
        return flat.view(*t.shape, *self.spec.obs_shape)

    def state(self, piece: Tensor, n: Tensor) -> State:
        """The memory [B, ...] at the first rows of pieces [B] of environments n [B]."""
        return map_state(lambda x: x[piece, n], self.states) if self._leaves else self.states

    def check_minibatches(self, count: int) -> None:
        """Before training starts."""
        sequences = self.rows // self.every * self.spec.num_envs
        told = f"{sequences} sequences ({self.spec.num_envs} environments, {self.rows} rows in pieces of {self.every})"
        if sequences % count:
            raise ConfigError(f"{told} can't be divided into {count} minibatches", where="--agent.minibatches", fix="use a divisor")
        if self.every * sequences == count:
            raise ConfigError(f"{told} give {count} minibatches of only one row each", where="--agent.minibatches", fix="use fewer")

    def pieces(self, count: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor, State]]:
        """All pieces of all environments in `count` parts, shuffled by a generator: rows t [L, B], environments n [L, B],
        and the memory [B, ...] at the first of them.  L = `every`: without memory 1, and single rows are shuffled."""
        rows = self.count if self.whole else self.rows
        every = min(self.every, rows)
        pieces, N, device = rows // every, self.spec.num_envs, self.ring.device
        order = torch.arange(pieces * N, device=device) if generator is None else None
        if order is None:
            order = torch.randperm(pieces * N, device=device, generator=generator)
        steps = torch.arange(every, device=device)[:, None]
        for part in order.view(count, -1):
            piece, n = part // N, part % N
            yield piece * every + steps, n.expand(every, -1), self.state(piece, n)

    def minibatches(
        self, count: int, generator: torch.Generator | None, rows: Trajectory, columns: dict[str, Tensor]
    ) -> Iterator[Minibatch]:
        """The same as minibatches: what read() gave of the rows, and columns [T, N, ...] by the names of Minibatch's fields."""
        for t, n, memory in self.pieces(count, generator):
            parts = {name: column[t, n] for name, column in columns.items()}
            yield Minibatch(self.obs(t, n), rows.first[t, n], memory, rows.action[t, n], rows.valid[t, n], **parts)

    def state_dict(self) -> dict[str, Any]:
        kept = {k: getattr(self.ring, k) for k in ROW_TENSORS} | {"frame": self.ring.frames_by_row()}
        states = {str(i): leaf for i, leaf in enumerate(state_leaves(self.states))}
        return {"rows": kept, "extras": self.extras, "states": states, "count": self.ring.count, "begin": self.begin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not 0 <= state["count"] - state["begin"] <= self.rows:
            raise ValueError(f"a rollout of {self.rows} rows can't hold rows {state['begin']} to {state['count']}")
        self.ring.set_frames_by_row(state["rows"]["frame"])
        for k in ROW_TENSORS[1:]:
            getattr(self.ring, k).copy_(state["rows"][k])
        for k, kept in self.extras.items():
            kept.copy_(state["extras"][k])
        for i, kept in enumerate(state_leaves(self.states)):
            kept.copy_(state["states"][str(i)])
        self.ring.count, self.begin = state["count"], state["begin"]


# -- whole episodes: which rows belong to them, and in which order they are unrolled --------------------------------------


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
