"""Evaluation rollouts: whole episodes, raw rewards, a named protocol; every episode kept so that it can be played again.

Each episode has a seed of its own, set when it begins, and all of them are played to their end: it doesn't matter which
environment plays it, and short episodes are not over-counted.  An episode is (seed, actions).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from arcturus.actor_critic import random_actions
from arcturus.api import Act, Actor, EnvSpec, Objective, TimeStep
from arcturus.config import from_mapping, user_path
from arcturus.device import torch_threads
from arcturus.envs import EnvConfig, check_settings, is_atari, longest_scored, open_envs, single
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import ConfigError, Interrupted
from arcturus.runs.files import write_atomically
from arcturus.scoring.highest import highest_return
from arcturus.scoring.statistics import human_normalised, summary
from arcturus.seeding import Seeds
from arcturus.telling import shortened

STALL_STEPS = 1_000  # agent steps without a positive reward or a new observation, after which an episode is ended
PROGRESS_SECONDS = 15.0  # between two progress messages
MOST_ENVS = 8  # side by side, if nothing else is said
EPISODES_LIMIT, ENVS_LIMIT = 100_000, 1_024  # beyond which an evaluation would outlast, or outgrow, any machine


class ScoredEpisode(NamedTuple):
    seed: int
    score: float  # undiscounted sum of raw rewards
    length: int  # agent steps
    stalled: bool  # ended by the stall guard; its score stands
    actions: np.ndarray  # [length, *action_shape] int64
    rewards: np.ndarray  # [length] float32 raw
    start_value: float | None  # what the agent predicted of it
    obtained: float | None  # the same quantity as it was obtained
    frames: np.ndarray | None = None  # [length + 1, *frame_shape]: what the agent saw, if asked for
    cut: bool = False  # at the maximum of steps of an evaluation; its score counts only those steps
    why: str = ""  # reason, if it was ended although the console continued it


@dataclass(frozen=True)
class Evaluation:
    """The results of a set of episodes; to_json() is evaluation.json."""

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
        out["cut"] = sum(e.cut for e in self.episodes)
        if is_atari(self.env_id):
            from arcturus.envs.atari import games

            out["human_normalised"] = human_normalised(games()[self.env_id], self.mean)
        values = [(e.start_value, e.obtained) for e in self.episodes if e.start_value is not None and e.obtained is not None]
        if values:
            predicted, obtained = np.mean(values, axis=0)
            out["start_value"] = {"predicted": float(predicted), "obtained": float(obtained)}
        kept = ("seed", "score", "length", "stalled", "cut", "why")
        out["per_episode"] = [{name: getattr(e, name) for name in kept} for e in self.episodes]
        return out

    def save(self, folder: Path | str, number: int = 0) -> None:
        """evaluation.json, and episodes.safetensors with every action and reward.  number: its place among a run's evaluations."""
        from safetensors.numpy import save

        folder = user_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"{i}/actions": e.actions for i, e in enumerate(self.episodes)}
        arrays |= {f"{i}/rewards": e.rewards for i, e in enumerate(self.episodes)}
        write_atomically(folder / "episodes.safetensors", save(arrays))
        write_atomically(folder / "evaluation.json", json.dumps(self.to_json() | {"number": number}, indent=2))

    def __repr__(self) -> str:
        told = summary(self.scores)
        return (
            f"Evaluation({self.env_id}, {self.policy}, {len(self.episodes)} episodes, mean {self.mean:.2f} "
            f"[{told['ci95_low']:.2f}, {told['ci95_high']:.2f}])"
        )


def policy_of(actor: Actor, policy: str | None, config: EnvConfig) -> str:
    """The policy to use: the protocol's own for this kind of agent, unless one is named."""
    if policy is None:
        if actor.stochastic:
            return "sample"
        if is_atari(config.id) and getattr(actor, "network", None) is not None:
            from arcturus.envs.atari import protocol

            settings = getattr(actor, "config", None)
            noisy = getattr(getattr(settings, "agent", settings), "noisy", 0.0) > 0
            rules = protocol(config.protocol)
            epsilon = rules.noisy_epsilon if noisy else rules.epsilon
            return f"epsilon={epsilon:g}" if epsilon else "greedy"
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


def start_values(act: Act) -> torch.Tensor | None:
    """[N] the agent's own estimate of its future return, if it has one."""
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
        if lost and objective.end_on_life_loss:
            break
    return total


