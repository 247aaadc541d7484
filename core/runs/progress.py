"""What a run prints while it trains: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from arcturus.runs.settings import RunConfig
from arcturus.telling import plain, say

PLAIN_SECONDS = 15.0  # between lines where no terminal rewrites them


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
        line = f"{steps:,}/{self.total:,} steps  {rate:,.0f} steps/s  {score}  left {duration((self.total - steps) / max(rate, 1e-9))}"
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
