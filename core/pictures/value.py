"""The predicted value over an episode, with the pictures at its rise, peak and fall (Mnih et al. 2013, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from arcturus.pictures.style import BLUE, VERMILION, styled


def turning_points(values: np.ndarray) -> tuple[int, int, int]:
    """Steps of a value trace [T]: on the way up to its highest peak, at it, and when it has fallen (Mnih et al. 2013, figure 3)."""
    peak = int(values.argmax())
    before = values[max(0, peak - 60) : peak + 1]
    low = max(0, peak - 60) + int(before.argmin())
    half = (values[low] + values[peak]) / 2
    rise = next((i for i in range(low, peak + 1) if values[i] >= half), peak)
    after = values[peak : peak + 60]
    return rise, peak, peak + int(after.argmin())


@styled
def value_trace(values: np.ndarray, pictures: Mapping[int, np.ndarray], points: tuple[int, int, int], title: str) -> Figure:
    """values [T]; pictures [H, W, 3] uint8 at the points, the steps of turning_points()."""
    figure = Figure((10, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[1.2, 1.6])
    axes = figure.add_subplot(grid[0, :])
    first, end = max(0, points[0] - 120), min(len(values), points[2] + 120)
    axes.plot(np.arange(first, end), values[first:end], color=BLUE, linewidth=1.4)
    axes.set_xlabel("agent steps")
    axes.set_ylabel("predicted value")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    for column, (letter, i) in enumerate(zip("ABC", points, strict=True)):
        axes.plot([i], [values[i]], "o", color=VERMILION)
        axes.annotate(letter, (i, values[i]), textcoords="offset points", xytext=(6, 4), weight="bold")
        below = figure.add_subplot(grid[1, column])
        below.imshow(pictures[i])
        below.set_title(f"{letter}: step {i}, value {values[i]:.2f}")
        below.axis("off")
    return figure
