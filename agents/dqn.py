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
target network (2013), the loss of a life as an end (2015), prioritised replay (Schaul et al. 2016), dueling streams (Wang et al.
2016), noisy layers (Fortunato et al. 2018), Munchausen targets (Vieillard et al. 2020), in whose (8)

    y = r + alpha [tau log pi(a|s)] clipped to [-1, 0] + gamma sum_a' pi(a'|s') [Q(s', a') - tau log pi(a'|s')],  pi = softmax(Q / tau)

all Q are the target network's; and memory (DRQN, Hausknecht & Stone 2015): then (7) samples sequences, whose first rows only bring
the stored memory up to date (Kapturowski et al. 2019, section 3).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep
from arcturus.config import Bounds, Preset, default_presets
from arcturus.envs.frames import OLDEST
from arcturus.errors import ConfigError
from arcturus.losses import munchausen_bonus, q_learning, soft_value, td_loss
from arcturus.networks import QNetwork
from arcturus.optimizers import Descent, RMSProp, adam
from arcturus.policies import epsilon_greedy
from arcturus.replay.experience import EpsilonConfig, Experience
from arcturus.replay.records import Drawn, Sequence, Transition
from arcturus.seeding import Seeds
from arcturus.speed import Captured, place
from arcturus.value_agent import CLASSIC, CPU_SMALL, MDP, check_munchausen


@dataclass(frozen=True)
class Config(EpsilonConfig):
    torso: str = "auto"
    """Network: mnih2013, nature, impala, small, mlp, auto by the observation, or package.module.Name of your own."""
    average_pool: bool = False
    """Average-pool the IMPALA torso's last feature maps."""
    dueling: bool = False
    """State-value and advantages in streams of their own (Wang et al. 2016)."""
    noisy: Annotated[float, Bounds(0, 10)] = 0.0
    """sigma_0 of noisy layers in the head, which explore by themselves (Fortunato et al. 2018); 0: none."""
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
    double: bool = False
    """Choose the bootstrap action with the online network."""
    munchausen: Annotated[float, Bounds(0, 1)] = 0.0
    """alpha: how much of log pi is added to the reward, and the bootstrap soft (Vieillard et al. 2020: 0.9); 0: not."""
    temperature: Annotated[float, Bounds(1e-4, 100)] = 0.03
    """tau of Munchausen's policy softmax(Q / tau)."""
    huber: bool = False
    """Clip the TD error's gradient to [-1, 1]."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or the centred RMSProp of 2015."""


