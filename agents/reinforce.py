"""REINFORCE (Williams 1992), and the ladder of variance reduction that is taught with it; with or without memory.

    grad J = E_tau[ R(tau) grad log p(tau) ],   log p(tau) = log p(s_0) + sum_t log pi(a_t|s_t) + log p(s_{t+1}|s_t, a_t)

The environment's own probabilities are in p(tau) but not in the gradient, so the estimate needs only episodes played:

    (a) R(tau) = sum_t r_t                      the whole trajectory's return beside every action      reward_to_go: False
    (b) G_t = sum_{k >= t} r_k                  what came before an action isn't its merit              reward_to_go: True
    (c) G_t = sum_{k >= t} gamma^{k-t} r_k      what comes much later hardly is                         gamma < 1
    (d) G_t - b, G_t - b(s_t)                   what was expected isn't                                 baseline: average, learned

(a), (b) and (d) are unbiased; (c) trades bias for variance.  An update is made of whole episodes: the first K to begin after the
last update, however long they take (taking the first K to *end* would over-count short ones).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from arcturus.actor_critic import ActorCritic
from arcturus.agents._rollout import ReturnConfig, RolloutAgent
from arcturus.api import ActedStep, EnvSpec, Loss, Metrics, State, TimeStep, map_state
from arcturus.config import Bounds
from arcturus.errors import ConfigError, TrainingFailed
from arcturus.losses import explained_variance, lambda_returns, masked_mean, normalised
from arcturus.replay.rollout import Trajectory, check_horizon, ends_inside, episode_pieces, from_first_rows, single_rows
from arcturus.seeding import Seeds

PROGRESS = ("counted", "open", "average", "begun", "used", "empty")  # of an update under way, in a checkpoint
EMPTY_LIMIT = 10  # rollouts in a row without an episode's end, that end a run


@dataclass(frozen=True)
class Config(ReturnConfig):
    bptt: Annotated[int, Bounds(0)] = 0
    """Rows of truncated backpropagation through the memory; 0: the whole episode."""
    shared: bool = False
    """Policy and learned baseline share one torso and one memory core."""
    episodes: Annotated[int, Bounds(1, 10_000)] = 8
    """K: whole episodes per update."""
    horizon: Annotated[int, Bounds(2, 1_000_000)] = 2_048
    """Maximum rows per update.  An episode that has not ended by then is cut: with a learned baseline it is bootstrapped; without one
    it is dropped, which favours short episodes."""
    reward_to_go: bool = True
    """(b): weight an action only by the rewards that follow it (reward-to-go)."""
    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """(c): discount per agent step; 1: no discounting."""
    baseline: Literal["none", "average", "learned"] = "learned"
    """(d) the baseline: none, a moving average of returns, or a learned value function."""
    average_rate: Annotated[float, Bounds(0, 1)] = 0.1
    """Update rate of the moving average."""
    normalise: bool = False
    """Normalise returns minus baseline to mean 0 and standard deviation 1 over the update's rows."""
    baseline_steps: Annotated[int, Bounds(1, 1_000)] = 1
    """Gradient steps of a learned baseline per update (Spinning Up's VPG: 80); only the first one also trains the policy.  A shared
    torso is trained by all of them."""
    baseline_first: Annotated[int, Bounds(0)] = 0
    """Updates at the beginning that train only the baseline: with an untrained baseline, the policy would drift."""
    baseline_cost: Annotated[float, Bounds(0)] = 0.5
    """Weight of the baseline's squared error, a mean over rows."""
    entropy_cost: Annotated[float, Bounds(0)] = 0.0
    """Weight of the policy's entropy (Williams & Peng 1991)."""
    anneal_steps: Annotated[int, Bounds(-1)] = 0
    """Steps over which the learning rate falls to 0; -1: over the whole run, 0: it stays constant."""
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-8
    """Epsilon of Adam; if it is larger than the gradients, steps scale with the rewards: use a smaller one for small rewards."""
    chunk: Annotated[int, Bounds(1)] = 1_024
    """Rows whose gradients are computed at once, to save memory; the update is the same."""
    bootstrap_truncated: bool = True
    """Bootstrap from a learned baseline when a time limit cuts an episode; False: treat a time limit as terminal, as published."""


