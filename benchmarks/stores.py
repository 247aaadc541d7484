"""Uniform replay beside stable-baselines3's."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.measuring.timing import Contender, Window, report, timed

ENVS, BATCH, DIFFERENT = 8, 32, 64  # environments side by side, transitions a batch, rows that are added in turn


class Stores(NamedTuple):
    """Ours and the peers', all full: each draws a batch, or adds a row and draws two."""

    ring: Any
    peers: dict[str, Any]
    generator: Any
    add_ours: Callable[[], int]
    add_theirs: Callable[[Any], Callable[[], int]]


def benchmark_replay(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of 8 environments added and two batches of 32 drawn (a batch for every 4 steps), as in training; then drawing alone.  All
    are full before."""
    stores = full(args)
    training = [
        Contender(name, timed(stores.add_theirs(peer), args.device), size(peer, args.capacity)) for name, peer in stores.peers.items()
    ]
    stored = sum(getattr(stores.ring, name).nbytes for name in stores.ring.names) // args.capacity
    training.append(Contender("arcturus Ring", timed(stores.add_ours, args.device), lambda: f"{stored:,} bytes a step"))
    where = f"{args.device}, capacity {args.capacity:,}, full"
    return [
        report(f"replay on {where}: a row of 8 added and two batches of {BATCH} drawn", "agent steps/s", training, args.seconds,
               args.rounds),
        report(f"drawing alone, on {where}: one batch of {BATCH}, uniform", "batches/s", drawing(stores, args), args.seconds,
               args.rounds),
    ]  # fmt: skip


def full(args: argparse.Namespace) -> Stores:
    """Every store, filled with the same rows of random frames."""
    import gymnasium as gym
    import numpy as np
    import torch
    from stable_baselines3.common.buffers import ReplayBuffer

    from arcturus.api import EnvSpec
    from arcturus.replay.ring import Ring

    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(DIFFERENT, ENVS, 4, 84, 84), dtype=np.uint8)
    spec = EnvSpec("x", ENVS, (4, 84, 84), torch.uint8, gym.spaces.Discrete(6), 4)
    ring, generator = Ring(args.capacity, spec, args.device), torch.Generator(args.device).manual_seed(0)
    steps = [row_of(torch.as_tensor(frame, device=args.device)) for frame in frames]
    peers = {
        name: ReplayBuffer(
            args.capacity,
            gym.spaces.Box(0, 255, (4, 84, 84), np.uint8),
            gym.spaces.Discrete(6),
            device=args.device,
            n_envs=ENVS,
            optimize_memory_usage=flag,
            handle_timeout_termination=not flag,
        )
        for name, flag in (("stable-baselines3 ReplayBuffer", False), ("stable-baselines3, optimize_memory_usage", True))
    }
    zeros, actions = np.zeros(ENVS, np.float32), np.zeros((ENVS, 1), np.int64)
    infos: list[dict[str, Any]] = [{} for _ in range(ENVS)]

    def add_ours() -> int:
        ring.append(steps[next(turn) % DIFFERENT])
        for _ in range(ENVS // 4):
            sample(ring, generator)
        return ENVS

    def add_theirs(buffer: Any) -> Callable[[], int]:
        turn = itertools.count()

        def step() -> int:
            put(buffer, next(turn))
            for _ in range(ENVS // 4):
                buffer.sample(BATCH)
            return ENVS

        return step

    def put(buffer: Any, i: int) -> None:
        buffer.add(frames[i % DIFFERENT], frames[(i + 1) % DIFFERENT], actions, zeros, zeros, infos)

    turn = itertools.count()
    for i in range(args.capacity // ENVS + 1):
        ring.append(steps[i % DIFFERENT])
        for peer in peers.values():
            put(peer, i)
    return Stores(ring, peers, generator, add_ours, add_theirs)


def sample(ring: Any, generator: Any) -> Any:
    from arcturus.api import Objective
    from arcturus.replay.ring import uniform

    where = uniform(BATCH, ring.oldest, ring.count - 1, ENVS, generator)
    return ring.transitions(*where, 1, Objective(0.99))


def row_of(frames: Any) -> Any:
    """Stacks [N, 4, 84, 84] as a row in the middle of an episode."""
    import torch

    from arcturus.api import ActedStep
    from arcturus.scoring.instruments import as_timestep

    ts = as_timestep(frames)
    return ActedStep(ts._replace(age=torch.full_like(ts.age, 255)), (), torch.zeros(ENVS, dtype=torch.int64, device=frames.device), {})


def size(buffer: Any, capacity: int) -> Callable[[], str]:
    fields = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
    total = sum(getattr(buffer, f).nbytes for f in fields if getattr(buffer, f, None) is not None)
    return lambda: f"{total / capacity:,.0f} bytes a step"


def drawing(stores: Stores, args: argparse.Namespace) -> list[Contender]:
    """A batch drawn from each, and the copy of as many frames, which none can be faster than."""
    import torch

    ring, generator = stores.ring, stores.generator
    places = itertools.cycle(torch.randint(args.capacity, (64, BATCH * 5), generator=generator, device=args.device))
    kept = torch.empty((BATCH * 5, 84, 84), dtype=torch.uint8, device=args.device)

    def drawn(sample: Callable[[], Any]) -> Window:
        def draw() -> int:
            sample()
            return 1

        return timed(draw, args.device)

    peers = [Contender(name, drawn(lambda peer=peer: peer.sample(BATCH))) for name, peer in stores.peers.items()]  # type: ignore[misc]
    return [
        *peers,
        Contender("arcturus Ring", drawn(lambda: sample(ring, generator))),
        Contender(
            "copying a batch's frames, no more",
            drawn(lambda: torch.index_select(ring.frame, 0, next(places), out=kept)),
            lambda: f"limit; {len(kept)} frames that lie apart",
        ),
    ]
