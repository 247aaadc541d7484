"""A task as one Gymnasium environment: the view that everything made for Gymnasium can play."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from arcturus.envs.schedules import Schedule
from arcturus.envs.tasks.playing import FORECASTS, Play
from arcturus.envs.tasks.sequences import TASKS, Tapes


def split_settings(task: str | type, settings: dict[str, Any]) -> tuple[Any, Play]:
    """Task and way of playing from an environment's settings; task: its name in TASKS, or its class."""
    kind: Any = TASKS[task] if isinstance(task, str) else task
    names = [f.name for f in fields(kind)]
    unknown = settings.keys() - {*names, "actions", "reward", "levels"}
    if unknown:
        raise TypeError(
            f"there is no setting {', '.join(sorted(unknown))}; the settings are {', '.join(names)}, actions, reward, levels"
        )
    if settings.get("actions") in FORECASTS:
        settings = {"reward": "logscore"} | settings
    made = kind(**{k: v for k, v in settings.items() if k in names})
    return made, Play(made.outputs, **{k: v for k, v in settings.items() if k not in names})


def observation_space(task: Any) -> gym.spaces.Box:
    low, high = task.bounds
    return gym.spaces.Box(low, high, (task.inputs,), np.float32)


class TaskEnv(gym.Env):
    """task: its name in sequences.TASKS, or its class; settings: the task's fields, and Play's (actions, reward, levels).

    Row t of a tape is observation t; the action taken there answers row t if the mask asks for it, else it changes nothing.  After
    the last row the episode terminates, with zeros as its last observation.  Lengths are drawn from the task's ranges, or by
    `schedule` if one was set from outside; reset(options={"lengths": (5,)}) and {"tape": Tapes of one} play what they say.
    info: "valid" (whether the next action answers), and at the end "solved".
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, task: str | type, render_mode: str | None = None, **settings: Any):
        self.task, self.play = split_settings(task, settings)
        self.render_mode, self.schedule = render_mode, Schedule("uniform", self.task.ranges)
        self.observation_space, self.action_space = observation_space(self.task), self.play.space
        self._tapes: torch.Generator | None = None
        self._free = self._over = True
        self._rows = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._free, self._over = not options, False
        if seed is not None or self._tapes is None:
            self._tapes = torch.Generator().manual_seed(int(self.np_random.integers(2**62)))
        if "tape" in options:
            tapes = Tapes(*options["tape"])
        else:
            lengths = options["lengths"] if "lengths" in options else self.schedule.draw(self.np_random)
            self.task.check(tuple(lengths))
            tapes = self.task.sample(self._tapes, 1, tuple(lengths))
        laid = self.play.lay_out(tapes)
        self._x, self._targets, self._y = laid.inputs[:, 0].numpy(), laid.targets[:, 0], laid.targets[:, 0].numpy()
        self._mask, self._rows = laid.mask.tolist(), len(laid.mask)
        self._end = np.zeros_like(self._x[0])
        self.t, self._total, self._all_right = 0, 0.0, True
        self._answers = np.full(self._y.shape, np.nan)
        return self._x[0].copy(), {"valid": self._mask[0]}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise gym.error.ResetNeeded("the episode is over: call reset() first")
        reward, over = 0.0, False
        if self._mask[self.t]:
            self.play.check(np.asarray(action))
            answer = torch.as_tensor(action)
            value, right = self.play.score(answer, self._targets[self.t])
            reward = float(value)
            self._all_right &= bool(right)
            over = self.play.reward == "stop" and not right
            if self.render_mode:
                forecast = self.play.actions in FORECASTS
                self._answers[self.t] = self.play.probabilities(answer) if forecast else self.play.decode(answer)
        self.t += 1
        self._over = over = over or self.t == self._rows
        if over and self.play.reward == "sparse":
            reward = float(self._all_right)
        self._total += reward
        if not over:
            return self._x[self.t].copy(), reward, False, False, {"valid": self._mask[self.t]}
        if self._free:
            self.schedule.note(self._all_right, self.play.shortfall(self._total, sum(self._mask)))
        return self._end.copy(), reward, True, False, {"valid": False, "solved": self._all_right}

    def render(self) -> Any:
        """[420, 640, 3] uint8 (pictures/strips.py)."""
        if self.render_mode != "rgb_array":
            return None
        from arcturus.pictures.strips import Scene, picture  # Pillow is loaded for those who want pictures

        return picture(
            Scene(
                name=self.spec.id if self.spec else type(self.task).__name__,
                inputs=self._x,
                targets=self._y,
                mask=np.array(self._mask),
                answers=self._answers,
                flags=self.task.flags,
                markers=self.task.markers if self.play.actions != "serial" else (),
                t=self.t,
                over=self._over,
                solved=self._all_right,
                score=self._total,
            )
        )
