"""Contenders take turns in windows of a few seconds, forwards and backwards (A B C C B A ...), so that a noisy machine is noisy
to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

Window = Callable[[float], tuple[float, float]]  # seconds -> (units done, seconds taken)


class Contender(NamedTuple):
    name: str
    window: Window
    note: Callable[[], str] = lambda: ""


def interleave(contenders: list[Contender], seconds: float, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Units per second of every window, two a round for each contender; and the seconds its warm-up took, which no window holds."""
    rates: dict[str, list[float]] = {c.name: [] for c in contenders}
    assert len(rates) == len(contenders), "two contenders of one name"
    warm_up = {}
    for c in contenders:
        began = time.perf_counter()
        c.window(min(1.0, seconds))  # whatever is compiled, filled or allocated once
        warm_up[c.name] = time.perf_counter() - began
    for _ in range(rounds):
        for c in [*contenders, *reversed(contenders)]:
            units, taken = c.window(seconds)
            rates[c.name].append(units / taken)
    return rates, warm_up


def report(
    title: str, unit: str, contenders: list[Contender], seconds: float, rounds: int, *, beside: str = ""
) -> dict[str, Any]:
    """Prints a table and returns it.  Ratios are medians over pairs of windows: to the first contender, and to the one named
    `beside`."""
    rates, warm_up = interleave(contenders, seconds, rounds)
    width = max(len(c.name) for c in contenders)
    print(f"\n{title} ({unit}; median of {2 * rounds} windows of {seconds:g} s, lowest to highest)")
    if beside:
        print(f"second ratio: to {beside}")
    rows = []
    for c in contenders:
        r = rates[c.name]
        row: dict[str, Any] = {
            "name": c.name,
            "median": statistics.median(r),
            "windows": r,
            "warm_up": warm_up[c.name],
            "note": c.note(),
        }
        row["ratio"] = ratio(r, rates[contenders[0].name])
        ratios = f"x{row['ratio']:.2f}"
        if beside:
            row["beside"] = ratio(r, rates[beside])
            ratios += f" x{row['beside']:.2f}"
        spread = f"[{amount(min(r))}, {amount(max(r))}]"
        print(f"  {c.name:{width}s}  {amount(row['median']):>10s}  {spread}  {ratios}  {row['note']}")
        rows.append(row)
    slow = [f"{name} {taken:.0f}" for name, taken in warm_up.items() if taken > 1.5]
    if slow:
        print(f"  warm-ups, before all clocks, of more than a second: {', '.join(slow)} s")
    return {"title": title, "unit": unit, "seconds": seconds, "besides": beside, "rows": rows}


def ratio(rates: list[float], reference: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(rates, reference, strict=True))


def amount(x: float) -> str:
    """Three digits at least, no decimals where there are three."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def timed(step: Callable[[], float], device: Any = "cpu") -> Window:
    """A window that calls `step` (which returns the units it did) until its time is up; what is still under way on the device then
    belongs to it."""

    def window(seconds: float) -> tuple[float, float]:
        units, began = 0.0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            units += step()
        if str(device).startswith("cuda"):
            import torch

            torch.cuda.synchronize()
        return units, time.perf_counter() - began

    return window
