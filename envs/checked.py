"""One third-party environment: everything it returns is checked at once, and problems are reported with its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from arcturus.errors import TrainingFailed

if TYPE_CHECKING:
    from arcturus.envs.classic import ClassicBackend


class Checked(gym.Wrapper):
    """Records which environment is busy, so that one that raises or hangs can be named, and passes on only what is used of its output.

    name: the entry of Dict observations that is seen; "": all of it.  asks: whether info says which rows ask for an answer
    ("valid"); nothing else in an info is read.  TrainingFailed for a reward, flag or observation that doesn't follow Gymnasium's
    interface and the observation space.
    """

    def __init__(self, env: gym.Env, owner: ClassicBackend, index: int, name: str = "", asks: bool = False):
        super().__init__(env)
        self._owner, self._index, self._name, self._has_valid = owner, index, name, asks
        self._space = env.observation_space[name] if name else env.observation_space  # type: ignore[index]
        self.observation_space = self._space
        self._right = checker(self._space)

    def reset(self, **kwargs: Any) -> Any:
        self._begin()
        obs, info = self.env.reset(**kwargs)
        return self._seen(obs, "reset"), self._read(info)

    def step(self, action: Any) -> Any:
        self._begin()
        obs, reward, terminated, truncated, info = self.env.step(action)
        number = self._number(reward)
        return self._seen(obs, "step"), number, self._flag(terminated), self._flag(truncated), self._read(info)

    def _begin(self) -> None:
        self._owner.busy = self._index
        self._owner.calls += 1

    def _read(self, info: Any) -> dict[str, Any]:
        return {"valid": info["valid"]} if self._has_valid else {}

    def _wrong(self, where: str, what: str) -> TrainingFailed:
        return TrainingFailed(f"{self._owner.env_id}: environment {self._index} gave {what}", where=f"its {where}()")

    def _number(self, reward: Any) -> float:
        if type(reward) is float:
            return reward
        try:
            array = np.asarray(reward)
        except ValueError:  # a list of lists of several lengths
            array = np.empty(0, object)
        if array.dtype.kind not in "biuf":
            raise self._wrong("step", f"a reward that is not a number: {str(reward)[:80]}")
        if array.size != 1:
            raise self._wrong("step", f"a reward of shape {array.shape} instead of one number")
        return float(array.reshape(()))

    def _flag(self, flag: Any) -> bool:
        if type(flag) is bool:
            return flag
        if np.size(flag) != 1:
            raise self._wrong("step", f"terminated or truncated of shape {np.shape(flag)} instead of one boolean")
        truth = np.asarray(flag).reshape(())
        if truth.dtype.kind not in "biuf":
            raise self._wrong("step", f"terminated or truncated that is not a boolean: {str(flag)[:80]}")
        return bool(truth)

    def _seen(self, obs: Any, where: str) -> Any:
        if self._name:
            try:
                obs = obs[self._name]
            except (KeyError, TypeError, IndexError):
                raise self._wrong(where, f"an observation without {self._name!r}, which its observation_space has") from None
        try:
            return self._right(obs)
        except ValueError as e:
            raise self._wrong(where, str(e)) from None


def checker(space: gym.Space) -> Callable[[Any], Any]:
    """A function that returns an observation as an array of the space's shape and dtype, or raises ValueError saying what is wrong."""
    if isinstance(space, spaces.Discrete):
        return lambda obs: _whole(obs, (), space.start, space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return lambda obs: _whole(obs, space.shape, space.start, space.start + space.nvec - 1).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return lambda obs: _whole(obs, space.shape, 0, 1).astype(space.dtype)
    dtype, shape = space.dtype, space.shape
    whole = dtype is not None and dtype.kind in "iub"

    def box(obs: Any) -> np.ndarray:
        array = np.asarray(obs)
        if array.shape != shape:
            raise ValueError(f"an observation of shape {array.shape}, but its observation_space has shape {shape}")
        if array.dtype == dtype:
            return array
        if array.dtype.kind not in "iubf" or (whole and array.dtype.kind == "f"):
            raise ValueError(f"an observation of {array.dtype}, but its observation_space has {dtype}")
        cast = array.astype(dtype)
        if whole and not (cast == array).all():
            raise ValueError(f"an observation of {array.dtype} with numbers that the {dtype} of its observation_space can't hold")
        return cast

    return box


def _whole(obs: Any, shape: tuple[int, ...], low: Any, high: Any) -> np.ndarray:
    """Whole numbers of a shape, low <= obs <= high."""
    array = np.asarray(obs)
    if array.size == math.prod(shape) and array.dtype.kind in "iub":
        array = array.reshape(shape).astype(np.int64)
        if ((low <= array) & (array <= high)).all():
            return array
    raise ValueError(f"an observation {str(obs)[:60]} of shape {array.shape}, which isn't in its observation_space")
