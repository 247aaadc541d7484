"""Starts the processes that send a run to trackers (follow.py), and lets go of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from arcturus.config import split_names
from arcturus.errors import ConfigError, EnvironmentProblem, nearest
from arcturus.telling import say, typed
from arcturus.tracking.follow import FOLDER
from arcturus.tracking.trackers import TRACKERS

PATIENCE = 10.0  # seconds that a run waits at its end for what is still to be sent


def check_trackers(text: str) -> list[str]:
    """The trackers of --track a,b; ConfigError for an unknown one, EnvironmentProblem for one that isn't installed."""
    names = list(dict.fromkeys(split_names(text)))
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"there is no tracker {name!r}", where="--track", fix=nearest(name, TRACKERS, "trackers"))
        if find_spec(name) is None:
            raise EnvironmentProblem(f"{name} is not installed", where="--track", fix=f"pip install 'arcturus[{name}]'")
    return names


class Trackers:
    """The processes that follow a run.  None of them can slow it or end it.  films: to be sent at the end."""

    def __init__(self, names: Sequence[str], path: Path, films: Sequence[Path] = ()):
        self.path = path
        self.processes = {name: process for name in names if (process := self._start(name, films)) is not None}

    def _start(self, name: str, films: Sequence[Path]) -> subprocess.Popen[bytes] | None:
        try:
            (self.path / FOLDER).mkdir(exist_ok=True)
            with open(self.path / FOLDER / f"{name}.log", "ab") as log:
                return subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", "arcturus.tracking.follow", str(self.path), name, *map(str, films)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the run; this one ends after it
                    preexec_fn=_be_nice,
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                )
        except OSError as e:
            say(f"warning: {name} could not be started: {e}; the run goes on without it")
            return None

    def let_go(self, patience: float = PATIENCE) -> None:
        """The run has ended: they send the rest, for which this waits a little."""
        for process in self.processes.values():
            if process.stdin is not None:
                process.stdin.close()
        until = time.monotonic() + patience
        for name, process in self.processes.items():
            log = typed(self.path / FOLDER / f"{name}.log")
            try:
                if process.wait(max(until - time.monotonic(), 0.1)):
                    say(f"warning: {name} did not get all of this run: {log} says why; training was not affected")
            except subprocess.TimeoutExpired:
                say(f"{name} is still being sent the rest of this run, in the background; its log is {log}")


def _be_nice() -> None:
    os.nice(10)
