"""The peers' own environments, as their users build them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def gymnasium_atari(game: str) -> Any:
    """One Gymnasium environment, sticky as in v5; at module level, so that a worker process finds it (and registers ale-py)."""
    import ale_py
    import gymnasium as gym

    gym.register_envs(ale_py)
    return gym.make(game, frameskip=1, repeat_action_probability=0.25)


def sb3_atari(game: str, n: int, subprocesses: bool) -> Any:
    """stable-baselines3's own vectorised Atari: Gymnasium environments, its wrapper, its stack."""
    from stable_baselines3.common.atari_wrappers import AtariWrapper
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

    envs = make_vec_env(
        functools.partial(gymnasium_atari, game),
        n,
        seed=0,
        wrapper_class=AtariWrapper,
        wrapper_kwargs={"terminal_on_life_loss": False, "clip_reward": False},
        vec_env_cls=SubprocVecEnv if subprocesses else DummyVecEnv,
        vec_env_kwargs={"start_method": "spawn"} if subprocesses else None,
    )
    return VecFrameStack(envs, 4)


def emulator_step(game: str) -> Callable[[], int]:
    """The emulator alone on one thread: four frames an agent step, no preprocessing."""
    import numpy as np

    from arcturus.envs.atari import games, open_emulator

    emulator, rng = open_emulator(games()[game]), np.random.default_rng(0)
    legal = emulator.getMinimalActionSet()

    def step() -> int:
        action = legal[int(rng.integers(len(legal)))]
        for _ in range(4):
            emulator.act(action)
        if emulator.game_over():
            emulator.reset_game()
        return 1

    return step
