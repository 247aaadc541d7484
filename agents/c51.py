"""C51: distributional Q-learning on a fixed support (Bellemare et al. 2017, arXiv:1707.06887); with all of Rainbow's parts, Rainbow
(Hessel et al. 2018, arXiv:1710.02298).

The network gives, for every action, the probabilities p_i(s, a) of K returns z_1 < ... < z_K (softmax of its logits).

    (1) Q(s, a) = sum_i z_i p_i(s, a)
    (2) a* = argmax_a Q(s', a), of the target network; with `double` of the online one
    (3) m = projection onto z of the returns r + gamma z_j with the probabilities p_j(s', a*; theta-)     (equation 7; algorithm 1)
    (4) L(theta) = - sum_i m_i log p_i(s, a; theta)                                                         (algorithm 1)

Rainbow is this with double Q-learning in (2), n-step returns in (3), dueling and noisy layers under the softmax, and replay prioritised
by (4), which is the Kullback-Leibler divergence from m up to m's entropy: preset `rainbow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from arcturus.agents._value import ValueAgent, ValueConfig, q_network
from arcturus.api import EnvSpec, Loss
from arcturus.config import Bounds
from arcturus.errors import ConfigError
from arcturus.losses import weighted_mean
from arcturus.networks import QNetwork
from arcturus.replay.records import Transition
from arcturus.return_distributions import CategoricalMean, categorical_projection, clipped_mass
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config(ValueConfig):
    v_min: Annotated[float, Bounds(-1e6, 1e6)] = -10.0
    """z_1: the smallest return of the support."""
    v_max: Annotated[float, Bounds(-1e6, 1e6)] = 10.0
    """z_K: the largest return of the support."""
    atoms: Annotated[int, Bounds(2, 1001)] = 51
    """K: number of atoms, the returns of the support that get a probability."""


def loss(network: QNetwork, target: QNetwork, batch: Transition, c: Config, noise: torch.Generator | None = None) -> Loss:
    """L over a minibatch; priorities [B] are the losses.  noise: for noisy layers, which draw new noise for each forward pass."""
    support: Any = network.expectation.support
    row = torch.arange(len(batch.a_tm1), device=batch.a_tm1.device)
    with torch.no_grad():
        logits_t = target.atoms(batch.s_t, noise)  # [B, A, K]
        q_t = network(batch.s_t, noise) if c.double else target.expectation(logits_t)  # (1) mean returns
        best = q_t.argmax(-1)  # (2) the best action a*
        p_t = logits_t[row, best].softmax(-1)
        m = categorical_projection(p_t, batch.r_t, batch.discount_t, support)  # (3) the target, on the support
    logits_tm1 = network.atoms(batch.s_tm1, noise)
    each = -(m * logits_tm1[row, batch.a_tm1].log_softmax(-1)).sum(-1)  # (4) cross-entropy
    metrics = {
        "losses/q_values": network.expectation(logits_tm1.detach()).mean(),
        "health/clipped_mass": clipped_mass(p_t, batch.r_t, batch.discount_t, support).mean(),
    }
    return Loss(weighted_mean(each, batch.weight), metrics, each.detach())


class Agent(ValueAgent):
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        c = config
        if c.v_min >= c.v_max:
            raise ConfigError(f"v_min {c.v_min:g} must be less than v_max {c.v_max:g}", where="--agent.v-min", fix="use a smaller one")
        mean = CategoricalMean(c.v_min, c.v_max, c.atoms)
        super().__init__(config, spec, device, seeds, lambda: q_network(c, spec, "c51", atoms=c.atoms, expectation=mean))

    def film_extras(self, predicted: Tensor) -> dict[str, Tensor]:
        p = predicted.softmax(-1)
        return {"returns": self.network.expectation.support.expand_as(p), "probabilities": p}
