"""Atari through ale-py's threaded vector environment, one grey frame per step; stacks are built on the device.

Always what the emulator returns: raw rewards, whole games.  The learner clips rewards and handles the loss of a life.
Options that look right and are not: `reward_clipping` (loses the score), `episodic_life` (restarts the whole game at each
life), `life_loss_info` (returns terminated while the game continues).
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

from arcturus.envs import EnvConfig
from arcturus.envs.vector import HostTimeStep
from arcturus.errors import ConfigError, EnvironmentProblem, nearest

FRAME_SKIP = 4  # emulator frames per agent step
FRAMES_PER_SECOND = 60


@dataclass(frozen=True)
class EvalProtocol:
    """How a game is played and scored; printed with every score."""

    name: str
    repeat_action_probability: float  # sticky actions
    noop_max: int  # random no-op actions after a reset
    fire_on_reset: bool  # FIRE is pressed once where the game waits for it
    max_frames: int  # emulator frames per episode
    epsilon: float  # of value agents at evaluation
    noisy_epsilon: float  # of those with noisy layers

    def __str__(self) -> str:
        return (
            f"{self.name} (sticky {self.repeat_action_probability:g}, up to {self.noop_max} no-ops, "
            f"{'FIRE on reset, ' if self.fire_on_reset else ''}{self.max_frames:,} frames a game, raw rewards, whole games)"
        )


PROTOCOLS = {
    # Machado et al. 2018, section 5 (sticky actions, whole games), with the resets of ale-py's v5 vector environments
    "v5": EvalProtocol("v5", 0.25, 30, True, 108_000, 0.001, 0.001),
    # Mnih et al. 2015, Methods, Evaluation procedure (no-op starts, 5 minutes, epsilon 0.05)
    "nature": EvalProtocol("nature", 0.0, 30, False, 18_000, 0.05, 0.05),
    # no-op starts and 30 minutes: van Hasselt et al. 2016 to Dabney et al. 2018 and Hessel et al. 2018, as in DQN Zoo
    "noop": EvalProtocol("noop", 0.0, 30, False, 108_000, 0.001, 0.0),
    # the same with FIRE pressed once after a reset: OpenAI Baselines' and CleanRL's wrappers, EnvPool's games
    "noop-fire": EvalProtocol("noop-fire", 0.0, 30, True, 108_000, 0.0, 0.0),
}


def protocol(name: str) -> EvalProtocol:
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


RESTARTED, RUN_OUT = "the console began another game by itself", "the game's own clock has run out"  # why an episode was ended here
CLOCKS = {  # agent steps after which the game no longer responds, however one plays (docs/games.md)
    "ALE/Pitfall-v5": 18_120,  # 20 minutes, a reset's no-ops, and 155 frames a death
    "ALE/Breakout-v5": 16_384,  # its counter of frames runs over at 65,536
    "ALE/Pong-v5": 16_294,  # likewise at 65,209, when the opponent's points become 1, a reward: before that, with a reset's 31 frames
}


@cache
def screen_size(env_id: str) -> tuple[int, int]:
    """Height and width of the console's picture in pixels: 210 x 160, but higher in some games."""
    return open_emulator(games()[env_id]).getScreenDims()


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

    `colour` gives RGB frames of the console's own pixels for films: the emulator's states are a function of seed and actions alone, so
    such a twin replays a scored episode exactly.

    A life is lost when lives() falls by one and the game continues, whatever is left: in eleven games it counts only the spare lives, so
    the last one is played at 0 (docs/games.md).  It never falls by more, except when a counter of three bits overflows.

    An extra life adds one.  If lives rise by more without a reset, the console has begun another game or a demonstration (Frostbite, once
    the last life has frozen): the episode is over, which ale-py doesn't see, and is ended here as truncated; `over` says why.  The same
    holds for a game whose clock has run out or overflowed (Pitfall, Breakout, Pong), where nothing can be earned until the cap.
    """

    has_lives = True
    obs_dtype = torch.uint8

    def __init__(self, config: EnvConfig, rules: EvalProtocol, *, colour: bool = False):
        env_id, num_envs, size = config.id, config.num_envs, config.frame_size
        if env_id not in games():
            raise ConfigError(f"unknown game {env_id!r}", where="--env", fix=nearest(env_id, games(), "games"))
        self.env_id, self.num_envs = env_id, num_envs
        height, width = screen_size(env_id) if colour else (size, size)
        self.frame_shape: tuple[int, ...] = (height, width, 3) if colour else (height, width)
        try:
            from ale_py.vector_env import AtariVectorEnv

            self._envs = AtariVectorEnv(
                games()[env_id],
                num_envs,
                num_threads=config.threads,
                stack_num=1,
                grayscale=not colour,
                img_height=height,
                img_width=width,
                frameskip=FRAME_SKIP,
                maxpool=True,
                reward_clipping=False,
                episodic_life=False,
                life_loss_info=False,
                full_action_space=config.full_action_space,
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
        self.action_names = action_names(env_id, config.full_action_space)
        self._lives = np.zeros(num_envs, np.int64)
        self._ended = np.ones(num_envs, bool)
        self._closed = np.zeros(num_envs, bool)  # ended here, and not by the emulator: to be reset at the next step
        self._young = np.zeros(num_envs, np.int64)  # steps since the reset: right after it some games report a wrong number of lives
        self._again = [np.random.default_rng(i) for i in range(num_envs)]  # seeds of those resets
        self.over: dict[int, str] = {}  # episodes ended here in the newest row, and why
        self._clock = CLOCKS.get(env_id, 1 << 62)

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None) -> HostTimeStep:
        # ale-py wants one seed per environment that is reset
        options = None if mask is None else {"reset_mask": mask.copy()}
        obs, info = self._envs.reset(seed=seeds if mask is None else seeds[mask], options=options)
        self._lives = np.asarray(info["lives"]).astype(np.int64)
        no, chosen = np.zeros(self.num_envs, bool), np.ones(self.num_envs, bool) if mask is None else mask
        self._ended = no if mask is None else self._ended & ~mask
        self._closed, self._young[chosen], self.over = self._closed & ~chosen, 0, {}
        for i in np.flatnonzero(chosen):
            self._again[i] = np.random.default_rng(int(seeds[i]))
        return HostTimeStep(obs[:, 0], np.zeros(self.num_envs, np.float32), no, no, no)

    def send(self, action: np.ndarray) -> None:
        self._envs.send(action)

    def recv(self) -> HostTimeStep:
        obs, reward, terminated, truncated, info = self._envs.recv()
        if self._closed.any():
            obs, reward, terminated, truncated, info = self._open_again(obs, reward, terminated, truncated)
        lives = np.asarray(info["lives"]).astype(np.int64)
        ended, change = terminated | truncated, lives - self._lives
        self._young = np.where(self._ended | self._closed, 0, self._young + 1)
        life_lost, self.over = change == -1, {}
        closed = np.zeros(self.num_envs, bool)
        if change.any() or self._young.max() >= self._clock:
            goes_on = ~(ended | self._ended | self._closed)
            life_lost &= goes_on
            restarted, late = (change > 1) & goes_on & (self._young > 1), (self._young >= self._clock) & goes_on
            closed = restarted | late
            self.over = {int(i): RESTARTED if restarted[i] else RUN_OUT for i in np.flatnonzero(closed)}
            truncated, reward = truncated | closed, np.where(restarted, 0, reward)
        self._closed, self._lives, self._ended = closed, lives, ended
        return HostTimeStep(obs[:, 0], reward.astype(np.float32), terminated, truncated, life_lost)

    def _open_again(self, obs: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> Any:
        """What recv() returns, with the environments whose episodes were closed here reset; the step their emulators made in between is
        ignored."""
        closed = self._closed
        seeds = np.array([int(self._again[i].integers(2**31)) for i in np.flatnonzero(closed)], np.int64)
        fresh, info = self._envs.reset(seed=seeds, options={"reset_mask": closed.copy()})
        wide = closed.reshape(-1, *[1] * (obs.ndim - 1))
        return np.where(wide, fresh, obs), np.where(closed, 0, reward), terminated & ~closed, truncated & ~closed, info

    def close(self) -> None:
        self._envs.close()