def returns(rows: Trajectory, value: Tensor, c: Config) -> Tensor:
    """(a)-(c): the factor of grad log pi(a_t|s_t), [T, N].  value [T, N]: of rows t + 1, for bootstrapped returns (0 without a
    learned baseline)."""
    discount = rows.discounts(c.gamma, bootstrap_truncated=c.bootstrap_truncated, end_on_life_loss=c.end_on_life_loss)
    G = lambda_returns(rows.rewards(c.reward_clip), discount, value, rows.last, 1.0)
    return G if c.reward_to_go else from_first_rows(G, rows.first)


class Piece(NamedTuple):
    """Some rows [L, B] of an update's episodes, and the network's outputs there.  The losses of all pieces add up to the update's."""

    logits: Tensor  # [L, B, K]
    value: Tensor  # [L, B] the learned baseline
    action: Tensor  # [L, B, *action_shape] int64
    valid: Tensor  # [L, B] bool: the rows that count
    G: Tensor  # [L, B] returns
    weight: Tensor  # [L, B] (d): G - b
    episodes: int  # K of the whole update
    rows: int  # counted rows of the whole update


def loss(network: ActorCritic, piece: Piece, c: Config) -> Loss:
    """A scalar; its gradient is minus the estimate of grad J: minus the mean over episodes of the sum over rows of weight *
    log pi(a_t|s_t), plus the terms of the baseline's error and the policy's entropy."""
    entropy = torch.where(piece.valid, network.actions.entropy(piece.logits), 0).sum()
    log_prob = network.actions.log_prob(piece.logits, piece.action)
    policy = -torch.where(piece.valid, piece.weight * log_prob, 0).sum() / piece.episodes
    value = policy + baseline_loss(piece, c) - c.entropy_cost * entropy / piece.episodes
    return Loss(value, {"losses/policy_loss": policy.detach(), "losses/entropy": entropy.detach() / piece.rows})


def baseline_loss(piece: Piece, c: Config) -> Tensor:
    """The squared error of a learned baseline, a mean over the update's rows; 0 if there is none."""
    if c.baseline != "learned":
        return torch.zeros(())
    return c.baseline_cost * (torch.where(piece.valid, (piece.G - piece.value).square(), 0).sum() / piece.rows)


