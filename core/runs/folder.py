"""The run folder: config.yaml, run.json (status, versions, device, command), metrics.jsonl, TensorBoard events,
checkpoints/, replay/ (their segments), evaluations/, videos/."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from arcturus.config import write_yaml
from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.files import read_json, refuse_links, write_atomically
from arcturus.runs.settings import RunConfig, from_run

PACKAGES = ("arcturus", "torch", "numpy", "gymnasium", "ale-py", "tensorboard", "safetensors", "stable-baselines3", "av")


def versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = "missing"
    return out


class Run:
    """One run on disk.

    status is running, finished, preempted (a signal; resume it) or failed.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._about: dict[str, Any] = {}
        self._held: Any = None
        if not (self.path / "run.json").is_file():
            raise ConfigError(
                f"{self.path} is no run folder: it has no run.json", where="RUN", fix="give the folder that train-agent named"
            )

    @classmethod
    def create(cls, config: RunConfig, argv: list[str], fill: Callable[[Path], dict[str, Any]] = lambda path: {}) -> Run:
        """A new run folder, locked; made beside and renamed, so that there is never half of one, nor one of two processes.

        fill: puts more into it, and returns more for run.json.
        """
        name = f"{config.env.id.replace('/', '-').replace(':', '-')}-{config.agent_name}-s{config.run.seed}"
        plain = Path(config.run.run_dir) if config.run.run_dir else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if config.run.run_dir and plain.exists() and (not plain.is_dir() or any(plain.iterdir())):
            raise _not_empty(plain)
        temporary = plain.with_name(f".tmp-{plain.name}-{os.getpid()}")
        about = {
            "status": "running",
            "steps": 0,
            "command": argv,
            "versions": versions(),
            "device": config.run.device,
            "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
            "started": time.time(),
            "pid": os.getpid(),
        }
        try:
            temporary.mkdir(parents=True)
            try:
                write_atomically(temporary / "config.yaml", write_yaml(config.to_mapping()))
                write_atomically(temporary / "run.json", json.dumps(about | fill(temporary), indent=2))
                run = cls(temporary)
                run._lock()
                for number in range(2, 1_000):
                    run.path = plain if number == 2 else plain.with_name(f"{plain.name}-{number - 1}")
                    if _moved(temporary, run.path):
                        return run
                    if config.run.run_dir:
                        break
                raise _not_empty(plain)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as e:
            raise CheckpointError(
                f"{plain} can't be written: {e.strerror}", where="--run-dir", fix="choose a folder you may write to"
            ) from e

    def config(self, trust: tuple[str, ...] = ()) -> RunConfig:
        refuse_links(self.path)
        return from_run(self.path, trust)

    @property
    def about(self) -> dict[str, Any]:
        return read_json(self.path / "run.json")

    @property
    def status(self) -> str:
        return str(self.about.get("status"))

    def update(self, **changes: Any) -> None:
        """Changes run.json; None takes an entry out.  A folder that was removed comes back."""
        with suppress(CheckpointError):
            self._about = self.about
        self._about = {k: v for k, v in (self._about | changes).items() if v is not None}
        self.path.mkdir(parents=True, exist_ok=True)
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
            self._held = None

    def _lock(self) -> None:
        from filelock import FileLock, Timeout

        refuse_links(self.path)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"{self.path} is being trained by another process (pid {self.about.get('pid', 'unknown')})",
                where="RUN",
                fix="wait for it or stop it; or go on in a folder of your own with --fork",
            ) from None
        except OSError as e:
            raise CheckpointError(f"{self.path} can't be written: {e.strerror}", where="RUN") from e
        self._held = lock

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"


def _not_empty(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} exists already and is not empty",
        where="--run-dir",
        fix=f"train-agent resume {path} goes on with it; or choose another folder",
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

    A last line that a crash tore is left out.
    """
    path = (run.path if isinstance(run, Run) else Path(run)) / "metrics.jsonl"
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise ConfigError(f"{path} can't be read: {e.strerror}", where="RUN") from e
    for i, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if i != len(lines) - 1:
                print(f"warning: line {i + 1} of {path} is damaged and left out", file=sys.stderr)
    return rows
