"""A2C: advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783, algorithm S3, its actors in step), with or without memory.

    R_t = r_{t+1} + gamma r_{t+2} + ... + gamma^k v(s_{t+k})                        the n-step return to the end of the rollout
    d theta = grad log pi(a_t|s_t) (R_t - v(s_t)) + beta grad H(pi(.|s_t)) - c_v grad (R_t - v(s_t))^2 / 2         (section 4)

with c_v as in OpenAI Baselines (the paper writes the squared error without a weight).

Algorithm S3, its steps marked in the code:
    (1) act for t_max rows              (3) accumulate the gradients of policy, entropy and value
    (2) R from the last row backwards   (4) one step of RMSProp

With lambda < 1, R - v is the generalized advantage estimate instead (Schulman et al. 2016, arXiv:1506.02438).  Rows in which
nothing is decided count nowhere.  With memory, sequences are unrolled from the memory they were acted with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep
from arcturus.config import Bounds, Preset, default_presets
from arcturus.losses import annealed, explained_variance, lambda_returns, masked_mean, normalised
from arcturus.networks import ActorCritic
from arcturus.optimizers import Descent, RMSProp, adam
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
    lam: Annotated[float, Bounds(0, 1)] = 1.0
    """lambda of the advantage estimate; 1: n-step returns, as published."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 5
    """t_max: rows between updates; 0: whole episodes, where they begin and end together."""
    normalise: bool = False
    """Advantages to mean 0 and standard deviation 1 over the rollout."""
    value_cost: Annotated[float, Bounds(0)] = 0.5
    """c_v."""
    entropy_cost: Annotated[float, Bounds(0)] = 0.01
    """beta."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """The paper's RMSProp (not centred), or Adam."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 7e-4
    anneal_steps: Annotated[int, Bounds(-1)] = -1
    """Steps over which the learning rate falls to 0; -1: the whole run, 0: it stays."""
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-5
    """RMSProp: inside the root; Adam: beside it."""
    mean_square: Annotated[float, Bounds(0, 1e6)] = 0.0
    """RMSProp: what its mean of squared gradients begins with; TensorFlow's: 1."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.5
    """Clip the gradient's norm; 0: don't."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Learn from rewards clipped to [-x, x]; 0: raw."""
    life_loss: bool = False
    """Losing a life ends the return (the game goes on)."""
    bootstrap_truncated: bool = True
    """Values stand for what a time limit cut off; False: as published, a time limit is an end."""


WHOLE_SEQUENCES = {
    "torso": "none",
    "horizon": 0,
    "gamma": 0.0,
    "entropy_cost": 0.02,
    "optimizer": "adam",
    "learning_rate": 2e-3,
    "max_grad_norm": 10.0,
    "reward_clip": 0.0,
}

