"""What the agents with distributions of returns share with each other: acting epsilon-greedily by the mean, learning from replay, a
target network, saving.  dqn.py has the same steps one by one, beside the paper's algorithm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep
from arcturus.config import Bounds
from arcturus.errors import ConfigError
from arcturus.losses import weighted_mean
from arcturus.optimizers import Descent, adam
from arcturus.policies import epsilon_greedy
from arcturus.replay.experience import EpsilonConfig, Experience
from arcturus.replay.records import Drawn, Transition
from arcturus.seeding import Seeds
from arcturus.speed import Captured, place


@dataclass(frozen=True)
class ValueConfig(EpsilonConfig):
    """Settings of these agents."""

    torso: str = "auto"
    """Network: mnih2013, nature, impala, small, mlp, auto by the observation, or package.module.Name of your own."""
    average_pool: bool = False
    """Average-pool the IMPALA torso's last feature maps."""
    dueling: bool = False
    """State-value and advantages in streams of their own (Wang et al. 2016)."""
    noisy: Annotated[float, Bounds(0, 10)] = 0.0
    """sigma_0 of noisy layers in the head, which explore by themselves (Fortunato et al. 2018); 0: none."""
    double: bool = False
    """Choose the bootstrap action with the online network (van Hasselt et al. 2016)."""


# What presets of these agents have in common
LIKE_DQN_2015 = {"torso": "nature", "life_loss": True, "target_period": 10_000, "learn_start": 50_000, "epsilon_steps": 1_000_000}
CPU_SMALL = {
    "torso": "small",
    "n_step": 3,
    "double": True,
    "target_period": 2_000,
    "learning_rate": 5e-4,
    "capacity": 200_000,
    "learn_start": 2_000,
    "epsilon_final": 0.02,
    "epsilon_steps": 40_000,
}
CLASSIC = {
    "double": True,
    "n_step": 3,
    "reward_clip": 0.0,
    "target_period": 250,
    "learning_rate": 1e-3,
    "optimizer_eps": 1e-8,
    "max_grad_norm": 10.0,
    "batch_size": 64,
    "capacity": 50_000,
    "learn_start": 1_000,
    "epsilon_final": 0.04,
    "epsilon_steps": 10_000,
}
MDP = {
    "gamma": 0.95,
    "reward_clip": 0.0,
    "target_period": 200,
    "learning_rate": 1e-3,
    "optimizer_eps": 1e-8,
    "batch_size": 64,
    "capacity": 20_000,
    "learn_start": 500,
    "epsilon_final": 0.5,
    "epsilon_steps": 5_000,
}


def check_munchausen(config: Any) -> None:
    """ConfigError for switches that contradict Munchausen targets."""
    if config.munchausen and (config.double or config.n_step > 1):
        raise ConfigError(
            "Munchausen targets are of one step, and have no greedy action for double Q-learning to choose",
            where="--agent.munchausen",
            fix="set --agent.n-step 1 --agent.double False",
        )


class ValueAgent:
    """A subclass gives the network, loss(), says(), means() and returns().

    The network: obs [B, *obs_shape], generator or None -> action-values [B, A], with initial_state() and score() as QNetwork has
    them.  It and its target draw all their noise from the generator they are called with.
    """

    stochastic, on_policy = False, False

    def __init__(
        self, config: Any, spec: EnvSpec, device: torch.device | str, seeds: Seeds, make_network: Callable[[], nn.Module]
    ):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        with seeds.branch("init").initialising():
            network: Any = make_network()
        self.network: Any = place(network, self.device)
        self.target: Any = copy.deepcopy(self.network).requires_grad_(False) if config.target_period else self.network
        self.experience = Experience(config, spec, self.device, seeds)
        self.replay = self.experience.ring
        self.noise = seeds.branch("noise").torch(self.device)
        self.descent = Descent(adam(self.network.parameters(), config.learning_rate, config.optimizer_eps), config.max_grad_norm)
        self.update = Captured(self._update, self.device, [self.noise], partial(self.descent.remember, self.network, self.target))
        self.said = Captured(self.says, self.device, kept=True)  # acting without noise, recorded
        self.objective = Objective(config.gamma, config.reward_clip, config.life_loss and spec.has_lives)

    def loss(self, batch: Transition) -> tuple[Tensor, Metrics]:
        """The loss of each transition [B], which is its priority, too; and what is worth watching."""
        raise NotImplementedError

    def draws(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """What is drawn before the network is asked about n observations; no generator: the same every time."""
        return ()

    def says(self, obs: Tensor, *drawn: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """What the network says of every action's return, in its own shape [N, ...]: it is asked once to act."""
        raise NotImplementedError

    def means(self, said: Tensor) -> Tensor:
        """The action-values [N, A] of it."""
        raise NotImplementedError

    def returns(self, said: Tensor) -> tuple[Tensor, Tensor]:
        """Of every action the returns that may come, and their probabilities, [N, A, K] each (what a film shows)."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        return self.experience.steps

    @property
    def updates(self) -> int:
        return self.experience.updates

    def initial_state(self, n: int) -> State:
        return ()

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A]; where it doesn't explore also returns and probabilities [N, A, K].  Noisy layers have noise only
        where it explores."""
        drawn = self.draws(len(ts.obs), generator if explore else None)
        noise = generator if explore and self.config.noisy else None
        said = self.said(ts.obs, *drawn) if noise is None else self.says(ts.obs, *drawn, noise=noise)
        q = self.means(said)
        if explore:
            return Act(epsilon_greedy(q, self.config.epsilon(self.steps), generator), state, {"q_values": q})
        returns, probabilities = self.returns(said)
        return Act(q.argmax(-1), state, {"q_values": q, "returns": returns, "probabilities": probabilities})

    def observe(self, step: Step) -> None:
        self.experience.append(step)

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        metrics: Metrics = {}
        while self.experience.update_due():
            metrics, each = self.update(*self.experience.samples())
            self.experience.set_priorities(each)
        if self.experience.copy_due():
            self.target.load_state_dict(self.network.state_dict())
        return self.update.latest(metrics)

    def _update(self, *batches: Transition | Drawn) -> tuple[Metrics, Tensor]:
        """One gradient step on each; what the last of them says, and its losses [B]."""
        for given in batches:
            batch = self.experience.gathered(given)
            each, metrics = self.loss(batch)
            value = weighted_mean(each, batch.weight)
            metrics |= {"losses/td_loss": value.detach()} | self.descent(value)
        return metrics, each.detach()

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        own = {"charts/epsilon": self.config.epsilon(self.steps), "charts/learning_rate": self.config.learning_rate}
        return own | self.experience.scalars()

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.descent.state_dict(),
            "noise_rng": self.noise.get_state(),
            **self.experience.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.descent.load_state_dict(state["optimizer"])
            self.noise.set_state(state["noise_rng"])
        self.experience.load_state_dict(state)
