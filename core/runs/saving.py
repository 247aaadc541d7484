"""Saving a run while it trains: checkpoints, the best weights, and what happens if the disk can't take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from arcturus.errors import ArcturusError, CheckpointError, TrainingFailed
from arcturus.replay.ring import Ring
from arcturus.runs.building import playing_state
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import FolderTaken
from arcturus.runs.monitor import Monitor
from arcturus.runs.saver import Saver
from arcturus.runs.state import RunState
from arcturus.telling import say

SAVE_LIMIT = 3  # checkpoints in a row that could not be written, that end a run


class Saving:
    """The saving of one run.  Files are written by the saver's thread; collect() receives the outcomes.

    replay: the agent's, if it is saved.  written: called with the step of every checkpoint that is on the disk.
    """

    def __init__(
        self,
        state: RunState,
        checkpoints: Checkpoints,
        saver: Saver,
        monitor: Monitor,
        replay: Ring | None,
        written: Callable[[int], None],
    ):
        self.state, self.checkpoints, self.saver, self.monitor, self.replay = state, checkpoints, saver, monitor, replay
        self.written = written
        self.failed = 0  # checkpoints in a row that could not be written

    def save_segments(self) -> None:
        """The replay's newest rows, as soon as they fill a segment."""
        if self.replay is None:
            return
        piece = self.checkpoints.segments.full(self.replay)
        if piece is not None:
            self.saver.submit(("segment",), partial(self.checkpoints.segments.write, piece))

    def save(self, fingerprint: str | None, *, last: bool) -> None:
        """A checkpoint.  fingerprint: RunState.to_checkpoint's.  last: the run leaves after it."""
        state = self.state.to_checkpoint(self.monitor.state(), fingerprint)
        if fingerprint is None:
            self.state.health.bad_rows = 0
        if self.replay is not None and self.checkpoints.segments.far_behind(self.replay):
            self.saver.join()  # they are written at once, by this thread
        try:
            snapshot = self.checkpoints.snapshot(self.state.steps, state, self.replay)
        except CheckpointError as e:
            self._fail(e, last)
            return
        self.saver.submit(("checkpoint",), partial(self.checkpoints.write, snapshot, self.state.config.run.keep))

    def save_best(self, mean: float) -> None:
        """The weights of the best evaluation so far."""
        run = self.state
        saved = {"agent": playing_state(run.agent.state_dict()), "steps": run.steps, "best": mean}
        snapshot = self.checkpoints.snapshot(run.steps, saved)
        self.saver.submit(("best", mean, run.best), partial(self.checkpoints.write_best, snapshot))
        run.best = mean

    def collect(self, *, last: bool) -> None:
        """Handles the outcomes of saving; the last time after all of it is done."""
        for name, error, result in self.saver.wait() if last else self.saver.outcomes():
            if isinstance(error, TrainingFailed):
                raise error
            if name[0] == "best" and error is not None:
                self._forget_best(float(name[1]), float(name[2]), error)
            elif name[0] == "checkpoint":  # a failed segment is written again with the checkpoint, which then reports the error
                self._collect_checkpoint(error, result, last)

    def _forget_best(self, mean: float, before: float, error: BaseException) -> None:
        if self.state.best == mean:
            self.state.best = before
        say(f"warning: {_words(error)}; training continues")

    def _collect_checkpoint(self, error: BaseException | None, result: Any, last: bool) -> None:
        if error is not None:
            known = isinstance(error, ArcturusError)
            self._fail(error if known else CheckpointError(_words(error), where=str(self.checkpoints.folder.parent)), last)
            return
        if self.failed:
            say(f"checkpoints are written again: {result.name}")
        self.failed = 0
        self.written(int(result.name.rsplit("-", 1)[-1]))

    def _fail(self, error: BaseException, last: bool) -> None:
        """A checkpoint could not be written."""
        self.failed += 1
        if isinstance(error, FolderTaken) or self.failed >= SAVE_LIMIT or last:
            raise error
        if self.failed == 1:
            say(f"warning: {_words(error)}; training continues and tries again at the next checkpoint")


def _words(error: BaseException) -> str:
    return error.what if isinstance(error, ArcturusError) else str(error)
