"""One cell of a sweep, brought forward in processes of its own.  Only strings come in and only a number goes out, so that it can be
called on any machine that has the folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from arcturus.runs.files import write_atomically

STATE = ".sweep"  # DIR/.sweep/: locks, logs and records of its cells
STOP = "stop"  # DIR/.sweep/stop/TOKEN: cells that have this token are to stop
POLL = 0.2  # seconds
PATIENCE = 25.0  # seconds a stopped process has for saving
STOPPED = 143  # the code of a cell that was asked to stop
MACHINES = (3, 5, 129, 130, 137, 143)  # codes of a process that its machine, a disk or a signal ended
MODULES = {"train-agent": "arcturus.scripts.train_agent", "evaluate-agent": "arcturus.scripts.evaluate_agent"}
PR_SET_PDEATHSIG = 1


def bring_forward(folder: str, name: str, commands: str, tokens: str, no_gpu: bool = True) -> int:
    """Runs what is still to be run of a cell; the exit code of the first command that doesn't end with 0.

    folder: the sweep's.  commands: JSON of train-agent's and evaluate-agent's command lines.  tokens: a file DIR/.sweep/stop/TOKEN of one
    of these asks it to save and stop.  no_gpu: it must not see one.

    The cell's lock is held by the processes that are started here, too: it is free once the last of them is gone, also where this worker
    was killed before.
    """
    state = Path(folder) / STATE
    state.mkdir(parents=True, exist_ok=True)
    stop = Stop(state / STOP, tokens.split())
    with open(state / f"{name}.lock", "w") as lock:
        while not _locked(lock.fileno()):
            if stop.asked():
                return STOPPED
            time.sleep(POLL)
        code, scored = 0, known(state / f"{name}.json").get("scored")
        with open(state / f"{name}.log", "ab") as log:
            for argv in json.loads(commands):
                if code == 0 and stop.asked():
                    code = STOPPED
                if code == 0 and argv != scored:
                    code = _run(argv, log.fileno(), lock.fileno(), stop, no_gpu)
                    scored = argv if code == 0 and argv[0] == "evaluate-agent" else scored
        codes = [*known(state / f"{name}.json").get("codes", []), code][-100:]
        write_atomically(state / f"{name}.json", json.dumps({"codes": codes, "scored": scored}))
        return code


def _locked(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def held(lock: Path) -> bool:
    """Whether a cell is being brought forward, on whatever machine."""
    try:
        with open(lock) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class Stop(NamedTuple):
    """What asks a cell to stop: a file of one of these names."""

    folder: Path
    tokens: list[str]

    def asked(self) -> bool:
        """By the folder's list: a network file system remembers for a minute that a file wasn't there."""
        try:
            return not set(self.tokens).isdisjoint(os.listdir(self.folder))
        except OSError:
            return False


def _run(argv: list[str], log: int, lock: int, stop: Stop, no_gpu: bool) -> int:
    parent = os.getpid()
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", MODULES[argv[0]], *argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[lock],
        env={"OMP_NUM_THREADS": "1", **os.environ} | ({"CUDA_VISIBLE_DEVICES": ""} if no_gpu else {}),
        preexec_fn=lambda: _end_with(parent),
    )
    asked = 0.0
    while (code := process.poll()) is None:
        if not asked and stop.asked():
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
        if asked and time.monotonic() - asked > PATIENCE:
            process.kill()
        time.sleep(POLL)
    return 128 - code if code < 0 else code


def _end_with(parent: int) -> None:
    """In the new process: if the worker that started it is killed, it saves and ends.  On Linux; elsewhere it trains on to its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # killed before this
            os.kill(os.getpid(), signal.SIGTERM)


def known(record: Path) -> dict[str, Any]:
    """codes: how the cell ended, every time.  scored: the command that scored it, so that it isn't done twice."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) and isinstance(known.get("codes"), list) else {}
    except (OSError, ValueError):
        return {}
