"""Bits per sequence against sequences seen (Graves, Wayne & Danihelka 2014, figures 3, 7, 10, 13, 18), and against what is harder than
anything seen in training (figure 11)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, StrMethodFormatter
from matplotlib.transforms import blended_transform_factory

from arcturus.config import parse_options
from arcturus.envs import family, is_own
from arcturus.envs.tasks import task_of
from arcturus.envs.tasks.sequences import DynamicNGrams
from arcturus.errors import CheckpointError, ConfigError
from arcturus.pictures.style import DIM, GRID, INK, LINES, styled
from arcturus.runs.files import read_json
from arcturus.runs.folder import Run, read_metrics
from arcturus.runs.groups import memory_of
from arcturus.scoring.keeping import LENGTHS, kept
from arcturus.telling import typed

OPTIMUM = {DynamicNGrams(): 133.27}  # bits: the optimal observer's mean over 160,000 tapes, +- 0.09
LEAST = 1e-3  # bits: what a logarithmic axis can show of 0
PARTS = 25  # a running mean is over one of so many parts of a curve

Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl


def chance(task: Any) -> float:
    """Bits per sequence of guessing, a mean over the lengths of training: answers() is linear in each length, so over the corners."""
    corners = list(itertools.product(*task.ranges))
    return task.outputs * sum(task.answers(lengths) for lengths in corners) / len(corners)


def optimum(task: Any, tapes: int = 4_000) -> float:
    """The lowest possible bits per sequence: 0 except for n-grams, where it is the optimal observer's on some tapes."""
    if not hasattr(task, "optimal"):
        return 0.0
    if task in OPTIMUM:
        return OPTIMUM[task]
    longest = task.sample(torch.Generator().manual_seed(0), tapes, task.longest).targets[..., 0]
    p = task.optimal(longest)
    bits = -torch.where(longest.bool(), p, 1 - p).log2().mean(1)
    lengths = [low + (high - low) // 2 for low, high in task.ranges]
    return float(bits[: lengths[0]].sum())


def points(rows: Rows, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Sequences seen (counted by `supervised`; for other agents the episodes) and the values of a tag."""
    count = "task/sequences" if any("task/sequences" in row for row in rows) else "charts/episodes"
    seen = np.array([(row["step"], row[count]) for row in rows if count in row], float).reshape(-1, 2)
    told = np.array([(row["step"], row[tag]) for row in rows if tag in row], float).reshape(-1, 2)
    if not len(seen):
        return np.empty(0), np.empty(0)
    return np.interp(told[:, 0], *seen.T), told[:, 1]


def smooth(values: np.ndarray) -> np.ndarray:
    """A running mean of values [N] over N / PARTS of them; over fewer at the ends.  A mean, as the level of guessing is one: batches
    of long sequences cost far more than of short ones, and a median would follow whichever are more."""
    reach = len(values) // PARTS // 2
    return np.array([values[max(i - reach, 0) : i + reach + 1].mean() for i in range(len(values))])


@styled
def learning_curves(runs: Sequence[tuple[str, Rows]], task: Any, title: str) -> Figure:
    """runs: a name and the rows of metrics.jsonl of each.  Left linear, right logarithmic.  Lines are a running mean of the cost in
    training, circles the cost on tapes that no training saw (all there is of agents that learn by reward)."""
    figure = Figure((10, 4.2 + 0.2 * max(0, (len(runs) - 1) // 3)), layout="constrained")
    panels = figure.subplots(1, 2)
    guessing, best = chance(task), optimum(task)
    for (name, rows), colour in zip(runs, itertools.cycle(LINES), strict=False):
        x, bits = points(rows, "task/bits_per_sequence")
        tested, costs = points(rows, "eval/bits_per_sequence")
        for axes, least in zip(panels, (0.0, LEAST), strict=True):
            if len(runs) == 1:
                axes.plot(x / 1e3, np.maximum(bits, least), color=colour, linewidth=0.6, alpha=0.3)
            axes.plot(x / 1e3, np.maximum(smooth(bits), least), color=colour, linewidth=1.3, label=name)
            kind = "o" if len(x) else "o-"
            axes.plot(
                tested / 1e3, np.maximum(costs, least), kind, color=colour, linewidth=1, markersize=4, markerfacecolor="white"
            )
    for axes in panels:
        _level(axes, guessing, "guessing", "right")
        if best:
            _level(axes, best, "optimal observer", "left")
        axes.set_xlabel("sequences seen (thousands)")
        axes.set_xlim(left=0)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("bits per sequence")
    panels[0].set_ylim(0, 1.15 * guessing)
    panels[1].set_yscale("log")
    panels[1].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panels[1].yaxis.set_minor_formatter(LogFormatter())
    panels[1].set_ylabel("bits per sequence, logarithmic")
    circles = any("eval/bits_per_sequence" in row for _, rows in runs for row in rows)
    figure.suptitle(title + ("   (circles: evaluations)" if circles else ""), fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _level(axes: Axes, bits: float, name: str, side: str) -> None:
    """A dashed line with its name at this side."""
    axes.axhline(bits, color=DIM, linewidth=0.9, linestyle=(0, (4, 3)))
    x, away = (1, -2) if side == "right" else (0, 4)
    where = blended_transform_factory(axes.transAxes, axes.transData)
    told = f"{name}, {bits:.4g}"
    axes.annotate(told, (x, bits), xycoords=where, xytext=(away, 3), textcoords="offset points", ha=side, color=DIM, fontsize=7)


@styled
def length_curves(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], task: Any, title: str) -> Figure:
    """runs: a name and the scores (LengthScore.to_json()) of each.  Left the cost, middle the wrong bits, right the share of sequences
    without any; the lengths of training are shaded."""
    known = sorted({tuple(s["lengths"]) for _, scores in runs for s in scores})
    single = len(task.names) == 1
    place = {lengths: lengths[0] if single else i for i, lengths in enumerate(known)}
    figure = Figure((10.5, 3.6 + 0.2 * max(0, (len(runs) - 1) // 3)), layout="constrained")
    panels = figure.subplots(1, 3)
    wanted = (
        ("bits", "bits per sequence"),
        ("error_bits", "wrong bits per sequence"),
        ("exact", "sequences without a wrong bit (%)"),
    )
    for axes, (key, label) in zip(panels, wanted, strict=True):
        for (name, scores), colour in zip(runs, itertools.cycle(LINES), strict=False):
            points = sorted((place[tuple(s["lengths"])], s[key] * (100 if key == "exact" else 1)) for s in scores if key in s)
            axes.plot(
                *zip(*points, strict=True) if points else ((), ()), "o-", color=colour, markersize=3.5, label=name, clip_on=False
            )
        if key != "exact":
            share = 1.0 if key == "bits" else 0.5
            guess = {place[tuple(s["lengths"])]: share * s["chance"] for _, scores in runs for s in scores}
            axes.plot(list(guess), list(guess.values()), "--", color=DIM, linewidth=0.9, label="guessing")
        if single:
            (low, high), *_ = task.ranges
            axes.axvspan(low - 0.5, high + 0.5, color=GRID, alpha=0.45, linewidth=0, zorder=0)
        else:
            inside = [all(a <= n <= b for n, (a, b) in zip(k, task.ranges, strict=True)) for k in known]
            axes.set_xticks(range(len(known)), ["x".join(map(str, k)) for k in known])
            for tick, seen in zip(axes.get_xticklabels(), inside, strict=True):
                tick.set_color(DIM if seen else INK)
        if key == "exact":
            axes.set_ylim(-3, 103)
        else:
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.set_ylim(bottom=0)
        axes.set_xlabel(" x ".join(task.names))
        axes.set_title(label)
        axes.grid(color=GRID, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}   ({'shaded' if single else 'grey'}: lengths of training)", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _names(runs: Sequence[Path], configs: list[Any]) -> list[str]:
    """Agent, memory and seed; with the folder's name where two are alike."""
    names = [", ".join(part for part in (c.agent_name, memory_of(c), f"seed {c.run.seed}") if part) for c in configs]
    return [name if names.count(name) == 1 else f"{name}, {run.name}" for name, run in zip(names, runs, strict=True)]


def task_curves(runs: Sequence[Path], where: str, trust: tuple[str, ...] = ()) -> Figure:
    """Runs on one NTM/ task beside each other.  where: --bits, bits per sequence against sequences seen; or --lengths, the newest scores
    by length.  ConfigError for runs on different tasks, and for runs without such scores."""
    folders = [Run(path) for path in runs]
    configs = [run.config(trust) for run in folders]
    env = configs[0].env
    tasks = [task_of(c.env.id, parse_options(c.env.options))[0] for c in configs if family(c.env.id) == "ntm" and is_own(c.env.id)]
    if len(tasks) < len(configs) or len(set(tasks)) > 1:
        raise ConfigError("these runs are not on the same NTM/ task", where=where, fix="give runs with the same --env and lengths")
    names, title = _names(runs, configs), f"{env.id} {env.options}".strip()
    if where == "--bits":
        metrics = [read_metrics(run) for run in folders]
        tags = {tag for rows in metrics for row in rows for tag in row}
        if not tags & {"task/bits_per_sequence", "eval/bits_per_sequence"}:
            raise ConfigError("no bits per sequence were logged", where=where, fix="use runs of an agent with a policy")
        return learning_curves(list(zip(names, metrics, strict=True)), tasks[0], title)
    scores: list[Any] = []
    for run in folders:
        found = kept(run.path, LENGTHS)
        if not found:
            fix = f"run evaluate-agent {typed(run.path)} --lengths 10,20"
            raise ConfigError(f"{run.path} has no scores by length", where=where, fix=fix)
        scores.append(read_json(found[-1]).get("lengths"))
    try:
        return length_curves(list(zip(names, scores, strict=True)), tasks[0], title)
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"these scores by length can't be read: {e!r}", where=where) from e
