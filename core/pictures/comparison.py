"""Learning curves: of groups of runs over seeds, on agent steps and on the clock (comparing/ has the numbers); and of one run."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from arcturus.comparing.comparison import ENOUGH, EVALUATED, RETURN, Group, curve, curves_of, iqm_curves, tag_of
from arcturus.envs import is_atari
from arcturus.pictures.style import BLUE, DIM, GRID, INK, LINES, VERMILION, step_unit, styled
from arcturus.runs.settings import RunConfig
from arcturus.scoring.statistics import profile, resampled, run_percentiles

WIDTH, HEIGHT, LEGEND = 10.0, 3.3, 0.17  # inches: of the figure, of a row, of a line of its legend
STYLES = ("-", (0, (5, 2)), (0, (1, 1.2)))  # for every round of the colours
VALUES = {
    "charts/heldout_max_q": "average maximum action-value, held-out",
    "charts/heldout_value": "average value, held-out",
}  # tag -> what it is
THRESHOLDS = 201  # of a performance profile
NARROW = 45  # characters of a group's name that go twice beside each other


@styled
def comparison(tables: Mapping[str, Sequence[Group]]) -> Figure:
    """tables: environment -> its groups.  A row of two axes each: mean over seeds with a band of its 95% bootstrap interval;
    of fewer than ENOUGH seeds a thin line for each.  A group looks the same in every row."""
    names = dict.fromkeys(group.name for groups in tables.values() for group in groups)
    looks = dict(zip(names, itertools.cycle(itertools.product(STYLES, LINES)), strict=False))
    beside = 2 if max(map(len, names)) <= NARROW else 1  # entries of a legend
    heights = [HEIGHT + LEGEND * -(-len(groups) // beside) for groups in tables.values()]
    figure = Figure((WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (env, groups) in zip(parts, tables.items(), strict=True):
        tag = tag_of(groups)
        left, right = part.subplots(1, 2, sharey=True)
        longest = max((row["step"] for group in groups for run in group.runs for row in run.rows if tag in row), default=0)
        unit, said = step_unit(longest)
        for group in groups:
            _draw(left, group, tag, False, unit, *looks[group.name])
            _draw(right, group, tag, True, 1.0, *looks[group.name])
        left.set_xlabel(f"{said} agent steps" + (" (x4: frames)" if is_atari(env) else ""))
        right.set_xlabel("minutes of running, pauses left out")
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        left.set_ylabel("return in training, last 100 episodes" if tag == RETURN else "mean return, evaluations in training")
        part.suptitle(env, fontsize=10)
        part.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=beside)
    return figure


@styled
def profiles(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """lines: of aggregate().  The share of runs, over all games, that score higher than each human-normalised score, with a band of its
    95% stratified bootstrap interval where every game has ENOUGH runs (Agarwal et al. 2021, section 4.2)."""
    figure = Figure((WIDTH / 2 + 1.5, HEIGHT + LEGEND * len(lines)), layout="constrained")
    axes = figure.subplots()
    every = [x for line in lines for runs in line["scores"].values() for x in runs]
    thresholds = np.linspace(min(0.0, *every), max(*every, 1.0), THRESHOLDS)
    for (style, colour), line in zip(itertools.cycle(itertools.product(STYLES, LINES)), lines, strict=False):
        strata = list(line["scores"].values())
        axes.plot(100 * thresholds, profile(np.concatenate(strata), thresholds), color=colour, linestyle=style, label=line["group"])
        if min(line["seeds"]) >= ENOUGH:
            drawn = profile(np.concatenate(resampled(strata), axis=1), thresholds)
            low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
            axes.fill_between(100 * thresholds, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("human-normalised score (%)")
    axes.set_ylabel("share of runs above it")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return figure


@styled
def sample_efficiency(tables: Mapping[str, Sequence[Group]]) -> Figure | None:
    """The interquartile mean of human-normalised scores over games against agent steps and minutes, with a band of its 95% stratified
    bootstrap interval (Agarwal et al. 2021, section 4.3); None if no group has curves on two games."""
    figure = Figure((WIDTH, HEIGHT + 0.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, clock in ((left, False), (right, True)):
        curves = iqm_curves(tables, clock)
        if not curves and not clock:
            return None
        unit, said = (1.0, "minutes of running, pauses left out") if clock else step_unit(int(max(c["x"][-1] for c in curves.values())))
        for (style, colour), (name, line) in zip(itertools.cycle(itertools.product(STYLES, LINES)), curves.items(), strict=False):
            x = np.array(line["x"]) / unit
            axes.plot(x, 100 * np.array(line["iqm"]), color=colour, linestyle=style, linewidth=1.6, label=name)
            if "low" in line:
                axes.fill_between(x, *(100 * np.array(line[end]) for end in ("low", "high")), color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel(said if clock else f"{said} agent steps (x4: frames)")
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("IQM of human-normalised score (%)\n" + ("returns in training" if line["tag"] == RETURN else "evaluations in training"))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def percentiles(tables: Mapping[str, Sequence[Group]]) -> Figure | None:
    """Every run's curve, and of each group those runs whose mean over the curve stands at the 5th, 50th and 95th percentile: whole runs as
    they went, not points of several (run-wise percentile highlighting, Tanaka & Mahmood 2026, arXiv:2606.06746).  None if no group has
    ENOUGH runs with curves."""
    panels = [
        (env, group.name, tag_of(groups), curves)
        for env, groups in tables.items()
        for group in groups
        if len(group.seeds) >= ENOUGH
        and len(curves := [c for run in group.runs if (c := curve(run, tag_of(groups), False)) is not None]) == len(group.runs)
    ]
    if not panels:
        return None
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure((WIDTH / 3 * columns + 0.5, 2.6 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (env, name, tag, curves) in zip(grid, panels, strict=False):
        unit, said = step_unit(int(max(x[-1] for x, _ in curves)))
        means = [float(np.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y[-1]) for x, y in curves]
        for x, y in curves:
            axes.plot(x / unit, y, color=DIM, linewidth=0.5, alpha=0.6)
        for value, percent, colour in zip(run_percentiles(means, (5, 50, 95)), (5, 50, 95), (VERMILION, INK, BLUE), strict=True):
            x, y = curves[means.index(value)]
            axes.plot(x / unit, y, color=colour, linewidth=1.5, label=f"run at the {percent}th percentile")
        axes.set_title("\n".join([env, *textwrap.wrap(f"{name}, {len(curves)} runs", NARROW)]))
        axes.set_xlabel(f"{said} agent steps")
        axes.set_ylabel("return in training" if tag == RETURN else "mean return, evaluations")
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    for unused in grid[len(panels) :]:
        unused.set_visible(False)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw(axes: Axes, group: Group, tag: str, clock: bool, unit: float, style: Any, colour: str) -> None:
    curves = curves_of(group, tag, clock)
    count = len(group.seeds)
    label = f"{group.name}, {count} seed{'s' * (count > 1)}"
    if "mean" in curves:
        x = [at / unit for at in curves["x"]]
        axes.plot(x, curves["mean"], color=colour, linestyle=style, linewidth=1.6, label=label + ", mean and 95% interval")
        axes.fill_between(x, curves["low"], curves["high"], color=colour, alpha=0.18, linewidth=0)
    else:
        label += ": too few for an interval" if count < ENOUGH else ", no common range"
        for line in curves["lines"] or [{"x": [], "y": []}]:
            mark = "o" if tag == EVALUATED or len(line["x"]) == 1 else ""
            x = [at / unit for at in line["x"]]
            look = {"color": colour, "linestyle": style, "linewidth": 0.8, "marker": mark, "markersize": 2.5}
            axes.plot(x, line["y"], **look, label=label)
            label = "_"  # one entry a group
    axes.grid(color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def series(rows: list[dict[str, Any]], tag: str, unit: float) -> tuple[list[float], list[float]]:
    """Steps, divided by unit, and values of one tag."""
    points = [(row["step"] / unit, row[tag]) for row in rows if tag in row]
    return [p[0] for p in points], [p[1] for p in points]


@styled
def one_run(config: RunConfig, rows: list[dict[str, Any]]) -> Figure:
    """One run: its learning curve with the evaluations, and its average value on held-out states (Mnih et al. 2013, figure 2).  rows: of
    metrics.jsonl."""
    figure = Figure((10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    unit, said = step_unit(max((row["step"] for row in rows), default=0))
    x, y = series(rows, RETURN, unit)
    left.plot(x, y, color=BLUE, label="training, last 100 episodes" if x else None)
    x, mean = series(rows, EVALUATED, unit)
    if x:
        low, high = series(rows, "eval/ci_low", unit)[1], series(rows, "eval/ci_high", unit)[1]
        error = [[m - a for m, a in zip(mean, low, strict=True)], [b - m for m, b in zip(mean, high, strict=True)]]
        label = f"evaluation, {config.run.eval_episodes} episodes, 95% interval"
        left.errorbar(x, mean, error, fmt="o", color=VERMILION, markersize=4, capsize=3, label=label)
    left.set_ylabel("return (raw, whole games)")
    left.legend()
    tag = next((t for t in VALUES if any(t in row for row in rows)), "charts/heldout_value")
    right.plot(*series(rows, tag, unit), color=BLUE)
    right.set_ylabel(VALUES[tag])
    for axes in (left, right):
        axes.set_xlabel(f"{said} agent steps" + (" (x4: frames)" if is_atari(config.env.id) else ""))
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{config.agent_name} on {config.env.id}, preset {config.preset}, seed {config.run.seed}", fontsize=10)
    return figure
