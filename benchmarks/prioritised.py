"""Prioritised replay beside cpprb's and beside a sum tree in NumPy: a minibatch of 32 drawn, and their priorities set anew.

All hold the same frames, of one environment, each stored once (cpprb: next_of and stack_compress), and begin with the same
priorities (alpha 0.5, beta 0.4); all draw one row from each of 32 equal parts of the sum.  Twice: the whole, with stacks of 4
frames before and after the action; and the tree alone, where a row is one reward.  The peers' minibatches are NumPy arrays and
stay on the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from arcturus.api import EnvSpec
from arcturus.replay.learner import ReplayConfig, ReplayLearner
from arcturus.replay.ring import VALID
from arcturus.seeding import Seeds
from benchmarks.measuring.timing import Contender, report, timed

BATCH, STACK, ALPHA, BETA, LEAST = 32, 4, 0.5, 0.4, 1e-6
CHUNK = 100  # rows stored at once


class World(NamedTuple):
    rows: int
    size: int  # of a square frame; 0: the tree alone


WORLDS = (World(1_000_000, 0), World(100_000, 0), World(100_000, 84), World(1_000_000, 42))  # 42: 1M of 84 are 7 GB a contender


class NumpySumTree:
    """A binary tree of float64 sums in one array: node i has the children 2 i and 2 i + 1, the leaves come last.  A batch goes
    through it level by level."""

    def __init__(self, size: int):
        self.levels = (size - 1).bit_length()
        self.first = 1 << self.levels  # leaf
        self.nodes = np.zeros(2 * self.first)

    def set(self, index: np.ndarray, value: np.ndarray) -> None:
        """Numbers at index [B] become value [B]."""
        node = index + self.first
        self.nodes[node] = value
        for _ in range(self.levels):
            node >>= 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def draw(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """index [batch] int64: one from each of `batch` equal parts of the sum."""
        place = (rng.random(batch) + np.arange(batch)) * (self.nodes[1] / batch)
        node = np.ones(batch, np.int64)
        for _ in range(self.levels):
            node <<= 1
            left = self.nodes[node]
            right = place >= left
            place -= left * right
            node += right
        return node - self.first


class NumpyReplay:
    """What a careful user would write with it: frames [rows, H, W] stored once, stacks gathered by index."""

    def __init__(self, world: World):
        self.tree, self.rng = NumpySumTree(world.rows), np.random.default_rng(0)
        self.frames = np.zeros((world.rows, world.size, world.size), np.uint8)
        self.action, self.reward = np.zeros(world.rows, np.uint8), np.zeros(world.rows, np.float32)
        self.terminated, self.age = np.zeros(world.rows, bool), np.zeros(world.rows, np.uint8)
        self.offsets = np.arange(1 - STACK, 2)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.frames, self.action, self.reward, self.terminated, self.age))

    def fill(self, world: World) -> None:
        for at, frames in chunks(world):
            self.frames[at] = frames
        self.age[:] = 255

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and importance weights, [BATCH] each."""
        t = self.tree.draw(BATCH, self.rng)
        p = self.tree.nodes[t + self.tree.first]
        return t, (p.min() / p) ** BETA

    def transitions(self, t: np.ndarray) -> tuple[np.ndarray, ...]:
        """Stack, action, reward, next stack and whether it goes on, at rows t [BATCH]."""
        slots = (t[:, None] + self.offsets) % len(self.age)
        frames = self.frames[slots]
        alive = self.offsets[:STACK] >= -self.age[t, None].astype(np.int64)
        if not alive.all():
            frames[:, :STACK] *= alive[..., None, None]
        t_1 = slots[:, -1]
        return frames[:, :-1], self.action[t], self.reward[t_1], frames[:, 1:], ~self.terminated[t_1]

    def set_priorities(self, t: np.ndarray, error: np.ndarray) -> None:
        self.tree.set(t, (np.abs(error) + LEAST) ** ALPHA)


