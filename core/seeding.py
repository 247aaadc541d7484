"""One tree of seeds with named branches, so that no stream of random numbers can disturb another.

Every branch is a numpy SeedSequence made from (run seed, branch name, index), never from how many were made before it:
evaluating, filming or logging draws from branches of its own and can't move training by a bit.
"""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch


class Seeds:
    """Branches are named (env, policy, replay, init, eval, ...) and may carry an index (a checkpoint's or episode's number)."""

    def __init__(self, seed: int, path: tuple[int, ...] = ()):
        self.seed, self.path = seed, path

    def branch(self, name: str, index: int = 0) -> Seeds:
        return Seeds(self.seed, (*self.path, zlib.crc32(name.encode()), index))

    def sequence(self) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=self.path)

    def environments(self, n: int) -> np.ndarray:
        """int64 [n], each below 2**31.  An array, not an int: environments take an int as consecutive seeds, and then
        run 0's environments 1 and 2 are run 1's 0 and 1."""
        return self.sequence().generate_state(n).astype(np.int64) >> 1

    def numpy(self) -> np.random.Generator:
        return np.random.default_rng(self.sequence())

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        import torch

        generator = torch.Generator(device=device)
        generator.manual_seed(int(self.sequence().generate_state(1, np.uint64)[0] >> 1))
        return generator

    @contextmanager
    def initialising(self) -> Iterator[None]:
        """Inside, torch's global generator is seeded from this branch (network constructors know no other); outside it is as before."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.sequence().generate_state(1)[0]))
            yield


class ResetSeeds:
    """The meaning of Gymnasium's reset(seed=) for N environments: an int for all, or one for each; without a seed, the next branch of
    the seed given when they were made."""

    def __init__(self, seed: int):
        self._seeds, self._resets = Seeds(seed).branch("env"), 0

    def __call__(self, seed: int | Sequence[int] | np.ndarray | None, n: int) -> np.ndarray:
        """int64 [n]."""
        if seed is None:
            self._resets += 1
            return self._seeds.branch("reset", self._resets - 1).environments(n)
        if isinstance(seed, (int, np.integer)):
            return Seeds(int(seed)).branch("env").environments(n)
        return np.asarray(seed, np.int64)
