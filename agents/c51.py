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
from typing import Annotated

import torch
from torch import Tensor

from arcturus.api import EnvSpec, Metrics
from arcturus.config import Bounds, Preset, default_presets
from arcturus.errors import ConfigError
from arcturus.networks import QNetwork
from arcturus.replay.records import Transition
from arcturus.return_distributions import CategoricalMean, categorical_projection, clipped_mass
from arcturus.seeding import Seeds
from arcturus.value_agent import CLASSIC, CPU_SMALL, LIKE_DQN_2015, MDP, ValueAgent, ValueConfig


@dataclass(frozen=True)
class Config(ValueConfig):
    v_min: Annotated[float, Bounds(-1e6, 1e6)] = -10.0
    """z_1: the smallest return the support holds."""
    v_max: Annotated[float, Bounds(-1e6, 1e6)] = 10.0
    """z_K: the largest."""
    atoms: Annotated[int, Bounds(2, 1001)] = 51
    """K: returns that have a probability."""


RAINBOW = {
    "double": True,
    "dueling": True,
    "noisy": 0.5,
    "n_step": 3,
    "prioritised": True,
    "max_grad_norm": 10.0,
    "epsilon_initial": 0.0,  # noisy layers explore
    "epsilon_final": 0.0,
    "epsilon_steps": 0,
}
PRESETS = {
    "c51": Preset(
        "Bellemare et al. 2017, section 5: DQN's settings with Adam 2.5e-4, eps 0.01/32, support [-10, 10], epsilon to 0.01; the gradient's "
        "norm clipped to 10 as in DQN Zoo; protocol noop",
        agent=LIKE_DQN_2015 | {"learning_rate": 2.5e-4, "optimizer_eps": 0.0003125, "max_grad_norm": 10.0},
        env={"protocol": "noop"},
        run={"steps": 50_000_000},
    ),
    "rainbow": Preset(
        "Hessel et al. 2018, table 1, in agent steps; beta rises to 1 over the run; the gradient's norm clipped to 10 as in DQN Zoo; "
        "protocol noop, in which noisy agents are scored without epsilon",
        agent=RAINBOW | {"torso": "nature", "life_loss": True, "target_period": 8_000},
        env={"protocol": "noop"},
        run={"steps": 50_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, double, 3-step; no paper's numbers",
        agent=CPU_SMALL,
        env={"frame_size": 42, "num_envs": 8},
        run={"steps": 1_000_000},
    ),
    "rainbow-cpu-small": Preset(
        "chosen here for two CPU cores: cpu-small with all of Rainbow's parts, sigma_0 0.1 as van Hasselt et al. 2019 for few steps",
        agent=CPU_SMALL | RAINBOW | {"noisy": 0.1},
        env={"frame_size": 42, "num_envs": 8},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1, Acrobot-v1 and tasks of their size: returns from -100 to 100, rewards of 1 for ever either way; no "
        "paper's numbers",
        agent=CLASSIC | {"v_min": -100.0, "v_max": 100.0, "atoms": 101, "replay_ratio": 0.25},
        run={"steps": 50_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known: returns from -2 to 2; no paper's numbers",
        agent=MDP | {"v_min": -2.0, "v_max": 2.0, "atoms": 101},
        run={"steps": 60_000},
    ),
}
DEFAULT_PRESETS = {k: v for k, v in default_presets("c51").items() if v in PRESETS}


def loss(
    network: QNetwork, target: QNetwork, support: Tensor, batch: Transition, double: bool, noise: torch.Generator | None = None
) -> tuple[Tensor, Metrics]:
    """The loss of each transition [B].  noise: for noisy layers, which draw anew for each of the passes."""
    with torch.no_grad():
        logits_t = target.atoms(batch.s_t, noise)  # [B, A, K]
        q_t = network(batch.s_t, noise) if double else target.expectation(logits_t)  # (1)
        best = q_t.argmax(-1)  # (2)
        p_t = logits_t[torch.arange(len(best), device=best.device), best].softmax(-1)
        m = categorical_projection(p_t, batch.r_t, batch.discount_t, support)  # (3)
    logits_tm1 = network.atoms(batch.s_tm1, noise)
    taken = logits_tm1[torch.arange(len(best), device=best.device), batch.a_tm1]
    each = -(m * taken.log_softmax(-1)).sum(-1)  # (4)
    clipped = clipped_mass(p_t, batch.r_t, batch.discount_t, support).mean()
    return each, {"losses/q_values": network.expectation(logits_tm1.detach()).mean(), "health/clipped_mass": clipped}


class Agent(ValueAgent):
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        if config.v_min >= config.v_max:
            raise ConfigError(
                f"returns from v_min {config.v_min:g} to v_max {config.v_max:g} are none",
                where="--agent.v-min",
                fix="make it smaller",
            )
        actions, c = spec.discrete_actions("c51"), config
        mean = CategoricalMean(c.v_min, c.v_max, c.atoms)

        def network() -> QNetwork:
            return QNetwork(
                spec, actions, c.torso, c.average_pool, dueling=c.dueling, noisy=c.noisy, atoms=c.atoms, expectation=mean
            )

        super().__init__(config, spec, device, seeds, network)

    def loss(self, batch: Transition) -> tuple[Tensor, Metrics]:
        return loss(self.network, self.target, self.network.expectation.support, batch, self.config.double, self.noise)

    def says(self, obs: Tensor, *drawn: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return self.network.atoms(obs, noise)

    def means(self, said: Tensor) -> Tensor:
        return self.network.expectation(said)  # (1)

    def returns(self, said: Tensor) -> tuple[Tensor, Tensor]:
        p = said.softmax(-1)
        return self.network.expectation.support.expand_as(p), p
