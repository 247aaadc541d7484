"""SAC: soft actor-critic for discrete actions (Christodoulou 2019, arXiv:1910.07207; Haarnoja et al. 2018, arXiv:1812.05905).

It maximises the return plus the policy's entropy, sum_t gamma^t [ r_t + alpha H(pi(.|s_t)) ].  The actor is a policy pi, the critics
are two action-value networks Q_1 and Q_2, and all learn from transitions (s, a, r, s') of the replay:

    (1) V(s) = sum_a pi(a|s) [ min_i Q_i(s, a) - alpha log pi(a|s) ]
    (2) J_Q = E[ sum_i 1/2 ( r + gamma V(s'; theta-) - Q_i(s, a; theta) )^2 ]
    (3) J_pi = E[ sum_a pi(a|s) [ alpha log pi(a|s) - min_i Q_i(s, a; theta) ] ] = - E[ V(s; theta) ]
    (4) J_alpha = E[ alpha ( H(pi(.|s)) - H_target ) ],   H_target = target_entropy log |A|
    (5) every C steps theta- = theta

The sums over actions are exact, where SAC for continuous actions samples and differentiates through the sample.  (3) moves the policy
only and (4) only alpha, which falls while the policy is more random than H_target and rises while it is less; with `autotune` False
it stays.  Over n steps (2) is r_1 + ... + gamma^(n-1) r_n + gamma^n V(s_n), without the entropies of the states between.

Until learning starts the untrained policy plays.  Its first logits are within hundredths of each other, so this is the paper's random
play: what is recorded, scored and filmed is always the policy.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn

from arcturus.actor_critic import ActorCritic
from arcturus.agents._value import ReplayAgent
from arcturus.api import Act, EnvSpec, Loss, Metrics, State, TimeStep
from arcturus.config import Bounds
from arcturus.losses import expected_soft_value, td_loss, weighted_mean
from arcturus.networks import TwinQNetwork
from arcturus.optimizers import GradientStep, GradientSteps, adam, joint_health
from arcturus.replay.learner import ReplayConfig, ReplayLearner
from arcturus.replay.records import Transition
from arcturus.seeding import Seeds
from arcturus.speed import to_device


@dataclass(frozen=True)
class Config(ReplayConfig):
    torso: str = "auto"
    """Network of the actor and of each critic: mnih2013, nature, impala, data_efficient, small, grid, mlp, auto (by the observation), or
    your own class: package.module.Name."""
    alpha: Annotated[float, Bounds(1e-6, 100)] = 1.0
    """alpha, the temperature: weight of the policy's entropy against the reward.  With autotune, its initial value."""
    autotune: bool = True
    """Tune alpha during training, towards the target entropy."""
    target_entropy: Annotated[float, Bounds(0, 1)] = 0.98
    """With autotune: target entropy of the policy, as a fraction of the maximum, log |A|."""


def critic_loss(q_tm1: Tensor, v_t: Tensor, batch: Transition) -> tuple[Tensor, Tensor]:
    """J_Q, a scalar, and each critic's TD errors [2, B].  q_tm1 [2, B, A] of the critics; v_t [B] is bootstrapped from."""
    taken = q_tm1.gather(-1, batch.a_tm1.expand(len(q_tm1), -1)[..., None]).squeeze(-1)
    td = (batch.r_t + batch.discount_t * v_t).detach() - taken
    return td_loss(td, batch.weight, huber=False), td.detach()  # (2) both critics


class PolicyBatch(NamedTuple):  # what J_pi is computed from
    log_pi: Tensor  # [B, A] log pi(.|s)
    q: Tensor  # [B, A] the smaller of the critics' values, without gradient
    alpha: Tensor  # 0-dim
    weight: Tensor  # [B]


def loss(batch: PolicyBatch) -> Loss:
    """J_pi."""
    value = -weighted_mean(expected_soft_value(batch.log_pi, batch.q.detach(), batch.alpha), batch.weight)  # (3) towards the soft values
    return Loss(value, {"losses/policy_loss": value.detach()})


