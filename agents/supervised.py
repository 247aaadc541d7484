"""Supervised learning of an algorithmic task: the network is told the right answers, instead of being rewarded for its own.

A task gives the right action at every row that asks for an answer (TimeStep.target), and the loss is the cross-entropy

    (1) L = - sum_t log pi(y_t | x_1 ... x_t)          over the rows of an episode that ask, a mean over the batch

Its value in bits is the cost that Graves, Wayne & Danihelka 2014 (arXiv:1410.5401, section 4) plot against sequences seen.
With a GRU it is the RNN encoder-decoder (Cho et al. 2014, arXiv:1406.1078).  A task's course doesn't depend on the answers,
so in training none are given: the network runs only once, when the right answers are known (`play` changes that).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch

from arcturus.actor_critic import ActorCritic
from arcturus.agents._rollout import AnswerAgent, RolloutConfig
from arcturus.api import Act, EnvSpec, Loss, Metrics, State, TimeStep
from arcturus.config import Bounds
from arcturus.errors import no_targets
from arcturus.losses import annealed, cross_entropy
from arcturus.replay.rollout import Minibatch
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config(RolloutConfig):
    torso: str = "none"
    """Network: mnih2013, nature, impala, small, mlp, none, auto (by the observation), or your own class: package.module.Name."""
    core: str = "ntm"
    """Memory core: none, rnn, lstm, gru, deep_lstm, ntm, dnc, or your own class: package.module.Name."""
    core_width: Annotated[int, Bounds(1, 16_384)] = 100
    """Units of the memory core (for ntm and dnc: units of its controller)."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 0
    """Rows between updates; 0: whole episodes, if all environments begin and end them together."""
    play: bool = False
    """Also play sampled actions in training: slower, but the episodes are scored, and a curriculum can use the scores."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or the centred RMSProp of Graves 2013 (decay 0.95, momentum 0.9)."""
    anneal_steps: Annotated[int, Bounds(-1)] = 0
    """Steps over which the learning rate falls to 0; -1: over the whole run, 0: it stays constant."""
    max_grad_value: Annotated[float, Bounds(0)] = 0.0
    """Clip every component of the gradient to [-x, x]; 0: no clipping."""


def loss(network: ActorCritic, batch: Minibatch, c: Config) -> Loss:
    """L over sequences, in nats; of pieces of episodes (horizon > 0) a mean over rows.  batch.target: [L, B, k, choices] probabilities."""
    logits, _, _ = network.unroll(batch.obs, batch.first, batch.state)
    log_pi = network.actions.log_probs(logits)
    cost = cross_entropy(log_pi, batch.target, batch.valid)  # (1) surprise at the right answers
    value = cost.sum() / batch.valid.sum().clamp_min(1) if c.horizon else cost.mean()
    with torch.no_grad():
        wrong = (log_pi.argmax(-1) != batch.target.argmax(-1)) & batch.valid[..., None]  # [L, B, k]
        metrics = {"losses/cross_entropy": value.detach()}
        if c.horizon:
            metrics["losses/agreement"] = 1 - wrong.any(-1).sum() / batch.valid.sum().clamp_min(1)
        else:
            metrics["task/bits_per_sequence"] = value.detach() / math.log(2)
            metrics["task/error_bits"] = wrong.sum((0, -1)).float().mean()
            metrics["task/exact"] = (~wrong.any(-1).any(0)).float().mean()
    return Loss(value, metrics)


class Agent(AnswerAgent):
    needs_targets = True
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        if not (spec.has_targets or config.horizon):  # before a rollout of whole episodes is refused for lack of them
            raise no_targets(spec.env_id)
        super().__init__(config, spec, device, seeds)
        self.plays = config.play
        self.sequences = 0

    @property
    def learning_rate(self) -> float:
        """The learning rate at the steps so far, the current rollout's included."""
        return annealed(self.config.learning_rate, self.steps, self.config.anneal_steps)

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: logits [N, L], unless nothing is played; in training answer [N, k, choices], the probabilities to be learnt."""
        actions = self.network.actions
        if self.plays or not explore:
            act = self.network.act(ts, state, explore, generator)
        else:
            nothing = torch.zeros((len(ts.reward), *actions.shape), dtype=torch.int64, device=self.device)
            act = Act(nothing, state, {})
        if explore and ts.target is not None:
            act.extras["answer"] = actions.one_hot(ts.target)
        return act

    def learn_from_rollout(self, ts: TimeStep, state: State) -> Metrics:
        metrics = super().learn_from_rollout(ts, state)
        self.sequences += self.spec.num_envs if self.rollout.whole and metrics else 0
        return metrics

    def scalars(self) -> dict[str, float]:
        return super().scalars() | ({"task/sequences": self.sequences} if self.rollout.whole else {})

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"sequences": self.sequences}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.sequences = state["sequences"]
