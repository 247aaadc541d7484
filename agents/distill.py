"""Policy distillation (Rusu et al. 2016, arXiv:1511.06295): a student plays, and learns what its teachers, runs of other agents, would do.

    (1) q_t = softmax(z_t / tau)                            z_t: a teacher's action-values or logits; with several teachers q is a mean
    (2) L = - mean_t sum_a q_t(a) log pi(a|s_t)             KL(q || pi) but for a constant                               (equation 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.actor_critic import ActorCritic, Categoricals
from arcturus.agents._rollout import AnswerAgent, RolloutConfig
from arcturus.api import Act, ActedStep, EnvSpec, Loss, State, TimeStep, map_state
from arcturus.config import Bounds, split_names
from arcturus.errors import ConfigError
from arcturus.losses import cross_entropy
from arcturus.replay.rollout import Minibatch
from arcturus.runs.depending import opened
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config(RolloutConfig):
    teachers: str = ""
    """Run folders of the teachers, whose policies are the targets, separated by commas."""
    temperature: Annotated[float, Bounds(1e-4, 1e4)] = 1.0
    """tau: the teachers' logits or action-values are divided by it (Rusu et al.: 0.01 for action-values)."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or the centred RMSProp of Graves 2013 (decay 0.95, momentum 0.9)."""
    anneal_steps: Annotated[int, Bounds(-1)] = 0
    """Steps over which the learning rate falls to 0; -1: over the whole run, 0: it stays constant."""
    max_grad_norm: Annotated[float, Bounds(0)] = 10.0
    """Clip the gradient's norm to this; 0: no clipping."""
    max_grad_value: Annotated[float, Bounds(0)] = 0.0
    """Clip every component of the gradient to [-x, x]; 0: no clipping."""


def loss(network: ActorCritic, batch: Minibatch, c: Config) -> Loss:
    """L over a minibatch, a mean over rows; of whole episodes (horizon 0) their sum, a mean over episodes.  batch.target:
    [L, B, k, choices] the teachers' probabilities q."""
    logits, _, _ = network.unroll(batch.obs, batch.first, batch.state)
    log_pi, rows = network.actions.log_probs(logits), batch.valid.sum().clamp_min(1)
    cost = cross_entropy(log_pi, batch.target, batch.valid)  # (2) cross-entropy [B]
    value = cost.sum() / rows if c.horizon else cost.mean()
    with torch.no_grad():
        differs = (log_pi.argmax(-1) != batch.target.argmax(-1)).any(-1) & batch.valid
    return Loss(value, {"losses/cross_entropy": value.detach(), "losses/agreement": 1 - differs.sum() / rows})


class Agent(AnswerAgent):
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        super().__init__(config, spec, device, seeds)
        self.teachers = [Teacher(run, config.temperature, spec, self.device) for run in split_names(config.teachers)]

    def check_training(self) -> None:
        if not self.teachers:
            raise ConfigError("no teachers were given", where="--agent.teachers", fix="give run folders of agents: runs/a,runs/b")

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        """The student's memory, and the teachers'."""
        return (self.network.initial_state(n), *(teacher.actor.initial_state(n) for teacher in self.teachers))

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: logits [N, L]; in training answer [N, k, choices], the teachers' probabilities."""
        mine, *theirs = state
        action, mine, extras = self.network.act(ts, mine, explore, generator)
        if explore:
            told = [teacher(ts, memory) for teacher, memory in zip(self.teachers, theirs, strict=True)]
            extras["answer"] = torch.stack([q for q, _ in told]).mean(0)
            theirs = [memory for _, memory in told]
        return Act(action, (mine, *theirs), extras)

    def observe(self, step: ActedStep) -> None:
        super().observe(step._replace(state=step.state[0]))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"sequences": 0}  # as its runs of version 0.1 have it


class Teacher:
    """Another agent's policy as probabilities q [N, k, choices]."""

    def __init__(self, run: str, temperature: float, spec: EnvSpec, device: torch.device):
        from arcturus.runs.library import load  # here, as it imports the agents and this is one

        path, checkpoint = opened(run)
        self.actor, self.temperature = load(path, checkpoint.name, str(device)), temperature
        theirs = self.actor.agent.spec
        same = (theirs.obs_shape, theirs.obs_dtype, theirs.action_space) == (spec.obs_shape, spec.obs_dtype, spec.action_space)
        if not same:
            raise ConfigError(
                f"{path} plays {theirs.env_id}, whose observations or actions differ from those of {spec.env_id}",
                where="--agent.teachers",
                fix="train the student with the teacher's environment settings (frame size, stack, actions)",
            )
        self.actions = Categoricals(spec.action_space, spec.env_id)

    def __call__(self, ts: TimeStep, state: State) -> tuple[Tensor, State]:
        act = self.actor.act(ts, state, explore=False)
        scores = act.extras["logits"] if "logits" in act.extras else act.extras["q_values"]
        return self.actions.log_probs(scores / self.temperature).exp(), map_state(Tensor.detach, act.state)  # (1) tempered softmax
