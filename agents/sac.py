"""SAC: soft actor-critic for discrete actions (Christodoulou 2019, arXiv:1910.07207; Haarnoja et al. 2018, arXiv:1812.05905).

What is maximised is the return with the policy's entropy in it, sum_t gamma^t [ r_t + alpha H(pi(.|s_t)) ].  A policy pi is the actor,
two action-value networks Q_1 and Q_2 are the critics, and all learn from transitions (s, a, r, s') of the replay:

    (1) V(s) = sum_a pi(a|s) [ min_i Q_i(s, a) - alpha log pi(a|s) ]
    (2) J_Q = E[ sum_i 1/2 ( r + gamma V(s'; theta-) - Q_i(s, a; theta) )^2 ]
    (3) J_pi = E[ sum_a pi(a|s) [ alpha log pi(a|s) - min_i Q_i(s, a; theta) ] ] = - E[ V(s; theta) ]
    (4) J_alpha = E[ alpha ( H(pi(.|s)) - H_target ) ],   H_target = target_entropy log |A|
    (5) every C steps theta- = theta

The sums over actions are exact, where SAC for continuous actions samples and differentiates through the sample.  (3) moves the policy
only and (4) only alpha, which falls while the policy is more random than H_target and rises while it is less; with `autotune` False
it stays.  Over n steps (2) is r_1 + ... + gamma^(n-1) r_n + gamma^n V(s_n), without the entropies of the states between.

Until learning starts the untrained policy plays.  Its first logits are within hundredths of each other (the orthogonal head of gain
0.01), so this is the paper's random play without a second way of acting: what is recorded, scored and filmed is always the policy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep
from arcturus.config import Bounds, Preset, default_presets
from arcturus.losses import expected_soft_value, td_loss, weighted_mean
from arcturus.networks import ActorCritic, QNetwork
from arcturus.optimizers import Descent, adam
from arcturus.replay.experience import Experience, ReplayConfig
from arcturus.replay.records import Drawn, Transition
from arcturus.seeding import Seeds
from arcturus.speed import Captured, place


@dataclass(frozen=True)
class Config(ReplayConfig):
    torso: str = "auto"
    """Network of the actor and of each critic: mnih2013, nature, impala, small, mlp, auto by the observation, or
    package.module.Name of your own."""
    alpha: Annotated[float, Bounds(1e-6, 100)] = 1.0
    """Temperature: what one nat of the policy's entropy is worth in reward.  With autotune, where it begins."""
    autotune: bool = True
    """Learn alpha."""
    target_entropy: Annotated[float, Bounds(0, 1)] = 0.98
    """With autotune: the policy's entropy that alpha is to bring about, as a share of log |A|, the largest there is."""


