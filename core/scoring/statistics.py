"""Summaries of scores over seeds and tasks: the interquartile mean and the stratified bootstrap of Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264; the spread over runs of Tanaka & Mahmood 2026,
arXiv:2606.06746.

atari_scores.csv: random and human play (Wang et al. 2016, table 2, up to 30 no-ops), raw scores.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike

REPLICATES = 2_000  # bootstrap draws


def iqm(scores: ArrayLike) -> np.ndarray:
    """The interquartile mean over the last axis, [..., N] -> [...]: the mean without the floor(N / 4) lowest and as many of
    the highest (Agarwal et al. 2021, arXiv:2108.13264, section 4.3).

    One lucky or broken seed moves it less than the mean, and it varies less than the median.  Of three or fewer it is the mean.
    """
    x = np.sort(np.asarray(scores, float), axis=-1)
    cut = x.shape[-1] // 4
    return x[..., cut : x.shape[-1] - cut].mean(-1)


def mean(scores: ArrayLike) -> np.ndarray:
    """Over the last axis, [..., N] -> [...]."""
    return np.asarray(scores, float).mean(-1)


def stratified_interval(
    strata: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray], np.ndarray] = mean,
    level: float = 0.95,
    replicates: int = REPLICATES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of several runs on each of several tasks; always the same for the same scores.

    strata: for each task its runs' scores, one number per run (its mean over episodes).  For each task separately, a replicate
    draws as many runs as it has, with replacement, and takes the statistic over all drawn runs: runs are never drawn
    across tasks, so every replicate has the same tasks, and the interval is about other seeds, not other tasks
    (Agarwal et al. 2021, arXiv:2108.13264, section 4.1).  Runs are drawn because runs are independent: the episodes of
    one run share its luck.  With one stratum it is the plain percentile interval (Efron 1979).

    statistic: over the last axis, [replicates, N] -> [replicates].
    """
    return percentiles(statistic(np.concatenate(resampled(strata, replicates), axis=1)), level)


def resampled(strata: Sequence[Sequence[float]], replicates: int = REPLICATES, seed: int = 0) -> list[np.ndarray]:
    """Of each task [replicates, runs]: as many of its runs as it has, drawn with replacement."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(scores, float) for scores in strata]
    return [x[rng.integers(len(x), size=(replicates, len(x)))] for x in arrays]


def percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval that holds this share of the values, with as many below as above."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def run_percentiles(scores: Sequence[float], percent: Sequence[float] = (5, 95)) -> list[float]:
    """The scores of the runs that stand nearest to these percentiles (Tanaka & Mahmood 2026, arXiv:2606.06746): what a run can be expected
    to score at worst and at best, where an interval of the mean says how well the mean is known."""
    return [float(x) for x in np.percentile(scores, percent, method="nearest")]


def median_of_tasks(strata: Sequence[ArrayLike]) -> np.ndarray:
    """The median over tasks of the mean over a task's runs: tasks of [..., runs] -> [...]."""
    return np.median([np.asarray(x, float).mean(-1) for x in strata], axis=0)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> np.ndarray:
    """By how much runs fall short of the target on average, over the last axis; what is above it makes up for nothing (Agarwal et
    al. 2021, section 4.3)."""
    return target - np.minimum(np.asarray(scores, float), target).mean(-1)


def improvement(first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> np.ndarray:
    """The probability that a run of `first` scores higher than one of `second` on a task chosen at random, ties counting half: the
    mean over tasks of the Mann-Whitney statistic (Agarwal et al. 2021, section 4.3).  Of each task [..., runs] -> [...]."""
    wins = []
    for a, b in zip(first, second, strict=True):
        x, y = np.asarray(a, float)[..., :, None], np.asarray(b, float)[..., None, :]
        wins.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.mean(wins, axis=0)


def profile(scores: ArrayLike, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs that score higher than each threshold [K], over the last axis: [..., N] -> [..., K] (run-score distribution)."""
    return np.stack([(np.asarray(scores, float) > t).mean(-1) for t in thresholds], -1)


def summary(scores: list[float]) -> dict[str, float]:
    x = np.asarray(scores, float)
    low, high = stratified_interval([scores])
    return {
        "mean": float(x.mean()),
        "median": float(np.median(x)),
        "std": float(x.std(ddof=1)) if len(x) > 1 else 0.0,
        "min": float(x.min()),
        "max": float(x.max()),
        "episodes": len(x),
        "ci95_low": low,
        "ci95_high": high,
    }


@cache
def published() -> dict[str, dict[str, float]]:
    """ale-py's name of a game -> {column: score}; empty cells are left out."""
    text = (files("arcturus.scoring") / "atari_scores.csv").read_text(encoding="utf-8")
    return {row["game"]: {k: float(v) for k, v in row.items() if k != "game" and v} for row in csv.DictReader(text.splitlines())}


def human_normalised(game: str, score: float) -> float | None:
    """(score - random) / (human - random) (Mnih et al. 2015); None where no human score was published."""
    row = published().get(game, {})
    if "human" not in row or "random" not in row:
        return None
    return (score - row["random"]) / (row["human"] - row["random"])
