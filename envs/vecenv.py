"""Our environments as stable-baselines3 wants them: a VecEnv, on the host, whose finished environments begin again at once."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from arcturus.api import EnvSpec, TimeStep
from arcturus.envs.vector import DeviceEnvs
from arcturus.seeding import Seeds


def spaces_of(spec: EnvSpec) -> tuple[gym.Space, gym.Space]:
    """Observation and action space of one environment; pictures are [channels, H, W], whatever the stack."""
    if spec.obs_dtype == torch.uint8:
        shape = (math.prod(spec.obs_shape[:-2]), *spec.obs_shape[-2:])
        return gym.spaces.Box(0, 255, shape, np.uint8), spec.action_space
    return gym.spaces.Box(-np.inf, np.inf, spec.obs_shape, np.float32), spec.action_space


class SB3VecEnv(VecEnv):
    """stable-baselines3's conventions over a DeviceEnvs.

    A finished environment is reset in the same step: the observation returned is the next episode's first, the episode's last
    one is infos[i]["terminal_observation"], and infos[i]["TimeLimit.truncated"] says that a limit ended it.  reward_clip and
    end_on_life_loss do what its Atari wrappers do: rewards clipped to [-reward_clip, reward_clip] (0: raw), and the loss of a life
    reported as an end while the game continues.  infos[i]["episode"] has the raw score of whole episodes.

    Without envs it has the spaces only, enough to build a model; bind() gives it environments.
    """

    def __init__(self, spec: EnvSpec, reward_clip: float = 0.0, end_on_life_loss: bool = False):
        self.reward_clip, self.end_on_life_loss, self.render_mode = reward_clip, end_on_life_loss, None
        self.envs: DeviceEnvs | None = None
        super().__init__(spec.num_envs, *spaces_of(spec))

    def bind(self, envs: DeviceEnvs, seeds: Seeds) -> None:
        """seeds: episode seeds come from branches of it."""
        self.envs, self._branch, self._resets = envs, seeds, 0

    def _restart(self, mask: np.ndarray | None = None) -> TimeStep:
        assert self.envs is not None
        self._resets += 1
        return self.envs.restart(self._branch.branch("episodes", self._resets).environments(self.num_envs), mask)

    def _host(self, ts: TimeStep) -> np.ndarray:
        return ts.obs.reshape(self.num_envs, *self.observation_space.shape).cpu().numpy()  # type: ignore[misc]

    def reset(self) -> np.ndarray:
        self.row = self._restart()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._host(self.row)

    def step_async(self, actions: np.ndarray) -> None:
        assert self.envs is not None
        self.envs.send(torch.as_tensor(actions, dtype=torch.int64))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        assert self.envs is not None
        begun = len(self.envs.finished)
        self.row = ts = self.envs.recv()
        reward, host = ts.reward.cpu().numpy(), self.envs.host
        over = host.terminated | host.truncated
        done = over | host.life_lost if self.end_on_life_loss else over
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        obs = self._host(ts)
        for i in np.flatnonzero(done):
            infos[i] = {"terminal_observation": obs[i], "TimeLimit.truncated": bool(host.truncated[i] and not host.terminated[i])}
        for episode in self.envs.finished[begun:]:
            infos[episode.env]["episode"] = {"r": episode.score, "l": episode.length, "t": 0.0}
        if over.any():
            obs = self._host(self._restart(over))
        if self.reward_clip:
            reward = reward.clip(-self.reward_clip, self.reward_clip)
        return obs, reward, done, infos

    def close(self) -> None:
        """Does nothing: the environments are closed by the code that opened them."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"{attr_name} can't be set: these environments are stepped together")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError(f"there is no {method_name} to call: these environments are stepped together")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False, also of Monitor: scores are in infos all the same."""
        return [False for _ in self._get_indices(indices)]
