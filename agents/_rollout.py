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

from arcturus.actor_critic import ActorCritic, Categoricals
from arcturus.api import Act, ActedStep, Agent, EnvSpec, Loss, Metrics, Objective, State, TimeStep
from arcturus.config import Bounds
from arcturus.losses import annealed, explained_variance
from arcturus.optimizers import GradientStep, by_name
from arcturus.replay.rollout import Minibatch, Rollout, Trajectory
from arcturus.seeding import Seeds
from arcturus.speed import Captured, captured, to_device


@dataclass(frozen=True)
class RolloutConfig:
    """Settings in steps count agent steps summed over environments; a row is one step of every environment."""

    torso: str = "auto"
    """Network: mnih2013, nature, impala, data_efficient, small, grid, mlp, none, auto (by the observation), or your own class:
    package.module.Name."""
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
    """A subclass has targets(), a loss, and what it sets or makes otherwise than here.

    kept: name -> shape of the entries of Act.extras kept for every row.  every: rows that a sequence is unrolled through (Rollout's),
    starting from the memory it was acted with if keep_memory.  Settings called epochs and minibatches: the passes over a rollout, and
    the parts it is split into at random (a gradient step each).
    """

    on_policy = True
    only_finished = False  # rollouts of whole episodes that a checkpoint broke off are not learnt from
    keep_memory = True
    kept: dict[str, tuple[int, ...]]
    loss_fn: Callable[..., Loss]  # (network, Minibatch, config): the agent's file has it
    rollout: Rollout

    def __init__(self, config: Any, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.epochs, self.parts = getattr(config, "epochs", 1), getattr(config, "minibatches", 1)
        with seeds.branch("init").initialising():
            network: Any = self.make_network()
        self.network: Any = to_device(network, self.device)
        optimizer = self.make_optimizer(list(self.network.parameters()))
        self.gradient_step = GradientStep(optimizer, config.max_grad_norm, getattr(config, "max_grad_value", 0.0))
        self.captured = captured(self.update, self.device, remember=partial(self.gradient_step.remember, self.network))
        memory = self.network.initial_state(spec.num_envs) if self.keep_memory else ()
        self.rollout = Rollout(config.horizon, spec, self.device, extras=self.kept, state=memory, every=self.every)
        self.minibatch_rng = None
        if hasattr(config, "minibatches"):
            self.minibatch_rng = seeds.branch("minibatch").torch(self.device)
            self.rollout.check_minibatches(self.parts)
        if isinstance(config, ReturnConfig):
            self.objective = Objective(config.gamma, config.reward_clip, config.end_on_life_loss and spec.has_lives)
        self.steps = self.updates = 0

    @property
    def every(self) -> int:
        return 1 if self.config.core == "none" else self.config.bptt

    def make_network(self) -> nn.Module:
        c, value = self.config, "value" in self.kept
        core: dict[str, Any] = {"core": c.core, "core_width": c.core_width, "core_options": c.core_options}
        return ActorCritic(self.spec, torso=c.torso, shared=getattr(c, "shared", True), value=value, **core)

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        c = self.config
        return by_name(getattr(c, "optimizer", "adam"), parameters, c.learning_rate, c.optimizer_eps)

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
        return type(self).loss_fn(self.network, batch, self.config)

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


class AnswerAgent(RolloutAgent):
    """A subclass gives probabilities [N, k, choices] of every component's choices in Act.extras, as answer."""

    only_finished = True

    def __init__(self, config: Any, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.kept = {"answer": Categoricals(spec.action_space, spec.env_id).one_hot_shape}
        super().__init__(config, spec, device, seeds)

    @property
    def every(self) -> int:
        return 1 if self.config.core == "none" and self.config.horizon else 0  # sequences that are counted whole are kept apart

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """rmsprop: the centred one of Graves 2013 (arXiv:1308.0850, equations 38-45), decay 0.95 and momentum 0.9."""
        c = self.config
        return by_name(c.optimizer, parameters, c.learning_rate, c.optimizer_eps, momentum=0.9)

    def targets(self, rows: Trajectory, ts: TimeStep, state: State) -> dict[str, Tensor]:
        return {"target": self.rollout.kept("answer")}
