"""What learning reads.  Names and subscripts as in Sutton & Barto and rlax: act at t-1, arrive at t."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from arcturus.api import State


class Transition(NamedTuple):
    """A batch of (n-step) transitions."""

    s_tm1: Tensor  # [B, *obs_shape]
    a_tm1: Tensor  # [B] int64
    r_t: Tensor  # [B] float32: discounted sum of the (clipped) rewards of at most n steps
    discount_t: Tensor  # [B] float32: gamma^k of the k steps it spans; 0 if s_t is terminal
    s_t: Tensor  # [B, *obs_shape]
    weight: Tensor  # [B] float32: 0 where t-1 was a void row (nothing was decided there), else 1


class SampleIndices(NamedTuple):
    """Where the transitions of a minibatch begin."""

    t: Tensor  # [B] int64 absolute rows
    n: Tensor  # [B] int64 environments
    weight: Tensor | None  # [B] float32 importance weights, where they were drawn by priority


class Sequence(NamedTuple):
    """Sequences of T rows, of which the L after the burn-in are learnt from; the rest is for memory and bootstrapping."""

    obs: Tensor  # [T, B, *obs_shape]
    first: Tensor  # [T, B] bool: the row opens an episode
    state: State  # [B, ...] memory before the first row, as it was when it acted
    a_tm1: Tensor  # [L, B] int64, as the following of the rows that are learnt from
    r_t: Tensor  # [L, B] float32, as in Transition
    discount_t: Tensor  # [L, B] float32, as in Transition
    steps: Tensor  # [L, B] int64: how many rows later it bootstraps
    weight: Tensor  # [L, B] float32, as in Transition


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
    last: Tensor  # [T, N] bool: row t + 1 closes its episode (terminated, truncated or cut)

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