def chunks(world: World) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows and their frames [CHUNK, H, W]: noise, the same for all."""
    rng = np.random.default_rng(0)
    for first in range(0, world.rows, CHUNK):
        at = slice(first, min(first + CHUNK, world.rows))
        yield at, rng.integers(256, size=(at.stop - first, world.size, world.size), dtype=np.uint8)


def first_errors(world: World) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that can be drawn, and errors that their first priorities come from."""
    rng = np.random.default_rng(1)
    for index in np.array_split(np.arange(STACK, world.rows - 1), max(world.rows // CHUNK, 1)):
        yield index, rng.standard_normal(len(index))


def errors() -> Iterator[np.ndarray]:
    """Of minibatches [BATCH], over and over."""
    some = np.random.default_rng(2).standard_normal((64, BATCH))
    while True:
        yield from some


def numpy_tree(world: World) -> Contender:
    replay, new = NumpyReplay(world), errors()
    replay.fill(world)
    for index, error in first_errors(world):
        replay.set_priorities(index, error)

    def step() -> int:
        t, _ = replay.draw()
        if world.size:
            replay.transitions(t)
        else:
            replay.reward[t]
        replay.set_priorities(t, next(new))
        return 1

    return Contender("a sum tree in NumPy", timed(step), note(world, replay.nbytes, replay.tree.nodes.nbytes))


def cpprb(world: World) -> Contender | None:
    """None where it isn't installed."""
    try:
        from cpprb import PrioritizedReplayBuffer
    except ImportError:
        print("cpprb is not installed (python -m pip install 'arcturus[peers]'): it is left out")
        return None
    if world.size:
        fields: dict[str, Any] = {"act": {"dtype": np.uint8}, "rew": {}, "done": {"dtype": np.uint8}}
        fields["obs"] = {"shape": (world.size, world.size, STACK), "dtype": np.uint8}
        how = {"next_of": "obs", "stack_compress": "obs"}
    else:
        fields, how = {"rew": {}}, {}
    buffer = PrioritizedReplayBuffer(world.rows, fields, alpha=ALPHA, eps=LEAST, **how)
    fill_cpprb(buffer, world)
    new = errors()

    def step() -> int:
        batch = buffer.sample(BATCH, beta=BETA)
        buffer.update_priorities(batch["indexes"], np.abs(next(new)))
        return 1

    leaves = 1 << (world.rows - 1).bit_length()
    stored = world.rows * (world.size**2 + 6)
    # two trees of float32, sums and minima; it doesn't say, but a process grows by 16.0 bytes a leaf and these a row
    return Contender("cpprb PrioritizedReplayBuffer", timed(step), note(world, stored, 16 * leaves))


def fill_cpprb(buffer: Any, world: World) -> None:
    last = np.zeros((STACK, world.size, world.size), np.uint8)
    for at, frames in chunks(world):
        n = at.stop - at.start
        row = {"rew": np.zeros(n)}
        if world.size:
            shown = np.concatenate([last, frames])
            stacks = np.lib.stride_tricks.sliding_window_view(shown, STACK, 0)  # [n + 1, H, W, STACK]
            row |= {"obs": stacks[:-1], "next_obs": stacks[1:], "act": np.zeros(n), "done": np.zeros(n)}
            last = shown[-STACK:]
        buffer.add(**row)
    for index, error in first_errors(world):
        buffer.update_priorities(index, np.abs(error))


def fill_ours(world: World, device: str, update: Callable[[Any], Any]) -> ReplayLearner:
    if world.size:
        spec = EnvSpec("x", 1, (STACK, world.size, world.size), torch.uint8, gym.spaces.Discrete(6), STACK)
    else:
        spec = EnvSpec("x", 1, (0,), torch.uint8, gym.spaces.Discrete(6))
    config = ReplayConfig(
        prioritised=True,
        capacity=world.rows,
        batch_size=BATCH,
        priority_exponent=ALPHA,
        importance_exponent=BETA,
        importance_steps=0,
    )
    learner = ReplayLearner(config, spec, torch.device(device), Seeds(0), update)
    ring = learner.ring
    for at, frames in chunks(world):
        n = at.stop - at.start
        ring.write_rows(
            at.start,
            {
                "frame": torch.from_numpy(frames).view(n, 1, *spec.frame_shape),
                "action": torch.zeros(n, 1, dtype=torch.uint8),
                "reward": torch.zeros(n, 1),
                "flags": torch.full((n, 1), VALID, dtype=torch.uint8),
                "age": torch.full((n, 1), 255, dtype=torch.uint8),
            },
        )
    ring.count = world.rows
    return learner


def ours(world: World, device: str) -> Contender:
    some = errors()
    new = [torch.as_tensor(next(some), dtype=torch.float32, device=device) for _ in range(64)]
    done = 0
    learner = fill_ours(world, device, lambda batch: ({}, new[done % 64]))
    ring, priorities = learner.ring, learner.priorities
    assert priorities is not None
    priorities.draw(BATCH, learner.generator, BETA)  # takes the rows in
    for index, error in first_errors(world):
        priorities.set(torch.as_tensor(index, device=device), torch.as_tensor(error, device=device))

    def step() -> int:
        nonlocal done
        done += 1
        if world.size:
            learner.update_once()
        else:
            index, _ = priorities.draw(BATCH, learner.generator, BETA)
            ring.reward.view(-1)[index]
            priorities.set(index, new[done % 64])
        return 1

    launches = launches_of(step, device)
    rows, tree = sum(getattr(ring, name).nbytes for name in ring.names), priorities.tree
    memory = note(world, rows, tree.leaf.nbytes + tree.block.nbytes)
    return Contender("arcturus", timed(step), lambda: f"{memory()}; {launches}")


def note(world: World, rows: int, priorities: int) -> Callable[[], str]:
    """Of bytes."""
    stored = f"{rows / world.rows:,.1f} bytes a row and " if world.size else ""
    return lambda: f"{stored}{priorities / world.rows:,.1f} bytes a priority"


def launches_of(step: Callable[[], int], device: str) -> str:
    """Kernels that the host launches in one step."""
    if not device.startswith("cuda"):
        return "kernel launches: open, they are counted on CUDA"
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    return f"{sum(e.count for e in profiler.key_averages() if 'LaunchKernel' in e.key)} kernel launches"


def compare(world: World, args: argparse.Namespace) -> dict[str, Any]:
    what = f"stacks of {STACK} frames of {world.size}x{world.size}" if world.size else "the tree alone"
    title = f"prioritised replay on {args.device}, {world.rows:,} rows, {what}: {BATCH} drawn and their priorities set"
    contenders = [c for c in (cpprb(world), numpy_tree(world), ours(world, args.device)) if c]
    return report(title, "times/s", contenders, args.seconds, args.rounds)


def benchmark_prioritised(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [compare(world, args) for world in WORLDS]
