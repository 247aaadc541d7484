"""Atari through ale-py's threaded vector environment, one grey frame per step; stacks are built on the device.

Always what the emulator says: raw rewards, whole games.  Clipping and the loss of a life are the learner's business.
Options that look right and are not: `reward_clipping` (loses the score), `episodic_life` (restarts the whole game at each
life), `life_loss_info` (says terminated while the game goes on).
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from arcturus.envs.vector import HostRow
from arcturus.errors import ConfigError, EnvironmentProblem, nearest

FRAME_SKIP = 4  # emulator frames per agent step
FRAMES_PER_SECOND = 60


@dataclass(frozen=True)
class Protocol:
    """How a game is played and scored; printed with every score."""

    name: str
    repeat_action_probability: float  # sticky actions
    noop_max: int  # random no-op actions after a reset
    fire_on_reset: bool  # FIRE is pressed once where the game waits for it
    max_frames: int  # emulator frames per episode
    epsilon: float  # of value agents at evaluation
    source: str

    def __str__(self) -> str:
        return (
            f"{self.name} (sticky {self.repeat_action_probability:g}, up to {self.noop_max} no-ops, "
            f"{'FIRE on reset, ' if self.fire_on_reset else ''}{self.max_frames:,} frames a game, raw rewards, whole games)"
        )


PROTOCOLS = {
    "v5": Protocol(
        "v5",
        0.25,
        30,
        True,
        108_000,
        0.001,
        "Machado et al. 2018, section 5 (sticky actions, whole games), with the resets of ale-py's v5 vector environments",
    ),
    "nature": Protocol(
        "nature",
        0.0,
        30,
        False,
        18_000,
        0.05,
        "Mnih et al. 2015, Methods, Evaluation procedure (no-op starts, 5 minutes, epsilon 0.05)",
    ),
}


def protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}", where="--protocol", fix=nearest(name, PROTOCOLS, "protocols"))
    return PROTOCOLS[name]


@cache
def games() -> dict[str, str]:
    """Environment id -> ale-py's name of the game, for every ALE/*-v5 game (pixels) that ale-py registers."""
    with contextlib.redirect_stderr(io.StringIO()):
        import ale_py
    gym.register_envs(ale_py)
    return {
        i: spec.kwargs["game"]
        for i, spec in gym.registry.items()
        if i.startswith("ALE/") and i.endswith("-v5") and spec.kwargs.get("obs_type", "rgb") == "rgb"
    }


@cache
def action_names(env_id: str, full_action_space: bool = False) -> tuple[str, ...]:
    """NOOP, FIRE, UP ... in the order of the action's numbers."""
    emulator = open_emulator(games()[env_id])
    actions = emulator.getLegalActionSet() if full_action_space else emulator.getMinimalActionSet()
    return tuple(a.name for a in actions)


def open_emulator(game: str) -> Any:
    """The bare emulator of one of ale-py's games, for its action names and for measuring it alone."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    rom = ale_py.roms.get_rom_path(game)
    if rom is None:
        raise EnvironmentProblem(f"ale-py has no ROM of {game}", where="--env", fix="pip install --force-reinstall ale-py")
    emulator.loadROM(rom)
    return emulator


class AtariBackend:
    """ale-py's emulator threads behind the Backend protocol.

    `colour` gives RGB frames of the console's own 210 x 160 pixels for films: the emulator's course is a function of seed
    and actions alone, so such a twin replays a scored episode exactly.
    """

    has_lives = True
    obs_dtype = torch.uint8
    offset = 0  # of its first environment among all groups'

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        rules: Protocol,
        *,
        frame_size: int = 84,
        full_action_space: bool = False,
        threads: int = 0,
        colour: bool = False,
    ):
        if env_id not in games():
            raise ConfigError(f"unknown game {env_id!r}", where="--env", fix=nearest(env_id, games(), "games"))
        self.env_id, self.num_envs = env_id, num_envs
        height, width = (210, 160) if colour else (frame_size, frame_size)
        self.frame_shape: tuple[int, ...] = (height, width, 3) if colour else (height, width)
        try:
            from ale_py.vector_env import AtariVectorEnv

            self._envs = AtariVectorEnv(
                games()[env_id],
                num_envs,
                num_threads=threads,
                stack_num=1,
                grayscale=not colour,
                img_height=height,
                img_width=width,
                frameskip=FRAME_SKIP,
                maxpool=True,
                reward_clipping=False,
                episodic_life=False,
                life_loss_info=False,
                full_action_space=full_action_space,
                noop_max=rules.noop_max,
                use_fire_reset=rules.fire_on_reset,
                max_num_frames_per_episode=rules.max_frames,
                repeat_action_probability=rules.repeat_action_probability,
                autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP,
            )
        except (FileNotFoundError, OSError, RuntimeError, ImportError, KeyError) as e:
            raise EnvironmentProblem(
                f"{env_id} can't be opened: {str(e).splitlines()[0] if str(e) else type(e).__name__}",
                where="--env",
                fix="the game's ROM comes with ale-py: reinstall it (pip install --force-reinstall ale-py), "
                "and unset ALE_ROMS_DIR if it points elsewhere",
            ) from e
        self.action_space = self._envs.single_action_space
        self.action_names = action_names(env_id, full_action_space)
        self._lives = np.zeros(num_envs, np.int64)
        self._ended = np.ones(num_envs, bool)

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None) -> HostRow:
        # ale-py wants one seed per environment that is reset
        options = None if mask is None else {"reset_mask": mask.copy()}
        obs, info = self._envs.reset(seed=seeds if mask is None else seeds[mask], options=options)
        self._lives = np.asarray(info["lives"]).astype(np.int64)
        no = np.zeros(self.num_envs, bool)
        self._ended = no if mask is None else self._ended & ~mask
        return HostRow(self._frames(obs), np.zeros(self.num_envs, np.float32), no, no, no)

    def send(self, action: np.ndarray) -> None:
        self._envs.send(action)

    def recv(self) -> HostRow:
        obs, reward, terminated, truncated, info = self._envs.recv()
        lives = np.asarray(info["lives"]).astype(np.int64)
        fewer, ended = lives < self._lives, terminated | truncated
        life_lost = fewer & (lives > 0) & ~ended & ~self._ended if fewer.any() else fewer
        self._lives, self._ended = lives, ended
        return HostRow(self._frames(obs), reward.astype(np.float32), terminated, truncated, life_lost)

    def _frames(self, obs: np.ndarray) -> np.ndarray:
        return obs[:, 0]

    def close(self) -> None:
        self._envs.close()
