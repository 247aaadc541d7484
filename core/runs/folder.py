"""The run folder: config.yaml, run.json (status, versions, device, command), metrics.jsonl, TensorBoard events,
checkpoints/, replay/ (their segments), evaluations/, videos/."""

from __future__ import annotations

import errno
import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from arcturus.config import user_path
from arcturus.errors import ArcturusError, CheckpointError, ConfigError, nearest
from arcturus.runs.files import read_file, read_json, refuse_strangers, write_atomically
from arcturus.runs.settings import RunConfig, from_run
from arcturus.telling import plain, say, typed

METRICS_LIMIT = 1 << 32  # bytes
UNLOCKED = 10.0  # seconds for which a folder that is being made may not be locked yet
_distributions = cache(importlib.metadata.packages_distributions)  # reads every package's list of files: a third of a second
STARTS = 1_000  # of a run that run.json keeps, the newest ones
PACKAGES = ("arcturus", "torch", "numpy", "gymnasium", "ale-py", "tensorboard", "safetensors", "stable-baselines3", "av")


def versions(env_id: str = "") -> dict[str, str]:
    """Versions of Python, of the packages a run depends on, and of the one its environment comes from."""
    out = {"python": platform.python_version()}
    for name in dict.fromkeys([*PACKAGES, *package_of(env_id)]):
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "missing"
    return out


def package_of(env_id: str) -> list[str]:
    """The installed packages that hold the module an environment is made by; those in PACKAGES are not looked for."""
    import gymnasium as gym

    module, _, name = env_id.rpartition(":")
    spec = gym.registry.get(name)
    entry = getattr(spec, "entry_point", None) or module
    top = (entry if isinstance(entry, str) else getattr(entry, "__module__", "")).partition(":")[0].partition(".")[0]
    known = top.replace("_", "-") in PACKAGES
    return sorted(_distributions().get(top, [])) if top and not known else []


