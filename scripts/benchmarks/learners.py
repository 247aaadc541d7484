"""Whole training loops beside stable-baselines3's: equal network, equal updates; and Rainbow's beside DQN's."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from arcturus.scripts.benchmarks.peers import sb3_atari
from arcturus.scripts.benchmarks.timing import Contender, Window, report, timed


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


FILLED = 4_000  # rows of replay that Rainbow and DQN learn from, all of them stored before


def filled(name: str, module: Any, preset: str, args: argparse.Namespace) -> tuple[Contender, Contender]:
    """An agent with its replay full: whole training, and updates alone."""
    from arcturus.envs import make
    from arcturus.loop import run
    from arcturus.seeding import Seeds

    n = args.num_envs
    envs = make(args.game, n, device=args.device)
    config = module.Config(**module.PRESETS[preset].agent | {"capacity": FILLED, "learn_start": FILLED, "importance_steps": 0})
    agent = module.Agent(config, envs.spec, args.device, Seeds(0))
    seeds = Seeds(0).branch("env")
    rows = run(envs, agent, steps=10**12, seeds=lambda: seeds.environments(n), generator=Seeds(0).torch(args.device))
    for _ in range(FILLED // n + 10):
        next(rows)

    def train() -> int:
        return n if next(rows) else 0

    def update() -> int:
        agent._update(agent.experience.sample())
        return 1

    weights = sum(p.numel() for p in agent.network.parameters())
    return Contender(name, timed(train), lambda: f"{weights:,} weights"), Contender(name, timed(update))


def benchmark_rainbow(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What Rainbow's parts cost: equal torso (Nature), batch, updates per step and optimiser (Adam); presets `adam` and `rainbow`."""
    from arcturus.agents import c51, dqn

    agents = (("arcturus dqn", dqn, "adam"), ("arcturus c51, preset rainbow", c51, "rainbow"))
    whole, alone = zip(*(filled(*agent, args) for agent in agents), strict=True)
    what = f"Nature network, batch 32, {args.device}, {args.threads} torch thread(s)"
    return [
        report(f"training, {args.game}, {args.num_envs} envs, {what}", "agent steps/s", [*whole], args.seconds, args.rounds),
        report(f"updates alone, {what}", "updates/s", [*alone], args.seconds, args.rounds),
    ]
