"""Evaluation rollouts: whole episodes, raw rewards, a named protocol; every episode kept so that it can be played again.

Each episode has a seed of its own, set when it begins, and all of them are played to their end: it doesn't matter which
environment plays it, and short episodes are not over-counted.  An episode is (seed, actions).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from arcturus.api import Act, Actor, Objective, TimeStep, random_actions
from arcturus.config import from_mapping
from arcturus.envs import EnvConfig, is_atari, open_envs
from arcturus.errors import ConfigError, Interrupted
from arcturus.scoring.statistics import human_normalised, summary
from arcturus.seeding import Seeds

STALL_STEPS = 1_000  # agent steps without reward and without anything new on the screen: the game goes nowhere


class ScoredEpisode(NamedTuple):
    seed: int
    score: float  # undiscounted sum of raw rewards
    length: int  # agent steps
    stalled: bool  # ended by the stall guard; its score stands
    actions: np.ndarray  # [length, *action_shape] int64
    rewards: np.ndarray  # [length] float32 raw
    start_value: float | None  # what the agent predicted of it
    obtained: float | None  # the same quantity as it came out
    frames: np.ndarray | None = None  # [length + 1, *frame_shape]: what the agent saw, if asked for


@dataclass(frozen=True)
class Evaluation:
    """What a set of episodes says; to_json() is evaluation.json."""

    env_id: str
    protocol: str
    policy: str
    episodes: list[ScoredEpisode]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        return [e.score for e in self.episodes]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"env": self.env_id, "protocol": self.protocol, "policy": self.policy, **self.about}
        out |= {"score": summary(self.scores), "mean_length": float(np.mean([e.length for e in self.episodes]))}
        out["stalled"] = sum(e.stalled for e in self.episodes)
        if is_atari(self.env_id):
            from arcturus.envs.atari import games

            out["human_normalised"] = human_normalised(games()[self.env_id], self.mean)
        values = [(e.start_value, e.obtained) for e in self.episodes if e.start_value is not None and e.obtained is not None]
        if values:
            predicted, obtained = np.mean(values, axis=0)
            out["start_value"] = {"predicted": float(predicted), "obtained": float(obtained)}
        out["per_episode"] = [{"seed": e.seed, "score": e.score, "length": e.length, "stalled": e.stalled} for e in self.episodes]
        return out

    def save(self, folder: Path) -> None:
        """evaluation.json, and episodes.safetensors with every action and reward."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"{i}/actions": e.actions for i, e in enumerate(self.episodes)}
        arrays |= {f"{i}/rewards": e.rewards for i, e in enumerate(self.episodes)}
        save_file(arrays, folder / "episodes.safetensors")
        (folder / "evaluation.json").write_text(json.dumps(self.to_json(), indent=2), encoding="utf-8")


def policy_of(actor: Actor, policy: str | None, config: EnvConfig) -> str:
    """The policy that is meant: the protocol's own for this kind of agent, unless one is named."""
    if policy is None:
        if actor.stochastic:
            return "sample"
        if is_atari(config.id) and getattr(actor, "network", None) is not None:
            from arcturus.envs.atari import protocol

            return f"epsilon={protocol(config.protocol).epsilon:g}"
        return "greedy"
    if policy == "sample" and not actor.stochastic:
        raise ConfigError("this agent has no policy to sample from", where="--policy", fix="use greedy or epsilon=0.05")
    if policy in ("greedy", "sample"):
        return policy
    name, _, number = policy.partition("=")
    try:
        epsilon = float(number)
    except ValueError:
        epsilon = -1.0
    if name != "epsilon" or not 0 <= epsilon <= 1:
        raise ConfigError(f"unknown policy {policy!r}", where="--policy", fix="greedy, sample, or epsilon=X with X from 0 to 1")
    return policy


def choose(
    actor: Actor,
    ts: TimeStep,
    state: Any,
    policy: str,
    space: gym.Space,
    generator: torch.Generator,
    coins: list[torch.Generator],
) -> Act:
    """One action by a named policy.  epsilon=X throws every environment's coin from its episode's own stream in `coins`."""
    act = actor.act(ts, state, explore=policy == "sample", generator=generator)
    if policy.startswith("epsilon="):
        action, epsilon = act.action.clone(), float(policy[8:])
        for i, coin in enumerate(coins):
            if float(torch.rand((), generator=coin)) < epsilon:
                action[i] = random_actions(space, 1, "cpu", coin)[0].to(action.device)
        act = act._replace(action=action)
    return act


def start_values(act: Act) -> torch.Tensor | None:
    """[N] the agent's own estimate of what it will get from here, if it has one."""
    if "value" in act.extras:
        return act.extras["value"]
    return act.extras["q_values"].max(-1).values if "q_values" in act.extras else None


def obtained_return(rewards: Sequence[float], lives_lost: Sequence[bool], objective: Objective) -> float:
    """The discounted (clipped) return of a whole episode, which is what start_value predicts."""
    total, discount = 0.0, 1.0
    for reward, lost in zip(rewards, lives_lost, strict=True):
        if objective.reward_clip:
            reward = min(max(reward, -objective.reward_clip), objective.reward_clip)
        total += discount * reward
        discount *= objective.gamma
        if lost and objective.life_loss:
            break
    return total