PRESETS = {
    "christodoulou2019": Preset(
        "Christodoulou 2019, table of hyperparameters, and his code (Adam's eps); lost lives as ends and the run's length as CleanRL's "
        "sac_atari; protocol noop-fire",
        agent={"torso": "nature", "batch_size": 64, "learning_rate": 3e-4, "optimizer_eps": 1e-4, "life_loss": True},
        env={"protocol": "noop-fire"},
        run={"steps": 5_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, 3-step; no paper's numbers",
        agent={
            "torso": "small",
            "n_step": 3,
            "target_period": 2_000,
            "learning_rate": 3e-4,
            "optimizer_eps": 1e-4,
            "capacity": 200_000,
            "learn_start": 2_000,
            "alpha": 0.05,
            "target_entropy": 0.6,
        },
        env={"frame_size": 42, "num_envs": 8},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1, Acrobot-v1 and tasks of their size, on other seeds than the tests'; no paper's numbers",
        agent={
            "n_step": 3,
            "reward_clip": 0.0,
            "target_period": 100,
            "learning_rate": 2e-3,
            "optimizer_eps": 1e-8,
            "max_grad_norm": 10.0,
            "batch_size": 64,
            "capacity": 10_000,
            "learn_start": 1_000,
            "alpha": 0.05,
            "autotune": False,
        },
        run={"steps": 40_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose soft optimum is known; no paper's numbers",
        agent={
            "gamma": 0.95,
            "reward_clip": 0.0,
            "target_period": 200,
            "learning_rate": 1e-3,
            "optimizer_eps": 1e-8,
            "batch_size": 256,
            "replay_ratio": 0.2,
            "capacity": 60_000,
            "learn_start": 20_000,
            "alpha": 0.05,
            "autotune": False,
        },
        run={"steps": 60_000},
    ),
}
DEFAULT_PRESETS = {k: v for k, v in default_presets("christodoulou2019").items() if v in PRESETS}


def critic_loss(
    q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, v_t: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """J_Q, a scalar, and each critic's TD errors [2, B].  q_tm1 [2, B, A]; v_t [B] is bootstrapped from; the rest as in losses.py."""
    taken = q_tm1.gather(-1, a_tm1.expand(len(q_tm1), -1)[..., None]).squeeze(-1)
    td = (r_t + discount_t * v_t).detach() - taken
    return td_loss(td, weight, huber=False), td.detach()  # (2)


def policy_loss(log_pi: Tensor, q: Tensor, alpha: Tensor | float, weight: Tensor) -> Tensor:
    """J_pi.  log_pi [B, A]; q [B, A] the smaller critic's values, which no gradient reaches."""
    return -weighted_mean(expected_soft_value(log_pi, q.detach(), alpha), weight)  # (3)


def temperature_loss(log_alpha: Tensor, entropy: Tensor, target: float, weight: Tensor) -> Tensor:
    """J_alpha, whose gradient reaches log alpha only.  entropy [B] of the policy and its target, in nats."""
    return weighted_mean(log_alpha.exp() * (entropy - target).detach(), weight)  # (4)


class Critics(nn.Module):
    """obs [B, *obs_shape] -> action-values of both, [2, B, A]."""

    def __init__(self, spec: EnvSpec, num_actions: int, torso: str):
        super().__init__()
        self.both = nn.ModuleList([QNetwork(spec, num_actions, torso) for _ in range(2)])

    def forward(self, obs: Tensor) -> Tensor:
        return torch.stack([q(obs) for q in self.both])


class Agent:
    stochastic, on_policy = True, False

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        c, actions = config, spec.discrete_actions("sac")
        with seeds.branch("init").initialising():
            actor, critics = ActorCritic(spec, torso=c.torso, value=False), Critics(spec, actions, c.torso)
        self.network: ActorCritic = place(actor, self.device)
        self.critics: Critics = place(critics, self.device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False) if c.target_period else self.critics
        self.log_alpha = nn.Parameter(torch.tensor(math.log(c.alpha), device=self.device), requires_grad=c.autotune)
        self.target_entropy = c.target_entropy * math.log(actions)  # in nats
        learnt = {"critics": list(self.critics.parameters()), "actor": list(self.network.parameters())}
        if c.autotune:
            learnt["alpha"] = [self.log_alpha]
        self.descents = {k: Descent(adam(v, c.learning_rate, c.optimizer_eps), c.max_grad_norm) for k, v in learnt.items()}
        self.update = Captured(self._update, self.device, remember=self._remember)
        self.experience = Experience(config, spec, self.device, seeds)
        self.replay = self.experience.ring
        self.objective = Objective(c.gamma, c.reward_clip, c.life_loss and spec.has_lives)

    @property
    def steps(self) -> int:
        return self.experience.steps

    @property
    def updates(self) -> int:
        return self.experience.updates

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: log_prob [N], logits [N, A]."""
        return self.network.act(ts, state, explore, generator)

    def log_policy(self, obs: Tensor) -> Tensor:
        """log pi(.|s) [B, A]."""
        return self.network.policy(self.network.torso(obs)).log_softmax(-1)

    def observe(self, step: Step) -> None:
        self.experience.append(step)

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        metrics: Metrics = {}
        while self.experience.update_due():
            metrics, td = self.update(*self.experience.samples())
            self.experience.set_priorities(td)
        if self.experience.copy_due():  # (5)
            self.target.load_state_dict(self.critics.state_dict())
        return self.update.latest(metrics)

    def _update(self, *batches: Transition | Drawn) -> tuple[Metrics, Tensor]:
        """A gradient step on each; what the last of them says, and its TD errors [B], the critics' mean."""
        for given in batches:
            metrics, td = self._step(self.experience.gathered(given))
        return metrics, td.abs().mean(0)

    def _step(self, batch: Transition) -> tuple[Metrics, Tensor]:
        """One step of the critics, one of the actor by the new critics, one of alpha; TD errors [2, B]."""
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            v_t = expected_soft_value(self.log_policy(batch.s_t), self.target(batch.s_t).amin(0), alpha)  # (1)
        q_tm1 = self.critics(batch.s_tm1)
        critics, td = critic_loss(q_tm1, batch.a_tm1, batch.r_t, batch.discount_t, v_t, batch.weight)
        health = [self.descents["critics"](critics)]

        log_pi = self.log_policy(batch.s_tm1)
        with torch.no_grad():
            q = self.critics(batch.s_tm1).amin(0)
        policy = self.loss(log_pi, q, alpha, batch.weight)
        health.append(self.descents["actor"](policy))

        entropy = -(log_pi.exp() * log_pi).sum(-1).detach()
        if "alpha" in self.descents:
            health.append(self.descents["alpha"](temperature_loss(self.log_alpha, entropy, self.target_entropy, batch.weight)))
        metrics = {
            "losses/td_loss": critics.detach(),
            "losses/q_values": q_tm1.detach().mean(),
            "losses/policy_loss": policy.detach(),
            "losses/entropy": weighted_mean(entropy, batch.weight.ne(0)),
            "losses/alpha": alpha,
            "health/grad_norm": torch.stack([part["health/grad_norm"] for part in health]).norm(),  # of all gradients together
            "health/skipped_updates": torch.stack([part["health/skipped_updates"] for part in health]).amax(),
        }
        return metrics, td

    def loss(self, log_pi: Tensor, q: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
        """The policy's, a scalar, of a batch as policy_loss takes it.  A subclass may have its own."""
        return policy_loss(log_pi, q, alpha, weight)

    def _remember(self) -> Callable[[], None]:
        undo = [descent.remember(self.network, self.critics) for descent in self.descents.values()]

        def undo_all() -> None:
            for each in undo:
                each()

        return undo_all

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        return {"charts/learning_rate": self.config.learning_rate} | self.experience.scalars()

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "critics": self.critics.state_dict(),
            "target": self.target.state_dict(),
            "log_alpha": self.log_alpha,
            "optimizer": {k: descent.state_dict() for k, descent in self.descents.items()},
            **self.experience.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.critics.load_state_dict(state["critics"])
        self.target.load_state_dict(state["target"])
        self.log_alpha.copy_(state["log_alpha"])
        if "optimizer" in state:  # a policy saved for playing only has none
            for k, descent in self.descents.items():
                descent.load_state_dict(state["optimizer"][k])
        self.experience.load_state_dict(state)