SUMMED_EPS = 0.01 / 32**2  # RMSProp's 0.01 of 2015 stands beside the square of a sum over 32, ours beside that of their mean
QUICK_MEMORY = {"reward_clip": 0.0, "learning_rate": 1e-3, "optimizer_eps": 1e-8, "max_grad_norm": 10.0, "replay_ratio": 0.0625}
PRESETS = {
    "mnih2013": Preset(
        "Mnih et al. 2013, section 5: batch 32, epsilon 1 to 0.1 over 1M, 1M replay; RMSProp's numbers from Mnih et al. 2015, its 0.01 "
        "as it is beside a batch's mean; protocol nature",
        agent={
            "torso": "mnih2013",
            "target_period": 0,
            "optimizer": "rmsprop",
            "learning_rate": 2.5e-4,
            "optimizer_eps": SUMMED_EPS,
            "replay_ratio": 1.0,
            "learn_start": 50_000,
            "epsilon_final": 0.1,
            "epsilon_steps": 1_000_000,
        },
        env={"protocol": "nature"},
        run={"steps": 10_000_000},
    ),
    "nature": Preset(
        "Mnih et al. 2015, extended data table 1, in agent steps as the authors' code and DQN Zoo read it; RMSProp's 0.01 as it is beside "
        "a batch's mean; protocol nature, its 5 minutes in training as well",
        agent={
            "torso": "nature",
            "huber": True,
            "target_period": 10_000,
            "life_loss": True,
            "optimizer": "rmsprop",
            "learning_rate": 2.5e-4,
            "optimizer_eps": SUMMED_EPS,
            "learn_start": 50_000,
            "epsilon_final": 0.1,
            "epsilon_steps": 1_000_000,
        },
        env={"protocol": "nature"},
        run={"steps": 50_000_000},
    ),
    "adam": Preset(
        "Dopamine's DQN (Castro et al. 2018) with Adam of Hessel et al. 2018 and squared loss (Obando-Ceron & Castro 2021), here half the "
        "square; a fifth of its steps; protocol v5",
        agent={"torso": "nature"},
        run={"steps": 10_000_000},
    ),
    "prioritised": Preset(
        "van Hasselt et al. 2016, Wang et al. 2016 and Schaul et al. 2016 together, schedules as in DQN Zoo's prioritized, with Adam of "
        "Hessel et al. 2018; protocol noop",
        agent={
            "torso": "nature",
            "double": True,
            "dueling": True,
            "huber": True,
            "prioritised": True,
            "priority_exponent": 0.6,
            "max_grad_norm": 10.0,
            "life_loss": True,
            "target_period": 30_000,
            "learn_start": 50_000,
            "epsilon_steps": 1_000_000,
        },
        env={"protocol": "noop"},
        run={"steps": 50_000_000},
    ),
    "munchausen": Preset(
        "Vieillard et al. 2020, M-DQN as in the authors' code: Dopamine's DQN with Adam 5e-5, alpha 0.9, tau 0.03, Huber's loss; "
        "protocol v5",
        agent={"torso": "nature", "munchausen": 0.9, "huber": True, "learning_rate": 5e-5, "optimizer_eps": 3.125e-4},
        run={"steps": 50_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso, double, 3-step; no paper's numbers",
        agent=CPU_SMALL | {"huber": True},
        env={"frame_size": 42, "num_envs": 8},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1 and tasks of its size; no paper's numbers",
        agent=CLASSIC | {"huber": True, "batch_size": 128, "replay_ratio": 0.5},
        run={"steps": 50_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known; no paper's numbers",
        agent=MDP | {"double": True},
        run={"steps": 60_000},
    ),
    "memory": Preset(
        "chosen here for recalling a cue; no paper's numbers",
        agent=QUICK_MEMORY
        | {
            "core": "lstm",
            "core_width": 64,
            "double": True,
            "target_period": 2_000,
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
        agent=QUICK_MEMORY
        | {
            "torso": "none",
            "core": "lstm",
            "bptt": 0,
            "gamma": 0.0,
            "target_period": 0,
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
        agent=QUICK_MEMORY
        | {
            "torso": "none",
            "core": "lstm",
            "core_width": 64,
            "gamma": 0.95,
            "double": True,
            "target_period": 2_000,
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


LOWEST = -1.0  # what Munchausen's log-probability is clipped to


def loss(
    q: QNetwork, q_target: QNetwork, batch: Transition, c: Config, noise: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Metrics]:
    """The loss over a batch, a scalar; its TD errors [B]; and what is worth watching.  noise: for noisy layers."""
    with torch.no_grad():
        q_t = q_target(batch.s_t, noise)
        q_select_t = q(batch.s_t, noise) if c.double else None
    q_tm1 = q(batch.s_tm1, noise)
    if c.munchausen:
        with torch.no_grad():
            log_pi_tm1, _ = soft_value(q_target(batch.s_tm1, noise), c.temperature)
            _, v_t = soft_value(q_t, c.temperature)
        r_t = batch.r_t + munchausen_bonus(log_pi_tm1, batch.a_tm1, c.munchausen, c.temperature, LOWEST)
        td = r_t + batch.discount_t * v_t - q_tm1.gather(-1, batch.a_tm1[:, None]).squeeze(-1)
    else:
        td = q_learning(q_tm1, batch.a_tm1, batch.r_t, batch.discount_t, q_t, q_select_t)  # (8)
    value = td_loss(td, batch.weight, huber=c.huber)
    return value, td.detach(), {"losses/td_loss": value.detach(), "losses/q_values": q_tm1.detach().mean()}


def sequence_loss(
    q: QNetwork, q_target: QNetwork, batch: Sequence, c: Config, noise: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Metrics]:
    """The same over sequences: both networks are unrolled from the stored memory, the gradient through the rows after burn-in."""
    rows = len(batch.a_tm1)
    burn_in = len(batch.obs) - rows - c.n_step
    obs, first = batch.obs[burn_in:], batch.first[burn_in:]

    def remembered(network: QNetwork) -> State:
        return network.unroll(batch.obs[:burn_in], batch.first[:burn_in], batch.state)[1] if burn_in else batch.state

    with torch.no_grad():
        state, q_later = remembered(q), q_target.unroll(obs, first, remembered(q_target), noise)[0]
    q_all, _ = q.unroll(obs, first, state, noise)  # [L + n, B, A]
    later = (torch.arange(rows, device=obs.device)[:, None] + batch.steps)[..., None].expand(-1, -1, q_all.shape[-1])
    select = q_all.detach().gather(0, later).flatten(0, 1) if c.double else None
    q_t, q_tm1 = q_later.gather(0, later).flatten(0, 1), q_all[:rows].flatten(0, 1)
    td = q_learning(q_tm1, batch.a_tm1.flatten(), batch.r_t.flatten(), batch.discount_t.flatten(), q_t, select)
    value = td_loss(td, batch.weight.flatten(), huber=c.huber)
    return value, td.detach(), {"losses/td_loss": value.detach(), "losses/q_values": q_tm1.detach().mean()}


def check(config: Config) -> None:
    """ConfigError for switches that contradict each other."""
    if config.core != "none" and (config.prioritised or config.munchausen):
        raise ConfigError(
            "an agent with memory learns from sequences drawn uniformly, and without Munchausen targets",
            where="--agent.core",
            fix="choose --agent.core none, or neither --agent.prioritised nor --agent.munchausen",
        )
    check_munchausen(config)


class Agent:
    stochastic, on_policy = False, False

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        check(config)
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.num_actions = spec.discrete_actions("dqn")
        with seeds.branch("init").initialising():
            network = QNetwork(  # (2)
                spec,
                self.num_actions,
                config.torso,
                config.average_pool,
                config.core,
                config.core_width,
                config.core_options,
                dueling=config.dueling,
                noisy=config.noisy,
            )
        self.network: QNetwork = place(network, self.device)
        self.recurrent = config.core != "none"
        self.whole = self.recurrent and not config.bptt
        if self.whole and not 0 < spec.episode_rows <= OLDEST:
            raise ConfigError(
                f"the episodes of {spec.env_id} don't begin and end together within {OLDEST} rows, so none is drawn whole",
                where="--agent.bptt",
                fix="choose a number of rows, such as 16",
            )
        self.length, self.burn_in = (spec.episode_rows, 0) if self.whole else (config.bptt, config.burn_in)
        reach = config.n_step
        if self.recurrent:
            reach += self.burn_in + self.length - 1 + (spec.episode_rows if self.whole else 0)
        kept = () if self.whole else self.initial_state(spec.num_envs)
        self.experience = Experience(config, spec, self.device, seeds, reach=reach, state=kept)  # (1)
        self.replay = self.experience.ring
        self.noise = seeds.branch("noise").torch(self.device) if config.noisy else None
        self.target = copy.deepcopy(self.network).requires_grad_(False) if config.target_period else self.network
        self.descent = Descent(self._optimizer(), config.max_grad_norm)
        self.update = Captured(self._update, self.device, [self.noise], partial(self.descent.remember, self.network, self.target))
        self.objective = Objective(config.gamma, config.reward_clip, config.life_loss and spec.has_lives)

    def _optimizer(self) -> torch.optim.Optimizer:
        c, parameters = self.config, list(self.network.parameters())
        if c.optimizer == "adam":
            return adam(parameters, c.learning_rate, c.optimizer_eps)
        return RMSProp(parameters, c.learning_rate, eps=c.optimizer_eps)

    @property
    def steps(self) -> int:
        return self.experience.steps

    @property
    def updates(self) -> int:
        return self.experience.updates

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A].  Noisy layers have noise only where it explores."""
        network, noise = self.network, generator if explore and self.noise is not None else None
        out, state = (
            network.now(ts.obs[None], ts.first[None], state)
            if noise is None
            else network.unroll(ts.obs[None], ts.first[None], state, noise)
        )
        q = out[0]
        action = epsilon_greedy(q, self.config.epsilon(self.steps), generator) if explore else q.argmax(-1)  # (4)
        return Act(action, state, {"q_values": q})

    def observe(self, step: Step) -> None:
        self.experience.append(step)  # (6)

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        metrics: Metrics = {}
        while self.experience.update_due():
            metrics, td = self.update(*self._samples())
            self.experience.set_priorities(td)
        if metrics and self.experience.copy_due():  # (10), behind an update
            self.target.load_state_dict(self.network.state_dict())
        return self.update.latest(metrics)

    def _samples(self) -> tuple[Transition | Drawn | Sequence, ...]:  # (7)
        if not self.recurrent:
            return self.experience.samples()
        batch = self.experience.sample_sequences(self.burn_in, self.length, self.whole)
        return (batch._replace(state=self.initial_state(self.config.batch_size)) if self.whole else batch,)

    def _update(self, *batches: Transition | Drawn | Sequence) -> tuple[Metrics, Tensor]:
        """One gradient step on each; what the last of them says, and its TD errors [B], of sequences [L B]."""
        for given in batches:
            value, td, metrics = self.loss(given if isinstance(given, Sequence) else self.experience.gathered(given))
            metrics |= self.descent(value)  # (9)
        return metrics, td

    def loss(self, batch: Transition | Sequence) -> tuple[Tensor, Tensor, Metrics]:
        """A scalar; its TD errors [B], of sequences [L B], which are the priorities; what is worth watching.  A subclass may have its
        own."""
        if isinstance(batch, Sequence):
            return sequence_loss(self.network, self.target, batch, self.config, self.noise)
        return loss(self.network, self.target, batch, self.config, self.noise)

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        own = {"charts/epsilon": self.config.epsilon(self.steps), "charts/learning_rate": self.config.learning_rate}
        return own | self.experience.scalars()

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.descent.state_dict(),
            **({} if self.noise is None else {"noise_rng": self.noise.get_state()}),
            **self.experience.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.descent.load_state_dict(state["optimizer"])
            if self.noise is not None:
                self.noise.set_state(state["noise_rng"])
        self.experience.load_state_dict(state)
