"""Memory/Recall-v0: a cue is shown, gone for `delay` steps, and asked for.  It can't be played without memory.

Step 0 shows the cue, one of `cues`; then `delay` steps show nothing; then the question is shown, and the episode ends with the
answer's reward: 1 for the cue's number, else 0.  Actions before the question change nothing.  Observations [cues + 1]: one-hot
cue, question flag.  An agent without memory answers right in 1 of `cues` episodes, whatever it does.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Recall(gym.Env):
    """delay: steps between cue and question; cues: how many there are, and as many actions."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, delay: int = 8, cues: int = 4, render_mode: str | None = None):
        whole = type(delay) is int and type(cues) is int  # True is an int to isinstance
        if not (whole and 0 <= delay <= 10_000 and 2 <= cues <= 1_000):
            raise ValueError(f"delay {delay} and cues {cues}: must be whole numbers, delay from 0 to 10,000 and cues from 2 to 1,000")
        self.delay, self.cues, self.render_mode = delay, cues, render_mode
        self.observation_space = gym.spaces.Box(0, 1, (cues + 1,), np.float32)
        self.action_space = gym.spaces.Discrete(cues)
        self.cue, self.t = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue, self.t = int(self.np_random.integers(self.cues)), 0
        return self._obs(), {}

    def _obs(self) -> np.ndarray:
        obs = np.zeros(self.cues + 1, np.float32)
        if self.t == 0:
            obs[self.cue] = 1
        if self.t == self.delay + 1:
            obs[-1] = 1
        return obs

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        valid = self.t == self.delay + 1
        self.t += 1
        return self._obs(), float(valid and action == self.cue), valid, False, {}

    def render(self) -> Any:
        """[H, W, 3] uint8: a tile for each cue, lit while it is shown; the last tile is lit when the question is."""
        if self.render_mode != "rgb_array":
            return None
        lit = np.kron(self._obs()[None], np.ones((48, 48), np.float32))[..., None]
        picture = (40 + lit * np.array([180.0, 140.0, 30.0])).astype(np.uint8)
        picture[:, 47::48] = 0
        return picture
