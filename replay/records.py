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
    weight: Tensor  # [B] float32: 0 where row t-1 was not valid (such as an autoreset row), else 1


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


class SequenceSpan(NamedTuple):
    """The sequences that an agent with memory learns from: rows for bringing the stored memory up to date (burn-in), rows learnt from,
    and whether each begins with its episode."""

    burn_in: int
    length: int
    whole: bool