PRESETS = {
    "atari": Preset(
        "Mnih et al. 2016, section 4 and 8: t_max 5, 16 actors, RMSProp with decay 0.99, beta 0.01; numbers as in OpenAI Baselines' A2C of "
        "2017, its RMSProp TensorFlow's, whose mean square begins at 1, a time limit an end; protocol noop-fire",
        agent={"torso": "nature", "life_loss": True, "mean_square": 1.0, "bootstrap_truncated": False},
        env={"protocol": "noop-fire", "num_envs": 16},
        run={"steps": 10_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, 16 environments, longer rollouts; no paper's numbers",
        agent={"torso": "small", "horizon": 16, "lam": 0.95},
        env={"frame_size": 42, "num_envs": 16},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1, Acrobot-v1 and tasks of their size, on other seeds than the tests'; no paper's numbers",
        agent={"shared": False, "learning_rate": 2e-3, "entropy_cost": 0.0, "reward_clip": 0.0},
        env={"num_envs": 8},
        run={"steps": 300_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known; no paper's numbers",
        agent={
            "shared": False,
            "gamma": 0.95,
            "lam": 0.95,
            "horizon": 16,
            "optimizer": "adam",
            "learning_rate": 2e-3,
            "entropy_cost": 0.001,
            "reward_clip": 0.0,
        },
        run={"steps": 100_000},
    ),
    "memory": Preset(
        "chosen here for recalling a cue; no paper's numbers",
        agent={"core": "lstm", "core_width": 64, "horizon": 40, "optimizer": "adam", "learning_rate": 4e-3, "reward_clip": 0.0},
        env={"num_envs": 16},
        run={"steps": 300_000},
    ),
    "ntm": Preset(
        "chosen here for the algorithmic tasks by reward: whole sequences, discount 0, a Turing machine; no paper's numbers",
        agent=WHOLE_SEQUENCES | {"core": "ntm", "core_width": 100, "core_options": "controller=feedforward,slots=32,word=20"},
        env={"num_envs": 64},
        run={"steps": 4_000_000},
    ),
    "ntm-lstm": Preset(
        "chosen here likewise, with an LSTM; no paper's numbers",
        agent=WHOLE_SEQUENCES | {"core": "lstm", "core_width": 256},
        env={"num_envs": 64},
        run={"steps": 12_000_000},
    ),
    "tape": Preset(
        "chosen here for the tapes, longer as they are mastered; no paper's numbers",
        agent={
            "torso": "none",
            "core": "lstm",
            "core_width": 64,
            "horizon": 32,
            "gamma": 0.95,
            "lam": 0.95,
            "optimizer": "adam",
            "learning_rate": 3e-3,
            "reward_clip": 0.0,
        },
        env={"num_envs": 32, "curriculum": "promotion"},
        run={"steps": 2_000_000},
    ),
}
DEFAULT_PRESETS = default_presets("atari")


def loss(
    logits: Tensor, v: Tensor, action: Tensor, advantage: Tensor, target: Tensor, decides: Tensor, network: ActorCritic, c: Config
) -> tuple[Tensor, Metrics]:
    """The loss whose gradient is -d theta, a scalar; with what is worth watching.

    logits [L, B, K] and v [L, B] of the network that learns; action [L, B, *action_shape] int64; advantage, target [L, B]
    without gradient; decides [L, B] bool: the rows that count.
    """
    policy = -masked_mean(advantage * network.actions.log_prob(logits, action), decides)
    value = 0.5 * masked_mean((target - v).square(), decides)
    entropy = masked_mean(network.actions.entropy(logits), decides)
    metrics = {
        "losses/policy_loss": policy.detach(),
        "losses/value_loss": value.detach(),
        "losses/entropy": entropy.detach(),
        "losses/explained_variance": explained_variance(v.detach(), target, decides),
    }
    return policy + c.value_cost * value - c.entropy_cost * entropy, metrics


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
        self.descent = Descent(self._optimizer(), c.max_grad_norm)
        self.update = Captured(self._update, self.device, remember=partial(self.descent.remember, self.network))
        self.rollout = Rollout(
            c.horizon,
            spec,
            self.device,
            extras={"value": ()},
            state=self.initial_state(spec.num_envs),
            every=1 if c.core == "none" else c.bptt,
        )
        self.objective = Objective(c.gamma, c.reward_clip, c.life_loss and spec.has_lives)
        self.steps = self.updates = 0

    def _optimizer(self) -> torch.optim.Optimizer:
        c, parameters = self.config, list(self.network.parameters())
        if c.optimizer == "adam":
            return adam(parameters, c.learning_rate, c.optimizer_eps)
        return RMSProp(parameters, c.learning_rate, rho=0.99, eps=c.optimizer_eps, centred=False, mean_square=c.mean_square)

    @property
    def learning_rate(self) -> float:
        """Of the present rollout."""
        begun = self.steps - self.rollout.count * self.spec.num_envs
        return annealed(self.config.learning_rate, begun, self.config.anneal_steps)

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: log_prob [N], value [N], logits [N, K]."""
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
        c, rows, v = self.config, self.rollout.read(ts), self.rollout.kept("value")
        discount = rows.discounts(c.gamma, bootstrap_truncated=c.bootstrap_truncated, life_loss=c.life_loss)
        target = lambda_returns(
            rows.rewards(c.reward_clip), discount, self.network.next_values(v, ts, state), rows.last, c.lam
        )  # (2)
        advantage = normalised(target - v, rows.decides) if c.normalise else target - v
        t, n, memory = next(self.rollout.minibatches(1))
        self.descent.set_learning_rate(self.learning_rate)
        metrics = self.update(
            self.rollout.obs(t, n), rows.first[t, n], memory, rows.action[t, n], advantage[t, n], target[t, n], rows.decides[t, n]
        )
        self.updates += 1
        self.rollout.restart()
        return self.update.latest(metrics)

    def _update(
        self, obs: Tensor, first: Tensor, memory: State, action: Tensor, advantage: Tensor, target: Tensor, decides: Tensor
    ) -> Metrics:
        """One gradient step on sequences [L, B, ...] from memory [B, ...]."""
        logits, v, _ = self.network.unroll(obs, first, memory)
        value, metrics = self.loss(logits, v, action, advantage, target, decides)  # (3)
        return metrics | self.descent(value)  # (4)

    def loss(
        self, logits: Tensor, v: Tensor, action: Tensor, advantage: Tensor, target: Tensor, decides: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Of rows as the function takes them: a scalar, and what is worth watching.  A subclass may have its own."""
        return loss(logits, v, action, advantage, target, decides, self.network, self.config)

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        return {"charts/learning_rate": self.learning_rate, "charts/updates": self.updates}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.descent.state_dict(),
            "rollout": self.rollout.state_dict(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.descent.load_state_dict(state["optimizer"])
            self.rollout.load_state_dict(state["rollout"])
        self.steps, self.updates = state["steps"], state["updates"]
