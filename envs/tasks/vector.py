"""A task as a NumPy vector environment (gym.make_vec): the device view on the host, its tensors seen as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from arcturus.envs.tasks.device import TaskEnvs
from arcturus.envs.tasks.scalar import split_settings


class TaskVectorEnv(VectorEnv):
    """num_envs environments of one task, which begin and end together (they share the lengths of their tapes)."""

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, task: str | type, num_envs: int = 1, render_mode: str | None = None, **settings: Any):
        kind, play = split_settings(task, settings)
        self.envs = TaskEnvs(f"NTM/{type(kind).__name__}-v0", kind, play, num_envs, "cpu")
        self.num_envs, self.render_mode = num_envs, render_mode
        for name in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
            setattr(self, name, getattr(self.envs, name))

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """seed: a whole number (a list of them: its first)."""
        seed = seed[0] if isinstance(seed, (list, tuple, np.ndarray)) else seed
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        obs, info = self.envs.reset(seed=seed, options=options)
        return obs.numpy().copy(), {"valid": info["valid"].numpy().copy()}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        actions = np.asarray(actions)
        self.envs.play.check(actions, (self.num_envs,))
        obs, reward, terminated, truncated, info = self.envs.step(torch.as_tensor(actions))
        return (
            obs.numpy().copy(),
            reward.numpy().astype(np.float64),
            terminated.numpy().copy(),
            truncated.numpy().copy(),
            {"valid": info["valid"].numpy().copy()},
        )

    def close_extras(self, **kwargs: Any) -> None:
        self.envs.close()