@torch.no_grad()
def evaluate(
    actor: Actor,
    env: str | EnvConfig,
    episodes: int = 30,
    *,
    seed: int | Seeds = 0,
    policy: str | None = None,
    device: torch.device | str = "cpu",
    num_envs: int = 8,
    keep_frames: bool = False,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Evaluation:
    """Plays `episodes` whole episodes and returns their scores.

    env: an id, with EnvConfig's fields as options, or an EnvConfig.  policy: greedy, sample, epsilon=X, or None for what the
    protocol says.  keep_frames also keeps what the agent saw.  An actor that was trained on the environment named by id is
    scored with the settings it was trained with (frame size, stack ...), unless options say otherwise.

    stop: asked at every step; Interrupted is raised once it says so.

    Greedy and epsilon policies score the same whatever num_envs; a sampling one draws for all environments at once.
    """
    if episodes < 1:
        raise ConfigError(f"{episodes} episodes can't be scored", where="--episodes", fix="use at least 1")
    if isinstance(env, EnvConfig):
        base = env
    else:
        trained: EnvConfig | None = getattr(getattr(actor, "config", None), "env", None)
        known = trained if trained is not None and trained.id == env else None
        base = from_mapping(EnvConfig, {"id": env, **options}, "evaluate()", known)
    n = min(episodes, num_envs)
    config = replace(base, num_envs=n)
    branch = seed if isinstance(seed, Seeds) else Seeds(seed).branch("score")
    policy = policy_of(actor, policy, config)
    generator = branch.branch("policy").torch(device)
    episode_seeds = branch.environments(episodes)
    objective: Objective | None = getattr(actor, "objective", None)
    done: list[ScoredEpisode | None] = [None] * episodes

    with open_envs(config, 0, device) as envs:
        playing: list[int | None] = list(range(n))  # which episode each environment plays
        waiting = n
        ts, state = envs.restart(episode_seeds[:n]), actor.initial_state(n)
        logs = [_Log() for _ in range(n)]

        def coin_of(episode: int) -> torch.Generator:
            return Seeds(int(episode_seeds[episode])).branch("coin").torch()

        coins = [coin_of(episode) for episode in range(n)]
        while any(p is not None for p in playing):
            if stop():
                raise Interrupted
            act = choose(actor, ts, state, policy, envs.single_action_space, generator, coins)
            values = start_values(act)
            for i in (i for i in range(n) if playing[i] is not None):
                logs[i].open(values[i] if values is not None else None, envs.host.obs[i], keep_frames)
            actions = act.action.cpu().numpy()
            envs.send(act.action)
            ts, state = envs.recv(), act.state
            fresh = np.zeros(n, bool)
            for i, episode in enumerate(playing):
                if episode is None:
                    continue
                host, log = envs.host, logs[i]
                log.add(actions[i], host, i, keep_frames)
                if host.terminated[i] or host.truncated[i] or log.idle >= STALL_STEPS:
                    ended = bool(host.terminated[i] or host.truncated[i])
                    done[episode] = log.close(int(episode_seeds[episode]), not ended, objective)
                    logs[i] = _Log()
                    playing[i] = waiting if waiting < episodes else None
                    if playing[i] is not None:
                        fresh[i], coins[i] = True, coin_of(waiting)
                        waiting += 1
            if fresh.any():
                seeds = np.array([episode_seeds[p] if p is not None else 0 for p in playing])
                ts = envs.restart(seeds, fresh)
    about = {"protocol_rules": _rules(config), "frame_stack": config.stack, "seed": branch.seed}
    return Evaluation(config.id, config.protocol if is_atari(config.id) else "-", policy, [e for e in done if e], about)


def _rules(config: EnvConfig) -> str:
    if not is_atari(config.id):
        return "whole episodes, raw rewards"
    from arcturus.envs.atari import protocol

    return str(protocol(config.protocol)) + (", all 18 actions" if config.full_action_space else ", the game's own actions")


class _Log:
    """One episode as it is played."""

    def __init__(self) -> None:
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.lives_lost: list[bool] = []
        self.frames: list[np.ndarray] = []
        self.start: float | None = None
        self.seen: set[int] = set()
        self.idle = 0

    def open(self, value: torch.Tensor | None, obs: np.ndarray, keep_frames: bool) -> None:
        if not self.actions:
            self.start = None if value is None else float(value)
            if keep_frames:
                self.frames.append(obs.copy())

    def add(self, action: np.ndarray, host: Any, i: int, keep_frames: bool) -> None:
        self.actions.append(action)
        self.rewards.append(float(host.reward[i]))
        self.lives_lost.append(bool(host.life_lost[i]))
        if keep_frames:
            self.frames.append(host.obs[i].copy())
        picture = hash(host.obs[i].tobytes())
        new = picture not in self.seen
        self.seen.add(picture)
        self.idle = 0 if new or host.reward[i] else self.idle + 1

    def close(self, seed: int, stalled: bool, objective: Objective | None) -> ScoredEpisode:
        obtained = obtained_return(self.rewards, self.lives_lost, objective) if objective and self.start is not None else None
        return ScoredEpisode(
            seed,
            float(np.sum(self.rewards, dtype=np.float64)),
            len(self.actions),
            stalled,
            np.array(self.actions, np.int64),
            np.array(self.rewards, np.float32),
            self.start,
            obtained,
            np.stack(self.frames) if self.frames else None,
        )
