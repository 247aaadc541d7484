"""DQN: deep Q-learning with experience replay (Mnih et al. 2013, arXiv:1312.5602; Mnih et al. 2015, Nature 518).

    L(theta) = E_{(s, a, r, s') ~ U(D)} [ ( r + gamma max_a' Q(s', a'; theta-) - Q(s, a; theta) )^2 ]      (2015, equation 2)

Algorithm 1 of 2013, its steps marked in the code:
    (1) initialise the replay memory D                          (6) store the transition in D
    (2) initialise Q with random weights                        (7) sample a random minibatch of transitions from D
    (3) preprocess the sequence: phi(s)                         (8) y = r + gamma max_a' Q(s', a'), or r at a terminal s'
    (4) with probability epsilon a random action, else argmax   (9) a gradient descent step on (y - Q(s, a))^2
    (5) execute it in the emulator, observe reward and image   (10) every C steps theta- = theta (2015)
(3) and (5) are the environments' (envs/) and the loop's (core/loop.py).

Switches: double Q-learning (van Hasselt et al. 2016), n-step returns, Huber's loss (the clipped error of 2015), C = 0 for no
target network (2013), the loss of a life as an end (2015), memory (DRQN, Hausknecht & Stone 2015): then (7) samples sequences, whose
first rows only bring the stored memory up to date (Kapturowski et al. 2019, section 3).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep, map_state
from arcturus.config import Bounds, Preset, default_presets
from arcturus.device import choose_device
from arcturus.envs.frames import OLDEST
from arcturus.errors import ConfigError
from arcturus.losses import linear_schedule, q_learning, td_loss
from arcturus.networks import QNetwork
from arcturus.optimizers import Descent, RMSProp, adam
from arcturus.replay.records import Sequence, Transition
from arcturus.replay.ring import Ring
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config:
    """Numbers called steps are agent steps summed over environments (one decision is 4 emulator frames on Atari)."""

    torso: str = "auto"
    """Network: mnih2013, nature, impala, small, mlp, auto by the observation, or package.module.Name of your own."""
    average_pool: bool = False
    """Average-pool the IMPALA torso's last feature maps."""
    core: str = "none"
    """Memory: none, rnn, lstm, gru, deep_lstm, ntm, dnc, or package.module.Name of your own."""
    core_width: Annotated[int, Bounds(1, 16_384)] = 128
    """Units of the memory core (of ntm and dnc: of the controller)."""
    core_options: str = ""
    """The core's own settings as name=value,name=value (slots=128,read_heads=2)."""
    bptt: Annotated[int, Bounds(0)] = 16
    """With memory: rows of a sequence that are learnt from, and that gradients flow back through; 0: whole episodes, where they begin
    and end together."""
    burn_in: Annotated[int, Bounds(0)] = 8
    """With memory: rows before them that only bring the stored memory up to date; none before whole episodes."""
    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """Discount per agent step."""
    n_step: Annotated[int, Bounds(1, 100)] = 1
    """Steps of reward before bootstrapping."""
    double: bool = False
    """Choose the bootstrap action with the online network."""
    huber: bool = False
    """Clip the TD error's gradient to [-1, 1]."""
    target_period: Annotated[int, Bounds(0)] = 8_000
    """C: steps between copies to the target network; 0: no target network."""
    life_loss: bool = False
    """Losing a life ends the return (the game goes on)."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Learn from rewards clipped to [-x, x]; 0: raw."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or the centred RMSProp of 2015."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 6.25e-5
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1.5e-4
    """Adam: beside the root; RMSProp: inside it."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.0
    """Clip the gradient's norm; 0: don't."""
    batch_size: Annotated[int, Bounds(1, 65_536)] = 32
    """Transitions per update; with memory, sequences."""
    replay_ratio: Annotated[float, Bounds(0, 64)] = 0.25
    """Updates per agent step, whatever the number of environments."""
    capacity: Annotated[int, Bounds(2)] = 1_000_000
    """Steps the replay holds."""
    replay_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where replay lives; auto: where the network does."""
    learn_start: Annotated[int, Bounds(0)] = 20_000
    """Steps before the first update, played at random."""
    epsilon_initial: Annotated[float, Bounds(0, 1)] = 1.0
    epsilon_final: Annotated[float, Bounds(0, 1)] = 0.01
    epsilon_steps: Annotated[int, Bounds(0)] = 250_000
    """Steps over which epsilon falls from initial to final, counted from learn_start."""


PRESETS = {
    "mnih2013": Preset(
        "Mnih et al. 2013, section 5: batch 32, epsilon 1 to 0.1 over 1M, 1M replay; RMSProp's numbers from Mnih et al. 2015",
        agent={
            "torso": "mnih2013",
            "target_period": 0,
            "optimizer": "rmsprop",
            "learning_rate": 2.5e-4,
            "optimizer_eps": 0.01,
            "replay_ratio": 1.0,
            "learn_start": 50_000,
            "epsilon_final": 0.1,
            "epsilon_steps": 1_000_000,
        },
        env={"protocol": "nature"},
        run={"steps": 10_000_000},
    ),
    "nature": Preset(
        "Mnih et al. 2015, extended data table 1, in agent steps as the authors' code and DQN Zoo read it",
        agent={
            "torso": "nature",
            "huber": True,
            "target_period": 10_000,
            "life_loss": True,
            "optimizer": "rmsprop",
            "learning_rate": 2.5e-4,
            "optimizer_eps": 0.01,
            "learn_start": 50_000,
            "epsilon_final": 0.1,
            "epsilon_steps": 1_000_000,
        },
        env={"protocol": "nature"},
        run={"steps": 50_000_000},
    ),
    "adam": Preset(
        "Dopamine's DQN (Castro et al. 2018) with Adam of Hessel et al. 2018 and squared loss (Obando-Ceron & Castro 2021)",
        agent={"torso": "nature"},
        run={"steps": 10_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, double, 3-step; no paper's numbers",
        agent={
            "torso": "small",
            "n_step": 3,
            "double": True,
            "huber": True,
            "target_period": 2_000,
            "learning_rate": 5e-4,
            "capacity": 200_000,
            "learn_start": 2_000,
            "epsilon_final": 0.02,
            "epsilon_steps": 40_000,
        },
        env={"frame_size": 42, "num_envs": 8},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1 and tasks of its size; no paper's numbers",
        agent={
            "double": True,
            "huber": True,
            "n_step": 3,
            "reward_clip": 0.0,
            "target_period": 250,
            "learning_rate": 1e-3,
            "optimizer_eps": 1e-8,
            "max_grad_norm": 10.0,
            "batch_size": 128,
            "replay_ratio": 0.5,
            "capacity": 50_000,
            "learn_start": 1_000,
            "epsilon_final": 0.04,
            "epsilon_steps": 10_000,
        },
        run={"steps": 50_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known; no paper's numbers",
        agent={
            "gamma": 0.95,
            "double": True,
            "reward_clip": 0.0,
            "target_period": 200,
            "learning_rate": 1e-3,
            "optimizer_eps": 1e-8,
            "batch_size": 64,
            "capacity": 20_000,
            "learn_start": 500,
            "epsilon_final": 0.5,
            "epsilon_steps": 5_000,
        },
        run={"steps": 60_000},
    ),
    "memory": Preset(
        "chosen here for recalling a cue; no paper's numbers",
        agent={
            "core": "lstm",
            "core_width": 64,
            "double": True,
            "reward_clip": 0.0,
            "target_period": 2_000,
            "learning_rate": 1e-3,
            "optimizer_eps": 1e-8,
            "max_grad_norm": 10.0,
            "replay_ratio": 0.0625,
            "capacity": 50_000,
            "learn_start": 2_000,
            "epsilon_final": 0.05,
            "epsilon_steps": 50_000,
        },
        env={"num_envs": 16},
        run={"steps": 150_000},
    ),
    "ntm": Preset(
        "chosen here for the algorithmic tasks, answered by symbols: whole sequences, discount 0; no paper's numbers",
        agent={
            "torso": "none",
            "core": "lstm",
            "bptt": 0,
            "gamma": 0.0,
            "reward_clip": 0.0,
            "target_period": 0,
            "learning_rate": 1e-3,
            "optimizer_eps": 1e-8,
            "max_grad_norm": 10.0,
            "replay_ratio": 0.0625,
            "capacity": 200_000,
            "learn_start": 5_000,
            "epsilon_final": 0.02,
            "epsilon_steps": 100_000,
        },
        env={"num_envs": 16, "options": "actions=symbol"},
        run={"steps": 600_000},
    ),
    "tape": Preset(
        "chosen here for the tapes, their moves and symbols as one action; no paper's numbers",
        agent={
            "torso": "none",
            "core": "lstm",
            "core_width": 64,
            "gamma": 0.95,
            "double": True,
            "reward_clip": 0.0,
            "target_period": 2_000,
            "learning_rate": 1e-3,
            "optimizer_eps": 1e-8,
            "max_grad_norm": 10.0,
            "replay_ratio": 0.0625,
            "capacity": 100_000,
            "learn_start": 5_000,
            "epsilon_final": 0.01,
            "epsilon_steps": 100_000,
        },
        env={"num_envs": 16, "options": "actions=flat", "curriculum": "promotion"},
        run={"steps": 1_000_000},
    ),
}
DEFAULT_PRESETS = default_presets("adam")


def loss(q: nn.Module, q_target: nn.Module, batch: Transition, c: Config) -> tuple[Tensor, Metrics]:
    """The loss over a batch, a scalar; with what is worth watching."""
    with torch.no_grad():
        q_t = q_target(batch.s_t)
        q_select_t = q(batch.s_t) if c.double else None
    q_tm1 = q(batch.s_tm1)
    td = q_learning(q_tm1, batch.a_tm1, batch.r_t, batch.discount_t, q_t, q_select_t)  # (8)
    value = td_loss(td, batch.weight, huber=c.huber)
    return value, {"losses/td_loss": value.detach(), "losses/q_values": q_tm1.detach().mean()}


def sequence_loss(q: QNetwork, q_target: QNetwork, batch: Sequence, c: Config) -> tuple[Tensor, Metrics]:
    """The same over sequences: both networks are unrolled from the stored memory, the gradient through the rows after burn-in."""
    rows = len(batch.a_tm1)
    burn_in = len(batch.obs) - rows - c.n_step
    obs, first = batch.obs[burn_in:], batch.first[burn_in:]

    def remembered(network: QNetwork) -> State:
        return network.unroll(batch.obs[:burn_in], batch.first[:burn_in], batch.state)[1] if burn_in else batch.state

    with torch.no_grad():
        state, q_later = remembered(q), q_target.unroll(obs, first, remembered(q_target))[0]
    q_all, _ = q.unroll(obs, first, state)  # [L + n, B, A]
    later = (torch.arange(rows, device=obs.device)[:, None] + batch.steps)[..., None].expand(-1, -1, q_all.shape[-1])
    select = q_all.detach().gather(0, later).flatten(0, 1) if c.double else None
    q_t, q_tm1 = q_later.gather(0, later).flatten(0, 1), q_all[:rows].flatten(0, 1)
    td = q_learning(q_tm1, batch.a_tm1.flatten(), batch.r_t.flatten(), batch.discount_t.flatten(), q_t, select)
    value = td_loss(td, batch.weight.flatten(), huber=c.huber)
    return value, {"losses/td_loss": value.detach(), "losses/q_values": q_tm1.detach().mean()}


class Agent:
    stochastic, on_policy = False, False

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.num_actions = spec.discrete_actions("dqn")
        named = config.replay_device
        where = self.device if named == "auto" else torch.device(choose_device(named, "--agent.replay-device"))
        with seeds.branch("init").initialising():
            network = QNetwork(  # (2)
                spec, self.num_actions, config.torso, config.average_pool, config.core, config.core_width, config.core_options
            )
        self.network: QNetwork = network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recurrent = config.core != "none"
        self.whole = self.recurrent and not config.bptt
        if self.whole and not 0 < spec.episode_rows <= OLDEST:
            raise ConfigError(
                f"the episodes of {spec.env_id} don't begin and end together within {OLDEST} rows, so none is drawn whole",
                where="--agent.bptt",
                fix="choose a number of rows",
            )
        self.length, self.burn_in = (spec.episode_rows, 0) if self.whole else (config.bptt, config.burn_in)
        self.rows = config.n_step  # a sample reaches so far
        if self.recurrent:
            self.rows += self.burn_in + self.length - 1 + (spec.episode_rows if self.whole else 0)
        kept = () if self.whole else self.initial_state(spec.num_envs)
        self.replay = Ring(config.capacity, spec, where, self.rows, state=kept)  # (1)
        self.replay_rng = seeds.branch("replay").torch(where)
        self.target = copy.deepcopy(self.network).requires_grad_(False) if config.target_period else self.network
        self.descent = Descent(self._optimizer(), config.max_grad_norm)
        self.objective = Objective(config.gamma, config.reward_clip, config.life_loss and spec.has_lives)
        self.steps = self.updates = self.copies = 0

    def _optimizer(self) -> torch.optim.Optimizer:
        c, parameters = self.config, list(self.network.parameters())
        if c.optimizer == "adam":
            return adam(parameters, c.learning_rate, c.optimizer_eps)
        return RMSProp(parameters, c.learning_rate, eps=c.optimizer_eps)

    @property
    def epsilon(self) -> float:
        c = self.config
        return linear_schedule(self.steps, c.epsilon_initial, c.epsilon_final, c.learn_start, c.epsilon_steps)

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A].  Each environment throws a coin of its own."""
        out, state = self.network.unroll(ts.obs[None], ts.first[None], state)
        q = out[0]
        action = q.argmax(-1)
        if explore:  # (4)
            random = torch.randint(self.num_actions, action.shape, device=self.device, generator=generator)
            coin = torch.rand(action.shape, device=self.device, generator=generator) < self.epsilon
            action = torch.where(coin, random, action)
        return Act(action, state, {"q_values": q})

    def observe(self, step: Step) -> None:
        self.replay.append(step)  # (6)
        self.steps += self.spec.num_envs

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        c, metrics = self.config, {}
        due = int((self.steps - c.learn_start) * c.replay_ratio)
        if self.replay.size < min(c.learn_start, self.replay.capacity):  # also after a resume without its replay:
            self.updates = max(self.updates, due)  # what was due meanwhile is forgiven
        if due <= self.updates or not self.replay.ready(self.rows):
            return {}
        while self.updates < due:
            metrics = self._update(self._sample())  # (7)
            self.updates += 1
        if c.target_period and self.steps // c.target_period > self.copies:  # (10)
            self.target.load_state_dict(self.network.state_dict())
            self.copies = self.steps // c.target_period
        return metrics

    def _sample(self) -> Transition | Sequence:
        c = self.config
        how: dict[str, Any] = {"n_step": c.n_step, "gamma": c.gamma, "reward_clip": c.reward_clip, "life_loss": c.life_loss}
        batch: Transition | Sequence
        if self.recurrent:
            batch = self.replay.sequences(
                c.batch_size, self.replay_rng, burn_in=self.burn_in, length=self.length, whole=self.whole, **how
            )
            if self.whole:
                batch = batch._replace(state=self.initial_state(c.batch_size))
        else:
            batch = self.replay.sample(c.batch_size, self.replay_rng, **how)
        if self.replay.device == self.device:
            return batch
        return map_state(lambda x: x.to(self.device, non_blocking=self.device.type == "cuda"), batch)

    def _update(self, batch: Transition | Sequence) -> Metrics:
        if isinstance(batch, Sequence):
            value, metrics = sequence_loss(self.network, self.target, batch, self.config)
        else:
            value, metrics = loss(self.network, self.target, batch, self.config)
        return metrics | self.descent(value)  # (9)

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        return {
            "charts/epsilon": self.epsilon,
            "charts/learning_rate": self.config.learning_rate,
            "charts/updates": self.updates,
            "health/replay_fill": self.replay.size / self.replay.capacity,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.descent.state_dict(),
            "replay_rng": self.replay_rng.get_state(),
            "steps": self.steps,
            "updates": self.updates,
            "copies": self.copies,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.descent.load_state_dict(state["optimizer"])
            self.replay_rng.set_state(state["replay_rng"])
        self.steps, self.updates, self.copies = state["steps"], state["updates"], state["copies"]
        due, c = int((self.steps - self.config.learn_start) * self.config.replay_ratio), self.config
        if due - self.updates > (self.rows + self.spec.frame_stack + 1) * self.spec.num_envs * c.replay_ratio + 1:
            raise ValueError(f"{self.updates:,} updates are too few for {self.steps:,} steps")
