"""benchmark env|replay|dqn|checkpoint: measured speed beside the peers', in one interleaved run on this machine.

Contenders take turns in windows of a few seconds, forwards and backwards (A B C C B A ...), so that a noisy machine is noisy to
all of them.  Printed are the median rate over windows with the lowest and highest, and the median over rounds of the ratio to
the first contender of the table.  Steps are agent steps (4 emulator frames each); resets are part of every window; clocks
start after warm-up.

  python -m arcturus.scripts.benchmark env --seconds 4 --rounds 3
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.runs.folder import versions

Window = Callable[[float], tuple[int, float]]  # seconds -> (units done, seconds taken)


class Contender(NamedTuple):
    name: str
    window: Window
    note: Callable[[], str] = lambda: ""


def interleave(contenders: list[Contender], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Units per second of every window; each contender has two a round."""
    rates: dict[str, list[float]] = {c.name: [] for c in contenders}
    for c in contenders:
        c.window(min(1.0, seconds))  # warm-up
    for _ in range(rounds):
        for c in [*contenders, *reversed(contenders)]:
            units, taken = c.window(seconds)
            rates[c.name].append(units / taken)
    return rates


def report(title: str, unit: str, contenders: list[Contender], seconds: float, rounds: int) -> dict[str, Any]:
    rates = interleave(contenders, seconds, rounds)
    first = rates[contenders[0].name]
    width = max(len(c.name) for c in contenders)
    print(f"\n{title} ({unit}; median of {2 * rounds} windows of {seconds:g} s, lowest to highest)")
    table = []
    for c in contenders:
        r = rates[c.name]
        ratio = statistics.median(a / b for a, b in zip(r, first, strict=True))
        note = c.note()
        print(f"  {c.name:{width}s}  {statistics.median(r):10,.0f}  [{min(r):,.0f}, {max(r):,.0f}]  x{ratio:.2f}  {note}")
        table.append({"name": c.name, "median": statistics.median(r), "windows": r, "ratio": ratio, "note": note})
    return {"title": title, "unit": unit, "rows": table}


def timed(step: Callable[[], int]) -> Window:
    """A window that calls `step` (which returns the units it did) until its time is up."""

    def window(seconds: float) -> tuple[int, float]:
        units, began = 0, time.perf_counter()
        while (now := time.perf_counter()) - began < seconds:
            units += step()
        return units, now - began

    return window


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


def benchmark_env(args: argparse.Namespace) -> list[dict[str, Any]]:
    import numpy as np
    import torch
    from ale_py.vector_env import AtariVectorEnv

    from arcturus.envs import make
    from arcturus.envs.atari import games

    n, rng = args.num_envs, np.random.default_rng(0)
    ours = make(args.game, n, device=args.device)
    ours.reset(seed=0)
    high = int(ours.single_action_space.n)  # type: ignore[attr-defined]

    def our_step() -> int:
        ours.step(torch.from_numpy(rng.integers(high, size=n)))
        return n

    def plain(stack: int) -> Callable[[], int]:
        envs = AtariVectorEnv(games()[args.game], n, stack_num=stack, reward_clipping=False, repeat_action_probability=0.25)
        envs.reset(seed=0)

        def step() -> int:
            envs.step(rng.integers(high, size=n))
            return n

        return step

    def sb3(subprocesses: bool) -> Callable[[], int]:
        envs = sb3_atari(args.game, n, subprocesses)
        envs.reset()

        def step() -> int:
            envs.step(rng.integers(high, size=n))
            return n

        return step

    contenders = [
        Contender(f"ale-py's vector env, 4 stacked on the host, {n} envs", timed(plain(4))),
        Contender(f"arcturus, 4 stacked on {args.device}, {n} envs", timed(our_step)),
        Contender(f"ale-py's vector env, single frames, {n} envs", timed(plain(1))),
        Contender("stable-baselines3, DummyVecEnv", timed(sb3(False))),
        Contender("stable-baselines3, SubprocVecEnv", timed(sb3(True))),
        Contender("emulator alone, one thread, no preprocessing", timed(emulator_step(args.game))),
    ]
    return [report(f"environment steps, {args.game}", "agent steps/s", contenders, args.seconds, args.rounds)]


