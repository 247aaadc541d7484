"""What all pictures share: colours that the colour-blind can tell apart (Okabe & Ito 2008), axes placed in inches, and the output
of figures.  No window is ever opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arcturus.outputs import written_beside

INK, DIM, GRID = "#222222", "#6b6b6b", "#d9d9d9"
BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
LINES = (BLUE, VERMILION, GREEN, PURPLE, AMBER, SKY, INK)
# an odd number of colours: the middle one is black, and 0, as of bits
SIGNED = LinearSegmentedColormap.from_list("signed", [SKY, "#0b4f77", "black", "#7a4a00", AMBER], N=257)

styled = rc_context(
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "axes.linewidth": 0.6,
        "axes.edgecolor": DIM,
        "axes.labelcolor": INK,
        "xtick.color": DIM,
        "ytick.color": DIM,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "text.color": INK,
        "figure.facecolor": "white",
        "axes.facecolor": "white",
        "legend.frameon": False,
        "text.parse_math": False,  # names may hold dollars
    }
)  # a decorator of what draws


class Sheet:
    """A figure whose axes are placed in inches from its left and its top."""

    def __init__(self, width: float, height: float):
        self.width, self.height, self.figure = width, height, Figure((width, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, top: float, words: str, **how: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, words, **({"va": "top"} | how))


def show(axes: Axes, values: np.ndarray, *, high: float = 1.0, signed: bool = False, up: bool = False, first: int = 0) -> None:
    """values [rows, columns]: black 0 and white `high`; or signed, blue below 0 and amber above, to +-high.  Or [rows, columns, 3]
    in their own colours.  up: the first row is at the bottom.  first: the first column's number."""
    rows, columns = values.shape[:2]
    edges = (-0.5, rows - 0.5) if up else (rows - 0.5, -0.5)
    axes.imshow(
        values,
        cmap=SIGNED if signed else "gray",
        vmin=-high if signed else 0.0,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
        origin="lower" if up else "upper",
        extent=(first - 0.5, first + columns - 0.5, *edges),
    )
    axes.set_yticks([])
    axes.set_xticks([])


def number_columns(axes: Axes, label: str = "") -> None:
    """Whole numbers below."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    axes.set_xlabel(label, labelpad=1.5)


def mark(axes: Axes, where: np.ndarray, first: int = 0) -> None:
    """A small square in every cell of [rows, columns] bool."""
    rows, columns = np.nonzero(where)
    corners = 0.3 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    cells = np.stack([columns + first, rows], -1)[:, None] + corners
    axes.add_collection(PolyCollection(list(cells), facecolors=VERMILION, edgecolors="none"), autolim=False)


def boundaries(axes: Axes, mask: np.ndarray) -> None:
    """A line wherever the rows that ask for an answer begin or end."""
    for t in np.flatnonzero(mask[1:] != mask[:-1]):
        axes.axvline(t + 0.5, color=GREEN, linewidth=0.9)


def inked(values: np.ndarray) -> np.ndarray:
    """[rows, columns] -> [rows, columns, 3] in [0, 1]: rows of bits in greys, rows of other numbers signed, each to its largest."""
    out = np.repeat(np.clip(values, 0, 1)[..., None], 3, -1).astype(float)
    for row in np.flatnonzero(~np.isin(values, (0, 1)).all(-1)):
        out[row] = SIGNED(0.5 + 0.5 * values[row] / np.abs(values[row]).max())[:, :3]
    return out


def pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """[H, W, 3] uint8."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: Path, dpi: int = 150) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    written_beside(path, lambda beside: figure.savefig(beside, dpi=dpi))
    return path


def step_unit(longest: int) -> tuple[float, str]:
    """In what agent steps are shown on an axis that reaches so far: (1e3, "thousand") up to a million, else (1e6, "million")."""
    return (1e3, "thousand") if longest <= 1_000_000 else (1e6, "million")
