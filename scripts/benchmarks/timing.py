"""Contenders take turns in windows of a few seconds, forwards and backwards (A B C C B A ...), so that a noisy machine is noisy
to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

Window = Callable[[float], tuple[int, float]]  # seconds -> (units done, seconds taken)


class Contender(NamedTuple):
    name: str
    window: Window
    note: Callable[[], str] = lambda: ""


def interleave(contenders: list[Contender], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Units per second of every window; each contender has two a round."""
    rates: dict[str, list[float]] = {c.name: [] for c in contenders}
    for c in contenders:
        c.window(min(1.0, seconds))  # warm-up
    for _ in range(rounds):
        for c in [*contenders, *reversed(contenders)]:
            units, taken = c.window(seconds)
            rates[c.name].append(units / taken)
    return rates


def report(title: str, unit: str, contenders: list[Contender], seconds: float, rounds: int) -> dict[str, Any]:
    rates = interleave(contenders, seconds, rounds)
    first = rates[contenders[0].name]
    width = max(len(c.name) for c in contenders)
    print(f"\n{title} ({unit}; median of {2 * rounds} windows of {seconds:g} s, lowest to highest)")
    table = []
    for c in contenders:
        r = rates[c.name]
        ratio = statistics.median(a / b for a, b in zip(r, first, strict=True))
        note = c.note()
        print(f"  {c.name:{width}s}  {statistics.median(r):10,.0f}  [{min(r):,.0f}, {max(r):,.0f}]  x{ratio:.2f}  {note}")
        table.append({"name": c.name, "median": statistics.median(r), "windows": r, "ratio": ratio, "note": note})
    return {"title": title, "unit": unit, "rows": table}


def timed(step: Callable[[], int]) -> Window:
    """A window that calls `step` (which returns the units it did) until its time is up."""

    def window(seconds: float) -> tuple[int, float]:
        units, began = 0, time.perf_counter()
        while (now := time.perf_counter()) - began < seconds:
            units += step()
        return units, now - began

    return window
