"""REINFORCE (Williams 1992), and the ladder of variance reduction that is taught with it; with or without memory.

    grad J = E_tau[ R(tau) grad log p(tau) ],   log p(tau) = log p(s_0) + sum_t log pi(a_t|s_t) + log p(s_{t+1}|s_t, a_t)

The process's own probabilities stand in p(tau) and not in its gradient, so playing is all that the estimate needs:

    (a) R(tau) = sum_t r_t                      the whole trajectory's return beside every action      reward_to_go: False
    (b) G_t = sum_{k >= t} r_k                  what came before an action isn't its merit              reward_to_go: True
    (c) G_t = sum_{k >= t} gamma^{k-t} r_k      what comes much later hardly is                         gamma < 1
    (d) G_t - b, G_t - b(s_t)                   what was to be expected isn't                           baseline: average, learned

(a), (b) and (d) are unbiased; (c) trades bias for variance.  An update is made of whole episodes: the first K to begin after the
last update, however long they take (taking the first K to *end* would over-count short ones).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.api import Act, EnvSpec, Metrics, Objective, State, Step, TimeStep, map_state
from arcturus.config import Bounds, Preset, default_presets
from arcturus.errors import ConfigError, TrainingFailed
from arcturus.losses import explained_variance, lambda_returns, masked_mean, normalised
from arcturus.networks import ActorCritic
from arcturus.optimizers import Descent, adam
from arcturus.replay.records import Trajectory
from arcturus.replay.rollout import Rollout
from arcturus.seeding import Seeds
from arcturus.speed import place

EMPTY_LIMIT = 10  # rollouts in a row without an episode's end, that end a run


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
    """Rows that gradients flow back through memory; 0: the whole episode."""
    shared: bool = False
    """Policy and learned baseline on one torso and memory."""
    episodes: Annotated[int, Bounds(1, 10_000)] = 8
    """K: whole episodes an update is made of."""
    horizon: Annotated[int, Bounds(2, 1_000_000)] = 2_048
    """Rows kept at most; an episode that isn't over by then is broken off: bootstrapped by a learned baseline; without one dropped,
    which favours short episodes."""
    reward_to_go: bool = True
    """(b): an action answers for what comes after it only."""
    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """(c): discount per agent step; 1: none."""
    baseline: Literal["none", "average", "learned"] = "learned"
    """(d): nothing, a moving average of returns, or a value function."""
    average_rate: Annotated[float, Bounds(0, 1)] = 0.1
    """How fast the moving average follows."""
    normalise: bool = False
    """Returns less baseline to mean 0 and standard deviation 1 over the update's rows."""
    baseline_steps: Annotated[int, Bounds(1, 1_000)] = 1
    """Gradient steps of a learned baseline at each update (Spinning Up's VPG: 80); all but the first move it alone, with the torso it
    shares."""
    baseline_first: Annotated[int, Bounds(0)] = 0
    """Updates at the beginning that move the baseline alone: by the returns of a baseline that knows nothing yet, a policy drifts."""
    baseline_cost: Annotated[float, Bounds(0)] = 0.5
    """Weight of the baseline's squared error, a mean over rows."""
    entropy_cost: Annotated[float, Bounds(0)] = 0.0
    """Weight of the policy's entropy (Williams & Peng 1991)."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 1e-3
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-8
    """Adam's epsilon; one above the gradient's size makes steps proportional to it, and so to the rewards: small ones want a smaller one."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.0
    """Clip the gradient's norm; 0: don't."""
    chunk: Annotated[int, Bounds(1)] = 1_024
    """Rows whose gradients are computed at once; they add up to the same update."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Learn from rewards clipped to [-x, x]; 0: raw."""
    life_loss: bool = False
    """Losing a life ends the return (the game goes on)."""
    bootstrap_truncated: bool = True
    """A learned baseline stands for what a time limit cut off; False: as published, a time limit is an end."""


