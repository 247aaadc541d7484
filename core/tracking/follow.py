"""A process that sends what a run logs to a tracker: python -m arcturus.tracking.follow RUN wandb [FILM...]

It reads the run's TensorBoard files, so a tracker shows the same tags, and whatever becomes of it, the run goes on.  It ends once its
standard input is closed (the run's process is gone) and all is sent, films too.  RUN/tracking/NAME.json says up to which step that is, so
that the next one goes on there.  It imports neither torch nor anything else of the run's.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from arcturus.config import read_yaml
from arcturus.errors import ConfigError, nearest
from arcturus.scripts.frontend import guarded
from arcturus.tracking.trackers import TRACKERS, Followed, Tracker

FOLDER = "tracking"  # in a run's
LOOKS = 2.0  # seconds between looks
AGAIN = (5.0, 15.0, 60.0)  # seconds after a failure; the last one again and again while the run goes on
LAST_WORDS = 5.0  # seconds that a run whose process is gone has to say how it ended

Step = tuple[int, dict[str, float], dict[str, bytes]]  # agent step, scalars, pictures


class Events:
    """What TensorBoard files of a run hold, in the order it was written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.loaders: dict[str, Any] = {}
        self.open: Step | None = None  # of which more may come

    def new(self, last: bool = False) -> Iterator[Step]:
        """Steps that are complete, because a later one has begun or, if last, nothing more will come."""
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

        for path in sorted(self.folder.glob("events.out.tfevents.*")):
            if path.name not in self.loaders:
                self.loaders[path.name] = LegacyEventFileLoader(str(path))
            for event in self.loaders[path.name].Load():
                for value in event.summary.value:
                    kind = value.WhichOneof("value")
                    if kind not in ("simple_value", "image"):
                        continue
                    if self.open is not None and event.step != self.open[0]:
                        yield self.open
                        self.open = None
                    self.open = self.open or (event.step, {}, {})
                    if kind == "image":
                        self.open[2][value.tag] = value.image.encoded_image_string
                    else:
                        self.open[1][value.tag] = value.simple_value
        if last and self.open is not None:
            yield self.open
            self.open = None


class Following:
    """One run and one tracker, from what is sent already to the end."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.tracker: Tracker | None = None
        self.record = path / FOLDER / f"{name}.json"
        self.sent = int(read_json(self.record).get("sent", -1))
        self.events = Events(path / "tensorboard")
        self.waiting: list[Step] = []

    def open(self) -> Tracker:
        if self.tracker is None:
            settings = read_yaml(self.path / "config.yaml")
            config = {f"{part}.{k}": v for part in ("agent", "env", "run") for k, v in settings[part].items()}
            id_ = str(read_json(self.path / "run.json").get("id"))
            self.tracker = TRACKERS[self.name](Followed(id_, self.path.name, config))
        return self.tracker

    def send(self, last: bool = False) -> None:
        """All that is new.  What could not be sent waits."""
        self.waiting += [step for step in self.events.new(last) if step[0] > self.sent]
        while self.waiting:
            step, scalars, pictures = self.waiting[0]
            if step > self.sent:  # a resumed run logs steps again that were sent before it was stopped
                self.open().send(step, scalars, pictures)
                self.sent = step
                beside = self.record.with_suffix(".tmp")
                beside.write_text(json.dumps({"sent": step}), encoding="utf-8")
                beside.replace(self.record)
            self.waiting.pop(0)

    def end(self, films: Sequence[Path]) -> None:
        for film in films:
            self.open().film(film)
        if self.tracker is not None:
            self.tracker.end(last_words(self.path))


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def follow(path: Path, name: str, gone: Callable[[], bool], films: Sequence[Path] = ()) -> int:
    """Until the run's process is gone and all is sent; 1 if it could not be sent."""
    following, failures = Following(path, name), 0
    while True:
        ended = gone()
        try:
            following.send(last=ended)
            if ended:
                following.end(films)
                return 0
            failures = 0
        except Exception:
            traceback.print_exc()
            failures += 1
            if ended and failures > len(AGAIN):
                return 1
        pause = AGAIN[min(failures, len(AGAIN)) - 1] if failures else LOOKS
        until = time.monotonic() + pause
        while time.monotonic() < until and (ended or not gone()):
            time.sleep(0.1)


def last_words(path: Path) -> str:
    """How a run whose process is gone has ended: finished, preempted, failed, or running if it didn't say."""
    until = time.monotonic() + LAST_WORDS
    while (status := str(read_json(path / "run.json").get("status"))) == "running" and time.monotonic() < until:
        time.sleep(0.2)
    return status


def _until_closed(closed: threading.Event) -> None:
    sys.stdin.buffer.read()
    closed.set()


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        raise ConfigError("a run folder and a tracker are needed", where="the command line", fix="write RUN " + "|".join(TRACKERS))
    path, name = Path(argv[0]), argv[1]
    if name not in TRACKERS:
        raise ConfigError(f"there is no tracker {name!r}", where="the command line", fix=nearest(name, TRACKERS, "trackers"))
    if not (path / "run.json").is_file():
        raise ConfigError(f"{path} is not a run folder", where="the command line", fix="give a folder that train-agent made")
    (path / FOLDER).mkdir(exist_ok=True)
    with open(path / FOLDER / f"{name}.lock", "w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)  # the one before may still be sending
        closed = threading.Event()
        threading.Thread(target=_until_closed, args=(closed,), daemon=True).start()
        return follow(path, name, closed.is_set, [Path(film) for film in argv[2:]])


if __name__ == "__main__":
    code = guarded(main, sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # a tracker's own threads and hooks may wait for a server for ever
