"""Whole training loops of DQN beside stable-baselines3's and TorchRL's: equal network, equal updates; and Rainbow's beside DQN's."""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

from arcturus.agents import c51, dqn
from arcturus.envs import make
from arcturus.loop import run
from arcturus.runs.settings import resolve
from arcturus.seeding import Seeds
from arcturus.speed import in_bf16
from benchmarks.measuring.arithmetic import benchmark_updates, update_products
from benchmarks.measuring.loops import BATCH, LEARNING_RATE, WARM, Training
from benchmarks.measuring.timing import Contender, report, timed
from benchmarks.peers import emulator_threads, missing, sb3_atari


class Ours(Training):
    def __init__(self, config: dqn.Config, args: argparse.Namespace):
        self.n = args.num_envs
        self.envs = make(args.game, self.n, device=args.device, threads=emulator_threads(self.n, args.env_threads))
        self.agent = dqn.Agent(config, self.envs.spec, args.device, Seeds(0))
        self.optimizer = self.agent.gradient_step.optimizer
        self.rows = rows_of(self.envs, self.agent, args)
        for _ in range(config.learning_starts // self.n + 10):
            next(self.rows)

    def steps(self) -> int:
        return self.agent.steps

    def step(self) -> int:
        return self.n if next(self.rows) else 0

    def update(self) -> int:
        self.agent.learner.update_once()
        return 1

    def close(self) -> None:
        self.rows.close()
        self.envs.close()


class StableBaselines(Training):
    def __init__(self, config: dqn.Config, subprocesses: bool, args: argparse.Namespace):
        n = args.num_envs
        self.per_row = n // 4
        self.model = DQN(
            "CnnPolicy",
            sb3_atari(args.game, n, subprocesses),
            learning_rate=LEARNING_RATE,
            buffer_size=config.capacity,
            learning_starts=WARM,
            batch_size=BATCH,
            train_freq=1,
            gradient_steps=self.per_row,
            target_update_interval=config.target_period,
            exploration_initial_eps=config.epsilon_final,  # as ours has it by then
            exploration_final_eps=config.epsilon_final,
            device=args.device,
            seed=0,
        )
        self.model.learn(WARM + 10 * n)
        self.optimizer = self.model.policy.optimizer

    def steps(self) -> int:
        return self.model.num_timesteps

    def window(self, seconds: float, device: str) -> tuple[float, float]:
        """One call of learn(), which the clock ends: its own loop, entered once."""

        class Clock(BaseCallback):
            def _on_step(self) -> bool:
                return time.perf_counter() - began < seconds

        began, before = time.perf_counter(), self.steps()
        self.model.learn(10**9, callback=Clock(), reset_num_timesteps=False)
        return self.steps() - before, time.perf_counter() - began

    def update(self) -> int:
        self.model.train(self.per_row, BATCH)
        return self.per_row

    def close(self) -> None:
        self.model.get_env().close()  # type: ignore[union-attr]


def torchrl_training(config: dqn.Config, args: argparse.Namespace) -> Training | None:
    """None, and a line, where TorchRL isn't installed."""
    try:
        import torchrl  # noqa: F401
    except ImportError:
        print(missing("torchrl"))
        return None
    from benchmarks.peers.torchrl_dqn import TorchRLDQN

    return TorchRLDQN(args.game, args.num_envs, config.capacity, config.target_period, args.device)


def benchmark_dqn(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Equal network (Nature), batch 32, one update per 4 agent steps, Adam; all updates are counted by the optimisers."""
    n = args.num_envs
    config = dqn.Config(
        torso="nature", huber=True, batch_size=BATCH, capacity=args.capacity, learning_starts=WARM, learning_rate=LEARNING_RATE
    )
    sb3 = StableBaselines(config, False, args), StableBaselines(config, True, args)
    other, ours = torchrl_training(config, args), Ours(config, args)
    trainings: dict[str, Training] = {
        "stable-baselines3 DQN, DummyVecEnv": sb3[0],
        "stable-baselines3 DQN, SubprocVecEnv": sb3[1],
        **({"TorchRL DQN, SerialEnv": other} if other else {}),
        "arcturus dqn": ours,
    }
    with in_bf16():
        trainings["arcturus dqn, bfloat16"] = rounded = Ours(config, args)
    threads = f"{args.threads} torch and {emulator_threads(n, args.env_threads)} emulator thread(s)"
    title = f"DQN training, {args.game}, {n} environments, {args.device}, {threads}"
    contenders = [Contender(name, functools.partial(t.window, device=args.device), t.note) for name, t in trainings.items()]
    training = report(title, "agent steps/s", contenders, args.seconds, args.rounds)
    alone = {"stable-baselines3, train()": sb3[0].update, "arcturus": ours.update}
    alone["arcturus, bfloat16"] = rounded.update
    if other:
        alone["TorchRL, DQNLoss"] = other.update
    obs = torch.zeros((BATCH, *ours.agent.spec.obs_shape), dtype=torch.uint8, device=args.device)
    updates = benchmark_updates(alone, update_products(ours.agent.network, obs), args)
    for t in trainings.values():
        t.close()
    return [training, updates]


def rows_of(envs: Any, agent: Any, args: argparse.Namespace) -> Any:
    """Our loop, without an end."""
    seeds = Seeds(0).branch("env")
    return run(envs, agent, steps=10**12, seeds=lambda: seeds.environments(args.num_envs), generator=Seeds(0).torch(args.device))


FILLED = 4_000  # rows of replay that Rainbow and DQN learn from, all of them stored before


def filled(title: str, module: Any, preset: str, args: argparse.Namespace) -> tuple[Contender, Contender]:
    """An agent with its replay full: whole training, and updates alone."""
    n = args.num_envs
    envs = make(args.game, n, device=args.device, threads=emulator_threads(n, args.env_threads))
    name = module.__name__.rsplit(".", 1)[-1]
    config = resolve(
        name, preset=preset, agent={"capacity": FILLED, "learning_starts": FILLED, "importance_steps": 0}
    ).agent
    agent = module.Agent(config, envs.spec, args.device, Seeds(0))
    rows = rows_of(envs, agent, args)
    for _ in range(FILLED // n + 10):
        next(rows)

    def train() -> int:
        return n if next(rows) else 0

    def update() -> int:
        agent.learner.update_once()
        return 1

    weights = sum(p.numel() for p in agent.network.parameters())
    whole = Contender(title, timed(train, args.device), lambda: f"{weights:,} weights")
    return whole, Contender(title, timed(update, args.device))


def benchmark_rainbow(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What Rainbow's parts cost: equal torso (Nature), batch, updates per step and optimiser (Adam); presets `adam` and `rainbow`."""
    agents = (("arcturus dqn", dqn, "adam"), ("arcturus c51, preset rainbow", c51, "rainbow"))
    whole, alone = zip(*(filled(*agent, args) for agent in agents), strict=True)
    what = f"Nature network, batch 32, {args.device}, {args.threads} torch thread(s)"
    return [
        report(f"training, {args.game}, {args.num_envs} envs, {what}", "agent steps/s", [*whole], args.seconds, args.rounds),
        report(f"updates alone, {what}", "updates/s", [*alone], args.seconds, args.rounds),
    ]