PRESETS = {
    "atari": Preset(
        "no published numbers; network as Mnih et al. 2016, learned baseline and entropy as in their actor-critic",
        agent={
            "torso": "nature",
            "shared": True,
            "episodes": 16,
            "horizon": 4_096,
            "normalise": True,
            "entropy_cost": 0.01,
            "learning_rate": 2.5e-4,
            "max_grad_norm": 0.5,
        },
        env={"num_envs": 16},
        run={"steps": 10_000_000},
    ),
    "cpu-small": Preset(
        "chosen here for two CPU cores: 42x42 frames and the small torso; no paper's numbers",
        agent={
            "torso": "small",
            "shared": True,
            "episodes": 8,
            "horizon": 4_096,
            "normalise": True,
            "entropy_cost": 0.01,
            "learning_rate": 1e-3,
            "max_grad_norm": 0.5,
        },
        env={"frame_size": 42, "num_envs": 8},
        run={"steps": 1_000_000},
    ),
    "classic": Preset(
        "chosen here for CartPole-v1, Acrobot-v1 and tasks of their size, on other seeds than the tests'; no paper's numbers",
        agent={
            "reward_clip": 0.0,
            "gamma": 0.98,
            "episodes": 4,
            "learning_rate": 2e-3,
            "optimizer_eps": 1.0,
            "baseline_steps": 30,
            "baseline_first": 20,
            "entropy_cost": 0.01,
        },
        env={"num_envs": 4},
        run={"steps": 300_000},
    ),
    "mdp": Preset(
        "chosen here for the tabular processes, whose optimum is known; no paper's numbers",
        agent={"reward_clip": 0.0, "gamma": 0.95, "episodes": 16, "horizon": 512, "learning_rate": 5e-3, "entropy_cost": 0.001},
        run={"steps": 100_000},
    ),
    "memory": Preset(
        "chosen here for recalling a cue; no paper's numbers",
        agent={
            "core": "lstm",
            "core_width": 64,
            "shared": True,
            "episodes": 32,
            "horizon": 512,
            "normalise": True,
            "learning_rate": 2e-3,
            "entropy_cost": 0.01,
            "max_grad_norm": 1.0,
            "reward_clip": 0.0,
        },
        env={"num_envs": 16},
        run={"steps": 300_000},
    ),
    "ntm": Preset(
        "chosen here for the algorithmic tasks by reward: discount 0, a Turing machine; no paper's numbers",
        agent={
            "torso": "none",
            "core": "ntm",
            "core_width": 100,
            "core_options": "controller=feedforward,slots=32,word=20",
            "shared": True,
            "episodes": 64,
            "horizon": 256,
            "gamma": 0.0,
            "chunk": 4_096,
            "learning_rate": 2e-3,
            "entropy_cost": 0.02,
            "max_grad_norm": 10.0,
            "reward_clip": 0.0,
        },
        env={"num_envs": 64},
        run={"steps": 1_500_000},
    ),
    "tape": Preset(
        "chosen here for the tapes, longer as they are mastered; no paper's numbers",
        agent={
            "torso": "none",
            "core": "lstm",
            "core_width": 64,
            "shared": True,
            "episodes": 32,
            "horizon": 256,
            "gamma": 0.95,
            "normalise": True,
            "chunk": 4_096,
            "learning_rate": 3e-3,
            "entropy_cost": 0.01,
            "max_grad_norm": 1.0,
            "reward_clip": 0.0,
        },
        env={"num_envs": 32, "curriculum": "promotion"},
        run={"steps": 2_000_000},
    ),
}
DEFAULT_PRESETS = default_presets("atari")


def returns(rows: Trajectory, value: Tensor, c: Config) -> Tensor:
    """(a)-(c): what stands beside grad log pi(a_t|s_t), [T, N].  value [T, N]: of rows t + 1, where a return is bootstrapped (0
    without a learned baseline)."""
    discount = rows.discounts(c.gamma, bootstrap_truncated=c.bootstrap_truncated, life_loss=c.life_loss)
    G = lambda_returns(rows.rewards(c.reward_clip), discount, value, rows.last, 1.0)
    if c.reward_to_go:
        return G
    whole = [G[0]]  # the return from the first row of the episode, at all of its rows
    for G_t, first in zip(G[1:], rows.first[1:], strict=True):
        whole.append(torch.where(first, G_t, whole[-1]))
    return torch.stack(whole)


def policy_loss(log_prob: Tensor, weight: Tensor, decides: Tensor, episodes: int) -> Tensor:
    """A scalar whose gradient is minus the estimate of grad J: the mean over episodes of the sum over their rows of
    weight * log pi(a_t|s_t).  All [...]; decides: the rows that count."""
    return -torch.where(decides, weight * log_prob, 0).sum() / episodes


