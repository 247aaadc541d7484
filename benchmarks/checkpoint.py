"""What saving costs: DQN's `cpu-small` preset trains without saving, with the replay's segments written as they fill, and with a
checkpoint (and the restart of the environments that belongs to it) a hundred times as often as by default."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arcturus.envs import open_envs
from arcturus.loop import run as run_loop
from arcturus.runs.building import build_agent
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.saving import Saver
from arcturus.runs.segments import SEGMENT_STEPS
from arcturus.runs.settings import RunConfig, resolve
from arcturus.seeding import Seeds

OFTEN = 100  # times as often as by default


class Training:
    """A run's loop with its saving, without its logging and evaluating.  every: steps between checkpoints; 0: none."""

    def __init__(self, config: RunConfig, folder: Path, *, segments: bool, every: int):
        self.config, self.segments, self.every = config, segments, every
        self.envs = open_envs(config.env, 0, config.run.device)
        self.agent = build_agent(config, self.envs.spec, config.run.device)
        self.checkpoints, self.saver, self.steps = Checkpoints(folder), Saver(), 0
        self.spent: dict[str, list[float]] = defaultdict(list)  # seconds: stops of training, and the saver's CPU time
        self.rows = run_loop(
            self.envs,
            self.agent,
            steps=1 << 60,
            seeds=self._seeds,
            generator=Seeds(0).torch(config.run.device),
            interrupt_due=lambda steps: bool(every) and steps // every > (steps - config.env.num_envs) // every,
        )

    def _seeds(self) -> Any:
        return Seeds(0).branch("env", self.steps).environments(self.config.env.num_envs)

    def _timed(self, name: str, job: Callable[[], Any]) -> None:
        began = time.thread_time()
        job()
        self.spent[name].append(time.thread_time() - began)

    def row(self) -> int:
        row = next(self.rows)
        n = row.steps - self.steps
        self.steps = row.steps
        replay: Any = self.agent.replay
        began = time.perf_counter()
        if self.segments and (piece := self.checkpoints.segments.full(replay)) is not None:
            self.saver.submit(("segment",), partial(self._timed, "segment, CPU", partial(self.checkpoints.segments.write, piece)))
            self.spent["segment, training stops"].append(time.perf_counter() - began)
        if self.every and row.step.timestep.interrupted.any():
            state = {"agent": self.agent.state_dict(), "policy_rng": torch.get_rng_state(), "steps": self.steps}
            snapshot = self.checkpoints.snapshot(self.steps, state, replay)
            self.saver.submit(("checkpoint",), partial(self._timed, "checkpoint, CPU", partial(self.checkpoints.write, snapshot)))
            self.spent["checkpoint, training stops"].append(time.perf_counter() - began)
        return n


def benchmark_checkpoint(args: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.measuring.timing import Contender, report, timed

    env = {"id": args.game, "num_envs": args.num_envs}
    config = resolve("dqn", preset="cpu-small", env=env, agent={"capacity": 50_000}, run={"device": args.device})
    config = replace(config, run=replace(config.run, torch_threads=args.threads))
    default = config.checkpoint_every
    often = default // OFTEN
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "no saving": Training(config, Path(folder) / "a", segments=False, every=0),
            "segments as they fill": Training(config, Path(folder) / "b", segments=True, every=0),
            f"and a checkpoint every {often:,} steps": Training(config, Path(folder) / "c", segments=True, every=often),
        }
        for training in runs.values():
            while training.steps < config.agent.learning_starts + 4 * config.env.num_envs:  # warm-up: the updates have begun
                training.row()
        contenders = [Contender(name, timed(training.row)) for name, training in runs.items()]
        title = f"DQN training with saving, {args.game}, preset cpu-small, {args.num_envs} envs, {args.device}"
        table = report(title, "agent steps/s", contenders, args.seconds, args.rounds)
        busiest = runs[contenders[-1].name]
        while len(busiest.spent["segment, CPU"]) < 2:  # a segment fills slowly
            busiest.row()
        began = time.perf_counter()
        busiest.envs.settle()
        busiest.envs.restart(busiest._seeds())
        restart = time.perf_counter() - began
        mean = {name: sum(times) / len(times) for name, times in busiest.spent.items()}
        rate = table["rows"][0]["median"]
        segment = (mean["segment, CPU"] + mean["segment, training stops"]) / SEGMENT_STEPS
        checkpoint = (mean["checkpoint, CPU"] + mean["checkpoint, training stops"] + restart) / default
        share = (segment + checkpoint) * rate
        print("\nseconds, by their own clocks:")
        for name, value in sorted(mean.items()):
            print(f"  {name:28s} {value:.4f}  (mean of {len(busiest.spent[name])})")
        print(f"  {'restart of environments':28s} {restart:.4f}")
        print(
            f"at the default interval of {default:,} steps, at {rate:,.0f} steps/s, all of it on one core: {100 * share:.2f}% of the time"
        )
        for training in runs.values():
            training.rows.close()  # type: ignore[attr-defined]
            training.saver.join()
            training.envs.close()
    return [table | {"seconds": mean | {"restart": restart}, "share_at_default_interval": share}]
