"""Logging: metrics.jsonl (the truth), TensorBoard, and a line on the terminal.  The only file that knows TensorBoard.

A logging failure never ends a run: a sink that fails warns once, is silent, and is tried again at each checkpoint.
Device tensors are read once every log_every steps, so nothing else waits for the device.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from arcturus.api import Metrics
from arcturus.envs.vector import Episode
from arcturus.runs.settings import RunConfig
from arcturus.telling import plain, say

EVENTS = "events.out.tfevents.*"
PLAIN_SECONDS = 15.0  # between lines where no terminal rewrites them
WAITING_SAVED = 2_000  # lines that a full disk didn't take, kept in a checkpoint
WALL_CLOCK = ("time", "charts/SPS")  # fields that two equal runs don't share


class Sink:
    """Calls that may fail without ending the run: one warning, silence, and another try after again()."""

    def __init__(self, name: str):
        self.name = name
        self.failed = self.warned = False

    def __call__(self, call: Callable[[], Any]) -> Any:
        if self.failed:
            return None
        try:
            return call()
        except (OSError, ValueError, RuntimeError) as e:
            self.fail(e)
            return None

    def fail(self, why: object) -> None:
        self.failed = True
        if not self.warned:
            say(f"warning: {self.name} can't be written any more ({why}); training continues and tries again at each checkpoint")
        self.warned = True

    def again(self) -> bool:
        """At a checkpoint: whether it had failed since the last one."""
        failed, self.failed = self.failed, False
        if self.warned and not failed:
            self.warned = False
            say(f"{self.name} is written again")
        return failed


class Lines:
    """A file of lines that is never torn: lines that could not be written wait, and are written first when they can be."""

    def __init__(self, path: Path, waiting: Iterable[bytes] = ()):
        self.path, self.waiting = path, deque[bytes](waiting, maxlen=100_000)
        self.size = path.stat().st_size if path.exists() else 0

    def write(self, record: dict[str, Any]) -> None:
        self.waiting.append(json.dumps(record).encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        """Opened for every batch of lines, so that a file or folder that was removed comes back."""
        if not self.waiting:
            return
        if not self.path.exists():
            self.size = 0
        with open(self.path, "ab", buffering=0) as f:
            while self.waiting:
                try:
                    if f.write(self.waiting[0]) != len(self.waiting[0]):
                        raise OSError(28, "No space left on device")
                except OSError:
                    f.truncate(self.size)
                    raise
                self.size += len(self.waiting.popleft())

    def sync(self) -> None:
        """Makes sure that a power failure can't lose what a checkpoint relies on."""
        if self.path.exists():
            with open(self.path, "rb") as f:
                os.fsync(f.fileno())


def duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """If the terminal goes away, only the live line is lost."""

    def __init__(self, config: RunConfig, start: int, quiet: bool):
        self.total, self.start, self.quiet = config.run.steps, start, quiet
        self.began = self.spoke = time.perf_counter()
        self.bar: Any = None
        self.streams = sys.stdout, sys.stderr
        if not quiet and sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self.bar = Progress(BarColumn(24), TextColumn("{task.description}"), console=Console(stderr=True))
            self.task = self.bar.add_task("warming up", total=self.total, completed=start)
            self._show(self.bar.start)

    def _show(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (OSError, ValueError):
            self.bar = None
            sys.stdout, sys.stderr = self.streams  # rich stands in their place while its line is shown

    def update(self, steps: int, values: dict[str, float]) -> None:
        now = time.perf_counter()
        rate = (steps - self.start) / max(now - self.began, 1e-9)
        if "task/bits_per_sequence" in values:
            score = f"{values['task/bits_per_sequence']:.2f} bits per sequence"
        else:
            score = f"return {values['charts/episodic_return']:.2f}" if "charts/episodic_return" in values else "no episode yet"
        left = duration(max(self.total - steps, 0) / max(rate, 1e-9))
        line = f"{steps:,}/{self.total:,} steps  {rate:,.0f} steps/s  {score}  left {left}"
        if self.bar is not None:
            self._show(lambda: self.bar.update(self.task, completed=steps, description=line))
        elif not self.quiet and (now - self.spoke >= PLAIN_SECONDS or steps >= self.total):
            self.spoke = now
            say(line)

    def say(self, line: str) -> None:
        if self.bar is not None:
            self._show(lambda: self.bar.console.print(plain(line), highlight=False, markup=False))
        elif not self.quiet:
            say(line)

    def close(self) -> None:
        if self.bar is not None:
            self._show(self.bar.stop)


class Monitor:
    """Takes every row's metrics and finished episodes, and writes after every log_every steps.

    state: what state() returned when the run was saved, to continue from there; what was logged after it is cut off.
    """

    def __init__(self, path: Path, config: RunConfig, start: int = 0, quiet: bool = False, state: dict[str, Any] | None = None):
        self.config, self.path = config, path
        self.every = config.log_every
        self.returns: deque[float] = deque(maxlen=100)
        self.lengths: deque[int] = deque(maxlen=100)
        self.episodes = 0
        self.metrics: Metrics = {}
        if state:
            self.returns.extend(state["returns"])
            self.lengths.extend(state["lengths"])
            self.episodes = state["episodes"]
            self.metrics = {k: torch.tensor(v, dtype=torch.float64) for k, v in state["metrics"]}
        self.due = (start // self.every + 1) * self.every
        self.clock = (time.perf_counter(), start)
        self.progress = Progress(config, start, quiet)
        self.file_sink, self.board_sink = Sink("metrics.jsonl"), Sink("TensorBoard")
        self._thread_hook, threading.excepthook = threading.excepthook, self._thread_failed
        cut_back(path, state["files"] if state else [])
        waiting = [line.encode() for line in state["waiting"]] if state else []
        # purge_step from the first start on: TensorBoard doesn't take the first start marker in a folder for a restart
        self.file, self.board = Lines(path / "metrics.jsonl", waiting), self._open_board(start + 1 if state else 0)
        if not state:
            self.board_sink(self._introduce)

    def _open_board(self, purge_step: int | None = None) -> Any:
        """TensorBoard reads a folder's files in the order of their names, which hold the second they were opened in: for two in one
        second, or after a clock was set back, the later file's number is increased."""
        from tensorboard.summary.writer import event_file_writer
        from torch.utils.tensorboard import SummaryWriter

        opened = [p.name.split(".")[3] for p in (self.path / "tensorboard").glob(EVENTS)]
        named = iter([max([int(time.time()), *(int(at) + 1 for at in opened if at.isdecimal())])])  # the first it asks for
        with patch.object(event_file_writer, "time", SimpleNamespace(time=lambda: next(named, time.time()))):
            return self.board_sink(lambda: SummaryWriter(str(self.path / "tensorboard"), purge_step=purge_step, flush_secs=10))

    def _introduce(self) -> None:
        """Settings as text and hyper-parameters, and one page of the charts that matter."""
        from torch.utils.tensorboard.summary import custom_scalars, hparams

        self.board.add_text("config", "```yaml\n" + self.config.text() + "\n```", 0)
        plain = self.config.to_mapping()
        numbers = {f"{part}.{k}": v for part in ("agent", "env", "run") for k, v in plain[part].items()}
        for proto in hparams(numbers, {"eval/episodic_return_mean": None, "charts/episodic_return": None}):
            self.board.file_writer.add_summary(proto)
        layout = {
            "run": {
                "return": ["Multiline", ["charts/episodic_return", "eval/episodic_return_mean"]],
                "held-out states": ["Multiline", ["charts/heldout_(max_q|value)"]],
                "losses": ["Multiline", ["losses/.*"]],
                "speed": ["Multiline", ["charts/SPS"]],
            }
        }
        self.board.file_writer.add_summary(custom_scalars(layout))

    def begin(self, steps: int) -> None:
        """Rows come from now on: the time a resumed run took to replay its actions doesn't count in its speed."""
        self.clock = (time.perf_counter(), steps)
        self.progress.began = time.perf_counter()

    def row(self, steps: int, metrics: Metrics, finished: list[Episode]) -> None:
        for episode in finished:
            self.episodes += 1
            self.returns.append(episode.score)
            self.lengths.append(episode.length)
        self.metrics |= metrics

    def is_due(self, steps: int) -> bool:
        return steps >= self.due

    def log(self, steps: int, extra: dict[str, float]) -> None:
        """One point in every sink; extra holds plain numbers."""
        self.due = (steps // self.every + 1) * self.every
        now, (then, before) = time.perf_counter(), self.clock
        self.clock = (now, steps)
        values: dict[str, float] = {"charts/SPS": (steps - before) / max(now - then, 1e-9), "charts/episodes": self.episodes}
        if self.returns:
            values["charts/episodic_return"] = float(np.mean(self.returns))
            values["charts/episodic_length"] = float(np.mean(self.lengths))
        if self.config.env.id.startswith("ALE/"):
            values["charts/frames"] = 4 * steps
        values |= {k: float(v) for k, v in self.metrics.items()} | extra
        self.metrics = {}
        self.scalars(steps, values)
        self.progress.update(steps, values)

    def scalars(self, steps: int, values: dict[str, float]) -> None:
        """A line of metrics.jsonl and as many points on the board."""
        record = {"step": steps, "time": time.time()} | values
        if self.file_sink.failed:
            self.file.waiting.append(json.dumps(record).encode() + b"\n")
        self.file_sink(lambda: self.file.write(record))
        self.board_sink(lambda: [self.board.add_scalar(k, v, steps) for k, v in values.items()])

    def picture(self, tag: str, image: np.ndarray, steps: int) -> None:
        """image: [H, W] or [H, W, 3] uint8."""
        self.board_sink(lambda: self.board.add_image(tag, image, steps, dataformats="HW" if image.ndim == 2 else "HWC"))

    def embedding(self, hidden: np.ndarray, rows: list[list[str]], header: list[str], frames: Tensor | None, steps: int) -> None:
        """Vectors [B, D] for the projector; frames [B, 1 or 3, H, W] in [0, 1]."""
        self.board_sink(
            lambda: self.board.add_embedding(
                hidden, metadata=rows, metadata_header=header, label_img=frames, global_step=steps, tag="last_hidden_layer"
            )
        )

    def text(self, line: str) -> None:
        self.progress.say(line)

    def state(self) -> dict[str, Any]:
        """For the checkpoint: what the next lines depend on, and where the files end.  Sinks that failed are tried again."""
        if self.file_sink.again():
            self.file_sink(self.file.flush)
        self.file_sink(self.file.sync)
        board = self.path / "tensorboard"
        if not self.board_sink.failed and not any(board.glob(EVENTS)):
            self.board_sink.fail("its folder was removed")
        if self.board_sink.again() or self.board is None:
            self._close_board()
            self.board = self._open_board()
        self.board_sink(lambda: self.board.flush())
        files = [p for p in [self.path / "metrics.jsonl", *sorted(board.glob(EVENTS))] if p.is_file()]
        return {
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "episodes": self.episodes,
            "metrics": [[k, float(v)] for k, v in self.metrics.items()],
            "waiting": [line.decode() for line in list(self.file.waiting)[-WAITING_SAVED:]],
            "files": [[p.name, p.stat().st_size] for p in files],
        }

    def _thread_failed(self, args: Any) -> None:
        """TensorBoard's own thread hands its error to the next call, which warns; its traceback would be a second one."""
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            self._thread_hook(args)

    def _close_board(self) -> None:
        try:
            if self.board is not None:
                self.board.close()
        except (OSError, ValueError, RuntimeError):
            pass  # what it still held is lost; metrics.jsonl has it

    def close(self) -> None:
        self.progress.close()
        self._close_board()
        threading.excepthook = self._thread_hook


def check_state(state: dict[str, Any]) -> None:
    """A ValueError for values that state() can't have returned."""
    numbers = [*state["returns"], *state["lengths"], *(v for _, v in state["metrics"]), *(n for _, n in state["files"])]
    texts = [*(k for k, _ in state["metrics"]), *(n for n, _ in state["files"]), *state["waiting"]]
    if not all(type(n) in (int, float) for n in numbers) or not all(type(t) is str for t in texts):
        raise ValueError("its record of logs is invalid")


def cut_back(path: Path, files: list[list[Any]]) -> None:
    """metrics.jsonl and the event files as they were at a checkpoint: what came after is written again by the resumed run.

    files: [name, bytes] of each; others of their kind came later and are removed.
    """
    sizes = {str(name): int(size) for name, size in files}
    for file in [path / "metrics.jsonl", *(path / "tensorboard").glob(EVENTS)]:
        try:
            if file.is_symlink() or not file.is_file():
                continue
            if file.name not in sizes:
                file.unlink()
            elif file.stat().st_size > sizes[file.name] >= 0:
                os.truncate(file, sizes[file.name])
        except OSError as e:
            say(f"warning: {file.name} could not be truncated to the checkpoint: {e.strerror}")
