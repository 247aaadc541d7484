"""PQN: parallelised Q-learning without replay or target network (Gallici et al. 2024, arXiv:2407.04811), with or without memory.

    (1) a_t = argmax_a Q(s_t, a; theta), or with probability epsilon any; in N environments side by side, for T rows
    (2) G_t = r_{t+1} + gamma [ (1 - lambda) max_a Q(s_{t+1}, a; theta) + lambda G_{t+1} ]        Q(lambda) of Peng & Williams 1994
    (3) L(theta) = E[ (G_t - Q(s_t, a_t; theta))^2 ] / 2,  by K epochs of shuffled minibatches, G held fixed

What replay and target network do for DQN, many environments and layer normalisation before every ReLU of Q do here.  Targets are
computed once for a rollout, from the action-values it was acted by; nothing is added behind the last row of an episode, and a time
limit or a checkpoint's cut bootstraps.  For a fixed way of acting, Q becomes the value of doing so with probability lambda and acting
greedily otherwise (Kozuno et al. 2021): the optimum's only if epsilon vanishes or lambda = 0.

As in the authors' code: rectified Adam, the gradient's norm clipped to 10.  Otherwise than there: normalisation is over all filters and
places of a convolution (theirs: over the filters of each place), the torso's initial weights are orthogonal (theirs: He's normal ones,
of the same size), epsilon falls with every step (theirs: with every rollout), and time limits are no ends.  Rows in which nothing is
decided count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep
from arcturus.config import Bounds, Preset, default_presets
from arcturus.losses import annealed, lambda_returns, linear_schedule, td_loss
from arcturus.networks import QNetwork, Torso, orthogonal
from arcturus.optimizers import Descent, adam, radam
from arcturus.policies import epsilon_greedy
from arcturus.replay.records import Trajectory
from arcturus.replay.rollout import Rollout
from arcturus.seeding import Seeds
from arcturus.speed import Captured, place


@dataclass(frozen=True)
class Config:
    """Numbers called steps are agent steps summed over environments; rows are steps of each environment."""

    torso: str = "auto"
    """Network: mnih2013, nature, small, mlp, auto by the observation, or package.module.Name of your own."""
    layer_norm: bool = True
    """Layer normalisation before every ReLU of the torso."""
    core: str = "none"
    """Memory: none, rnn, lstm, gru, deep_lstm, ntm, dnc, or package.module.Name of your own."""
    core_width: Annotated[int, Bounds(1, 16_384)] = 128
    """Units of the memory core (of ntm and dnc: of the controller)."""
    core_options: str = ""
    """The core's own settings as name=value,name=value (slots=128,read_heads=2)."""
    bptt: Annotated[int, Bounds(0)] = 0
    """Rows that gradients flow back through memory; 0: the whole horizon."""
    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """Discount per agent step."""
    lam: Annotated[float, Bounds(0, 1)] = 0.65
    """lambda of the targets; 0: one-step Q-learning, 1: returns to the end of the rollout."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 32
    """T: rows between updates; 0: whole episodes, where they begin and end together."""
    epochs: Annotated[int, Bounds(1, 1_000)] = 2
    """K: passes over a rollout."""
    minibatches: Annotated[int, Bounds(1, 100_000)] = 4
    """Parts of a rollout that each make one gradient step."""
    epsilon_initial: Annotated[float, Bounds(0, 1)] = 1.0
    epsilon_final: Annotated[float, Bounds(0, 1)] = 0.01
    epsilon_steps: Annotated[int, Bounds(0)] = 250_000
    """Steps over which epsilon falls from initial to final."""
    optimizer: Literal["radam", "adam"] = "radam"
    """Rectified Adam (Liu et al. 2020), or Adam."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 2.5e-4
    anneal_steps: Annotated[int, Bounds(-1)] = -1
    """Steps over which the learning rate falls to 0; -1: the whole run, 0: it stays."""
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-8
    max_grad_norm: Annotated[float, Bounds(0)] = 10.0
    """Clip the gradient's norm; 0: don't."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Learn from rewards clipped to [-x, x]; 0: raw."""
    life_loss: bool = False
    """Losing a life ends the return (the game goes on)."""

    def epsilon(self, step: int) -> float:
        return linear_schedule(step, self.epsilon_initial, self.epsilon_final, 0, self.epsilon_steps)


