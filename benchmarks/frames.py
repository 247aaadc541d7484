"""Steps of Atari environments beside ale-py's own vector environment, EnvPool's and stable-baselines3's.

All play 84x84 grey frames, four emulator frames a step, maximum of the last two, sticky actions (0.25), up to 30 no-ops and FIRE after a
reset, whole games, raw rewards; actions are uniform.  Emulator threads are as many for all that have them.  Resets are part of the
time.  The row that only opens an episode (NEXT_STEP: its action is ignored) is no step; stable-baselines3 resets within a step and has
no such row.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from arcturus.envs import make
from arcturus.envs.atari import FRAME_SKIP, PROTOCOLS, games, open_emulator
from benchmarks.measuring.timing import Contender, report, timed
from benchmarks.peers import emulator_threads, envpool_atari, sb3_atari

RULES = PROTOCOLS["v5"]


class Counted:
    """Steps and resets, those of warm-ups included."""

    steps = resets = 0

    def step(self) -> int:
        raise NotImplementedError

    def note(self) -> str:
        each = f", one every {self.steps / self.resets:,.0f} steps" if self.resets else ""
        return f"{self.resets:,} resets{each}"


class Player(Counted):
    """Plays uniformly.  advance: steps with actions [N] given, and says for whom an episode ended, bool [N].  opens: whether the next
    row of those is one in which nothing is decided."""

    def __init__(self, advance: Callable[[np.ndarray], np.ndarray], num_envs: int, actions: int, opens: bool = True):
        self.advance, self.num_envs, self.actions, self.opens = advance, num_envs, actions, opens
        self.rng, self.opening = np.random.default_rng(0), 0

    def step(self) -> int:
        ended = int(self.advance(self.rng.integers(self.actions, size=self.num_envs)).sum())
        done = self.num_envs - self.opening
        self.opening = ended if self.opens else 0
        self.steps, self.resets = self.steps + done, self.resets + ended
        return done


class AsyncEnvPool(Counted):
    """EnvPool as its authors mean it: whoever is ready first, half of the environments at a time."""

    def __init__(self, envs: Any, num_envs: int, batch: int, actions: int):
        self.envs, self.batch, self.actions = envs, batch, actions
        self.rng, self.ended = np.random.default_rng(0), np.zeros(num_envs, bool)
        envs.async_reset()

    def step(self) -> int:
        _, _, terminated, truncated, info = self.envs.recv()
        who, ended = info["env_id"], terminated | truncated
        done = self.batch - int(self.ended[who].sum())
        self.ended[who] = ended
        self.steps, self.resets = self.steps + done, self.resets + int(ended.sum())
        self.envs.send(self.rng.integers(self.actions, size=self.batch, dtype=np.int32), who)
        return done


def ours(envs: Any, actions: int) -> Player:
    def advance(action: np.ndarray) -> np.ndarray:
        envs.step(torch.from_numpy(action))
        return envs.host.terminated | envs.host.truncated

    return Player(advance, envs.num_envs, actions)


def gymnasiums(envs: Any, num_envs: int, actions: int) -> Player:
    """Of ale-py and EnvPool."""

    def advance(action: np.ndarray) -> np.ndarray:
        _, _, terminated, truncated, _ = envs.step(action)
        return terminated | truncated

    envs.reset()
    return Player(advance, num_envs, actions)


def sb3s(envs: Any, num_envs: int, actions: int) -> Player:
    envs.reset()
    return Player(lambda action: envs.step(action)[2], num_envs, actions, opens=False)


def emulator(game: str) -> Player:
    """Alone on one thread: four frames an agent step, no preprocessing."""
    emulator = open_emulator(games()[game])
    legal = emulator.getMinimalActionSet()

    def advance(action: np.ndarray) -> np.ndarray:
        for _ in range(FRAME_SKIP):
            emulator.act(legal[int(action[0])])
        over = emulator.game_over()
        if over:
            emulator.reset_game()
        return np.array([over])

    return Player(advance, 1, len(legal), opens=False)


def ale(game: str, n: int, stack: int, threads: int) -> Any:
    """ale-py's vector environment, bare, with our protocol's numbers."""
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        games()[game],
        n,
        num_threads=threads,
        stack_num=stack,
        reward_clipping=False,
        repeat_action_probability=RULES.repeat_action_probability,
        noop_max=RULES.noop_max,
        use_fire_reset=RULES.fire_on_reset,
        max_num_frames_per_episode=RULES.max_frames,
    )


def benchmark_env(args: argparse.Namespace) -> list[dict[str, Any]]:
    n, threads = args.num_envs, emulator_threads(args.num_envs, args.env_threads)
    envs = make(args.game, n, device=args.device, threads=threads)
    envs.reset(seed=0)
    actions = int(envs.single_action_space.n)  # type: ignore[attr-defined]
    single = "ale-py's vector env, single frames"
    players: dict[str, Counted] = {
        "ale-py's vector env, 4 stacked on the host": gymnasiums(ale(args.game, n, 4, threads), n, actions),
        f"arcturus, 4 stacked on {args.device}": ours(envs, actions),
        single: gymnasiums(ale(args.game, n, 1, threads), n, actions),
    }
    opened: list[Any] = [envs]
    pool = envpool_atari(args.game, n, threads, stack_num=4)
    if pool is not None:
        opened += [pool, envpool_atari(args.game, n, threads, stack_num=1)]
        players["EnvPool, 4 stacked on the host"] = gymnasiums(pool, n, actions)
        players["EnvPool, single frames"] = gymnasiums(opened[-1], n, actions)
        half = max(n // 2, 1)
        opened.append(envpool_atari(args.game, n, threads, stack_num=1, batch_size=half))
        players[f"EnvPool, single frames, the first {half} that are ready"] = AsyncEnvPool(opened[-1], n, half, actions)
    for name, flag in (("DummyVecEnv, one thread", False), (f"SubprocVecEnv, {n} processes", True)):
        opened.append(sb3_atari(args.game, n, flag))
        players[f"stable-baselines3, {name}"] = sb3s(opened[-1], n, actions)
    players["emulator alone, one thread, no preprocessing"] = emulator(args.game)
    contenders = [Contender(name, timed(player.step, args.device), player.note) for name, player in players.items()]
    title = f"environment steps, {args.game}, {n} environments, {threads} emulator thread(s)"
    table = report(title, "agent steps/s", contenders, args.seconds, args.rounds, beside=single)
    for each in opened:
        each.close()
    return [table]
