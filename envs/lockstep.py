"""Groups of environments that take turns, so that nobody waits where there is other work.

While the agent acts for one group the others' emulators run; a reset, many times as long as a step, is waited for by its own group only.
Rows stay whole: each group makes exactly one step a row, in the same order, so that a run depends on seeds alone (which an emulator that
hands out whoever is ready first can't promise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from torch import Tensor

from arcturus.api import TimeStep, joined
from arcturus.envs.vector import BadRow, DeviceEnvs, Episode, HostRow


class Lockstep:
    """Equal groups of environments as one.  The loop sends and receives each of `groups` by itself; everybody else, whole rows."""

    def __init__(self, groups: Sequence[DeviceEnvs]):
        self.groups, self.schedule = tuple(groups), None
        self.size = groups[0].spec.num_envs
        self.spec = replace(groups[0].spec, num_envs=self.size * len(groups))
        self.num_envs = self.spec.num_envs

    def restart(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> TimeStep:
        """As DeviceEnvs.restart: seeds int64 [N], mask [N] bool."""
        masks = [None] * len(self.groups) if mask is None else np.split(np.asarray(mask, bool), len(self.groups))
        each = zip(self.groups, np.split(seeds, len(self.groups)), masks, strict=True)
        return joined([group.restart(s, m) for group, s, m in each])

    def send(self, action: Tensor) -> None:
        for group, part in zip(self.groups, action.split(self.size), strict=True):
            group.send(part)

    def recv(self) -> TimeStep:
        return joined([group.recv() for group in self.groups])

    @property
    def host(self) -> HostRow:
        """The newest row as the backends gave it."""
        parts = zip(*(group.host for group in self.groups), strict=True)
        return HostRow(*(None if part[0] is None else np.concatenate(part) for part in parts))  # type: ignore[arg-type]

    def settle(self) -> None:
        self._all(DeviceEnvs.settle)

    def close(self) -> None:
        self._all(DeviceEnvs.close)

    def _all(self, do: Callable[[DeviceEnvs], None]) -> None:
        """To every group, whatever becomes of another."""
        with ExitStack() as stack:
            for group in self.groups:
                stack.callback(do, group)

    @property
    def playing(self) -> np.ndarray:
        return np.concatenate([group.playing for group in self.groups])

    def take_finished(self) -> list[Episode]:
        """The episodes that ended since the last call, group by group."""
        return [e._replace(env=e.env + i * self.size) for i, group in enumerate(self.groups) for e in group.take_finished()]

    def take_bad(self) -> list[BadRow]:
        return [e._replace(env=e.env + i * self.size) for i, group in enumerate(self.groups) for e in group.take_bad()]

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