class Agent(RolloutAgent):
    stochastic = True
    keep_memory, every = False, 0
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        c, self.learned = config, config.baseline == "learned"
        if c.end_on_life_loss and not c.reward_to_go:
            what = "the return of the whole trajectory can't end at a lost life"
            raise ConfigError(what, where="--agent.end-on-life-loss", fix="use --agent.reward-to-go True")
        check_horizon(spec, c.horizon)
        self.kept = {"value": ()} if self.learned else {}
        super().__init__(config, spec, device, seeds)
        self.average = torch.zeros((), device=self.device)
        self.counted = torch.zeros((c.horizon, spec.num_envs), dtype=torch.bool, device=self.device)  # rows of the K episodes
        self.open = torch.zeros(spec.num_envs, dtype=torch.bool, device=self.device)  # environments that are playing one of them
        self.begun = 0  # how many of the K have begun
        self.empty = 0  # rollouts in a row in which none ended
        self.used = 0  # rows learnt from
        if not self.learned:
            self.objective = None

    def observe(self, step: ActedStep) -> None:
        """Notes which rows belong to the first K episodes to begin."""
        ts = step.timestep
        begins = ts.first & (ts.first.cumsum(0) <= self.config.episodes - self.begun)
        self.open |= begins
        self.begun += int(begins.sum())
        if not self.learned:  # an episode that a checkpoint interrupts is lost, and another may begin in its place
            self.begun -= int((self.open & ts.interrupted).sum())
        self.counted[self.rollout.count] = self.open
        self.open &= ~ts.last
        super().observe(step)

    def learn_from_rollout(self, ts: TimeStep, state: State) -> Metrics:
        goes_on = self.open & ~(ts.last if self.learned else ts.terminated | ts.truncated)
        over = self.begun == self.config.episodes and not bool(goes_on.any())
        if not (over or self.rollout.full):
            return {}
        metrics = self._learn(self.rollout.read(ts), ts, state)
        self.empty = 0 if metrics else self.empty + 1
        if self.empty >= EMPTY_LIMIT:
            raise TrainingFailed(
                f"no episode began and ended within a horizon of {self.config.horizon} rows, {self.empty} times in a row",
                where="--agent.horizon",
                fix="make the horizon as long as two episodes, or bootstrap with --agent.baseline learned",
            )
        self.rollout.restart()
        self.open.zero_()
        self.begun = 0
        return metrics

    def _learn(self, rows: Trajectory, ts: TimeStep, state: State) -> Metrics:
        """One update; {} if no episode ended."""
        c = self.config
        inside = self.counted[: len(rows.first)].clone()  # rows of the K episodes, except the autoreset rows
        inside[1:] &= ~rows.last[:-1]
        v = next_v = torch.zeros_like(rows.reward)
        if self.learned:
            v = self.rollout.kept("value")
            next_v = self.network.next_values(v, ts, state)
        else:
            inside &= ends_inside(rows)
        counts, episodes = inside & rows.valid, int((inside & rows.first).sum())
        if not episodes:
            return {}
        G = returns(rows, next_v, c)
        b = v if self.learned else self.average if c.baseline == "average" else torch.zeros_like(v)
        weight = normalised(G - b, counts) if c.normalise else G - b  # (d) less the baseline
        self.average.lerp_(masked_mean(G, counts), c.average_rate if self.updates else 1.0)

        alone = self.learned and self.updates < c.baseline_first
        seen: list[Metrics] = []

        def losses() -> Iterator[Tensor]:
            for piece in self._pieces(rows, inside, counts, G, weight, episodes):
                each = self.loss(piece)
                seen.append(each.metrics)
                yield baseline_loss(piece, c) if alone else each.value

        self.updates += 1
        self.used += int(counts.sum())
        self.gradient_step.set_learning_rate(self.learning_rate)
        metrics = self.gradient_step(losses())
        for _ in range(c.baseline_steps - 1 if self.learned else 0):  # the policy's own parameters get no gradient
            self.gradient_step(baseline_loss(piece, c) for piece in self._pieces(rows, inside, counts, G, weight, episodes))
        if self.learned:
            metrics["losses/explained_variance"] = explained_variance(v, G, counts)
            metrics["losses/value_loss"] = masked_mean((G - v).square(), counts)
        summed = {name: torch.stack([each[name] for each in seen]).sum() for name in seen[0]}
        return metrics | summed | {"charts/update_episodes": torch.tensor(float(episodes))}

    def _pieces(
        self, rows: Trajectory, inside: Tensor, counts: Tensor, G: Tensor, weight: Tensor, episodes: int
    ) -> Iterator[Piece]:
        """An update's rows, inside its episodes [T, N] bool, one piece at a time through the network; memory is passed on."""
        memory: State = ()
        used = int(counts.sum())
        alone = self.config.core == "none"
        places = single_rows(counts, self.config.chunk) if alone else episode_pieces(inside, counts, self.config.bptt, self.config.chunk)
        for t, n, real, begins in places:
            memory = self.initial_state(t.shape[1]) if begins else map_state(lambda x: x[: t.shape[1]], memory)  # noqa: B023
            logits, value, after = self.network.unroll(self.rollout.obs(t, n), rows.first[t, n], memory)
            memory = map_state(Tensor.detach, after)
            yield Piece(logits, value, rows.action[t, n], real, G[t, n], weight[t, n], episodes, used)

    def scalars(self) -> dict[str, float]:
        return super().scalars() | {"charts/used_rows": self.used / max(self.steps, 1)}

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["rollout"] |= {name: getattr(self, name) for name in PROGRESS}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if "rollout" in state:
            for name in ("counted", "open", "average"):
                getattr(self, name).copy_(state["rollout"][name])
            self.begun, self.used, self.empty = (state["rollout"][name] for name in ("begun", "used", "empty"))
