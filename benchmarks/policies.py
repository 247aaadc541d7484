"""PPO and A2C beside stable-baselines3's, and PPO beside a plain loop over EnvPool: equal network (Nature), rows, epochs and
minibatches, the same game, as many emulator threads."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from arcturus.device import torch_threads
from arcturus.envs import make
from arcturus.loop import run
from arcturus.seeding import Seeds
from arcturus.speed import in_bf16
from benchmarks.measuring.timing import Contender, report, timed
from benchmarks.peers import emulator_threads, envpool_atari, sb3_atari
from benchmarks.peers.plain_ppo import PlainPPO

SUBPROCESSES = 16  # more environments than this run in one process: each of theirs takes a few hundred megabytes


class Ours:
    """Our loop, with the time its parts take; with so many threads of torch while it learns."""

    def __init__(self, module: Any, config: Any, n: int, rollouts: int, args: argparse.Namespace, learner_threads: int = 0):
        self.n, self.rollouts, self.spent = n, rollouts, defaultdict(float)  # type: ignore[var-annotated]
        threads = emulator_threads(n, args.env_threads)
        self.envs: Any = make(args.game, n, device=args.device, threads=threads)
        self.agent = module.Agent(config, self.envs.spec, args.device, Seeds(0))
        for owner, method, part in (
            (self.envs, "recv", "emulator"),
            (self.agent, "act", "acting"),
            (self.agent, "learn_from_rollout", "learning"),
        ):
            setattr(owner, method, self._clocked(getattr(owner, method), part))
        seeds = Seeds(0).branch("env")
        self.rows = run(
            self.envs, self.agent, steps=10**12, seeds=lambda: seeds.environments(n), generator=Seeds(0).torch(args.device),
            learner_threads=learner_threads,
        )  # fmt: skip

    def _clocked(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def clocked(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[part] += time.perf_counter() - began

        return clocked

    def step(self) -> int:
        """Whole rollouts with their updates."""
        began, done = time.perf_counter(), 0
        for _ in range(self.rollouts):
            while not next(self.rows).metrics:
                done += self.n
            done += self.n
        self.spent["all"] += time.perf_counter() - began
        return done

    def note(self) -> str:
        share = [f"{part} {100 * self.spent[part] / self.spent['all']:.0f}%" for part in ("emulator", "acting", "learning")]
        return f"{1000 * self.agent.updates / self.agent.steps:.2f} updates per 1,000 steps; {', '.join(share)}"


def theirs(
    algorithm: Any,
    n: int,
    horizon: int,
    rollouts: int,
    how: tuple[bool, int],
    updates: int,
    args: argparse.Namespace,
    **kwargs: Any,
) -> Contender:
    """how: in subprocesses, and with how many threads of torch.  updates: gradient steps for each that it counts."""
    subprocesses, threads = how
    model = algorithm("CnnPolicy", sb3_atari(args.game, n, subprocesses), n_steps=horizon, device=args.device, seed=0, **kwargs)

    def step() -> int:
        before = model.num_timesteps
        with torch_threads(threads):
            model.learn(rollouts * horizon * n, reset_num_timesteps=before == 0)
        return model.num_timesteps - before

    name = f"stable-baselines3 {algorithm.__name__}, {'SubprocVecEnv' if subprocesses else 'DummyVecEnv'}"
    name += f", {threads} torch threads" if threads != args.threads else ""
    return Contender(
        name,
        timed(step, args.device),
        lambda: f"{1000 * updates * model._n_updates / model.num_timesteps:.2f} updates per 1,000 steps",
    )


def ways(n: int, args: argparse.Namespace) -> list[tuple[bool, int]]:
    """How stable-baselines3 is run: subprocesses or not, threads of torch; each by itself."""
    more = [(False, args.learner_threads)] if args.learner_threads != args.threads else []
    return [(False, args.threads), *([(True, args.threads)] if n <= SUBPROCESSES else []), *more]


def over_envpool(n: int, horizon: int, args: argparse.Namespace) -> list[Contender]:
    """None where EnvPool isn't installed."""
    envs = envpool_atari(args.game, n, emulator_threads(n, args.env_threads), stack_num=4)
    if envs is None:
        return []
    plain = PlainPPO(envs, n, horizon, envs.action_space.n, args.device)
    return [Contender("plain PPO over EnvPool", timed(plain.step, args.device), plain.note)]


def benchmark_ppo(args: argparse.Namespace) -> list[dict[str, Any]]:
    """4 epochs of 4 minibatches of 256 over rollouts of 1,024 steps, at 8 and at 64 environments."""
    from stable_baselines3 import PPO

    from arcturus.agents import ppo

    tables = []
    for n in (8, 64):
        horizon = 1024 // n
        config = ppo.Config(torso="nature", horizon=horizon, anneal_steps=0)
        peers = [
            theirs(
                PPO, n, horizon, 1, how, 4, args, batch_size=256, n_epochs=4, learning_rate=2.5e-4, clip_range=0.1, ent_coef=0.01,
                policy_kwargs={"net_arch": []},
            )
            for how in ways(n, args)
        ]  # fmt: skip
        peers += over_envpool(n, horizon, args)
        tables.append(_table("PPO", ppo, config, n, 1, peers, args))
    return tables


def benchmark_a2c(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rollouts of 5 rows, one update each, at 8 and at 64 environments."""
    from stable_baselines3 import A2C

    from arcturus.agents import a2c

    tables = []
    for n in (8, 64):
        config, rollouts = a2c.Config(torso="nature", anneal_steps=0), max(160 // n, 5)
        peers = [
            theirs(A2C, n, 5, rollouts, how, 1, args, ent_coef=0.01, policy_kwargs={"net_arch": []}) for how in ways(n, args)
        ]
        tables.append(_table("A2C", a2c, config, n, rollouts, peers, args))
    return tables


def _table(
    name: str, module: Any, config: Any, n: int, rollouts: int, peers: list[Contender], args: argparse.Namespace
) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    title = f"arcturus {module.__name__.rsplit('.', 1)[-1]}"
    ours = {
        title: Ours(module, config, n, rollouts, args),
        f"{title}, {args.learner_threads} torch threads to learn": Ours(module, config, n, rollouts, args, args.learner_threads),
    }
    with in_bf16():
        ours[f"{title}, all this and bfloat16"] = Ours(module, config, n, rollouts, args, args.learner_threads)
    contenders = [*peers, *(Contender(name, timed(each.step, args.device), each.note) for name, each in ours.items())]
    threads = f"{args.threads} torch and {emulator_threads(n, args.env_threads)} emulator thread(s)"
    title = f"{name} training, {args.game}, {n} environments, {args.device}, {threads}"
    table = report(title, "agent steps/s", contenders, args.seconds, args.rounds)
    for each in ours.values():
        each.rows.close()  # type: ignore[attr-defined]
        each.envs.close()
    return table