@cache
def source_commit() -> str | None:
    """The git commit of this checkout of arcturus, with -changed if its code is not as committed; None of an installed package."""
    root, git = Path(__file__).parents[2], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None

    def asked(*words: str) -> str:
        argv = [git, "-C", str(root), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=5).stdout.strip()  # noqa: S603

    try:
        changed = asked("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.yaml")
        return asked("rev-parse", "--short=7", "HEAD") + ("-changed" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def this_start(config: RunConfig, argv: list[str], step: int) -> dict[str, Any]:
    """What run.json records of every process that trains in a run folder."""
    return {
        "step": step,
        "time": time.time(),
        "command": argv,
        "versions": versions(config.env.id),
        "commit": source_commit(),
        "device": config.run.device,
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
        "pid": os.getpid(),
    }


class FolderTaken(CheckpointError):
    """A run's folder was removed while it trained, and another run has begun in its place."""


def trained_policies() -> dict[str, Path]:
    """The policies that come along (pong-dqn ...), by name: their folders."""
    spec = importlib.util.find_spec("arcturus.pretrained")
    homes = spec.submodule_search_locations if spec is not None else None
    found = sorted(about.parent for home in homes or [] for about in Path(home).glob("*/run.json"))
    return {folder.name: folder for folder in found}


def trained_already(path: Path) -> Path:
    """A policy that comes along, by its name alone where no such folder is here; other paths as they are."""
    if len(path.parts) != 1 or path.exists():
        return path
    return trained_policies().get(path.name, path)


def _no_run(path: Path) -> ConfigError:
    fix = "give a folder that train-agent made"
    if not path.exists() and len(path.parts) == 1:
        fix += f", or a trained policy by its name: {nearest(path.name, trained_policies(), 'policies')}"
    why = "it has no run.json" if path.exists() else "it does not exist"
    return ConfigError(f"{path} is not a run folder: {why}", where="RUN", fix=fix)


def seconds_in(about: dict[str, Any]) -> float | None:
    """The core-seconds that run.json tells of; None of a run made before they were counted."""
    told = about.get("core_seconds")
    return float(told) if isinstance(told, (int, float)) and 0 <= told < 1e12 else None


class Run:
    """One run on disk.

    status is running, finished, preempted (a signal; resume it) or failed.
    """

    def __init__(self, path: Path | str):
        self.path = trained_already(user_path(path))
        self._about: dict[str, Any] = {}
        self._held: Any = None
        self._core_seconds, self._counted = 0.0, time.process_time()  # of its processes; the process's clock when they were counted
        self._inode: tuple[int, int] | None = None  # of the lock that is held
        self._checking = threading.RLock()
        if not (self.path / "run.json").is_file():
            raise _no_run(self.path)

    @classmethod
    def create(cls, config: RunConfig, argv: list[str], fill: Callable[[Path], dict[str, Any]] = lambda path: {}) -> Run:
        """A new run folder, locked; made under another name and renamed, so it is never half made, nor shared by two processes.

        fill: puts more into it, and returns more for run.json.
        """
        name = f"{config.env.id.replace('/', '-').replace(':', '-')}-{config.agent_name}-s{config.run.seed}"
        plain = Path(config.run.run_dir) if config.run.run_dir else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if config.run.run_dir and plain.exists() and (not plain.is_dir() or any(plain.iterdir())):
            raise _not_empty(plain)
        if not plain.name:  # "." and the like
            plain = plain.resolve()
        temporary = plain.with_name(f".tmp-{plain.name}-{os.getpid()}")
        start = this_start(config, argv, 0)
        told = {k: start[k] for k in ("command", "versions", "commit", "device", "machine", "pid")} | {"started": start["time"]}
        about = {"status": "running", "steps": 0, "id": uuid.uuid4().hex} | told | {"starts": [start]}
        try:
            cls._sweep(plain)
            temporary.mkdir(parents=True)
            try:
                write_atomically(temporary / "config.yaml", config.text())
                write_atomically(temporary / "run.json", json.dumps(about, indent=2))
                run = cls(temporary)
                run._lock()
                write_atomically(temporary / "run.json", json.dumps(about | fill(temporary), indent=2))
                for number in range(2, 1_000):
                    run.path = plain if number == 2 else plain.with_name(f"{plain.name}-{number - 1}")
                    if _moved(temporary, run.path):
                        run._about = run.known
                        run.own()  # onto a mount the lock is moved as a copy, which nobody holds
                        return run
                    if config.run.run_dir:
                        break
                raise _not_empty(plain)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except (OSError, ValueError) as e:
            raise CheckpointError(
                f"{plain} can't be written: {getattr(e, 'strerror', None) or e}",
                where="--run-dir",
                fix="choose a folder you may write to",
            ) from e

    @classmethod
    def _sweep(cls, plain: Path) -> None:
        """Removes leftovers of runs of this name killed while their folders were made: no process holds their lock."""
        from filelock import FileLock, Timeout

        for left in plain.parent.glob(f".tmp-{glob.escape(plain.name)}-*"):
            with suppress(OSError, Timeout):
                if time.time() - left.stat().st_mtime > UNLOCKED:
                    with FileLock(left / ".lock", timeout=0):
                        shutil.rmtree(left)

    def config(self, trust: tuple[str, ...] = ()) -> RunConfig:
        refuse_strangers(self.path)
        return from_run(self.path, trust)

    @property
    def about(self) -> dict[str, Any]:
        return read_json(self.path / "run.json")

    @property
    def known(self) -> dict[str, Any]:
        """`about`, empty where run.json can't be read: for what a damaged one must not stop."""
        with suppress(CheckpointError):
            return self.about
        return {}

    @property
    def status(self) -> str:
        return str(self.known.get("status", "unknown"))

    def update(self, **changes: Any) -> None:
        """Changes run.json; None takes an entry out.  A folder that was removed comes back."""
        if self._held is not None:
            self.own()
        self._about = self.known or self._about
        self._about = {k: v for k, v in (self._about | changes).items() if v is not None}
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "run.json", json.dumps(self._about, indent=2))

    def note(self, **changes: Any) -> None:
        """update() by a training run, with the core-seconds of its processes so far: if it fails, training continues."""
        now = time.process_time()
        self._core_seconds, self._counted = self._core_seconds + now - self._counted, now
        try:
            self.update(**changes, core_seconds=round(self._core_seconds, 1))
        except FolderTaken:
            pass  # nothing there is this run's
        except (OSError, ArcturusError) as e:  # the disk may be what failed
            say(f"warning: run.json could not be written: {e}")

    def begin(self, config: RunConfig, argv: list[str], step: int) -> list[str]:
        """Records a new start of an existing run; returns what differs from the previous start, a line each."""
        start, about = this_start(config, argv, step), self.known
        before = about.get("versions")
        now: dict[str, str] = start["versions"]
        old = before if isinstance(before, dict) else {}
        differ = [name for name in sorted(old) if old[name] != now.get(name, old[name])]
        changed = [f"{name} {plain(str(old[name]))[:40]} -> {now[name]}" for name in differ]
        self._core_seconds = seconds_in(about) or 0.0
        starts = about.get("starts")
        kept = [*(starts if isinstance(starts, list) else []), start][-STARTS:]
        told = {k: start[k] for k in ("command", "versions", "commit", "device", "machine", "pid")}
        self.update(
            status="running", steps=step, error=None, signal=None, id=about.get("id") or uuid.uuid4().hex, starts=kept, **told
        )
        return changed

    def own(self) -> None:
        """Before anything is written while the folder is locked: whether it is still this run's.

        The lock is held by inode.  A folder that was moved or removed comes back, locked again; FolderTaken if another run is there.
        """
        with self._checking:
            if self._inode == _inode(self.path / ".lock"):
                return
            there = self.known
            if there and there.get("id") != self._about.get("id"):
                raise FolderTaken(
                    f"{self.path} now belongs to another run: it was removed during training, so this run ends",
                    where=str(self.path),
                    fix="don't move or remove the folder of a run before the run has ended",
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if not there and self._about:
                write_atomically(self.path / "run.json", json.dumps(self._about, indent=2))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time may train in a run folder; the lock goes with its process, however that ends."""
        if self._held is None:
            self._lock()
        try:
            yield
        finally:
            self._held.release()
            self._held = self._inode = None

    def _lock(self) -> None:
        from filelock import FileLock, Timeout

        refuse_strangers(self.path)
        mode = (self.path / "run.json").stat().st_mode & 0o777 if (self.path / "run.json").exists() else 0o644
        lock = FileLock(
            self.path / ".lock", timeout=0, mode=mode, thread_local=False
        )  # as all files of a run: FileLock doesn't ask umask
        try:
            lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"{self.path} is being trained by another process (pid {self.known.get('pid', 'unknown')})",
                where="RUN",
                fix="wait for it, stop it, or continue in a copy with --fork",
            ) from None
        except OSError as e:
            raise CheckpointError(f"{self.path} can't be written: {e.strerror}", where="RUN") from e
        self._held, self._inode = lock, _inode(self.path / ".lock")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _not_empty(path: Path) -> ConfigError:
    if not path.is_dir():
        return ConfigError(f"{path} is not a folder", where="--run-dir", fix="choose another, or leave it out to get a new one each time")
    return ConfigError(
        f"{path} exists already and is not empty",
        where="--run-dir",
        fix=f"train-agent resume {typed(path)} continues it; or choose another folder, or leave it out to get a new one each time",
    )


def _moved(temporary: Path, path: Path) -> bool:
    """Renames a folder to a place where nothing is, or an empty folder; False if something is."""
    try:
        temporary.rename(path)
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.EXDEV):
            if path.exists():
                return False
            raise
        for entry in temporary.iterdir():  # an empty folder that is a mount of its own
            shutil.move(entry, path / entry.name)
    return True


def read_metrics(run: Run | Path | str) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl: {"step": agent steps, "time": seconds since the epoch, tag: number, ...}.

    A last line torn by a crash is left out, and so, with a message, is any other damaged line.  CheckpointError if it is not a file.
    """
    path = (run.path if isinstance(run, Run) else user_path(run)) / "metrics.jsonl"
    rows, damaged = [], []
    lines = read_file(path, METRICS_LIMIT).split(b"\n")
    for i, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode()) if line else None
        except (ValueError, RecursionError):
            row = {}
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif row is not None and i < len(lines):
            damaged.append(i)
    if damaged:
        lost = f"line {damaged[0]}" if len(damaged) == 1 else f"{len(damaged):,} lines (the first is line {damaged[0]})"
        say(f"warning: {path}: {lost} can't be read and will be ignored")
    return rows