def _meant(actor: Actor, env: str | EnvConfig, options: dict[str, Any]) -> EnvConfig:
    """The settings of an environment named by id: those of training if the actor was trained on it."""
    if isinstance(env, EnvConfig):
        config = env
    else:
        trained: EnvConfig | None = getattr(getattr(actor, "config", None), "env", None)
        known = trained if trained is not None and trained.id == env else None
        config = from_mapping(EnvConfig, {"id": env, **options}, "evaluate()", known)
    if options:
        check_settings(config)
    return config


@torch.no_grad()
def evaluate(
    actor: Actor,
    env: str | EnvConfig,
    episodes: int = 30,
    *,
    seed: int | Seeds = 0,
    policy: str | None = None,
    device: torch.device | str = "cpu",
    num_envs: int | None = None,
    keep_frames: bool = False,
    max_steps: int = 0,
    stop: Callable[[], bool] = lambda: False,
    keep_finished: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    threads: int = 1,
    **options: Any,
) -> Evaluation:
    """Plays `episodes` whole episodes and returns their scores.

    env: an id, with EnvConfig's fields as options, or an EnvConfig.  policy: greedy, sample, epsilon=X, or None for what the
    protocol says.  keep_frames also keeps what the agent saw.  An actor that was trained on the environment named by id is
    scored with the settings it was trained with (frame size, stack ...), unless options say otherwise.

    max_steps: agent steps after which an episode is cut, which its `cut` says; 0: where the environment sets no limit, 10,000.

    num_envs: environments side by side; None: 8, or 1 where only one was trained on and none may be opened beside it.

    stop: asked at every step; once it is true Interrupted is raised, or with keep_finished the finished episodes are returned, if there
    are any (the short ones finish first): about["asked"] is the number asked for.  progress: called every 15 s with a message.

    threads: torch's on the CPU during the evaluation; more than one compete with the emulator's, and 0 changes nothing.

    Greedy and epsilon policies score the same whatever num_envs; a sampling one draws for all environments at once.
    """
    check_counts(episodes, num_envs)
    base = _meant(actor, env, options)
    n = min(episodes, num_envs or (1 if single(base) else MOST_ENVS))
    config = replace(base, num_envs=n)
    limit = max_steps or longest_scored(base)
    branch = seed if isinstance(seed, Seeds) else Seeds(seed).branch("score")
    policy = policy_of(actor, policy, config)
    about = {"protocol_rules": _rules(config), "frame_stack": config.stack, "seed": branch.seed, "max_steps": limit}
    with torch_threads(threads), open_envs(config, 0, device) as envs:
        check_fit(actor, envs.spec)
        play = _Play(actor, envs, policy, branch, episodes, limit, keep_frames)
        try:
            done = play.run(stop, progress)
        except Interrupted:
            done = play.finished
            if not (done and keep_finished):
                raise
            about["asked"] = episodes
    if not max_steps and (highest := highest_return(config)) is not None:
        about["highest"] = highest
    return Evaluation(config.id, config.protocol if is_atari(config.id) else "-", policy, done, about)


def check_counts(episodes: int, num_envs: int | None) -> None:
    """A ConfigError for more, or fewer, than an evaluation can play."""
    for count, most, flag in ((episodes, EPISODES_LIMIT, "--episodes"), (1 if num_envs is None else num_envs, ENVS_LIMIT, "--num-envs")):
        if not 1 <= count <= most:
            raise ConfigError(f"{shortened(f'{count:,}', 40)} is not from 1 to {most:,}", where=flag, fix=f"use 1 to {most:,}")