class Agent:
    stochastic, on_policy = True, True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        c, self.learned = config, config.baseline == "learned"
        if c.life_loss and not c.reward_to_go:
            raise ConfigError(
                "the whole trajectory's return can't end at a lost life", where="--agent.life-loss", fix="use reward_to_go True"
            )
        if spec.episode_rows > c.horizon:  # of the longest the last answers would never be learnt from
            raise ConfigError(
                f"the longest episodes of {spec.env_id} have {spec.episode_rows:,} rows, and {c.horizon:,} are kept",
                where="--agent.horizon",
                fix=f"use {spec.episode_rows:,} or more",
            )
        with seeds.branch("init").initialising():
            network = ActorCritic(
                spec,
                torso=c.torso,
                core=c.core,
                core_width=c.core_width,
                core_options=c.core_options,
                shared=c.shared,
                value=self.learned,
            )
        self.network: ActorCritic = place(network, self.device)
        self.descent = Descent(adam(self.network.parameters(), c.learning_rate, c.optimizer_eps), c.max_grad_norm)
        self.rollout = Rollout(c.horizon, spec, self.device, extras={"value": ()} if self.learned else {})
        self.average = torch.zeros((), device=self.device)
        self.counted = torch.zeros((c.horizon, spec.num_envs), dtype=torch.bool, device=self.device)  # rows of the K episodes
        self.open = torch.zeros(spec.num_envs, dtype=torch.bool, device=self.device)  # environments that are playing one of them
        self.begun = 0  # how many of the K have begun
        self.empty = 0  # rollouts in a row in which none ended
        self.objective = Objective(c.gamma, c.reward_clip, c.life_loss and spec.has_lives) if self.learned else None
        self.steps = self.updates = self.used = 0

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        return self.network.initial_state(n)

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: log_prob [N], logits [N, L]; value [N] with a learned baseline."""
        return self.network.act(ts, state, explore, generator)

    def observe(self, step: Step) -> None:
        ts = step.timestep
        begins = ts.first & (ts.first.cumsum(0) <= self.config.episodes - self.begun)
        self.open |= begins
        self.begun += int(begins.sum())
        if not self.learned:  # an episode that a checkpoint cuts is lost, and another may begin in its place
            self.begun -= int((self.open & ts.cut).sum())
        self.counted[self.rollout.count] = self.open
        self.open &= ~ts.last
        self.rollout.append(step)
        self.steps += self.spec.num_envs

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        assert ts is not None
        goes_on = self.open & ~(ts.last if self.learned else ts.terminated | ts.truncated)
        over = self.begun == self.config.episodes and not bool(goes_on.any())
        if not (over or self.rollout.full):
            return {}
        metrics = self._update(self.rollout.read(ts), ts, state)
        self.empty = 0 if metrics else self.empty + 1
        if self.empty >= EMPTY_LIMIT:
            raise TrainingFailed(
                f"no episode that began within {self.config.horizon} rows ended within them, {self.empty} times in a row",
                where="--agent.horizon",
                fix="make it as long as two episodes, or bootstrap with --agent.baseline learned",
            )
        self.rollout.restart()
        self.open.zero_()
        self.begun = 0
        return metrics

    def _update(self, rows: Trajectory, ts: TimeStep, state: State) -> Metrics:
        c = self.config
        inside = self.counted[: len(rows.first)].clone()  # rows of the K episodes, but for the void ones that close them
        inside[1:] &= ~rows.last[:-1]
        v = next_v = torch.zeros_like(rows.reward)
        if self.learned:
            v = self.rollout.extras["value"][: len(v)]
            next_v = self.network.next_values(v, ts, state)
        else:
            inside &= whole(rows)
        counts, episodes = inside & rows.decides, int((inside & rows.first).sum())
        if not episodes:
            return {}
        G = returns(rows, next_v, c)
        b = v if self.learned else self.average if c.baseline == "average" else torch.zeros_like(v)
        weight = normalised(G - b, counts) if c.normalise else G - b  # (d)
        self.average.lerp_(masked_mean(G, counts), c.average_rate if self.updates else 1.0)
        used = int(counts.sum())
        parts: list[Tensor] = []  # policy loss and entropy of each piece
        alone = self.learned and self.updates < c.baseline_first

        def losses() -> Iterator[Tensor]:
            for t, n, memory, real in self._pieces(inside, counts):
                logits, value, after = self.network.unroll(self.rollout.obs(t, n), rows.first[t, n], memory[0])
                memory[0] = map_state(Tensor.detach, after)
                entropy = torch.where(real, self.network.actions.entropy(logits), 0).sum()
                log_prob = self.network.actions.log_prob(logits, rows.action[t, n])
                policy = self.loss(log_prob, weight[t, n], real, episodes)
                parts.append(torch.stack([policy.detach(), entropy.detach() / used]))
                error = torch.where(real, (G[t, n] - value).square(), 0).sum() / used if self.learned else torch.zeros(())
                baseline = c.baseline_cost * error
                yield baseline if alone else policy + baseline - c.entropy_cost * entropy / episodes

        self.updates += 1
        self.used += used
        metrics = self.descent(losses())
        for _ in range(c.baseline_steps - 1 if self.learned else 0):
            self.descent(self._baseline_losses(rows, G, inside, counts))
        if self.learned:
            metrics["losses/explained_variance"] = explained_variance(v, G, counts)
            metrics["losses/value_loss"] = masked_mean((G - v).square(), counts)
        policy, entropy = torch.stack(parts).sum(0)
        return metrics | {
            "losses/policy_loss": policy,
            "losses/entropy": entropy,
            "charts/update_episodes": torch.tensor(float(episodes)),
        }

    def loss(self, log_prob: Tensor, weight: Tensor, decides: Tensor, episodes: int) -> Tensor:
        """The policy's, a scalar that sums over pieces, of rows as policy_loss takes them.  A subclass may have its own."""
        return policy_loss(log_prob, weight, decides, episodes)

    def _baseline_losses(self, rows: Trajectory, G: Tensor, inside: Tensor, counts: Tensor) -> Iterator[Tensor]:
        """The squared error of each piece, which add up to the mean over rows; the policy's own parameters get no gradient."""
        for t, n, memory, real in self._pieces(inside, counts):
            _, value, after = self.network.unroll(self.rollout.obs(t, n), rows.first[t, n], memory[0])
            memory[0] = map_state(Tensor.detach, after)
            yield self.config.baseline_cost * torch.where(real, (G[t, n] - value).square(), 0).sum() / counts.sum()

    def _pieces(self, inside: Tensor, counts: Tensor) -> Iterator[tuple[Tensor, Tensor, list[State], Tensor]]:
        """The rows inside the episodes, [T, N] bool, in pieces: rows t [L, B], environments n [L, B], memory before them (a list of
        one state [B, ...]), and which of them count [L, B].

        Without memory single rows, L = 1.  With it whole episodes side by side, `bptt` rows at a time, the longest first, so that
        those still going on are always the first few; memory is handed from piece to piece.
        """
        c = self.config
        if c.core == "none":
            for part in counts.nonzero().split(c.chunk):
                t, n = part[None, :, 0], part[None, :, 1]
                yield t, n, [self.initial_state(len(part))], torch.ones_like(t, dtype=torch.bool)
            return
        before = torch.cat([torch.zeros_like(inside[:1]), inside[:-1]])
        begin = (inside & ~before).T.nonzero()  # [K, 2]: environment, row; in order of both, as the ends are
        after = torch.cat([inside[1:], torch.zeros_like(inside[:1])])
        lengths = (inside & ~after).T.nonzero()[:, 1] - begin[:, 1] + 1
        order = lengths.argsort(descending=True, stable=True)
        begin, lengths = begin[order], lengths[order]
        longest = int(lengths[0])
        L = min(c.bptt or longest, longest)
        width = max(c.chunk // L, 1)
        for part in torch.arange(len(lengths), device=counts.device).split(width):
            memory = [self.initial_state(len(part))]
            for start in range(0, int(lengths[part[0]]), L):
                going = part[lengths[part] > start]
                memory[0] = map_state(lambda x: x[: len(going)], memory[0])  # noqa: B023
                rows = start + torch.arange(min(L, int(lengths[part[0]]) - start), device=counts.device)[:, None]
                real = rows < lengths[going]
                t = begin[going, 1] + torch.minimum(rows, lengths[going] - 1)
                n = begin[going, 0].expand_as(t)
                yield t, n, memory, real & counts[t, n]

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        return {"charts/updates": self.updates, "charts/used_rows": self.used / max(self.steps, 1)}

    def state_dict(self) -> dict[str, Any]:
        progress = {
            "counted": self.counted,
            "open": self.open,
            "average": self.average,
            "begun": self.begun,
            "used": self.used,
            "empty": self.empty,
        }
        return {
            "network": self.network.state_dict(),
            "optimizer": self.descent.state_dict(),
            "rollout": self.rollout.state_dict() | progress,
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.descent.load_state_dict(state["optimizer"])
            self.rollout.load_state_dict(state["rollout"])
            for name in ("counted", "open", "average"):
                getattr(self, name).copy_(state["rollout"][name])
            self.begun, self.used, self.empty = (state["rollout"][name] for name in ("begun", "used", "empty"))
        self.steps, self.updates = state["steps"], state["updates"]


def whole(rows: Trajectory) -> Tensor:
    """[T, N] bool: the episode of row t comes to an end of its own within the rows."""
    ended, out = torch.zeros_like(rows.last[0]), []
    for own, last in zip((rows.terminated | rows.truncated).flip(0), rows.last.flip(0), strict=True):
        ended = torch.where(last, own, ended)
        out.append(ended)
    return torch.stack(out[::-1])
