"""What the value agents share: algorithm 1 of Mnih et al. 2013 with the target network of 2015.  An agent's own file has its network
and its loss.

    (1) initialise the replay memory D                          (6) store the transition in D
    (2) initialise Q with random weights                        (7) sample a random minibatch of transitions from D
    (3) preprocess the sequence: phi(s)                         (8) the target y, and the loss: the agent's own
    (4) with probability epsilon a random action, else argmax   (9) a step of gradient descent on the loss
    (5) execute it in the emulator, observe reward and image   (10) every C steps theta- = theta (2015)

(3) and (5) are the environments' (envs/) and the loop's (core/loop.py).

Switches of all of them: n-step returns, C = 0 for no target network (2013), the loss of a life as an end (2015), double Q-learning
(van Hasselt et al. 2016), prioritised replay (Schaul et al. 2016), dueling streams (Wang et al. 2016), noisy layers (Fortunato et al.
2018).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from arcturus.agents._data_efficient import DataEfficientConfig, augmented, check_data_efficient, reset_if_due, training_mode
from arcturus.api import Act, ActedStep, Agent, EnvSpec, Loss, Metrics, State, TimeStep
from arcturus.config import Bounds
from arcturus.errors import ConfigError
from arcturus.losses import annealed
from arcturus.networks import QNetwork, TorsoOptions, epsilon_greedy
from arcturus.optimizers import GradientStep, by_name
from arcturus.replay.learner import ReplayLearner
from arcturus.replay.records import SequenceSpan
from arcturus.seeding import Seeds
from arcturus.speed import captured, fast, to_device


@dataclass(frozen=True)
class ValueConfig(DataEfficientConfig):
    """Settings of these agents."""

    torso: str = "auto"
    """Network: mnih2013, nature, impala, data_efficient, small, grid, mlp, auto (by the observation), or your own: package.module.Name."""
    torso_width: Annotated[int, Bounds(1, 64)] = 1
    """Multiply the filters of an image torso by this (Clark et al. 2024: impala with 2)."""
    torso_hidden: Annotated[int, Bounds(0, 16_384)] = 0
    """Units of an image torso's last layer; 0: the torso's own number."""
    average_pool: bool = False
    """Average-pool the IMPALA torso's last feature maps."""
    max_pool: Annotated[int, Bounds(0, 64)] = 0
    """Max-pool the IMPALA torso's last feature maps to this many places a side (Clark et al. 2024: 6); 0: not."""
    spectral_norm: bool = False
    """Spectral normalisation of the IMPALA torso's residual blocks (Miyato et al. 2018; Clark et al. 2024)."""
    dueling: bool = False
    """Dueling network: separate streams for state value and advantages (Wang et al. 2016)."""
    noisy: Annotated[float, Bounds(0, 10)] = 0.0
    """sigma_0 of noisy layers in the head, used for exploration (Fortunato et al. 2018); 0: no noisy layers."""
    double: bool = False
    """Double Q-learning: choose the bootstrap action with the online network (van Hasselt et al. 2016)."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or the centred RMSProp of Mnih et al. 2015."""
    anneal_steps: Annotated[int, Bounds(-1)] = 0
    """Steps over which the learning rate falls to 0; -1: over the whole run, 0: it stays constant."""


def torso_options(c: ValueConfig) -> TorsoOptions:
    return TorsoOptions(c.torso_width, c.torso_hidden, c.average_pool, c.max_pool, c.spectral_norm)


def q_network(c: ValueConfig, spec: EnvSpec, agent: str, **more: Any) -> QNetwork:
    """The network of an agent that plays Discrete actions; more: QNetwork's further arguments."""
    return QNetwork(spec, spec.discrete_actions(agent), c.torso, torso_options(c), dueling=c.dueling, noisy=c.noisy, **more)


def check_munchausen(config: Any) -> None:
    """ConfigError for a switch that contradicts Munchausen targets."""
    if config.munchausen and config.double:
        raise ConfigError("Munchausen targets choose no best action", where="--agent.munchausen", fix="set --agent.double False")


