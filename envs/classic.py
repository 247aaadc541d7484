"""Any Gymnasium environment with Box, Discrete, MultiDiscrete or MultiBinary observations, behind the Backend protocol.

Observations become what a torso can read: images (uint8, rank 2 or 3) stay bytes with channels first; everything else is a
float32 vector, discrete values one-hot.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from arcturus.envs.tasks.scalar import TaskEnv
from arcturus.envs.vector import HostRow
from arcturus.errors import ArcturusError, ConfigError, EnvironmentProblem, TrainingFailed, nearest


def encoder(space: gym.Space, env_id: str) -> tuple[tuple[int, ...], torch.dtype, Callable[[np.ndarray], np.ndarray]]:
    """Shape and dtype of one encoded observation, and the function that encodes a batch [N, ...] of them."""
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8 and len(space.shape) == 3:
            height, width, channels = space.shape
            if channels <= 4 < height:  # height, width, channels: torch wants channels first
                return (channels, height, width), torch.uint8, lambda x: np.ascontiguousarray(np.moveaxis(x, -1, 1))
        if space.dtype == np.uint8 and len(space.shape) in (2, 3):
            return tuple(space.shape), torch.uint8, lambda x: x
        return (int(np.prod(space.shape)),), torch.float32, lambda x: x.reshape(len(x), -1).astype(np.float32)
    if isinstance(space, spaces.Discrete):
        eye = np.eye(int(space.n), dtype=np.float32)
        return (int(space.n),), torch.float32, lambda x: eye[x - space.start]
    if isinstance(space, spaces.MultiDiscrete):
        eyes = [np.eye(int(n), dtype=np.float32) for n in space.nvec.ravel()]
        start = space.start.ravel()
        return (
            (int(space.nvec.sum()),),
            torch.float32,
            lambda x: np.concatenate([e[column] for e, column in zip(eyes, (x.reshape(len(x), -1) - start).T, strict=True)], -1),
        )
    if isinstance(space, spaces.MultiBinary):
        return (int(np.prod(space.shape)),), torch.float32, lambda x: x.reshape(len(x), -1).astype(np.float32)
    raise ConfigError(
        f"{env_id} has {type(space).__name__} observations, which no agent here can read",
        where="--env",
        fix="flatten them with gymnasium.wrappers.FlattenObservation in an environment id of your own",
    )


def check_actions(space: gym.Space, env_id: str) -> None:
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise ConfigError(
            f"{env_id} has {type(space).__name__} actions; agents here act in Discrete, MultiDiscrete and MultiBinary spaces",
            where="--env",
            fix="wrap it so that its actions are discrete, under an environment id of your own",
        )


def open_one(env_id: str, **kwargs: Any) -> gym.Env:
    """gym.make with every way to fail told in one error."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return gym.make(env_id, **kwargs)
    except gym.error.DependencyNotInstalled as e:
        raise EnvironmentProblem(f"{env_id} needs a package that is missing: {e}", where="--env") from e
    except (gym.error.UnregisteredEnv, gym.error.Error) as e:
        raise unknown(env_id) from e
    except (TypeError, ValueError, KeyError, AssertionError) as e:
        if not kwargs.keys() - {"render_mode"}:
            raise
        raise refused(env_id, kwargs, e) from e
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"{env_id} can't be opened: {e}",
            where="--env",
            fix="MODULE:ID imports MODULE first; is it installed, or on PYTHONPATH?",
        ) from e


def refused(env_id: str, options: dict[str, Any], e: Exception) -> ConfigError:
    return ConfigError(f"{env_id} doesn't take {str(options)[:200]}: {str(e)[:300]}", where="--env.options")


def unknown(env_id: str) -> ConfigError:
    known = [i for i in gym.registry if not i.startswith(("GymV", "phys2d/", "tabular/"))]
    own = f"; one of your own: {env_id.rsplit('.', 1)[0]}:Id-v0" if "." in env_id else ""
    return ConfigError(f"unknown environment {env_id!r}", where="--env", fix=nearest(env_id, known, "environments") + own)