def benchmark_replay(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of 8 environments added and two batches of 32 drawn (a batch for every 4 steps), as in training; all full before."""
    import gymnasium as gym
    import numpy as np
    import torch
    from stable_baselines3.common.buffers import ReplayBuffer

    from arcturus.api import EnvSpec, Step
    from arcturus.replay.ring import Ring
    from arcturus.scoring.instruments import as_timestep

    n, capacity, batch = 8, args.capacity, 32
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(64, n, 4, 84, 84), dtype=np.uint8)
    spec = EnvSpec("x", n, (4, 84, 84), torch.uint8, gym.spaces.Discrete(6), 4)
    ring, generator = Ring(capacity, spec, args.device), torch.Generator(args.device).manual_seed(0)
    steps = []
    for i in range(64):
        ts = as_timestep(torch.as_tensor(frames[i], device=args.device))
        age = torch.full_like(ts.age, 255)
        steps.append(Step(ts._replace(age=age), (), torch.zeros(n, dtype=torch.int64, device=args.device), {}))
    peers = {
        flag: ReplayBuffer(
            capacity,
            gym.spaces.Box(0, 255, (4, 84, 84), np.uint8),
            gym.spaces.Discrete(6),
            device=args.device,
            n_envs=n,
            optimize_memory_usage=flag,
            handle_timeout_termination=not flag,
        )
        for flag in (False, True)
    }
    zeros, actions = np.zeros(n, np.float32), np.zeros((n, 1), np.int64)
    infos: list[dict[str, Any]] = [{} for _ in range(n)]
    count = 0
    for i in range(capacity // n + 1):
        ring.append(steps[i % 64])
        for peer in peers.values():
            peer.add(frames[i % 64], frames[(i + 1) % 64], actions, zeros, zeros, infos)

    def ours() -> int:
        nonlocal count
        ring.append(steps[count % 64])
        count += 1
        for _ in range(n // 4):
            ring.sample(batch, generator)
        return n

    def theirs(buffer: Any) -> Callable[[], int]:
        turn = 0

        def step() -> int:
            nonlocal turn
            buffer.add(frames[turn % 64], frames[(turn + 1) % 64], actions, zeros, zeros, infos)
            turn += 1
            for _ in range(n // 4):
                buffer.sample(batch)
            return n

        return step

    def size(buffer: Any) -> Callable[[], str]:
        fields = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        total = sum(getattr(buffer, f).nbytes for f in fields if getattr(buffer, f, None) is not None)
        return lambda: f"{total / capacity:,.0f} bytes a step"

    contenders = [
        Contender("stable-baselines3 ReplayBuffer", timed(theirs(peers[False])), size(peers[False])),
        Contender("stable-baselines3, optimize_memory_usage", timed(theirs(peers[True])), size(peers[True])),
        Contender("arcturus Ring", timed(ours), lambda: f"{ring.row_bytes:,} bytes a step"),
    ]
    return [report(f"replay on {args.device}, capacity {capacity:,}: add + a batch of 32 every 4 steps", "agent steps/s",
                   contenders, args.seconds, args.rounds)]  # fmt: skip


def benchmark_dqn(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Equal network (Nature), batch 32, one update per 4 agent steps, Adam; both count their own optimiser's updates."""
    import torch

    torch.set_num_threads(args.threads)
    from arcturus.agents import dqn
    from arcturus.envs import make
    from arcturus.loop import run
    from arcturus.seeding import Seeds

    n, warm = args.num_envs, 400
    config = dqn.Config(torso="nature", huber=True, capacity=args.capacity, learn_start=warm, learning_rate=1e-4)
    envs = make(args.game, n, device=args.device)
    agent = dqn.Agent(config, envs.spec, args.device, Seeds(0))
    seeds = Seeds(0).branch("env")
    rows = run(envs, agent, steps=10**12, seeds=lambda: seeds.environments(n), generator=Seeds(0).torch(args.device))
    for _ in range(warm // n + 10):
        next(rows)

    def ours() -> int:
        return n if next(rows) else 0

    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.end = 0.0

        def _on_step(self) -> bool:
            return time.perf_counter() < self.end

    def peer(subprocesses: bool) -> tuple[Any, Window]:
        model = DQN(
            "CnnPolicy",
            sb3_atari(args.game, n, subprocesses),
            learning_rate=1e-4,
            buffer_size=args.capacity,
            learning_starts=warm,
            batch_size=32,
            train_freq=1,
            gradient_steps=n // 4,
            target_update_interval=config.target_period,
            device=args.device,
            seed=0,
        )
        clock, first = Clock(), True

        def window(seconds: float) -> tuple[int, float]:
            nonlocal first
            if first:
                clock.end = float("inf")
                model.learn(warm + 10 * n, callback=clock)
                first = False
            began, before = time.perf_counter(), model.num_timesteps
            clock.end = began + seconds
            model.learn(10**9, callback=clock, reset_num_timesteps=False)
            return model.num_timesteps - before, time.perf_counter() - began

        return model, window

    models = {name: peer(flag) for name, flag in (("DummyVecEnv", False), ("SubprocVecEnv", True))}

    def updates(done: Callable[[], int], steps: Callable[[], int]) -> Callable[[], str]:
        return lambda: f"{done() / max(steps() - warm, 1):.3f} updates a step"

    def counted() -> int:
        return int(next(iter(agent.descent.optimizer.state.values()))["step"])

    contenders = [
        *(
            Contender(f"stable-baselines3 DQN, {name}", w, updates(lambda m=m: m._n_updates, lambda m=m: m.num_timesteps))  # type: ignore[misc]
            for name, (m, w) in models.items()
        ),
        Contender("arcturus dqn", timed(ours), updates(counted, lambda: agent.steps)),
    ]
    return [report(f"DQN training, {args.game}, {n} envs, {args.device}, {args.threads} torch thread(s)", "agent steps/s",
                   contenders, args.seconds, args.rounds)]  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["env", "replay", "dqn", "checkpoint"])
    parser.add_argument("--game", default="ALE/Pong-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a window")
    parser.add_argument("--rounds", type=int, default=3, help="two windows each")
    parser.add_argument("--capacity", type=int, default=20_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="torch's")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    from arcturus.device import choose_device

    args.device = choose_device(args.device)
    about: dict[str, Any] = {"versions": versions(), "machine": platform.platform(), "cores": os.cpu_count(), "args": vars(args)}
    print(", ".join(f"{k} {v}" for k, v in about["versions"].items()) + f"; {about['cores']} cores, {args.device}")
    from arcturus.scripts.benchmark_checkpoint import benchmark_checkpoint

    benchmarks = {"env": benchmark_env, "replay": benchmark_replay, "dqn": benchmark_dqn, "checkpoint": benchmark_checkpoint}
    tables = benchmarks[args.what](args)
    if args.json:
        args.json.write_text(json.dumps(about | {"tables": tables}, indent=2, default=str), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
