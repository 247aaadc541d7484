"""PPO: proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), with or without memory.

    rho_t(theta) = pi(a_t|s_t; theta) / pi(a_t|s_t; theta_old)
    L_clip = E[ min(rho_t A_t, clip(rho_t, 1 - epsilon, 1 + epsilon) A_t) ]                                      (equation 7)
    L = L_clip - c_1 E[ (G_t - v(s_t))^2 ] + c_2 E[ H(pi(.|s_t)) ],   maximised                                  (equation 9)

Algorithm 1, its steps marked in the code:
    (1) N actors run pi_old for T rows                 (3) K epochs of minibatches: L's gradient
    (2) advantages A_1 ... A_T by GAE (Schulman et al. 2016, arXiv:1506.02438), targets G = A + v

Details as in Huang et al. 2022 ("The 37 implementation details of PPO"): half the squared error beside c_1, orthogonal initial
weights, Adam with epsilon 1e-5, advantages normalised per minibatch, the learning rate annealed to 0, the gradient's norm clipped.
Rows in which nothing is decided count nowhere.  Without memory single rows are shuffled into minibatches; with memory whole
sequences are, each unrolled from the memory it was acted with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep
from arcturus.config import Bounds, Preset, default_presets
from arcturus.losses import annealed, clipped_surrogate, explained_variance, lambda_returns, masked_mean, normalised
from arcturus.networks import ActorCritic
from arcturus.optimizers import Descent, adam
from arcturus.replay.rollout import Rollout
from arcturus.seeding import Seeds
from arcturus.speed import Captured, place


@dataclass(frozen=True)
class Config:
    """Numbers called steps are agent steps summed over environments; rows are steps of each environment."""

    torso: str = "auto"
    """Network: mnih2013, nature, impala, small, mlp, auto by the observation, or package.module.Name of your own."""
    core: str = "none"
    """Memory: none, rnn, lstm, gru, deep_lstm, ntm, dnc, or package.module.Name of your own."""
    core_width: Annotated[int, Bounds(1, 16_384)] = 128
    """Units of the memory core (of ntm and dnc: of the controller)."""
    core_options: str = ""
    """The core's own settings as name=value,name=value (slots=128,read_heads=2)."""
    bptt: Annotated[int, Bounds(0)] = 0
    """Rows that gradients flow back through memory; 0: the whole horizon."""
    shared: bool = True
    """Policy and value on one torso and memory."""
    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """Discount per agent step."""
    lam: Annotated[float, Bounds(0, 1)] = 0.95
    """lambda of the advantage estimate; 1: returns to the end of the rollout."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 128
    """T: rows between updates; 0: whole episodes, where they begin and end together."""
    epochs: Annotated[int, Bounds(1, 1_000)] = 4
    """K: passes over a rollout."""
    minibatches: Annotated[int, Bounds(1, 100_000)] = 4
    """Parts of a rollout that each make one gradient step."""
    normalise: bool = True
    """Advantages to mean 0 and standard deviation 1 over the minibatch; where some batches hold nothing left to learn, it makes the
    most of their noise."""
    clip: Annotated[float, Bounds(0, 1)] = 0.1
    """epsilon: how far the probability ratio pays."""
    clip_value: bool = False
    """Clip the value's change as well (Huang et al. 2022, detail 9); no evidence that it helps."""
    value_cost: Annotated[float, Bounds(0)] = 0.5
    """c_1, of half the squared error."""
    entropy_cost: Annotated[float, Bounds(0)] = 0.01
    """c_2."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 2.5e-4
    anneal_steps: Annotated[int, Bounds(-1)] = -1
    """Steps over which the learning rate falls to 0; -1: the whole run, 0: it stays."""
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-5
    max_grad_norm: Annotated[float, Bounds(0)] = 0.5
    """Clip the gradient's norm; 0: don't."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Learn from rewards clipped to [-x, x]; 0: raw."""
    life_loss: bool = False
    """Losing a life ends the return (the game goes on)."""
    bootstrap_truncated: bool = True
    """Values stand for what a time limit cut off; False: as published, a time limit is an end."""