PRESETS = {
    "pqn": Preset(
        "Gallici et al. 2024, the authors' code for Atari (purejaxql, pqn_atari.yaml): 128 environments, lambda 0.65, no annealing; "
        "protocol noop-fire",
        agent={
            "torso": "nature",
            "minibatches": 32,
            "epsilon_final": 0.001,
            "epsilon_steps": 5_000_000,
            "anneal_steps": 0,
            "life_loss": True,
        },
        env={"protocol": "noop-fire", "num_envs": 128},
        run={"steps": 50_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, 16 environments; no paper's numbers",
        agent={
            "torso": "small",
            "epochs": 4,
            "minibatches": 16,
            "learning_rate": 5e-4,
            "epsilon_final": 0.02,
            "epsilon_steps": 100_000,
        },
        env={"frame_size": 42, "num_envs": 16},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1 and tasks of its size; no paper's numbers",
        agent={
            "lam": 0.9,
            "horizon": 32,
            "epochs": 4,
            "epsilon_final": 0.04,
            "epsilon_steps": 30_000,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "reward_clip": 0.0,
        },
        env={"num_envs": 16},
        run={"steps": 150_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known: with lambda 0 it is what Q becomes, however much is explored; "
        "no paper's numbers",
        agent={
            "gamma": 0.95,
            "lam": 0.0,
            "horizon": 16,
            "epsilon_final": 0.5,
            "epsilon_steps": 5_000,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "reward_clip": 0.0,
        },
        env={"num_envs": 16},
        run={"steps": 60_000},
    ),
}
DEFAULT_PRESETS = {k: v for k, v in default_presets("pqn").items() if v in PRESETS}


def q_lambda_targets(rows: Trajectory, q_t: Tensor, c: Config) -> Tensor:
    """G [T, N] of the rows of a rollout.  q_t [T, N, A]: the action-values of the row after each."""
    discount = rows.discounts(c.gamma, life_loss=c.life_loss)
    return lambda_returns(rows.rewards(c.reward_clip), discount, q_t.max(-1).values, rows.last, c.lam)  # (2)


def loss(q: Tensor, action: Tensor, target: Tensor, decides: Tensor) -> tuple[Tensor, Metrics]:
    """L, a scalar, with what is worth watching.  q [L, B, A] of the network that learns; action [L, B] int64; target [L, B] without
    gradient; decides [L, B] bool: the rows that count."""
    td = target - q.gather(-1, action[..., None]).squeeze(-1)
    value = td_loss(td, decides.float(), huber=False)  # (3)
    return value, {"losses/td_loss": value.detach(), "losses/q_values": q.detach().mean()}


class Agent:
    stochastic, on_policy = False, True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        c, num_actions = config, spec.discrete_actions("pqn")
        with seeds.branch("init").initialising():
            network = QNetwork(
                spec,
                num_actions,
                c.torso,
                core=c.core,
                core_width=c.core_width,
                core_options=c.core_options,
                layer_norm=c.layer_norm,
            )
            if isinstance(network.torso, Torso):  # one of your own begins as you made it
                orthogonal(network.torso, 2**0.5)
        self.network: QNetwork = place(network, self.device)
        optimizer = {"radam": radam, "adam": adam}[c.optimizer]
        self.descent = Descent(optimizer(self.network.parameters(), c.learning_rate, c.optimizer_eps), c.max_grad_norm)
        self.update = Captured(self._update, self.device, remember=partial(self.descent.remember, self.network))
        self.rollout = Rollout(
            c.horizon,
            spec,
            self.device,
            extras={"q_values": (num_actions,)},
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

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A]."""
        out, state = self.network.now(ts.obs[None], ts.first[None], state)
        q = out[0]
        action = epsilon_greedy(q, self.config.epsilon(self.steps), generator) if explore else q.argmax(-1)  # (1)
        return Act(action, state, {"q_values": q})

    def observe(self, step: Step) -> None:
        self.rollout.append(step)
        self.steps += self.spec.num_envs

    def due(self) -> bool:
        return self.rollout.due

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        assert ts is not None
        if not self.rollout.complete(ts):
            return {}
        c, rows, q = self.config, self.rollout.read(ts), self.rollout.kept("q_values")
        with torch.no_grad():
            q_t = torch.cat([q[1:], self.network.unroll(ts.obs[None], ts.first[None], state)[0]])
        target = q_lambda_targets(rows, q_t, c)
        metrics: Metrics = {}
        self.descent.set_learning_rate(self.learning_rate)
        for _ in range(c.epochs):
            for t, n, memory in self.rollout.minibatches(c.minibatches, self.minibatch_rng):
                metrics = self.update(
                    self.rollout.obs(t, n), rows.first[t, n], memory, rows.action[t, n], target[t, n], rows.decides[t, n]
                )
                self.updates += 1
        self.rollout.restart()
        return self.update.latest(metrics)

    def _update(self, obs: Tensor, first: Tensor, memory: State, action: Tensor, target: Tensor, decides: Tensor) -> Metrics:
        """One gradient step on sequences: [L, B, ...] each, memory [B, ...]."""
        q, _ = self.network.unroll(obs, first, memory)
        value, metrics = self.loss(q, action, target, decides)
        return metrics | self.descent(value)

    def loss(self, q: Tensor, action: Tensor, target: Tensor, decides: Tensor) -> tuple[Tensor, Metrics]:
        """Of rows as the function takes them: a scalar, and what is worth watching.  A subclass may have its own."""
        return loss(q, action, target, decides)

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        return {
            "charts/epsilon": self.config.epsilon(self.steps),
            "charts/learning_rate": self.learning_rate,
            "charts/updates": self.updates,
        }

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
