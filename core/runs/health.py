"""Numbers that are not finite are skipped where they arise; too many of them end the run."""

from __future__ import annotations

from typing import Any

from arcturus.api import Metrics
from arcturus.envs.vector import BadRow
from arcturus.errors import TrainingFailed
from arcturus.optimizers import culprit
from arcturus.telling import say

CLIPPED = 0.1  # probability beyond a support from which on a warning is given
LIMIT = 10  # bad rows between two scheduled checkpoints, or skipped updates in a row


class Health:
    """Of a run on this environment.  bad_rows: since the last scheduled checkpoint."""

    def __init__(self, env_id: str):
        self.env_id, self.bad_rows, self.told = env_id, 0, False

    def check_rows(self, bad: list[BadRow], started: int, steps: int) -> None:
        """bad: those that came in up to this step, since the environments were restarted at step `started`."""
        for row in bad:
            self.bad_rows += 1
            told = f"{self.env_id}: environment {row.env} gave a {row.what} that is not finite"
            if self.bad_rows == 1:
                say(f"warning: {told}; it is skipped, and the episode is not counted")
            if self.bad_rows >= LIMIT:
                raise TrainingFailed(f"{told}, the {self.bad_rows}th such row since step {started:,}", where=f"step {steps:,}")

    def check_updates(self, metrics: Metrics, agent: Any, steps: int, *, wait: bool) -> None:
        """wait: also for numbers that are still on a GPU."""
        clipped = metrics.get("health/clipped_mass")
        if wait and clipped is not None and not self.told and clipped > CLIPPED:
            self.told, c = True, agent.config
            say(
                f"warning: {100 * float(clipped):.0f}% of the probability of returns lies outside the support from {c.v_min:g} to "
                f"{c.v_max:g}, where returns can't be distinguished: widen it (--agent.v-min, --agent.v-max)"
            )
        skipped = metrics.get("health/skipped_updates")
        if skipped is not None and (wait or not skipped.is_cuda) and skipped >= LIMIT:
            raise TrainingFailed(
                f"{culprit(agent.network)} is not finite; {int(skipped)} updates in a row were skipped",
                where=f"step {steps:,}",
                fix="use a smaller learning rate; the newest checkpoint, if there is one, has finite weights (resume RUN --fork)",
            )
