"""Logging: metrics.jsonl (the truth), TensorBoard, and a line on the terminal.  The only file that knows TensorBoard.

A logging failure never ends a run: a sink that fails warns once, is silent, and is tried again at the next checkpoint.
Device tensors are read once every log_every steps, so nothing else waits for the device.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from arcturus.api import Metrics
from arcturus.envs.vector import Episode
from arcturus.runs.progress import Progress
from arcturus.runs.settings import RunConfig

WALL_CLOCK = ("time", "charts/SPS")  # fields that two equal runs don't share


class Sink:
    """Calls that may fail without ending the run."""

    def __init__(self, name: str):
        self.name, self.failed = name, False

    def __call__(self, call: Callable[[], Any]) -> Any:
        if self.failed:
            return None
        try:
            return call()
        except (OSError, ValueError, RuntimeError) as e:
            self.failed = True
            print(f"warning: {self.name} is not written any more ({e}); training goes on", file=sys.stderr, flush=True)
            return None


class Monitor:
    """Takes every row's metrics and finished episodes, and speaks when log_every steps have gone by."""

    def __init__(self, path: Path, config: RunConfig, start: int = 0, quiet: bool = False, state: dict[str, Any] | None = None):
        from torch.utils.tensorboard import SummaryWriter

        self.config, self.path = config, path
        self.every = config.log_every
        self.returns: deque[float] = deque(maxlen=100)
        self.lengths: deque[int] = deque(maxlen=100)
        self.episodes = 0
        if state:
            self.returns.extend(state["returns"])
            self.lengths.extend(state["lengths"])
            self.episodes = state["episodes"]
        self.due = (start // self.every + 1) * self.every
        self.metrics: Metrics = {}
        self.clock = (time.perf_counter(), start)
        self.file_sink, self.board_sink = Sink("metrics.jsonl"), Sink("TensorBoard")
        if state:
            self.file_sink(lambda: cut_file(path / "metrics.jsonl", state["metrics_bytes"]))
        self.file: Any = self.file_sink(lambda: (path / "metrics.jsonl").open("a", encoding="utf-8"))
        self.board: Any = self.board_sink(
            lambda: SummaryWriter(str(path / "tensorboard"), purge_step=start + 1 if state else None, flush_secs=10)
        )
        self.progress = Progress(config, start, quiet)
        if not state and self.board is not None:
            self.board_sink(self._introduce)

    def _introduce(self) -> None:
        """Settings as text and hyper-parameters, and one page of the charts that matter."""
        from torch.utils.tensorboard.summary import custom_scalars, hparams

        from arcturus.config import write_yaml

        self.board.add_text("config", "```yaml\n" + write_yaml(self.config.to_mapping()) + "\n```", 0)
        plain = self.config.to_mapping()
        numbers = {f"{part}.{k}": v for part in ("agent", "env", "run") for k, v in plain[part].items()}
        for proto in hparams(numbers, {"eval/episodic_return_mean": None, "charts/episodic_return": None}):
            self.board.file_writer.add_summary(proto)
        layout = {
            "run": {
                "return": ["Multiline", ["charts/episodic_return", "eval/episodic_return_mean"]],
                "held-out states": ["Multiline", ["charts/heldout_max_q"]],
                "losses": ["Multiline", ["losses/.*"]],
                "speed": ["Multiline", ["charts/SPS"]],
            }
        }
        self.board.file_writer.add_summary(custom_scalars(layout))

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

        def write() -> None:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()

        self.file_sink(write)
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
        """For the checkpoint: what the next lines depend on, and where the files end."""
        self.flush()
        try:
            size = (self.path / "metrics.jsonl").stat().st_size
        except OSError:
            size = None  # unknown: then a resumed run cuts nothing
        self._try_again()
        return {"returns": list(self.returns), "lengths": list(self.lengths), "episodes": self.episodes, "metrics_bytes": size}

    def _try_again(self) -> None:
        """Space may have come back."""
        if self.file_sink.failed or self.file is None:
            self.file_sink.failed = False
            self.file = self.file_sink(lambda: (self.path / "metrics.jsonl").open("a", encoding="utf-8"))
        self.board_sink.failed = False

    def flush(self) -> None:
        if self.file is not None:
            self.file_sink(self.file.flush)
        if self.board is not None:
            self.board_sink(self.board.flush)

    def close(self) -> None:
        self.progress.close()
        for sink, thing in ((self.file_sink, self.file), (self.board_sink, self.board)):
            if thing is not None:
                sink(thing.close)


def cut_file(path: Path, size: int | None) -> None:
    """What was written after the checkpoint is written again by the resumed run."""
    if size is not None and path.exists() and path.stat().st_size > size:
        with open(path, "r+b") as f:
            f.truncate(size)
