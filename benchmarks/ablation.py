"""What DQN's parts are worth (Mnih et al. 2015, extended data table 3): the agent as it is, and with parts of it taken away.

    without replay    minibatches are drawn from the newest rows alone, as many as a minibatch has; so the reuse of a row is the same
    without target    the network bootstraps from itself (C = 0)
    one frame         no stacks
    linear            action-values linear in what is seen, in place of layers

Every cell has the same seeds, steps and updates; scores are means over fresh episodes after training.  Beside them stand what replay
is for: the correlation of neighbours in a minibatch, in the order drawn (of a feature of s at places i and i + 1: Pearson's, over
MEASURED minibatches of the whole training; mean over features), and the reuse of a row, batch times updates / steps stored.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from arcturus.agents import dqn
from arcturus.envs import EnvConfig, open_training
from arcturus.loop import run
from arcturus.pictures.style import BLUE, DIM, GRID, INK, VERMILION, Sheet, save, styled
from arcturus.replay.records import SampleIndices
from arcturus.runs.settings import RunConfig, resolve
from arcturus.scoring.evaluation import evaluate
from arcturus.scoring.floors import Floors, floors
from arcturus.seeding import Seeds

ENV, STEPS, EPISODES = f"{__name__}:CartPoleFrames-v0", 30_000, 20
MEASURED = 200


class CartPoleFrames(gym.ObservationWrapper):
    """CartPole-v1 seen as in a frame of a game: where cart and pole are, not how fast they move.  A small task on which every part
    counts."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        seen = self.env.observation_space
        assert isinstance(seen, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(seen.low[::2], seen.high[::2])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2]


gym.register("CartPoleFrames-v0", entry_point=f"{__name__}:CartPoleFrames")


class Cell(NamedTuple):
    name: str
    agent: dqn.Config
    env: EnvConfig


def cells(config: RunConfig) -> list[Cell]:
    """The whole agent first."""
    c, env = config.agent, config.env
    single = replace(env, frame_stack=1)
    no_target, linear = replace(c, target_period=0), replace(c, torso="none")
    found = [
        Cell("DQN", c, env),
        Cell("without target", no_target, env),
        Cell("without replay", newest_only(c, env), env),
        Cell("without both", newest_only(no_target, env), env),
        Cell("one frame", c, single),
        Cell("linear", linear, env),
    ]
    return [cell for cell in found if env.stack > 1 or cell.name != "one frame"]


