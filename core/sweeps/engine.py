"""A sweep's cells on machines: Ray Core places them, watches them, and says when a machine is gone.

Nothing but strings and numbers crosses it.  What a cell has learned is in its run folder, which all machines share.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from arcturus.errors import ArcturusError, ConfigError, EnvironmentProblem
from arcturus.sweeps.cell import MACHINES, STATE, STOP, bring_forward
from arcturus.sweeps.file import Cell, Sweep
from arcturus.sweeps.progress import Progress, Watch, cells_of, claim, keep_record, look
from arcturus.telling import say

STORE = 80 * 2**20  # bytes of Ray's object store, which holds nothing but numbers
WAIT = 1.0  # seconds between looks
NODES = 10.0  # seconds between questions whether Ray has a machine
ENDING = 30.0  # seconds that cells have to save after Ctrl-C
LOST = 137  # the code of a cell whose worker or machine is gone


def import_ray() -> Any:
    """Ray, which must not report to anyone; EnvironmentProblem if it isn't installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: any other work on the machine would starve the cells
    try:
        import ray
    except ImportError as e:
        raise EnvironmentProblem(
            f"sweeps run on Ray, which can't be imported: {e}", where="sweep-agents", fix="pip install 'arcturus[sweep]'"
        ) from e
    return ray


