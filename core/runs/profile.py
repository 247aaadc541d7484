"""Where a run's time goes: --profile.

Every phase of the loop is timed on the host's clock for as long as the run lasts, what one phase calls of another not counted twice; and
torch's profiler writes a trace of some rows once learning has begun (chrome://tracing or ui.perfetto.dev open it).  Nothing of it is there
in a run without --profile: phases are wrapped only here.

On CUDA each phase waits for the device at its end, so that the device's work is counted in the phase that caused it; this slows a run.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arcturus.api import LoopOutput
from arcturus.runs.files import write_atomically
from arcturus.telling import say

# owner, method, phase; what a run doesn't have is left out
PHASES = (
    ("envs.envs.backend", "recv", "emulator"),
    ("envs.envs", "_timestep", "upload"),
    ("envs.envs", "recv", "receive"),
    ("envs.envs", "send", "send"),
    ("envs", "restart", "restart"),
    ("agent", "act", "act"),
    ("agent", "observe", "store"),
    ("agent.learner", "_draw", "sample"),
    ("agent.learner.priorities", "set", "priorities"),
    ("agent", "learn", "update"),
    ("agent", "learn_from_rollout", "update"),
    ("monitor", "row", "log"),
    ("", "_log", "log"),
    ("judging", "probed", "probe"),
    ("judging", "report_hidden_layer", "probe"),
    ("judging", "evaluate", "evaluate"),
    ("saving", "save", "save"),
)
ABOUT = {
    "emulator": "waiting for the emulator, which works in parallel",
    "upload": "copy to the device, frame stacking, episode statistics",
    "receive": "other work when receiving a step",
    "send": "actions copied to the host, checked, sent",
    "restart": "environments restarted",
    "store": "rows written to replay or rollout",
    "sample": "minibatches drawn",
    "update": "forward, backward, optimiser, target copy",
    "log": "metrics and TensorBoard",
    "probe": "values of held-out states computed",
    "rest": "the loop itself, health checks, listeners",
}
TRACED_ROWS = 32


def _found(owner: Any, path: str) -> Any:
    """What the dotted path leads to; None if it doesn't exist."""
    for name in filter(None, path.split(".")):
        owner = getattr(owner, name, None)
    return owner


class Profile:
    """The profile of a Training about to begin: it is called with every row, and reports at the end where the time went."""

    def __init__(self, training: Any, folder: Path):
        self.folder, self.device = folder, torch.device(training.config.run.device)
        self.seconds: dict[str, float] = defaultdict(float)
        self.running: list[tuple[str, float]] = []  # open phases, and since when each has been the innermost
        self.rows = self.steps = self.traced = 0
        self.trace: torch.profiler.profile | None = None
        for path, method, phase in PHASES:
            owner = _found(training, path)
            if callable(getattr(owner, method, None)):
                setattr(owner, method, self._timed(getattr(owner, method), phase))
        self.began = time.perf_counter()

    def _timed(self, call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if phase == "evaluate" and self.tracing:  # whole games would fill the memory
                self._stop_trace()
            self._switch()
            self.running.append((phase, time.perf_counter()))
            try:
                with torch.profiler.record_function(phase):
                    return call(*args, **kwargs)
            finally:
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self._switch()
                self.running.pop()
                if self.running:
                    self.running[-1] = (self.running[-1][0], time.perf_counter())

        return timed

    def _switch(self) -> None:
        """Adds the time that the innermost phase has taken so far."""
        if self.running:
            phase, since = self.running[-1]
            self.seconds[phase] += time.perf_counter() - since

    def __call__(self, row: LoopOutput) -> None:
        self.rows += 1
        self.steps += len(row.step.action)
        if self.trace is None and row.metrics:  # learning has begun
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self.trace = torch.profiler.profile(activities=activities)
            self.trace.start()
        elif self.tracing:
            self.traced += 1
            if self.traced == TRACED_ROWS:
                self._stop_trace()

    @property
    def tracing(self) -> bool:
        return self.trace is not None and self.traced < TRACED_ROWS

    def _stop_trace(self) -> None:
        assert self.trace is not None
        self.traced = TRACED_ROWS
        try:
            self.trace.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.trace.export_chrome_trace(str(self.folder / "trace.json"))
        except (OSError, RuntimeError) as e:
            say(f"warning: the trace could not be written: {e}")

    def close(self) -> None:
        if self.tracing:
            self._stop_trace()
        total, rows = time.perf_counter() - self.began, max(self.rows, 1)
        times = dict(self.seconds) | {"rest": max(total - sum(self.seconds.values()), 0.0)}
        report = {"seconds": total, "rows": self.rows, "steps": self.steps, "phases": times}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "times.json", json.dumps(report, indent=2))
        except OSError as e:
            say(f"warning: the profile could not be written: {e}")
        lines = [
            f"{self.steps:,} steps in {total:.1f} s: {self.steps / total:,.0f} steps/s, {1e3 * total / rows:.2f} ms per row, of which"
        ]
        for phase, seconds in sorted(times.items(), key=lambda item: -item[1]):
            lines.append(f"  {phase:10s} {1e3 * seconds / rows:9.3f} ms {seconds / total:6.1%}  {ABOUT.get(phase, '')}".rstrip())
        traced = f"{self.folder}/trace.json, " if self.trace is not None else ""
        say("\n".join([*lines, f"in {traced}{self.folder}/times.json"]))
