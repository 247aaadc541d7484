"""Targets and losses as pure functions of tensors; subscripts as in the papers (act at t-1, arrive at t).

| symbol     | shape  | meaning                                                            |
|------------|--------|--------------------------------------------------------------------|
| q_tm1      | [B, A] | action-values at t-1 of the network that learns                    |
| a_tm1      | [B]    | int64, the action taken                                            |
| r_t        | [B]    | (n-step) reward                                                    |
| discount_t | [B]    | gamma^n; 0 after termination, gamma^k after a truncation at step k |
| q_t        | [B, A] | action-values at t that are bootstrapped from                      |
"""

from __future__ import annotations

import torch
from torch import Tensor


def q_learning(
    q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor, q_select_t: Tensor | None = None
) -> Tensor:
    """The TD error [B]: r_t + discount_t max_a q_t[a] - q_tm1[a_tm1] (Mnih et al. 2015, equation 1).

    With q_select_t [B, A] the bootstrap action is its argmax instead (double Q-learning, van Hasselt et al. 2016, equation 4).
    The gradient flows through q_tm1 only.
    """
    with torch.no_grad():
        best = (q_t if q_select_t is None else q_select_t).argmax(-1, keepdim=True)
        target = r_t + discount_t * q_t.gather(-1, best).squeeze(-1)
    return target - q_tm1.gather(-1, a_tm1[:, None]).squeeze(-1)


def td_loss(td: Tensor, weight: Tensor, *, huber: bool) -> Tensor:
    """The weighted mean over a batch of 1/2 td^2, or of its Huber form, whose gradient is the TD error clipped to [-1, 1]
    (Mnih et al. 2015, Methods).  Rows of weight 0 (nothing was decided there) count neither above nor below the line."""
    half_square = 0.5 * td.square()
    if huber:
        error = td.abs()
        half_square = torch.where(error <= 1.0, half_square, error - 0.5)
    return (weight * half_square).sum() / weight.sum().clamp_min(1e-8)


def linear_schedule(step: int, initial: float, final: float, start: int, duration: int) -> float:
    """initial until `start`, then a straight line that reaches final after `duration` more steps and stays there."""
    if step <= start:
        return initial
    if step >= start + duration:
        return final
    return initial + (final - initial) * (step - start) / duration
