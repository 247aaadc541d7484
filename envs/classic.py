"""Any Gymnasium environment with Box, Discrete, MultiDiscrete or MultiBinary observations, behind the Backend protocol."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arcturus.config import parse_options
from arcturus.envs import EnvConfig
from arcturus.envs.checked import Checked
from arcturus.envs.encoding import encoding, entry, picture_entry
from arcturus.envs.opening import open_one
from arcturus.envs.tasks.scalar import TaskEnv
from arcturus.envs.vector import HostTimeStep
from arcturus.errors import ArcturusError, ConfigError, EnvironmentProblem, TrainingFailed
from arcturus.extensions import told


def check_actions(space: gym.Space, env_id: str) -> None:
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise ConfigError(
            f"{env_id} has {type(space).__name__} actions; agents here act in Discrete, MultiDiscrete and MultiBinary spaces",
            where="--env",
            fix="wrap it so that its actions are discrete, under an environment id of your own",
        )


class ClassicBackend:
    """N copies stepped one after another in this process (gymnasium's SyncVectorEnv).

    send() only takes the actions; the steps are made in recv().

    reopen: at every restart with a seed the environment is closed and opened again, so that nothing it keeps from one episode to the
    next (a generator, a counter, the last action) changes what a seed leads to.  There are never more than `num_envs` at a time.
    drawn: they draw themselves (rgb_array), for render().
    """

    has_lives = False

    def __init__(self, config: EnvConfig, *, drawn: bool = False):
        self.options = parse_options(config.options)
        if "render_mode" in self.options:
            raise ConfigError("environments are drawn only for films", where="--env.options", fix="leave render_mode out")
        if drawn:
            self.options["render_mode"] = "rgb_array"
        self.env_id, self.num_envs, self.reopen = config.id, config.num_envs, config.reopen
        self.busy = self.calls = 0  # the environment that is being stepped, reset or opened, and how often one was
        self.opening = 0.0  # seconds the slowest took to open, except the first, which loads its modules
        self._observation, self._schedule = config.observation, None
        envs: list[gym.Env] = []
        try:
            envs.append(self._open(0))
            self._look_at(envs[0], config.channels)
            envs += [self._open(i) for i in range(1, self.num_envs)]
            opened = iter(envs)
            self._envs = SyncVectorEnv([lambda: next(opened)] * self.num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        except RuntimeError as e:  # its own: the copies' spaces are not the same
            self._give_up(envs)
            raise EnvironmentProblem(f"{self.env_id}: its copies differ: {str(e)[:200]}", where="--env") from e
        except BaseException:
            self._give_up(envs)
            raise
        self._untouched = np.ones(self.num_envs, bool)  # opened, and not yet reset
        self._closed = False
        self._action: np.ndarray | None = None

    def _open(self, index: int) -> gym.Env:
        began = time.perf_counter()
        self.busy, self.calls = index, self.calls + 1
        env = open_one(self.env_id, **self.options)
        try:
            self._observation = self._observation or picture_entry(env.observation_space)
            if self._observation:
                entry(env.observation_space, self.env_id, self._observation)
            checked = Checked(env, self, index, self._observation, isinstance(env.unwrapped, TaskEnv))
        except BaseException:
            env.close()
            raise
        if self._schedule is not None:
            env.unwrapped.schedule = self._schedule
        if self.calls > 1:
            self.opening = max(self.opening, time.perf_counter() - began)
        return checked

    def _look_at(self, one: gym.Env, channels: str) -> None:
        """Reads the observation and action spaces and other properties that all of them share."""
        space, actions = one.observation_space, one.action_space
        self.frame_shape, self.obs_dtype, self._encode, self.told = encoding(space, self.env_id, channels)
        self.told += f"; the entry {self._observation} of their Dict" if self._observation else ""
        check_actions(actions, self.env_id)
        self.states = int(space.n) if isinstance(space, spaces.Discrete) else 0
        # of tasks with lengths: what a curriculum runs through, and how Gym's own promoted
        self.ranges = getattr(getattr(one.unwrapped, "task", one.unwrapped), "ranges", ())
        self.promotion = getattr(one.unwrapped, "promotion", (10, -1.0))
        self._start: Any = getattr(actions, "start", 0)
        self.action_space: gym.Space = actions  # agents count actions from 0
        if isinstance(actions, spaces.Discrete):
            self.action_space = spaces.Discrete(int(actions.n))
        elif isinstance(actions, spaces.MultiDiscrete):
            self.action_space = spaces.MultiDiscrete(actions.nvec)

    @staticmethod
    def _give_up(envs: list[gym.Env]) -> None:
        for env in envs:
            with contextlib.suppress(Exception):
                env.close()

    def follow(self, schedule: Any) -> None:
        """A curriculum chooses the lengths from now on."""
        self._schedule = schedule
        for env in self._envs.envs:
            env.unwrapped.schedule = schedule  # type: ignore[attr-defined]

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None) -> HostTimeStep:
        wanted = np.ones(self.num_envs, bool) if mask is None else mask
        for i in np.flatnonzero(wanted & ~self._untouched):
            if self.reopen or self._closed:
                self._close_one(int(i))
                self._envs.envs[i] = self._open(int(i))
        self._untouched[wanted], self._closed = False, False
        # SyncVectorEnv takes the mask out of the dictionary it is given, and wants a seed for every environment
        options = None if mask is None else {"reset_mask": mask.copy()}
        with self._told("reset"):
            obs, info = self._envs.reset(seed=[int(s) for s in seeds], options=options)
        no = np.zeros(self.num_envs, bool)
        return HostTimeStep(self._encode(obs), np.zeros(self.num_envs, np.float32), no, no, no, info.get("valid"))

    def send(self, action: np.ndarray) -> None:
        self._action = action + self._start

    def recv(self) -> HostTimeStep:
        assert self._action is not None
        with self._told("step"):
            obs, reward, terminated, truncated, info = self._envs.step(self._action)
        # the flags are the vector environment's own arrays, which its next step writes again
        no = np.zeros(self.num_envs, bool)
        ended = terminated.copy(), truncated & ~terminated
        return HostTimeStep(self._encode(obs), reward.astype(np.float32), *ended, no, info.get("valid"))

    @property
    def render_modes(self) -> list[str]:
        return self._envs.envs[0].metadata.get("render_modes") or []

    def render(self) -> Any:
        """What the first of them draws; EnvironmentProblem for what its code raises."""
        try:
            return self._envs.envs[0].render()
        except (Exception, SystemExit) as e:
            raise EnvironmentProblem(f"{self.env_id}: its render() raised {told(e)}", where="--video") from e

    @contextlib.contextmanager
    def _told(self, where: str) -> Iterator[None]:
        """Turns what an environment raises into an error that names it."""
        try:
            yield
        except ArcturusError:
            raise
        except (Exception, SystemExit) as e:
            action = f", action {self._action[self.busy].tolist()}" if where == "step" and self._action is not None else ""
            raise TrainingFailed(
                f"{self.env_id}: environment {self.busy} raised {type(e).__name__}: {e}", where=f"its {where}(){action}"
            ) from e

    def _close_one(self, index: int) -> None:
        if not self._closed:
            self.busy, self.calls = index, self.calls + 1
            with self._told("close"):
                self._envs.envs[index].close()

    def release(self) -> None:
        """Closes all of them until the next restart, so that one may be opened elsewhere."""
        for i in range(self.num_envs):
            self._close_one(i)
        self._closed = True
        self._untouched[:] = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._envs.close()
