"""The peers' own environments, as their users build them."""

from __future__ import annotations

import functools
import os
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


def envpool_atari(game: str, n: int, threads: int, **options: Any) -> Any:
    """EnvPool's vector environment of `n` games, sticky and whole as ours; None, and a line, where EnvPool or the game is missing.

    options: EnvPool's own.  It has NEXT_STEP resets and, as ale-py, at most 108,000 emulator frames a game.
    """
    try:
        import envpool
    except ImportError:
        print(missing("envpool"))
        return None
    from arcturus.envs.atari import FRAME_SKIP, PROTOCOLS

    rules, task = PROTOCOLS["v5"], game.removeprefix("ALE/")
    if task not in envpool.list_all_envs():
        print(f"EnvPool has no {task}: it is left out")
        return None
    return envpool.make(
        task,
        env_type="gymnasium",
        num_envs=n,
        num_threads=threads,
        seed=0,
        frame_skip=FRAME_SKIP,
        repeat_action_probability=rules.repeat_action_probability,
        noop_max=rules.noop_max,
        use_fire_reset=rules.fire_on_reset,
        max_episode_steps=rules.max_frames // FRAME_SKIP,
        episodic_life=False,
        reward_clip=False,
        **options,
    )


def emulator_threads(n: int, asked: int | None) -> int:
    """Of `n` environments: those asked for, or one a core; more than environments would have nothing to do."""
    return min(n, asked or os.cpu_count() or 1)


def missing(package: str) -> str:
    return f"{package} is not installed (python -m pip install 'arcturus[peers]'): it is left out"
