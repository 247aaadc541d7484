"""Saving during training: jobs run one after another on a thread of their own, and their failures are reported to the trainer."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

WAITING = 2  # jobs that may wait, each holding a copy of what it will write; with more, the trainer waits


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

    def wait(self) -> list[Outcome]:
        """Waits until every job is done; returns the outcomes not yet reported."""
        self.join()
        return self.outcomes()

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
