"""How the environments came to where they are: the seeds of their last restart are known, the actions since then are kept.

An emulator can't be saved through its vector environment, but its state is a function of seeds and actions alone.  A
checkpoint at a restart needs no actions; one that a signal asks for in between holds them, and they are played again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arcturus.api import TimeStep
from arcturus.envs.tasks.device import TaskEnvs
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import Interrupted
from arcturus.runs.checkpoint import COURSE_BYTES

PROOF_ROWS, PROOF_SECONDS = 100, 5.0  # played again to check that the environments are deterministic given their seeds


class Diverged(Exception):
    """The environments can't be brought back to their earlier state; says why."""


def fingerprint(ts: TimeStep) -> str:
    """A digest of everything the environments return in a row."""
    out = hashlib.blake2b(digest_size=20)
    for tensor in (ts.obs, ts.reward, ts.age, ts.terminated, ts.truncated, ts.life_lost):
        out.update(tensor.cpu().contiguous().numpy().tobytes())
    return out.hexdigest()


class ActionLog:
    """Stands between the loop and the environments, and records the actions sent since the last restart of all of them."""

    def __init__(self, envs: DeviceEnvs | TaskEnvs):
        self.envs, self.spec = envs, envs.spec
        self._dtype = torch.empty((), dtype=self.spec.action_dtype).numpy().dtype
        self._shape = (self.spec.num_envs, *(self.spec.action_space.shape or ()))
        self._actions = bytearray()
        self.schedule: dict[str, Any] = {}  # the curriculum as it was at the last restart

    def restart(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> TimeStep:
        self._actions.clear()
        self.schedule = self.schedule_now()
        return self.envs.restart(seeds, mask)

    def schedule_now(self) -> dict[str, Any]:
        return self.envs.schedule.state_dict() if self.envs.schedule is not None else {}

    def send(self, action: Tensor) -> None:
        self.envs.send(action)
        if not self.full and self.envs.sent is not None:
            self._actions += self.envs.sent.astype(self._dtype).tobytes()

    def recv(self) -> TimeStep:
        return self.envs.recv()

    def settle(self) -> None:
        self.envs.settle()

    def actions(self) -> Tensor:
        """[rows, N, *action_shape] of spec.action_dtype; no rows if there are too many to keep."""
        kept = bytes(self._actions) if len(self._actions) <= COURSE_BYTES else b""
        taken = np.frombuffer(kept, self._dtype).reshape(-1, *self._shape)
        return torch.from_numpy(taken.copy())

    @property
    def full(self) -> bool:
        """Whether there are more actions since the last restart than are kept."""
        return len(self._actions) > COURSE_BYTES

    def repeats(self, seeds: np.ndarray) -> bool:
        """Whether a restart with these seeds and the actions taken after it lead to the same rows twice; at most a hundred rows are
        compared.  The environments are in another state afterwards."""
        actions, began = self.actions()[:PROOF_ROWS], time.perf_counter()
        seen: list[list[str]] = []
        for again in (False, True):
            row = [fingerprint(self.envs.restart(seeds))]
            for action in actions:
                if again and len(row) == len(seen[0]) or not again and time.perf_counter() - began > PROOF_SECONDS:
                    break
                self.envs.send(action.long())
                row.append(fingerprint(self.envs.recv()))
            seen.append(row)
        self.envs.take_finished()
        self.envs.take_bad()
        return seen[0] == seen[1]

    def replay_actions(self, seeds: np.ndarray, actions: Tensor, expected: str, stop: Callable[[], bool]) -> TimeStep:
        """Plays the actions [rows, N, ...] again after a restart with the seeds; the row they lead to.

        expected: the fingerprint of the row at which the last action was taken; Diverged if it differs, or without actions.
        """
        ts = self.restart(seeds)
        if not len(actions):
            raise Diverged("took more steps since its last restart than are recorded")
        for i, action in enumerate(actions):
            if stop():
                raise Interrupted
            if i == len(actions) - 1:
                if fingerprint(ts) != expected:
                    raise Diverged("reached another state with the same actions as before (is it deterministic, and the same version?)")
                self.envs.take_finished()  # those before were counted; this last step's episodes were not
                self.envs.take_bad()
            self.send(action.long())
            ts = self.recv()
        return ts