class ReplayAgent(Agent):
    """A subclass makes a learner, which calls its update(), and a target network of `online`."""

    config: Any
    learner: ReplayLearner
    target: nn.Module
    online: nn.Module  # what the target network is a copy of

    @property
    def steps(self) -> int:
        return self.learner.steps

    @property
    def updates(self) -> int:
        return self.learner.updates

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    def observe(self, step: ActedStep) -> None:
        self.learner.append(step)  # (6) store the transition in D

    def learn(self) -> Metrics:
        metrics = self.learner.learn()  # (7) sample minibatches; update() for each
        if metrics and self.learner.copy_due():  # (10) every C steps, behind an update
            self.target.load_state_dict(self.online.state_dict())
            self.learner.copied()
        return metrics

    def scalars(self) -> dict[str, float]:
        return {"charts/learning_rate": self.config.learning_rate} | self.learner.scalars()

    def parts(self) -> dict[str, Any]:
        """What is saved of the agent, by name, besides the learner's counters."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts().items()} | self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts().items():
            if name in state or name != "optimizer":  # a policy saved for playing only has none
                part.load_state_dict(state[name])
        self.learner.load_state_dict(state)


class ValueAgent(ReplayAgent):
    """A subclass has loss(); one whose network predicts more than action-values also has film_extras().

    The network: obs [B, *obs_shape], generator or None -> action-values [B, A], with initial_state() and score() as QNetwork has
    them.  It and its target draw all their noise from the generator they are called with.
    """

    loss_fn: Callable[..., Loss]  # (network, target network, minibatch, config, noise): the agent's file has it

    def __init__(
        self,
        config: Any,
        spec: EnvSpec,
        device: torch.device | str,
        seeds: Seeds,
        make_network: Callable[[], nn.Module],
        span: SequenceSpan | None = None,
    ):
        """span: what sequences an agent with memory learns from."""
        check_data_efficient(config, spec, sequences=span is not None)
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.seeds, self.make_network, self.fast = seeds, make_network, fast()
        with seeds.branch("init").initialising():
            network: Any = make_network()  # (2) random weights
        self.network: Any = to_device(network, self.device).train(not config.spectral_norm)
        self.online = self.network
        self.target: Any = copy.deepcopy(self.network).requires_grad_(False) if config.target_period else self.network
        self.noise = seeds.branch("noise").torch(self.device)
        parameters = list(self.network.parameters())
        optimizer = by_name(config.optimizer, parameters, config.learning_rate, config.optimizer_eps)
        self.gradient_step = GradientStep(optimizer, config.max_grad_norm)
        self.learner = ReplayLearner(  # (1) the replay memory D
            config,
            spec,
            self.device,
            seeds,
            self.update,
            generators=[self.noise],
            remember=partial(self.gradient_step.remember, self.network, self.target),
            span=span,
            state=() if span is None or span.whole else self.initial_state(spec.num_envs),
        )
        self.replay, self.objective = self.learner.ring, self.learner.objective
        self.act_fn = captured(self.predict, self.device, kept=True)

    def draws(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """Random numbers drawn before the network sees n observations; without a generator the same every time."""
        return ()

    def predict(self, obs: Tensor, *drawn: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """The network's prediction of every action's return, in the agent's own shape: [N, A, ...]."""
        return self.network.atoms(obs, noise)

    def q_values(self, predicted: Tensor) -> Tensor:
        """The action-values [N, A] of a prediction."""
        return self.network.expectation(predicted)

    def film_extras(self, predicted: Tensor) -> dict[str, Tensor]:
        """What a film shows of a prediction beside the action-values: returns and their probabilities, [N, A, K] each."""
        return {}

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A]; where it doesn't explore also film_extras().  Noisy layers have noise only where it explores."""
        drawn = self.draws(len(ts.obs), generator if explore else None)
        noise = generator if explore and self.config.noisy else None
        predicted = self.act_fn(ts.obs, *drawn) if noise is None else self.predict(ts.obs, *drawn, noise=noise)
        q = self.q_values(predicted)
        if explore:  # (4) with probability epsilon a random action
            return Act(epsilon_greedy(q, self.config.epsilon(self.steps), generator), state, {"q_values": q})
        return Act(q.argmax(-1), state, {"q_values": q} | self.film_extras(predicted))

    @property
    def learning_rate(self) -> float:
        return annealed(self.config.learning_rate, self.steps, self.config.anneal_steps)

    def learn(self) -> Metrics:
        if self.config.anneal_steps:
            self.gradient_step.set_learning_rate(self.learning_rate)
        metrics = super().learn()
        reset_if_due(self)
        return metrics

    def update(self, batch: Any) -> tuple[Metrics, Tensor | None]:
        """One gradient step on a minibatch; its metrics, and the transitions' new priorities [B]."""
        if self.config.random_shift or self.config.random_intensity:
            batch = augmented(batch, self.config, self.noise, self.fast)
        with training_mode(self.network, self.config.spectral_norm):
            loss = self.loss(batch)  # (8) the target and the loss
        metrics = loss.metrics | {"losses/td_loss": loss.value.detach()} | self.gradient_step(loss.value)  # (9) descend
        return metrics, loss.priority

    def loss(self, batch: Any) -> Loss:
        """Of a Transition, or of a Sequence, with priorities [B]."""
        return type(self).loss_fn(self.network, self.target, batch, self.config, self.noise)

    def scalars(self) -> dict[str, float]:
        return super().scalars() | {"charts/epsilon": self.config.epsilon(self.steps), "charts/learning_rate": self.learning_rate}

    def parts(self) -> dict[str, Any]:
        return {"network": self.network, "target": self.target, "optimizer": self.gradient_step}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"noise_rng": self.noise.get_state(), "new_at": self.learner.new_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.learner.new_at = min(state.get("new_at", 0), self.updates)
        if "noise_rng" in state:  # not of a policy for playing only, nor of DQN of version 0.1
            self.noise.set_state(state["noise_rng"])