def temperature_loss(log_alpha: Tensor, entropy: Tensor, target: float, weight: Tensor) -> Tensor:
    """J_alpha; its gradient goes to log alpha only.  entropy [B] of the policy, and target, both in nats."""
    return weighted_mean(log_alpha.exp() * (entropy - target).detach(), weight)  # (4) towards the target entropy


class Agent(ReplayAgent):
    stochastic = True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        c, actions = config, spec.discrete_actions("sac")
        with seeds.branch("init").initialising():
            actor, critics = ActorCritic(spec, torso=c.torso, value=False), TwinQNetwork(spec, actions, c.torso)
        self.network, self.critics = to_device(actor, self.device), to_device(critics, self.device)
        self.online = self.critics
        self.target = copy.deepcopy(self.critics).requires_grad_(False) if c.target_period else self.critics
        self.log_alpha = nn.Parameter(torch.tensor(math.log(c.alpha), device=self.device), requires_grad=c.autotune)
        self.target_entropy = c.target_entropy * math.log(actions)  # in nats
        learnt = {"critics": list(self.critics.parameters()), "actor": list(self.network.parameters())}
        learnt |= {"alpha": [self.log_alpha]} if c.autotune else {}
        optimizers = {k: adam(parameters, c.learning_rate, c.optimizer_eps) for k, parameters in learnt.items()}
        self.gradient_steps = GradientSteps({k: GradientStep(each, c.max_grad_norm) for k, each in optimizers.items()})
        remember = partial(self.gradient_steps.remember, self.network, self.critics)
        self.learner = ReplayLearner(config, spec, self.device, seeds, self.update, remember=remember)
        self.replay, self.objective = self.learner.ring, self.learner.objective

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: log_prob [N], logits [N, A]."""
        return self.network.act(ts, state, explore, generator)

    def log_policy(self, obs: Tensor) -> Tensor:
        """log pi(.|s) [B, A]."""
        return self.network.policy(self.network.torso(obs)).log_softmax(-1)

    def update(self, batch: Transition) -> tuple[Metrics, Tensor]:
        """A step of the critics, of the actor by the new critics, and of alpha; priorities [B] are the critics' mean TD errors."""
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            v_t = expected_soft_value(self.log_policy(batch.s_t), self.target(batch.s_t).amin(0), alpha)  # (1) the soft value of s'
        q_tm1 = self.critics(batch.s_tm1)
        critics, td = critic_loss(q_tm1, v_t, batch)
        health = [self.gradient_steps["critics"](critics)]

        log_pi = self.log_policy(batch.s_tm1)
        with torch.no_grad():
            q = self.critics(batch.s_tm1).amin(0)
        policy = self.loss(PolicyBatch(log_pi, q, alpha, batch.weight))
        health.append(self.gradient_steps["actor"](policy.value))

        entropy = -(log_pi.exp() * log_pi).sum(-1).detach()
        if "alpha" in self.gradient_steps:
            temperature = temperature_loss(self.log_alpha, entropy, self.target_entropy, batch.weight)
            health.append(self.gradient_steps["alpha"](temperature))
        metrics = {
            "losses/td_loss": critics.detach(),
            "losses/q_values": q_tm1.detach().mean(),
            "losses/entropy": weighted_mean(entropy, batch.weight.ne(0)),
            "losses/alpha": alpha,
        }
        return metrics | policy.metrics | joint_health(health), td.abs().mean(0)

    def loss(self, batch: PolicyBatch) -> Loss:
        return loss(batch)

    def parts(self) -> dict[str, Any]:
        return {"network": self.network, "critics": self.critics, "target": self.target, "optimizer": self.gradient_steps}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"log_alpha": self.log_alpha}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.log_alpha.copy_(state["log_alpha"])
