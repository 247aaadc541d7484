"""What learning reads.  Names and subscripts as in Sutton & Barto and rlax: act at t-1, arrive at t."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Transition(NamedTuple):
    """A batch of (n-step) transitions."""

    s_tm1: Tensor  # [B, *obs_shape]
    a_tm1: Tensor  # [B] int64
    r_t: Tensor  # [B] float32: discounted sum of the (clipped) rewards of at most n steps
    discount_t: Tensor  # [B] float32: gamma^k of the k steps it spans; 0 if s_t is terminal
    s_t: Tensor  # [B, *obs_shape]
    weight: Tensor  # [B] float32: 0 where t-1 was a void row (nothing was decided there), else 1