class _Play:
    """Episodes with seeds of their own, played side by side by whichever environment is free, all to their end."""

    def __init__(self, actor: Actor, envs: DeviceEnvs, policy: str, branch: Seeds, episodes: int, limit: int, keep_frames: bool):
        self.actor, self.envs, self.policy, self.limit, self.keep_frames = actor, envs, policy, limit, keep_frames
        self.generator = branch.branch("policy").torch(envs.device)
        self.seeds = branch.environments(episodes)
        self.objective: Objective | None = getattr(actor, "objective", None)
        self.done: list[ScoredEpisode | None] = [None] * episodes
        self.playing: list[int | None] = list(range(envs.num_envs))  # which episode each environment plays
        self.waiting = envs.num_envs  # the first episode not yet begun
        self.logs = [_Log() for _ in range(envs.num_envs)]
        self.coins = [self._coin(episode) for episode in range(envs.num_envs)]

    def _coin(self, episode: int) -> torch.Generator:
        return Seeds(int(self.seeds[episode])).branch("coin").torch()

    def _choose(self, ts: TimeStep, state: Any) -> Act:
        """An action of every environment.  epsilon=X draws for each from its episode's own generator in `coins`."""
        act = self.actor.act(ts, state, explore=self.policy == "sample", generator=self.generator)
        if self.policy.startswith("epsilon="):
            action, epsilon = act.action.clone(), float(self.policy[8:])
            for i, coin in enumerate(self.coins):
                if float(torch.rand((), generator=coin)) < epsilon:
                    action[i] = random_actions(self.envs.single_action_space, 1, "cpu", coin)[0].to(action.device)
            act = act._replace(action=action)
        return act

    def run(self, stop: Callable[[], bool], progress: Callable[[str], None]) -> list[ScoredEpisode]:
        envs, told = self.envs, time.monotonic()
        ts, state = envs.restart(self.seeds[: envs.num_envs]), self.actor.initial_state(envs.num_envs)
        while any(p is not None for p in self.playing):
            if stop():
                raise Interrupted
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                progress(self._so_far())
            act = self._choose(ts, state)
            values = start_values(act)
            for i in (i for i, episode in enumerate(self.playing) if episode is not None):
                self.logs[i].open(values[i] if values is not None else None, envs.host.obs[i], self.keep_frames)
            actions = act.action.cpu().numpy()
            envs.send(act.action)
            ts, state = envs.recv(), act.state
            fresh = np.array([self._took(i, actions[i]) for i in range(envs.num_envs)])
            if fresh.any():
                seeds = np.array([self.seeds[p] if p is not None else 0 for p in self.playing])
                ts = envs.restart(seeds, fresh)
        return self.finished

    @property
    def finished(self) -> list[ScoredEpisode]:
        return [e for e in self.done if e is not None]

    def _took(self, i: int, action: np.ndarray) -> bool:
        """An environment has made a step: whether it is to begin another episode."""
        episode, host, log = self.playing[i], self.envs.host, self.logs[i]
        if episode is None:
            return False
        log.add(action, host, i, self.keep_frames)
        ended, stalled = bool(host.terminated[i] or host.truncated[i]), log.idle >= STALL_STEPS
        if not (ended or stalled or len(log.actions) == self.limit):
            return False
        closed = log.close(int(self.seeds[episode]), stalled and not ended, self.objective)
        why = getattr(self.envs.backend, "over", {}).get(i, "")
        self.done[episode] = closed._replace(cut=not (ended or stalled), why=why)
        self.logs[i] = _Log()
        begins = self.waiting < len(self.done)
        self.playing[i] = self.waiting if begins else None
        if begins:
            self.coins[i] = self._coin(self.waiting)
            self.waiting += 1
        return begins

    def _so_far(self) -> str:
        over, longest = sum(e is not None for e in self.done), max(len(log.actions) for log in self.logs)
        cut = f"cut at {self.limit:,} (--max-steps, in training --eval-max-steps)"
        limits = cut if self.limit else "with no limit"
        return f"evaluating: {over} of {len(self.done)} episodes are over; the longest one still running has {longest:,} steps, {limits}"


def check_fit(actor: Actor, spec: EnvSpec) -> None:
    """A ConfigError if an agent is to play an environment whose observations or actions differ from those it was made for."""
    known: EnvSpec = getattr(actor, "spec", None) or spec  # an actor of one's own may have none
    if (known.obs_shape, known.obs_dtype, known.action_space) == (spec.obs_shape, spec.obs_dtype, spec.action_space):
        return
    raise ConfigError(
        f"this agent was trained on {known.env_id}, with observations {list(known.obs_shape)} and actions {known.action_space}; "
        f"{spec.env_id} has observations {list(spec.obs_shape)} and actions {spec.action_space}",
        where="evaluate()",
        fix="evaluate it on the environment it was trained on, with the same settings (frame_size, frame_stack, options ...)",
    )


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
        self.idle = 0 if new or host.reward[i] > 0 else self.idle + 1  # a negative reward is no progress

    def close(self, seed: int, stalled: bool, objective: Objective | None) -> ScoredEpisode:
        obtained = obtained_return(self.rewards, self.lives_lost, objective) if objective and self.start is not None else None
        score, frames = float(np.sum(self.rewards, dtype=np.float64)), np.stack(self.frames) if self.frames else None
        actions, rewards = np.array(self.actions, np.int64), np.array(self.rewards, np.float32)
        return ScoredEpisode(seed, score, len(actions), stalled, actions, rewards, self.start, obtained, frames)
