"""Saving a run while it trains: checkpoints, the best weights, and what happens if the disk can't take them."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from arcturus.errors import ArcturusError, CheckpointError, TrainingFailed
from arcturus.replay.ring import Ring
from arcturus.runs.building import playing_state
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import FolderTaken
from arcturus.runs.monitor import Monitor
from arcturus.runs.state import RunState
from arcturus.telling import say

WAITING = 2  # jobs that may wait, each holding a copy of what it will write; with more, the trainer waits
SAVE_LIMIT = 3  # checkpoints in a row that could not be written, that end a run


class Outcome(NamedTuple):
    name: tuple  # what it was, and what the trainer needs to know of it
    error: Exception | None
    result: Any


class Saver:
    """submit() hands a job over; outcomes() returns the jobs that have ended since its last call."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[tuple, Callable[[], Any]] | None] = queue.Queue(WAITING)
        self._ended: deque[Outcome] = deque()
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
        self._thread.start()

    def submit(self, name: tuple, job: Callable[[], Any]) -> None:
        self._jobs.put((name, job))

    def outcomes(self) -> list[Outcome]:
        """Cheap when there is nothing."""
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def join(self) -> None:
        """Every job done."""
        self._jobs.join()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Every job is done, unless the user wants to leave at once: then only the one that has begun."""
        if kind is not KeyboardInterrupt:
            self._jobs.put(None)
            self._thread.join()
            return
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        with suppress(queue.Full):
            self._jobs.put_nowait(None)
        self._thread.join(timeout=1.0)  # the file that is being written

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            name, job = entry
            try:
                self._ended.append(Outcome(name, None, job()))
            except Exception as e:
                self._ended.append(Outcome(name, e, None))
            finally:
                entry = job = None  # type: ignore[assignment]  # the copies it held
                self._jobs.task_done()


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
        if last:
            self.saver.join()
        for name, error, result in self.saver.outcomes():
            if isinstance(error, TrainingFailed):
                raise error
            if name[0] == "best" and error is not None:
                self.state.best = name[2] if self.state.best == name[1] else self.state.best
                say(f"warning: {_words(error)}; training continues")
            elif name[0] == "checkpoint":  # a failed segment is written again with the checkpoint, which then reports the error
                self._collect_checkpoint(error, result, last)

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
