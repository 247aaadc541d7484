"""The picture of an episode that is played again: of a game in colour from a twin, of other environments what they draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from arcturus.envs import EnvConfig, is_atari, open_backend, open_envs
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import ConfigError, EnvironmentProblem


class ColourTwin:
    """The same game in colour: one environment, same seed, same actions, same states."""

    def __init__(self, config: EnvConfig):
        self.atari: Any = open_backend(replace(config, num_envs=1, threads=1), colour=True)

    def first(self, seed: int) -> np.ndarray:
        """[H, W, 3] uint8 of an episode's beginning, right after its restart."""
        return self.atari.reset(np.array([seed], np.int64), None).obs[0]

    def next(self, action: np.ndarray) -> tuple[np.ndarray, float | None]:
        """The picture right after an action was taken; and the reward, if it comes from a twin."""
        self.atari.send(action[None])
        row = self.atari.recv()
        return row.obs[0], float(row.reward[0])

    def close(self) -> None:
        self.atari.close()


class Drawing:
    """What the environment that is played draws of itself."""

    def __init__(self, envs: DeviceEnvs):
        self.backend: Any = envs.backend
        self.unit = True  # numbers that aren't whole have been from 0 to 1 so far

    def first(self, seed: int) -> np.ndarray:
        return self.picture(self.backend.render())

    def next(self, action: np.ndarray) -> tuple[np.ndarray, float | None]:
        return self.picture(self.backend.render()), None

    def picture(self, drawn: Any) -> np.ndarray:
        """[H, W, 3] uint8 of bytes, whole numbers from 0 to 255, or others from 0 to 1 or to 255; grey, RGB or RGBA, channels last or
        first; of a list of pictures the last."""
        if isinstance(drawn, list) and drawn:
            drawn = drawn[-1]
        x = drawn if isinstance(drawn, np.ndarray) else np.empty(0)
        if x.ndim == 2:
            x = x[..., None]
        if x.ndim == 3 and x.shape[-1] not in (1, 3, 4) and x.shape[0] in (1, 3, 4):
            x = np.moveaxis(x, 0, -1)
        if x.ndim != 3 or x.shape[-1] not in (1, 3, 4) or not x.size or x.dtype.kind not in "biuf":
            gave = f"{drawn.dtype} {list(drawn.shape)}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
            raise EnvironmentProblem(
                f"{self.backend.env_id}: its render() gave {gave} instead of a picture [height, width, 3] of bytes",
                where="--video",
            )
        x = np.repeat(x, 3, -1) if x.shape[-1] == 1 else x[..., :3]
        if x.dtype == np.uint8:
            return x
        x = np.nan_to_num(x.astype(np.float64))
        self.unit = self.unit and x.max() <= 1
        return (x * (255 if self.unit else 1)).clip(0, 255).astype(np.uint8)


def check_screen(config: EnvConfig) -> None:
    """Before episodes are played for a film: whether this environment can be shown at all."""
    if not is_atari(config.id):
        with opened(config, "cpu") as (envs, screen):
            envs.restart(np.array([0]))
            screen.first(0)


@contextmanager
def opened(config: EnvConfig, device: Any) -> Iterator[tuple[DeviceEnvs, ColourTwin | Drawing]]:
    """One environment to play an episode again, and its screen.  Only an Atari game is ever opened twice."""
    one = replace(config, num_envs=1)
    if is_atari(config.id):
        with closing(ColourTwin(one)) as twin, open_envs(one, 0, device) as envs:
            yield envs, twin
        return
    with open_envs(one, 0, device, drawn=True) as envs:
        if "rgb_array" not in envs.backend.render_modes:  # type: ignore[attr-defined]
            raise ConfigError(f"{config.id} can't be filmed: it has no rgb_array render mode", where="--video")
        yield envs, Drawing(envs)
