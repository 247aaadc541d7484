"""Uniform replay beside stable-baselines3's."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

from arcturus.scripts.benchmarks.measuring.timing import Contender, Window, report, timed


def benchmark_replay(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of 8 environments added and two batches of 32 drawn (a batch for every 4 steps), as in training; then drawing alone.  All
    are full before."""
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

    def drawn(sample: Callable[[], Any]) -> Window:
        def draw() -> int:
            sample()
            return 1

        return timed(draw, args.device)

    places = itertools.cycle(torch.randint(capacity, (64, batch * 5), generator=generator, device=args.device))
    kept = torch.empty((batch * 5, 84, 84), dtype=torch.uint8, device=args.device)

    def size(buffer: Any) -> Callable[[], str]:
        fields = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        total = sum(getattr(buffer, f).nbytes for f in fields if getattr(buffer, f, None) is not None)
        return lambda: f"{total / capacity:,.0f} bytes a step"

    names = {peers[False]: "stable-baselines3 ReplayBuffer", peers[True]: "stable-baselines3, optimize_memory_usage"}
    training = [Contender(name, timed(theirs(peer), args.device), size(peer)) for peer, name in names.items()]
    training.append(Contender("arcturus Ring", timed(ours, args.device), lambda: f"{ring.row_bytes:,} bytes a step"))
    drawing = [Contender(name, drawn(lambda peer=peer: peer.sample(batch))) for peer, name in names.items()]  # type: ignore[misc]
    drawing += [
        Contender("arcturus Ring", drawn(lambda: ring.sample(batch, generator))),
        Contender(
            "copying a batch's frames, no more",
            drawn(lambda: torch.index_select(ring.frame, 0, next(places), out=kept)),
            lambda: f"limit; {len(kept)} frames that lie apart",
        ),
    ]
    where = f"{args.device}, capacity {capacity:,}, full"
    return [
        report(f"replay on {where}: a row of 8 added and two batches of {batch} drawn", "agent steps/s", training, args.seconds,
               args.rounds),
        report(f"drawing alone, on {where}: one batch of {batch}, uniform", "batches/s", drawing, args.seconds, args.rounds),
    ]  # fmt: skip
