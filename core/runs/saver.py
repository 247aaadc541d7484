"""Saving beside training: jobs run one after another on a thread of their own, and their failures are told to the trainer."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

WAITING = 2  # jobs that may wait, each holding a copy of what it will write: after that the trainer waits


class Outcome(NamedTuple):
    name: str
    error: Exception | None
    result: Any


class Saver:
    """submit() hands a job over; outcomes() gives what has ended since it was last asked."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[str, Callable[[], Any]] | None] = queue.Queue(WAITING)
        self._ended: deque[Outcome] = deque()
        self._thread = threading.Thread(target=self._work, name="saver", daemon=True)
        self._thread.start()

    def submit(self, name: str, job: Callable[[], Any]) -> None:
        self._jobs.put((name, job))

    def outcomes(self) -> list[Outcome]:
        """Cheap when there is nothing."""
        return [self._ended.popleft() for _ in range(len(self._ended))]

    def wait(self) -> list[Outcome]:
        """Every job done, and what is left to tell."""
        self._jobs.join()
        return self.outcomes()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Every job is done, unless the user wants to leave at once."""
        if kind is not KeyboardInterrupt:
            self._jobs.put(None)
            self._thread.join()

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