PRESETS = {
    "atari": Preset(
        "Huang et al. 2022 (CleanRL's ppo_atari), after OpenAI Baselines: 8 environments, 128 rows, 4 epochs (the paper: 3) of 4 "
        "minibatches, clip 0.1 of the value, too, a time limit an end; protocol noop-fire",
        agent={"torso": "nature", "life_loss": True, "clip_value": True, "bootstrap_truncated": False},
        env={"protocol": "noop-fire", "num_envs": 8},
        run={"steps": 10_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, 16 environments; no paper's numbers",
        agent={"torso": "small", "learning_rate": 5e-4, "epochs": 3},
        env={"frame_size": 42, "num_envs": 16},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "Huang et al. 2022 for classic control, with networks of their own and 20 epochs of small minibatches as RL Zoo's CartPole",
        agent={
            "shared": False,
            "gamma": 0.98,
            "lam": 0.8,
            "horizon": 32,
            "epochs": 20,
            "minibatches": 1,
            "clip": 0.2,
            "entropy_cost": 0.0,
            "learning_rate": 1e-3,
            "reward_clip": 0.0,
        },
        run={"steps": 100_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known; no paper's numbers",
        agent={
            "shared": False,
            "gamma": 0.95,
            "horizon": 32,
            "clip": 0.2,
            "entropy_cost": 0.001,
            "learning_rate": 1e-3,
            "reward_clip": 0.0,
        },
        run={"steps": 100_000},
    ),
    "memory": Preset(
        "chosen here for recalling a cue; no paper's numbers",
        agent={
            "core": "lstm",
            "core_width": 64,
            "horizon": 64,
            "clip": 0.2,
            "entropy_cost": 0.01,
            "learning_rate": 1e-3,
            "reward_clip": 0.0,
        },
        env={"num_envs": 16},
        run={"steps": 200_000},
    ),
    "ntm": Preset(
        "chosen here for the algorithmic tasks by reward: whole sequences, discount 0, a Turing machine; no paper's numbers",
        agent={
            "torso": "none",
            "core": "ntm",
            "core_width": 100,
            "core_options": "controller=feedforward,slots=32,word=20",
            "horizon": 0,
            "gamma": 0.0,
            "lam": 0.0,
            "normalise": False,
            "epochs": 2,
            "entropy_cost": 0.02,
            "learning_rate": 2e-3,
            "reward_clip": 0.0,
        },
        env={"num_envs": 128},
        run={"steps": 1_500_000},
    ),
    "tape": Preset(
        "chosen here for the tapes, longer as they are mastered; no paper's numbers",
        agent={
            "torso": "none",
            "core": "lstm",
            "core_width": 64,
            "horizon": 64,
            "gamma": 0.95,
            "clip": 0.2,
            "entropy_cost": 0.01,
            "learning_rate": 2e-3,
            "reward_clip": 0.0,
        },
        env={"num_envs": 32, "curriculum": "promotion"},
        run={"steps": 1_500_000},
    ),
}
DEFAULT_PRESETS = default_presets("atari")


class Minibatch(NamedTuple):
    """Sequences of L rows; without memory L = 1."""

    obs: Tensor  # [L, B, *obs_shape]
    first: Tensor  # [L, B] bool
    state: State  # [B, ...] memory before the first row
    action: Tensor  # [L, B, *action_shape] int64
    log_prob: Tensor  # [L, B] log pi_old(action)
    advantage: Tensor  # [L, B]
    target: Tensor  # [L, B] what v should be
    value: Tensor  # [L, B] what v was when it acted
    decides: Tensor  # [L, B] bool: the rows that count


def loss(network: ActorCritic, batch: Minibatch, c: Config) -> tuple[Tensor, Metrics]:
    """-L of equation 9 over a minibatch, a scalar; with what is worth watching."""
    logits, v, _ = network.unroll(batch.obs, batch.first, batch.state)
    log_rho = network.actions.log_prob(logits, batch.action) - batch.log_prob
    rho = log_rho.exp()
    advantage = normalised(batch.advantage, batch.decides, correction=1) if c.normalise else batch.advantage
    policy = -masked_mean(clipped_surrogate(rho, advantage, c.clip), batch.decides)  # (7)
    error = (batch.target - v).square()
    if c.clip_value:
        near = batch.value + (v - batch.value).clamp(-c.clip, c.clip)
        error = torch.maximum(error, (batch.target - near).square())
    value = 0.5 * masked_mean(error, batch.decides)
    entropy = masked_mean(network.actions.entropy(logits), batch.decides)
    with torch.no_grad():
        metrics = {
            "losses/policy_loss": policy.detach(),
            "losses/value_loss": value.detach(),
            "losses/entropy": entropy.detach(),
            "losses/approx_kl": masked_mean(rho - 1 - log_rho, batch.decides),
            "losses/clipfrac": masked_mean(((rho - 1).abs() > c.clip).float(), batch.decides),
        }
    return policy + c.value_cost * value - c.entropy_cost * entropy, metrics  # (9)


class Agent:
    stochastic, on_policy = True, True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        c = config
        with seeds.branch("init").initialising():
            network = ActorCritic(
                spec, torso=c.torso, core=c.core, core_width=c.core_width, core_options=c.core_options, shared=c.shared
            )
        self.network: ActorCritic = place(network, self.device)
        self.descent = Descent(adam(self.network.parameters(), c.learning_rate, c.optimizer_eps), c.max_grad_norm)
        self.update = Captured(self._update, self.device, remember=partial(self.descent.remember, self.network))
        self.rollout = Rollout(
            c.horizon,
            spec,
            self.device,
            extras={"log_prob": (), "value": ()},
            state=self.initial_state(spec.num_envs),
            every=1 if c.core == "none" else c.bptt,
        )
        self.rollout.check_minibatches(c.minibatches)
        self.minibatch_rng = seeds.branch("minibatch").torch(self.device)
        self.objective = Objective(c.gamma, c.reward_clip, c.life_loss and spec.has_lives)
        self.steps = self.updates = 0

    @property
    def learning_rate(self) -> float:
        """Of the present rollout."""
        begun = self.steps - self.rollout.count * self.spec.num_envs
        return annealed(self.config.learning_rate, begun, self.config.anneal_steps)

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: log_prob [N], value [N], logits [N, L]."""
        return self.network.act(ts, state, explore, generator)

    def observe(self, step: Step) -> None:
        self.rollout.append(step)  # (1)
        self.steps += self.spec.num_envs

    def due(self) -> bool:
        return self.rollout.due

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        assert ts is not None
        if not self.rollout.complete(ts):
            return {}
        c, rows = self.config, self.rollout.read(ts)
        v, log_prob = self.rollout.kept("value"), self.rollout.kept("log_prob")
        metrics: Metrics = {}
        discount = rows.discounts(c.gamma, bootstrap_truncated=c.bootstrap_truncated, life_loss=c.life_loss)
        target = lambda_returns(
            rows.rewards(c.reward_clip), discount, self.network.next_values(v, ts, state), rows.last, c.lam
        )  # (2)
        advantage = target - v
        self.descent.set_learning_rate(self.learning_rate)
        for _ in range(c.epochs):  # (3)
            for t, n, memory in self.rollout.minibatches(c.minibatches, self.minibatch_rng):
                batch = Minibatch(
                    self.rollout.obs(t, n), rows.first[t, n], memory, rows.action[t, n], log_prob[t, n],
                    advantage[t, n], target[t, n], v[t, n], rows.decides[t, n],
                )  # fmt: skip
                metrics = self.update(batch)
                self.updates += 1
        self.rollout.restart()
        return self.update.latest(metrics) | {"losses/explained_variance": explained_variance(v, target, rows.decides)}

    def _update(self, batch: Minibatch) -> Metrics:
        """One gradient step."""
        value, metrics = self.loss(batch)
        return metrics | self.descent(value)

    def loss(self, batch: Minibatch) -> tuple[Tensor, Metrics]:
        """A scalar, and what is worth watching.  A subclass may have its own."""
        return loss(self.network, batch, self.config)

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        return {"charts/learning_rate": self.learning_rate, "charts/updates": self.updates}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.descent.state_dict(),
            "rollout": self.rollout.state_dict(),
            "minibatch_rng": self.minibatch_rng.get_state(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.descent.load_state_dict(state["optimizer"])
            self.rollout.load_state_dict(state["rollout"])
            self.minibatch_rng.set_state(state["minibatch_rng"])
        self.steps, self.updates = state["steps"], state["updates"]