def newest_only(c: dqn.Config, env: EnvConfig) -> dqn.Config:
    """A replay of as many rows that can be drawn as a minibatch has."""
    rows = -(-c.batch_size // env.num_envs) + c.n_step + env.stack - 1
    return replace(c, capacity=rows * env.num_envs)


class Neighbours:
    """Sums over pairs of neighbours, from which their correlation follows; float64, by feature."""

    def __init__(self) -> None:
        self.sums: Any = 0.0
        self.pairs = 0

    def add(self, x: Tensor) -> None:
        """x [B, ...]: a minibatch in the order drawn."""
        x = x.flatten(1).double()
        a, b = x[:-1], x[1:]
        self.sums = self.sums + torch.stack([s.sum(0) for s in (a, b, a * a, b * b, a * b)])
        self.pairs += len(a)

    def correlation(self) -> float:
        """Mean over the features that vary."""
        a, b, aa, bb, ab = self.sums / self.pairs
        variance = (aa - a * a).clamp_min(0) * (bb - b * b).clamp_min(0)
        return float(((ab - a * b) / variance.sqrt())[variance > 1e-12].mean())


class Watched(dqn.Agent):
    """DQN that looks at some of its minibatches."""

    def __init__(self, config: dqn.Config, spec: Any, device: str, seeds: Seeds, every: int):
        super().__init__(config, spec, device, seeds)
        self.every, self.neighbours = every, Neighbours()

        self.learner.sample = partial(self._sample, self.learner.sample)  # type: ignore[method-assign]

    def _sample(self, draw: Callable[[], SampleIndices]) -> SampleIndices:
        indices = draw()
        if self.updates % self.every == 0:
            self.neighbours.add(self.learner.materialise(indices).s_tm1)
        return indices


def measure(cell: Cell, steps: int, seed: int, device: str) -> dict[str, float]:
    """One training, scored on fresh episodes."""
    seeds, c = Seeds(seed), cell.agent
    every = max(int((steps - c.learning_starts) * c.replay_ratio) // MEASURED, 1)
    with open_training(cell.env, seed, device) as envs:
        agent = Watched(c, envs.spec, device, seeds, every)
        restarts = partial(seeds.branch("env").environments, envs.num_envs)
        for _ in run(envs, agent, steps=steps, seeds=restarts, generator=seeds.branch("policy").torch(device)):
            pass
    scores = evaluate(agent, cell.env, EPISODES, seed=seeds.branch("score"), device=device)
    reuse = c.batch_size * agent.updates / agent.steps
    return {"score": scores.mean, "correlation": agent.neighbours.correlation(), "reuse": reuse}


def report(title: str, rows: list[dict[str, Any]], ground: Floors) -> None:
    """Medians over seeds, lowest to highest; the ratio to the whole agent is the median over pairs of one seed."""
    print(f"\n{title}\n  {'':16s}{'score':>8s}{'':20s}{'ratio':>8s}{'neighbours':>12s}{'reuse':>8s}")
    for row in rows:
        scores = row["score"]
        spread = f"[{min(scores):,.1f}, {max(scores):,.1f}]"
        print(
            f"  {row['name']:16s}{statistics.median(scores):8,.1f}  {spread:18s}{row['ratio']:8.2f}"
            f"{statistics.median(row['correlation']):12.2f}{statistics.median(row['reuse']):8.1f}"
        )
    print(f"  {'random play':16s}{ground.random.mean:8,.1f}")
    if ground.constant is not None:
        print(f"  {'constant action':16s}{ground.constant.mean:8,.1f}")


@styled
def plot(title: str, rows: list[dict[str, Any]], ground: Floors, file: Path) -> Path:
    sheet = Sheet(7.0, 2.6)
    sheet.text(0.1, 0.08, title)
    panels = (("score", 1.1, 3.4, "mean score of fresh episodes"), ("correlation", 4.9, 1.9, "correlation of neighbours"))
    for key, left, width, label in panels:
        axes = sheet.axes(left, 0.4, width, 1.7)
        for i, row in enumerate(rows):
            axes.barh(i, statistics.median(row[key]), color=BLUE if i == 0 else VERMILION, alpha=0.55)
            axes.plot(row[key], [i] * len(row[key]), "o", color=INK, markersize=2.5)
        axes.set(yticks=range(len(rows)), yticklabels=[row["name"] for row in rows] if key == "score" else [], xlabel=label)
        axes.invert_yaxis()
        axes.grid(axis="x", color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        if key == "score":
            axes.axvline(ground.random.mean, color=DIM, linestyle=":", linewidth=1)
            axes.annotate("random play", (ground.random.mean, len(rows) - 0.55), (2, 0), textcoords="offset points", color=DIM)
    return save(sheet.figure, file)


def benchmark_ablation(args: argparse.Namespace) -> list[dict[str, Any]]:
    envs: dict[str, Any] = {"id": args.env} if args.env else {"id": ENV, "frame_stack": 4, "num_envs": 1}
    if args.num_envs:
        envs["num_envs"] = args.num_envs
    length = args.steps or (None if args.env else STEPS)
    trained = {"device": args.device} | ({"steps": length} if length else {})
    config = resolve("dqn", preset=args.preset, env=envs, run=trained)
    steps = config.run.steps
    rows: list[dict[str, Any]] = []
    name = config.env.id.rpartition(":")[2]
    title = f"{name}: DQN, preset {config.preset}, {steps:,} steps, {args.seeds} seeds, {EPISODES} episodes each"
    print(title, flush=True)
    for cell in cells(config):
        found = [measure(cell, steps, seed, args.device) for seed in range(args.seeds)]
        row: dict[str, Any] = {"name": cell.name, **{k: [one[k] for one in found] for k in found[0]}}
        whole = rows[0] if rows else row
        row["ratio"] = statistics.median(
            a / b if b > 0 else float("nan") for a, b in zip(row["score"], whole["score"], strict=True)
        )
        rows.append(row)
        print("  {}: {}".format(cell.name, ", ".join(f"{score:,.1f}" for score in row["score"])), flush=True)
    ground = floors(config.env, EPISODES, device=args.device)
    report(title, rows, ground)
    beside = {"random": ground.random.mean, "constant": ground.constant.mean if ground.constant else None}
    table = {"title": title, "unit": "mean score", "rows": rows, "floors": beside, "config": config.to_mapping()}
    if args.out:
        plot(title, rows, ground, args.out / "ablation.png")
        (args.out / "ablation.json").write_text(json.dumps(table, indent=2), encoding="utf-8")
    return [table]
