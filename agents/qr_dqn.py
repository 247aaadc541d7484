"""QR-DQN: distributional Q-learning by quantile regression (Dabney et al. 2018, arXiv:1710.10044).

The network gives, for every action, N returns theta_i(s, a) that have the probabilities tau_i = (2i - 1) / 2N below them.

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

from arcturus.api import EnvSpec, Metrics
from arcturus.config import Bounds, Preset, default_presets
from arcturus.networks import QNetwork
from arcturus.replay.records import Transition
from arcturus.return_distributions import QuantileMean, midpoints, quantile_huber
from arcturus.seeding import Seeds
from arcturus.value_agent import CLASSIC, CPU_SMALL, LIKE_DQN_2015, MDP, ValueAgent, ValueConfig


@dataclass(frozen=True)
class Config(ValueConfig):
    quantiles: Annotated[int, Bounds(2, 1000)] = 200
    """N: returns an action's distribution is told by."""
    kappa: Annotated[float, Bounds(0, 1e6)] = 1.0
    """Errors up to which the loss is squared; 0: the plain quantile loss."""


PRESETS = {
    "qr-dqn-1": Preset(
        "Dabney et al. 2018, section 5: DQN's settings with Adam 5e-5, eps 0.01/32, 200 quantiles, kappa 1, epsilon to 0.01; the gradient's "
        "norm clipped to 10 as in DQN Zoo; protocol noop",
        agent=LIKE_DQN_2015 | {"learning_rate": 5e-5, "optimizer_eps": 0.0003125, "max_grad_norm": 10.0},
        env={"protocol": "noop"},
        run={"steps": 50_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, double, 3-step; no paper's numbers",
        agent=CPU_SMALL | {"quantiles": 51},
        env={"frame_size": 42, "num_envs": 8},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1 and tasks of its size; no paper's numbers",
        agent=CLASSIC | {"quantiles": 21, "replay_ratio": 0.5},
        run={"steps": 50_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known; kappa 0 aims at the quantiles; no paper's numbers",
        agent=MDP | {"quantiles": 51, "kappa": 0.0},
        run={"steps": 60_000},
    ),
}
DEFAULT_PRESETS = {k: v for k, v in default_presets("qr-dqn-1").items() if v in PRESETS}


def loss(
    network: QNetwork,
    target: QNetwork,
    tau: Tensor,
    batch: Transition,
    kappa: float,
    double: bool,
    noise: torch.Generator | None = None,
) -> tuple[Tensor, Metrics]:
    """The loss of each transition [B].  noise: for noisy layers, which draw anew for each of the passes."""
    with torch.no_grad():
        theta_t = target.atoms(batch.s_t, noise)  # [B, A, N]
        q_t = network(batch.s_t, noise) if double else target.expectation(theta_t)  # (1)
        best = q_t.argmax(-1)  # (2)
        t_theta = (
            batch.r_t[:, None] + batch.discount_t[:, None] * theta_t[torch.arange(len(best), device=best.device), best]
        )  # (3)
    theta_tm1 = network.atoms(batch.s_tm1, noise)
    each = quantile_huber(theta_tm1[torch.arange(len(best), device=best.device), batch.a_tm1], t_theta, tau, kappa)  # (4)
    return each, {"losses/q_values": theta_tm1.detach().mean()}


class Agent(ValueAgent):
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        actions, c = spec.discrete_actions("qr_dqn"), config

        def network() -> QNetwork:
            return QNetwork(
                spec,
                actions,
                c.torso,
                c.average_pool,
                dueling=c.dueling,
                noisy=c.noisy,
                atoms=c.quantiles,
                expectation=QuantileMean(),
            )

        super().__init__(config, spec, device, seeds, network)
        self.tau = midpoints(c.quantiles, self.device)

    def loss(self, batch: Transition) -> tuple[Tensor, Metrics]:
        return loss(self.network, self.target, self.tau, batch, self.config.kappa, self.config.double, self.noise)

    def says(self, obs: Tensor, *drawn: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return self.network.atoms(obs, noise)

    def means(self, said: Tensor) -> Tensor:
        return self.network.expectation(said)  # (1)

    def returns(self, said: Tensor) -> tuple[Tensor, Tensor]:
        return said, torch.full_like(said, 1 / self.config.quantiles)