@contextmanager
def cluster(address: str | None, cpus: float, gpus: float) -> Iterator[Any]:
    """Ray on this machine alone, with a temporary folder of its own; or the cluster at HOST:PORT."""
    ray = import_ray()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    home = Path("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir())  # noqa: S108  # a short path: sockets lie in it
    _clear_up(home)
    folder = tempfile.mkdtemp(prefix=f"arcturus-ray-{os.getpid()}-", dir=home)
    try:
        if address is None:
            ray.init(
                address="local", num_cpus=cpus, num_gpus=gpus, object_store_memory=STORE, _temp_dir=folder,
                _node_ip_address="127.0.0.1", **quiet,
            )  # fmt: skip
        else:
            _reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level="error")
        yield ray
    except ArcturusError:
        raise
    except Exception as e:  # Ray has no class of its own for what it raises while it starts
        if ray.is_initialized():
            raise
        what = str(e).strip().splitlines()[0][:150] if str(e).strip() else type(e).__name__
        raise EnvironmentProblem(f"Ray did not start: {what}", where="--address" if address else "sweep-agents run") from e
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _clear_up(home: Path) -> None:
    """Removes the temporary folders of drivers that were killed."""
    for left in home.glob("arcturus-ray-*-????????"):
        pid = left.name.split("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)


def _reachable(address: str) -> None:
    """EnvironmentProblem if nothing answers there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"{address!r} is not an address", where="--address", fix="write HOST:PORT, as ray start --head says it")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as e:
        fix = "start it with: ray start --head"
        raise EnvironmentProblem(f"no Ray cluster answers at {address}: {e}", where="--address", fix=fix) from e


class Plan(Protocol):
    """Which cells are to be run, and when."""

    def more(self, driver: Drive) -> list[Cell]:
        """Those to be started now; asked again and again until no cell runs and there are none."""

    def commands(self, cell: Cell) -> list[list[str]]: ...

    def line(self) -> str:
        """What else is told beside the table."""


class Grid:
    """All cells of a sweep at once."""

    def __init__(self, sweep: Sweep):
        self.left, self.commands = list(sweep.cells), sweep.commands

    def more(self, driver: Drive) -> list[Cell]:
        cells, self.left = self.left, []
        return cells

    def line(self) -> str:
        return ""


class Drive:
    """Brings every cell of a plan to its end, or all of them to a stop.  codes: cell -> the code it ended with.  pruned: cells that the
    plan has stopped.  slots: how many run at once."""

    def __init__(self, sweep: Sweep, plan: Plan):
        self.sweep, self.plan, self.out = sweep, plan, sweep.out
        self.token, self.stopping, self.slots = uuid.uuid4().hex[:12], 0.0, 1
        self.running: dict[Any, str] = {}  # Ray's reference -> cell, which may wait for its place
        self.tries = Counter[str]()
        self.commands, self.pruned = cells_of(self.out)
        self.wanted: dict[str, None] = {}  # every cell of the plan so far
        self.codes: dict[str, int] = {}

    def _ask_to_stop(self, token: str) -> None:
        folder = self.out / STATE / STOP
        folder.mkdir(exist_ok=True)
        (folder / token).touch()

    def stop(self, signum: int, frame: FrameType | None = None) -> None:
        """All cells save and end."""
        if not self.stopping:
            self.stopping = time.monotonic()
            self._ask_to_stop(self.token)
            say("stopping: every cell saves first; the same command goes on from there")

    def halt(self, names: Sequence[str]) -> None:
        """These cells save and end, and are not gone on with."""
        for name in names:
            if name not in self.codes:
                self.pruned.add(name)
                self._ask_to_stop(f"{self.token}-{name}")
        self._keep_record()

    def clear_up(self) -> None:
        for left in (self.out / STATE / STOP).glob(f"{self.token}*"):
            left.unlink(missing_ok=True)

    def run(self, ray: Any, watch: Watch) -> bool:
        """Whether it came to its end; False if Ray has no machine left."""
        self.ray, self.running = ray, {}
        self.slots = self._slots()
        work = ray.remote(bring_forward)
        self.work = work.options(num_cpus=self.sweep.cpus, num_gpus=self.sweep.gpus, max_retries=0)
        for name in self.wanted:
            if name not in self.codes and name not in self.pruned:
                self._start(name)
        looked = time.monotonic()
        while self._more() or self.running:
            ended, _ = ray.wait(list(self.running), num_returns=1, timeout=WAIT) if self.running else ([], [])
            for reference in ended:
                name, code = self.running.pop(reference), self._code(reference)
                if code == LOST and not self._machines():
                    return False
                self._ended(name, code)
            if watch.due():
                watch.show(self.look(), self.plan.line())
            if self.stopping and time.monotonic() - self.stopping > ENDING:
                break
            if time.monotonic() - looked > NODES:
                looked = time.monotonic()
                if not self._machines():
                    return False
        return True

    def _more(self) -> bool:
        """Starts what the plan wants now, and says whether it wanted any."""
        cells = [] if self.stopping else self.plan.more(self)
        if not cells:
            return False
        names = [cell.name for cell in cells]
        self.commands |= {cell.name: self.plan.commands(cell) for cell in cells}
        self.wanted |= dict.fromkeys(names)
        self._keep_record()
        done = {p.name for p in look(self.out, {name: self.commands[name] for name in names}) if p.state == "done"}
        self.codes |= dict.fromkeys(done, 0)
        for name in names:
            if name not in done:
                self._start(name)
        return True

    def _keep_record(self) -> None:
        """Of a search, whose cells come one after the other."""
        if self.sweep.search:
            keep_record(self.out, self.commands, self.pruned, self.sweep.search_record())

    def _slots(self) -> int:
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        beside = [int(have.get("CPU", 0) // self.sweep.cpus) for have in alive]
        if self.sweep.gpus:
            beside = [min(n, int(have.get("GPU", 0) // self.sweep.gpus)) for n, have in zip(beside, alive, strict=True)]
        return max(sum(beside), 1)

    def _machines(self) -> int:
        return sum(node["Alive"] for node in self.ray.nodes())

    def look(self) -> list[Progress]:
        return look(self.out, self.commands, self.pruned)

    def _start(self, name: str) -> None:
        commands, tokens, alone = json.dumps(self.commands[name]), f"{self.token} {self.token}-{name}", not self.sweep.gpus
        self.running[self.work.remote(str(self.out), name, commands, tokens, alone)] = name

    def _code(self, reference: Any) -> int:
        try:
            return int(self.ray.get(reference))
        except self.ray.exceptions.RayTaskError as e:
            say(f"warning: a cell could not be run: {(str(e.cause or e).splitlines() or ['?'])[0][:200]}")
            return 3
        except self.ray.exceptions.RayError:  # its worker was killed, its machine is gone
            return LOST

    def _ended(self, name: str, code: int) -> None:
        self.tries[name] += 1
        if name in self.pruned:
            return
        if code in MACHINES and self.tries[name] < self.sweep.tries and not self.stopping:
            say(f"{name}: exit code {code}; it is tried again ({self.tries[name] + 1} of {self.sweep.tries})")
            self._start(name)
            return
        self.codes[name] = code
        if code and not self.stopping:
            say(f"{name}: failed with exit code {code}; its log is {self.out / STATE / name}.log")

    def exit_code(self) -> int:
        if self.stopping:
            return 130
        codes = self.codes.values()
        if any(code not in (0, *MACHINES) for code in codes):
            return 4
        return 5 if any(codes) or len(codes) + len(self.pruned & set(self.wanted)) < len(self.wanted) else 0


def run_sweep(sweep: Sweep, address: str | None = None, slots: float | None = None) -> int:
    """Runs what is still to be run; the exit code: 0 if all cells are done, 4 if one failed by itself, 5 if one's machine did, 130 after
    Ctrl-C."""
    import_ray()
    have = {"cpus": slots or float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)}
    have["gpus"] = float(_gpus()) if sweep.gpus else 0.0
    for what, wanted in (("cpus", sweep.cpus), ("gpus", sweep.gpus)):
        if address is None and wanted > have[what]:
            fix = f"use {what}: {have[what]:g} or less, or a cluster (--address)"
            raise ConfigError(f"a cell takes {wanted:g} {what}, but there are {have[what]:g}", where=what, fix=fix)
    if not sweep.gpus and address is None and _gpus():
        say("cells run on the CPU: write gpus: 1 into the file if each is to have a GPU")
    if sweep.search is None:
        claim(sweep)
        drive = Drive(sweep, Grid(sweep))
        _bring_to_end(drive, address, have["cpus"], have["gpus"])
        say(f"{sum(code == 0 for code in drive.codes.values())} of {len(sweep.cells)} cells are done")
        return drive.exit_code()
    from arcturus.sweeps.search import Searching, alone, fitted, import_optuna, preset_of

    import_optuna()
    base = preset_of(sweep)
    sweep = replace(sweep, search=fitted(sweep, sweep.search, base))
    claim(sweep)
    with alone(sweep.out):
        searching = Searching(sweep, base)
        drive = Drive(sweep, searching)
        drive.pruned |= searching.pruned()
        _bring_to_end(drive, address, have["cpus"], have["gpus"])
        searching.end(drive)
    return drive.exit_code() or (4 if searching.failed() else 0)


def _bring_to_end(drive: Drive, address: str | None, cpus: float, gpus: float) -> None:
    """On Ray, which is started again if it has no machine left."""
    for again in range(drive.sweep.tries):
        if again:
            say("Ray has no machine left: it is started again")
        if _drive(drive, address, cpus, gpus) or drive.stopping:
            break
    drive.clear_up()


def _drive(drive: Drive, address: str | None, cpus: float, gpus: float) -> bool:
    """Drive.run() on a cluster of its own, or the one at the address."""
    with cluster(address, cpus, gpus) as ray:
        if address is not None:
            _check_machines(ray, drive.sweep)
        before = {number: signal.signal(number, drive.stop) for number in (signal.SIGINT, signal.SIGTERM)}
        watch = Watch(sys.stderr, say)
        try:
            return drive.run(ray, watch)
        finally:
            watch.close()
            for number, handler in before.items():
                signal.signal(number, handler)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _check_machines(ray: Any, sweep: Sweep) -> None:
    """EnvironmentProblem unless every machine of the cluster sees the sweep's folder, and one is large enough for a cell."""
    out, alive = sweep.out, [node for node in ray.nodes() if node["Alive"]]
    if not any(node["Resources"].get("CPU", 0) >= sweep.cpus and node["Resources"].get("GPU", 0) >= sweep.gpus for node in alive):
        told = f"a cell takes {sweep.cpus:g} cpus and {sweep.gpus:g} gpus, and none of the cluster's {len(alive)} machines has them"
        raise EnvironmentProblem(told, where="--address", fix="write smaller numbers into the file, or add a machine")
    mark = out / STATE / f"seen-{uuid.uuid4().hex[:12]}"
    mark.touch()
    try:
        for node in alive:
            place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            seen = ray.remote(os.path.exists).options(num_cpus=0, scheduling_strategy=place).remote(str(mark))
            name = node["NodeManagerHostname"]
            try:
                there = ray.get(seen, timeout=60)
            except ray.exceptions.GetTimeoutError as e:
                raise EnvironmentProblem(f"{name} did not answer within 60 s", where="--address", fix="look at it with: ray status") from e
            if not there:
                raise EnvironmentProblem(f"{name} does not see {out}", where="--out", fix="choose a folder that all machines share")
    finally:
        mark.unlink(missing_ok=True)

