"""QR-DQN: distributional Q-learning by quantile regression (Dabney et al. 2018, arXiv:1710.10044).

The network gives, for every action, N returns theta_i(s, a), the quantiles at probabilities tau_i = (2i - 1) / 2N.

    (1) Q(s, a) = 1/N sum_i theta_i(s, a)
    (2) a* = argmax_a Q(s', a), of the target network; with `double` of the online one
    (3) T theta_j = r + gamma theta_j(s', a*; theta-)                                                     (equation 13; algorithm 1)
    (4) L(theta) = sum_i mean_j rho_tau_i (T theta_j - theta_i(s, a; theta)),  rho the quantile Huber loss (equations 9, 10)

Where C51 moves probabilities between fixed returns, this moves returns of fixed probabilities: no bounds need be known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from arcturus.agents._value import ValueAgent, ValueConfig, q_network
from arcturus.api import EnvSpec, Loss
from arcturus.config import Bounds
from arcturus.losses import weighted_mean
from arcturus.networks import QNetwork
from arcturus.replay.records import Transition
from arcturus.return_distributions import QuantileMean, midpoints, quantile_huber
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config(ValueConfig):
    quantiles: Annotated[int, Bounds(2, 1000)] = 200
    """N: quantiles that represent an action's return distribution."""
    kappa: Annotated[float, Bounds(0, 1e6)] = 1.0
    """kappa, the Huber threshold: the loss is squared for errors up to it; 0: plain quantile loss."""


def loss(network: QNetwork, target: QNetwork, batch: Transition, c: Config, noise: torch.Generator | None = None) -> Loss:
    """L over a minibatch; priorities [B] are the losses.  noise: for noisy layers, which draw new noise for each forward pass."""
    row, tau = torch.arange(len(batch.a_tm1), device=batch.a_tm1.device), midpoints(c.quantiles, batch.r_t.device)
    with torch.no_grad():
        theta_t = target.atoms(batch.s_t, noise)  # [B, A, N]
        q_t = network(batch.s_t, noise) if c.double else target.expectation(theta_t)  # (1) mean returns
        best = q_t.argmax(-1)  # (2) the best action a*
        t_theta = batch.r_t[:, None] + batch.discount_t[:, None] * theta_t[row, best]  # (3) the target's quantiles
    theta_tm1 = network.atoms(batch.s_tm1, noise)
    each = quantile_huber(theta_tm1[row, batch.a_tm1], t_theta, tau, c.kappa)  # (4) quantile Huber loss
    return Loss(weighted_mean(each, batch.weight), {"losses/q_values": theta_tm1.detach().mean()}, each.detach())


class Agent(ValueAgent):
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        mean, n = QuantileMean(), config.quantiles
        super().__init__(config, spec, device, seeds, lambda: q_network(config, spec, "qr_dqn", atoms=n, expectation=mean))

    def film_extras(self, predicted: Tensor) -> dict[str, Tensor]:
        return {"returns": predicted, "probabilities": torch.full_like(predicted, 1 / self.config.quantiles)}