class Noted(gym.Wrapper):
    """Says which environment is busy, so that one that raises or hangs can be named."""

    def __init__(self, env: gym.Env, backend: ClassicBackend, index: int):
        super().__init__(env)
        self._backend, self._index = backend, index

    def reset(self, **kwargs: Any) -> Any:
        self._backend.busy = self._index
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        self._backend.busy = self._index
        return self.env.step(action)


class ClassicBackend:
    """N copies stepped one after another in this process (gymnasium's SyncVectorEnv).

    send() only takes the actions; the steps are made in recv().
    """

    has_lives = False

    def __init__(self, env_id: str, num_envs: int, options: dict[str, Any] | None = None):
        self.env_id, self.num_envs, self.options = env_id, num_envs, options or {}
        with contextlib.closing(open_one(env_id, **self.options)) as one:
            self.frame_shape, self.obs_dtype, self._encode = encoder(one.observation_space, env_id)
            check_actions(one.action_space, env_id)
            action_space = one.action_space
            self.states = int(one.observation_space.n) if isinstance(one.observation_space, spaces.Discrete) else 0
            # of tasks with lengths: what a curriculum runs through, and how Gym's own promoted
            self.ranges = getattr(getattr(one.unwrapped, "task", one.unwrapped), "ranges", ())
            self.promotion = getattr(one.unwrapped, "promotion", (10, -1.0))
            self._asks = isinstance(one.unwrapped, TaskEnv)  # it says which rows ask for an answer
        self.busy = 0  # the environment that is being stepped or reset
        self._envs = SyncVectorEnv([partial(self._open, i) for i in range(num_envs)], autoreset_mode=AutoresetMode.NEXT_STEP)
        # agents count actions from 0
        self._start: Any = getattr(action_space, "start", 0)
        self.action_space: gym.Space
        if isinstance(action_space, spaces.Discrete):
            self.action_space = spaces.Discrete(int(action_space.n))
        elif isinstance(action_space, spaces.MultiDiscrete):
            self.action_space = spaces.MultiDiscrete(action_space.nvec)
        else:
            self.action_space = action_space
        self._action: np.ndarray | None = None

    def _open(self, index: int) -> gym.Env:
        return Noted(open_one(self.env_id, **self.options), self, index)

    def follow(self, schedule: Any) -> None:
        """A curriculum chooses the lengths from now on."""
        for env in self._envs.envs:
            env.unwrapped.schedule = schedule  # type: ignore[attr-defined]

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None) -> HostRow:
        # SyncVectorEnv takes the mask out of the dictionary it is given, and wants a seed for every environment
        options = None if mask is None else {"reset_mask": mask.copy()}
        with self._told("reset"):
            obs, info = self._envs.reset(seed=[int(s) for s in seeds], options=options)
        no = np.zeros(self.num_envs, bool)
        return HostRow(self._encode(obs), np.zeros(self.num_envs, np.float32), no, no, no, self._asked(info))

    def send(self, action: np.ndarray) -> None:
        self._action = action + self._start

    def recv(self) -> HostRow:
        assert self._action is not None
        with self._told("step"):
            obs, reward, terminated, truncated, info = self._envs.step(self._action)
        # the flags are the vector environment's own arrays, which its next step writes again
        no = np.zeros(self.num_envs, bool)
        ended = terminated.copy(), truncated & ~terminated
        return HostRow(self._encode(obs), reward.astype(np.float32), *ended, no, self._asked(info))

    def _asked(self, info: dict[str, Any]) -> np.ndarray | None:
        return info["asked"] if self._asks else None

    @contextlib.contextmanager
    def _told(self, where: str) -> Iterator[None]:
        """What an environment raises, as an error that names it."""
        try:
            yield
        except ArcturusError:
            raise
        except (Exception, SystemExit) as e:
            action = f", action {self._action[self.busy].tolist()}" if where == "step" and self._action is not None else ""
            raise TrainingFailed(
                f"{self.env_id}: environment {self.busy} raised {type(e).__name__}: {e}", where=f"its {where}(){action}"
            ) from e

    def close(self) -> None:
        self._envs.close()


def import_module_of(env_id: str) -> str:
    """'module:Id-v0' -> 'Id-v0', the module imported so that it registers its environments."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise ConfigError(
                f"{env_id} can't be opened: {e}", where="--env", fix="is the module installed, or on PYTHONPATH?"
            ) from e
    return name
