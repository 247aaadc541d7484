"""Distributions of returns: projecting targets onto a support, regressing quantiles.  Pure functions, subscripts as in losses.py.

| symbol  | shape     | meaning                                                    |
|---------|-----------|------------------------------------------------------------|
| support | [K]       | the returns z_1 < ... < z_K that have a probability, evenly spaced |
| p_t     | [B, K]    | probabilities at t, of the action that is bootstrapped from |
| theta   | [B, N]    | quantiles: returns that have the probabilities tau below them |
| tau     | [B, N], [N] | probabilities                                             |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def categorical_projection(p_t: Tensor, r_t: Tensor, discount_t: Tensor, support: Tensor) -> Tensor:
    """[B, K]: probabilities p_t at returns r_t + discount_t z_j, projected onto the support: each is shared by its two neighbours by
    distance, and goes to the end if it lies beyond (Bellemare et al. 2017, arXiv:1707.06887, equation 7).

    Written as the sum over j of p_j [1 - |clip(r + discount z_j) - z_i| / dz] where positive, it needs no case for a return that
    falls on an atom, where the paper's algorithm 1 would lose it (l = u).
    """
    dz = support[1] - support[0]
    to = (r_t[:, None] + discount_t[:, None] * support).clamp(support[0], support[-1])  # [B, K]
    share = (1 - (to[:, None, :] - support[:, None]).abs() / dz).clamp_min(0)  # [B, K to, K from]
    return (share @ p_t[:, :, None]).squeeze(-1)


def clipped_mass(p_t: Tensor, r_t: Tensor, discount_t: Tensor, support: Tensor) -> Tensor:
    """[B]: the probability of returns that lie beyond the support by more than half an atom, which the projection moves to its ends.  It
    is near 0 if the support covers the possible returns; if not, nothing is learned, as all returns look alike at the end."""
    to, half = r_t[:, None] + discount_t[:, None] * support, (support[1] - support[0]) / 2
    return torch.where((to < support[0] - half) | (to > support[-1] + half), p_t, 0).sum(-1)


def quantile_huber(theta: Tensor, target: Tensor, tau: Tensor, kappa: float) -> Tensor:
    """[B]: sum over theta_i, mean over target_j of |tau_i - 1{u < 0}| L_kappa(u) / kappa, u = target_j - theta_i
    (Dabney et al. 2018, arXiv:1710.10044, equations 9-10; Dabney et al. 2018b, arXiv:1806.06923, equation 3).

    theta [B, N], target [B, M] (no gradient), tau [B, N] or [N].  kappa = 0: |u| in place of L_kappa / kappa (equation 8).
    """
    u = target.detach()[:, None, :] - theta[:, :, None]  # [B, N, M]
    error = u.abs()
    if kappa > 0:
        error = torch.where(error <= kappa, 0.5 * u.square(), kappa * (error - 0.5 * kappa)) / kappa
    return ((tau[..., None] - (u < 0).to(u.dtype)).abs() * error).mean(-1).sum(-1)


def midpoints(n: int, device: torch.device | str = "cpu") -> Tensor:
    """tau_i = (2 i - 1) / 2n, i = 1 ... n: the best probabilities for n quantiles of equal weight (Dabney et al. 2018, lemma 2)."""
    return (torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n


class CategoricalMean(nn.Module):
    """logits [..., K] over a support -> mean return [...]."""

    support: Tensor

    def __init__(self, low: float, high: float, atoms: int):
        super().__init__()
        self.register_buffer("support", torch.linspace(low, high, atoms), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        return (logits.softmax(-1) * self.support).sum(-1)


class QuantileMean(nn.Module):
    """quantiles [..., N] of equal weight -> mean return [...]."""

    def forward(self, theta: Tensor) -> Tensor:
        return theta.mean(-1)
