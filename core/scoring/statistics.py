"""Summaries of scores, and the published ones they stand beside.

atari_scores.csv: random and human play (Wang et al. 2016, table 2, up to 30 no-ops), DQN of Mnih et al. 2015 (extended data
table 2), DQN and human of Mnih et al. 2013 (table 1); raw scores.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np


def bootstrap_interval(scores: list[float], level: float = 0.95, replicates: int = 2_000) -> tuple[float, float]:
    """Percentile interval of the mean (Efron 1979); always the same for the same scores."""
    x = np.asarray(scores, float)
    draws = np.random.default_rng(0).integers(len(x), size=(replicates, len(x)))
    low, high = np.quantile(x[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(scores: list[float]) -> dict[str, float]:
    x = np.asarray(scores, float)
    low, high = bootstrap_interval(scores)
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
