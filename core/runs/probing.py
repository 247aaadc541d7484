"""How often, and on how many held-out states, a run looks at its action-values: never at the cost of the run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from arcturus.runs.settings import RunConfig

SHARE = 0.05  # of a run's time at most
LEAST_STATES = 32
STEPS_A_STATE = 20  # a short run holds out fewer states
STEPS_A_LOOK = 8  # of training for each state that is evaluated


class Probe:
    """count: states to hold out.

    Looks are scheduled by steps, so that a resumed run looks at the same steps as one never stopped; if that takes more than SHARE of
    the time, looks are left out, but never with --deterministic.
    """

    def __init__(self, config: RunConfig):
        steps, wanted = config.run.steps, config.run.heldout_states
        self.count = min(wanted, max(LEAST_STATES, steps // STEPS_A_STATE))
        self.every, self.log_every, self.last = self.count * STEPS_A_LOOK, config.log_every, steps
        self.exact = config.run.deterministic
        self.began, self.spent, self.longest = time.perf_counter(), 0.0, 0.0

    def due(self, steps: int) -> bool:
        """Called when metrics are logged: whether a look is due."""
        if steps // self.every == (steps - self.log_every) // self.every and steps < self.last:
            return False
        return self.exact or self.spent + self.longest <= SHARE * (time.perf_counter() - self.began)

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self.spent, self.longest = self.spent + took, max(self.longest, took)
