"""What the agents that learn on policy share: rows are gathered until a rollout is full, some gradient steps are made on it, and the
rows are forgotten.  An agent's own file has its targets and its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from arcturus.actor_critic import ActorCritic
from arcturus.api import Act, ActedStep, Agent, EnvSpec, Loss, Metrics, Objective, State, TimeStep
from arcturus.config import Bounds
from arcturus.losses import annealed, explained_variance
from arcturus.optimizers import GradientStep
from arcturus.replay.rollout import Minibatch, Rollout, Trajectory
from arcturus.seeding import Seeds
from arcturus.speed import Captured, captured, to_device


@dataclass(frozen=True)
class RolloutConfig:
    """Settings in steps count agent steps summed over environments; a row is one step of every environment."""

    torso: str = "auto"
    """Network: mnih2013, nature, impala, small, mlp, none, auto (by the observation), or your own class: package.module.Name."""
    core: str = "none"
    """Memory core: none, rnn, lstm, gru, deep_lstm, ntm, dnc, or your own class: package.module.Name."""
    core_width: Annotated[int, Bounds(1, 16_384)] = 128
    """Units of the memory core (for ntm and dnc: units of its controller)."""
    core_options: str = ""
    """Settings of the memory core as name=value,name=value (slots=128,read_heads=2)."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 16
    """Rollout length: rows between updates; 0: whole episodes, if all environments begin and end them together."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 1e-3
    anneal_steps: Annotated[int, Bounds(-1)] = -1
    """Steps over which the learning rate falls to 0; -1: over the whole run, 0: it stays constant."""
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-8
    """Epsilon of the optimiser: Adam adds it outside the square root, RMSProp inside."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.0
    """Clip the gradient's norm to this; 0: no clipping."""


@dataclass(frozen=True)
class ReturnConfig(RolloutConfig):
    """RolloutConfig with the settings of an agent that learns from rewards."""

    bptt: Annotated[int, Bounds(0)] = 0
    """Rows of truncated backpropagation through the memory; 0: the whole rollout."""
    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """Discount per agent step."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Clip rewards to [-x, x] for learning; 0: no clipping."""
    end_on_life_loss: bool = False
    """Treat a lost life as the end of the return (the game continues)."""


class RolloutAgent(Agent):
    """A subclass has targets() and loss().

    make_network: makes an ActorCritic or a QNetwork.  make_optimizer: takes its parameters.  kept: name -> shape of the entries of
    Act.extras kept for every row.  epochs, minibatches, shuffled: the passes over a rollout, the parts it is split into (a gradient step
    each), and whether they are drawn at random.  every: rows that a sequence is unrolled through (Rollout's), starting from the memory
    it was acted with if keep_memory.
    """

    on_policy = True
    only_finished = False  # rollouts of whole episodes that a checkpoint broke off are not learnt from
    rollout: Rollout

    def __init__(
        self,
        config: Any,
        spec: EnvSpec,
        device: torch.device | str,
        seeds: Seeds,
        make_network: Callable[[], nn.Module],
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        *,
        kept: dict[str, tuple[int, ...]],
        every: int,
        keep_memory: bool = True,
        epochs: int = 1,
        minibatches: int = 1,
        shuffled: bool = False,
    ):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.epochs, self.parts = epochs, minibatches
        with seeds.branch("init").initialising():
            network: Any = make_network()
        self.network: Any = to_device(network, self.device)
        optimizer = make_optimizer(list(self.network.parameters()))
        self.gradient_step = GradientStep(optimizer, config.max_grad_norm, getattr(config, "max_grad_value", 0.0))
        self.captured = captured(self.update, self.device, remember=partial(self.gradient_step.remember, self.network))
        memory = self.network.initial_state(spec.num_envs) if keep_memory else ()
        self.rollout = Rollout(config.horizon, spec, self.device, extras=kept, state=memory, every=every)
        self.minibatch_rng = seeds.branch("minibatch").torch(self.device) if shuffled else None
        if shuffled:
            self.rollout.check_minibatches(minibatches)
        if isinstance(config, ReturnConfig):
            self.objective = Objective(config.gamma, config.reward_clip, config.end_on_life_loss and spec.has_lives)
        self.steps = self.updates = 0

    @property
    def learning_rate(self) -> float:
        """The learning rate for the current rollout."""
        begun = self.steps - self.rollout.count * self.spec.num_envs
        return annealed(self.config.learning_rate, begun, self.config.anneal_steps)

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: log_prob [N], logits [N, L], and value [N] of a network that has one."""
        return self.network.act(ts, state, explore, generator)

    def observe(self, step: ActedStep) -> None:
        self.rollout.append(step)
        self.steps += self.spec.num_envs

    def learn_from_rollout(self, ts: TimeStep, state: State) -> Metrics:
        if not self.rollout.complete(ts):
            return {}
        if self.only_finished and self.rollout.whole and bool(ts.interrupted.any()):
            self.rollout.restart()
            return {}
        rows, metrics = self.rollout.read(ts), {}
        columns = self.targets(rows, ts, state)
        self.gradient_step.set_learning_rate(self.learning_rate)
        for _ in range(self.epochs):
            for batch in self.rollout.minibatches(self.parts, self.minibatch_rng, rows, columns):
                metrics = self.captured(batch)
                self.updates += 1
        self.rollout.restart()
        if isinstance(self.captured, Captured):
            metrics = self.captured.latest(metrics)
        if "value" in columns:
            metrics["losses/explained_variance"] = explained_variance(columns["value"], columns["target"], rows.valid)
        return metrics

    def targets(self, rows: Trajectory, ts: TimeStep, state: State) -> dict[str, Tensor]:
        """What is learned from a rollout's rows, by the names of Minibatch's fields, [T, N, ...] each, without gradient.  ts is the row
        after the last one, state the memory before ts."""
        raise NotImplementedError

    def loss(self, batch: Any) -> Loss:
        """The loss of a Minibatch."""
        raise NotImplementedError

    def update(self, batch: Minibatch) -> Metrics:
        """One gradient step."""
        loss = self.loss(batch)
        return loss.metrics | self.gradient_step(loss.value)

    def scalars(self) -> dict[str, float]:
        return {"charts/learning_rate": self.learning_rate, "charts/updates": self.updates}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.gradient_step.state_dict(),
            "rollout": self.rollout.state_dict(),
            **({} if self.minibatch_rng is None else {"minibatch_rng": self.minibatch_rng.get_state()}),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.gradient_step.load_state_dict(state["optimizer"])
            self.rollout.load_state_dict(state["rollout"])
            if self.minibatch_rng is not None:
                self.minibatch_rng.set_state(state["minibatch_rng"])
        self.steps, self.updates = state["steps"], state["updates"]


def actor_critic(config: RolloutConfig, spec: EnvSpec, *, shared: bool = True, value: bool = True) -> ActorCritic:
    """The network of a policy agent."""
    c = config
    core: dict[str, Any] = {"core": c.core, "core_width": c.core_width, "core_options": c.core_options}
    return ActorCritic(spec, torso=c.torso, shared=shared, value=value, **core)
