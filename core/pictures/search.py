"""A search for settings: how its trials scored, what mattered, and where in each range the good ones lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from arcturus.pictures.style import AMBER, BLUE, DIM, GRID, VERMILION, styled
from arcturus.sweeps.space import Range, Search

COLUMNS, WIDTH, HEIGHT = 3, 3.4, 2.7  # inches of an axes
WIDE = 40  # times, from which on an axis is labelled at powers of ten only
LOOKS = {"complete": ("o", BLUE, "tried to its end"), "pruned": ("x", DIM, "stopped early"), "fail": ("^", AMBER, "failed")}


@styled
def search_picture(record: Mapping[str, Any], search: Search) -> Figure:
    """record: search.json.  First the scores in the order of trials with the best so far, then the importances, then the score over
    each setting; pruned trials stand at their last evaluation."""
    importances = record["importances"]
    names = sorted(search.settings, key=lambda name: -importances.get(name, 0.0))
    count = 1 + bool(importances) + len(names)
    rows = -(-count // COLUMNS)
    figure = Figure((WIDTH * COLUMNS, HEIGHT * rows + 0.3), layout="constrained")
    axes = iter(figure.subplots(rows, COLUMNS, squeeze=False).ravel())
    trials = [(t, y) for t in record["trials"] if (y := _height(t)) is not None]
    _history(next(axes), trials)
    if importances:
        _importances(next(axes), names, importances)
    for name in names:
        _slice(next(axes), trials, name, search.settings[name], record["best"])
    for unused in axes:
        unused.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _height(trial: Mapping[str, Any]) -> float | None:
    """Its score, or where it was when it was stopped."""
    return trial["value"] if trial["value"] is not None else (trial["evaluations"] or [None])[-1]


def _scatter(axes: Axes, trials: Sequence[tuple[Mapping[str, Any], float]], x: Sequence[float]) -> None:
    for state, (marker, colour, label) in LOOKS.items():
        inside = [i for i, (trial, _) in enumerate(trials) if trial["state"] == state]
        if inside:
            axes.scatter([x[i] for i in inside], [trials[i][1] for i in inside], marker=marker, s=16, color=colour, label=label)
    axes.grid(color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _history(axes: Axes, trials: Sequence[tuple[Mapping[str, Any], float]]) -> None:
    _scatter(axes, trials, [trial["number"] for trial, _ in trials])
    ended = [(trial["number"], y) for trial, y in trials if trial["state"] == "complete"]
    if ended:
        x, y = zip(*ended, strict=True)
        axes.step(x, np.maximum.accumulate(y), where="post", color=VERMILION, linewidth=1.2, label="best so far")
    axes.set_xlabel("trial (0: the preset)" if trials and trials[0][0]["number"] == 0 else "trial")
    axes.set_ylabel("score")


def _importances(axes: Axes, names: Sequence[str], importances: Mapping[str, float]) -> None:
    shares = [importances.get(name, 0.0) for name in names]
    axes.barh(range(len(names)), shares, color=BLUE)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("importance (PED-ANOVA)")
    axes.spines[["top", "right"]].set_visible(False)


def _slice(axes: Axes, trials: Sequence[tuple[Mapping[str, Any], float]], name: str, space: Any, best: int | None) -> None:
    trials = [(trial, y) for trial, y in trials if name in trial["settings"]]
    values = [trial["settings"].get(name) for trial, _ in trials]
    if isinstance(space, Range):
        x = [float(v) for v in values]
        if space.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if space.high >= WIDE * space.low else (1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        x = [float(space.values.index(v)) for v in values]
        axes.set_xticks(range(len(space.values)), [str(v) for v in space.values])
        axes.set_xlim(-0.5, len(space.values) - 0.5)
    _scatter(axes, trials, x)
    for place, (trial, y) in zip(x, trials, strict=True):
        if trial["number"] == best:
            axes.scatter([place], [y], s=70, facecolors="none", edgecolors=VERMILION)
    axes.set_xlabel(name)
    axes.set_ylabel("score")
