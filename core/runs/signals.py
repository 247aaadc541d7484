"""What may end a run from outside: signals, and an environment that no longer answers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from arcturus.envs.vector import Call, under_way
from arcturus.errors import TrainingFailed

TICK = 0.5  # seconds between two looks of the watchdog
GRACE = 4.0  # seconds a hanging call may continue after its run was asked to end; then the process is ended


class Signals:
    """SIGINT, SIGTERM, SIGUSR1 and SIGHUP (a terminal or connection that closes) ask for a checkpoint and the end; a second SIGINT
    leaves at once.  A SIGHUP that is ignored, as under nohup, stays so.

    Handlers are installed in the main thread only; in any other a run can't be signalled.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *(() if ignored else (signal.SIGHUP,))):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def stop(self) -> bool:
        return self.received is not None

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Watchdog:
    """Finds an environment whose step or reset has been under way for `seconds`; 0 looks for none.

    Time is counted in looks, not by the clock, so a process that was stopped as a whole (SIGSTOP, a sleeping laptop) is not
    mistaken for a hung one.  The waiting thread is asked to raise TrainingFailed; where it can't, because it waits outside
    Python, last_words() is called and the process ends with that error's exit code.
    """

    def __init__(self, seconds: float, last_words: Callable[[TrainingFailed], None]):
        self.seconds, self.last_words = seconds, last_words
        self.verdict: TrainingFailed | None = None
        self._ended = threading.Event()
        self._main = threading.current_thread() is threading.main_thread()
        self._before: Any = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self.seconds:
            if self._main:
                self._before = signal.signal(signal.SIGUSR2, self._raise)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self.seconds:
            self._thread.join()
            if self._main:
                signal.signal(signal.SIGUSR2, self._before)

    def _raise(self, number: int, frame: Any) -> None:
        if self.verdict is not None and under_way:
            raise self.verdict

    def _watch(self) -> None:
        seen: tuple[Call, int] | None = None
        looks = 0
        while not self._ended.wait(TICK):
            now = self._at()
            looks = looks + 1 if now is not None and now == seen else 0
            seen = now
            if now is not None and looks * TICK >= self.seconds * self._patience(now[0]):
                call = now[0]
                break
        else:
            return
        self.verdict = TrainingFailed(
            f"an environment has not answered a {call.what} for {looks * TICK:.0f} s, so the run was stopped: {call}",
            where=call.backend.env_id,
            fix="continue from the newest checkpoint with train-agent resume; --env-timeout allows more seconds",
        )
        if self._main:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        stuck, seen = 0, None
        while not self._ended.wait(TICK):  # what ends in order may take its time
            now = self._at()
            stuck = stuck + 1 if now is not None and now == seen else 0
            seen = now
            if stuck * TICK >= GRACE:
                try:
                    self.last_words(self.verdict)
                finally:
                    os._exit(self.verdict.exit_code)

    @staticmethod
    def _at() -> tuple[Call, int] | None:
        """The call under way, and how many environments it has called: environments called one after another are timed one by one."""
        call = under_way[-1] if under_way else None
        return None if call is None else (call, getattr(call.backend, "calls", 0))

    @staticmethod
    def _patience(call: Call) -> int:
        """One call resets many emulators one after another, so a reset may take longer."""
        return 1 + call.backend.num_envs // 64 if call.what == "reset" and not hasattr(call.backend, "calls") else 1
