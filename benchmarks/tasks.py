"""Environment steps of NTM/Copy-v0: its three views beside Gymnasium's SyncVectorEnv over the scalar one, and beside POPGym's
RepeatPrevious (Morad et al. 2023, arXiv:2303.01859), which asks for the suit of a card shown a few steps before.

All are played alike: actions are drawn beforehand, every observation and reward is read (summed, where it lies; the mean
observation is printed), and the row that opens an episode is a step like any other (NEXT_STEP).  Single environments are bare,
without the wrappers of gymnasium.make, which would only slow the peers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv

from arcturus.envs import make
from arcturus.envs.own import TURING
from arcturus.envs.tasks.scalar import TaskEnv
from benchmarks.measuring.timing import Contender, report, timed

ENV, COUNTS = "NTM/Copy-v0", (1, 256, 1024, 4096)
BATCHES = 16  # of actions that take turns
APART = 64  # steps before all clocks, three episodes, by which those that began together have drifted apart
AIM_ENVS, AIM_RATE, AIM_RATIO = 1024, 2_000_000, 20  # of the fastest view: steps/s on one core, times SyncVectorEnv's


class OneByOne:
    """Scalar environments in a loop, what they give side by side: obs [N, inputs], reward [N]."""

    def __init__(self, num_envs: int):
        self.envs = [copy_env() for _ in range(num_envs)]
        self.over = [False] * num_envs
        self.obs = np.zeros((num_envs, *(self.envs[0].observation_space.shape or ())), np.float32)
        self.reward = np.zeros(num_envs)

    def reset(self, *, seed: int) -> None:
        for i, env in enumerate(self.envs):
            self.obs[i], _ = env.reset(seed=seed + i)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for i, env in enumerate(self.envs):
            if self.over[i]:
                (self.obs[i], _), self.reward[i], self.over[i] = env.reset(), 0.0, False
            else:
                self.obs[i], self.reward[i], self.over[i], _, _ = env.step(actions[i])
        return self.obs, self.reward


class Player:
    """envs: anything with reset(seed=) and step(actions) -> (obs, reward, ...), arrays or tensors; actions: batches of them."""

    def __init__(self, envs: Any, actions: Any, device: str = "cpu"):
        self.envs, self.actions, self.device = envs, actions, torch.device(device)
        self.clear()
        envs.reset(seed=0)
        for _ in range(APART):
            self.step()
        self.clear()

    def clear(self) -> None:
        self.steps, self.seen, self.earned = 0, 0.0, 0.0

    def step(self) -> int:
        action = self.actions[self.steps % len(self.actions)]
        self.obs, reward = self.envs.step(action)[:2]
        self.seen, self.earned = self.seen + self.obs.sum(), self.earned + reward.sum()
        self.steps += 1
        return len(action)

    def window(self, seconds: float) -> tuple[float, float]:
        """What is still under way on the device belongs to it."""
        began = time.perf_counter()
        steps, _ = timed(self.step)(seconds)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return steps, time.perf_counter() - began

    def note(self) -> str:
        return f"mean observation {float(self.seen) / (self.steps * len(self.obs.reshape(-1))):.3f}"


def copy_env() -> TaskEnv:
    return TaskEnv(**TURING[ENV]["kwargs"])


def popgym_env() -> Callable[[], gym.Env] | None:
    """None, and a line, where POPGym isn't installed: nothing else here needs it."""
    try:
        from popgym.envs.repeat_previous import RepeatPreviousEasy
    except ImportError:
        print("POPGym is not installed and is left out; python -m pip install popgym")
        return None
    return RepeatPreviousEasy


def beside_others(num_envs: int, peer: Callable[[], gym.Env] | None, args: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    bits = rng.integers(2, size=(BATCHES, num_envs, *(copy_env().action_space.shape or ())), dtype=np.int8)
    on_device = list(torch.from_numpy(bits).long().to(args.device))
    players = {
        "SyncVectorEnv over arcturus's scalar env": Player(SyncVectorEnv([copy_env] * num_envs), bits),
        "arcturus, scalar envs in a loop": Player(OneByOne(num_envs), bits),
        "arcturus, NumPy vector env": Player(gym.make_vec(ENV, num_envs), bits),
        f"arcturus, torch on {args.device}": Player(make(ENV, num_envs, device=args.device), on_device, args.device),
    }
    if peer:
        suits = rng.integers(4, size=(BATCHES, num_envs))
        players["POPGym's RepeatPrevious, SyncVectorEnv"] = Player(SyncVectorEnv([peer] * num_envs), suits)
    contenders = [Contender(name, player.window, player.note) for name, player in players.items()]
    return report(f"{ENV}, {num_envs:,} environment(s)", "environment steps/s", contenders, args.seconds, args.rounds)


def aims(table: dict[str, Any]) -> dict[str, Any]:
    """What the fastest of our views came to."""
    best = max((row for row in table["rows"] if row["name"].startswith("arcturus")), key=lambda row: row["median"])
    met = {"rate": best["median"] >= AIM_RATE, "ratio": best["ratio"] >= AIM_RATIO}
    word = {True: "met", False: "missed"}
    print(f"\naims for the fastest view, {AIM_ENVS:,} environments: {best['name']}")
    print(f"  at least {AIM_RATE:,} steps/s: {best['median']:,.0f}, {word[met['rate']]}")
    print(f"  at least {AIM_RATIO} times SyncVectorEnv: {best['ratio']:.1f}, {word[met['ratio']]}")
    return {"fastest": best["name"], "met": met}


def benchmark_tasks(args: argparse.Namespace) -> list[dict[str, Any]]:
    peer = popgym_env()
    tables = {num_envs: beside_others(num_envs, peer, args) for num_envs in COUNTS}
    tables[AIM_ENVS]["aims"] = aims(tables[AIM_ENVS])
    return list(tables.values())
