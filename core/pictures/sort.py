"""How priority sort is solved: Graves, Wayne & Danihelka 2014, figure 17.  The paper's network writes each vector to where a linear
function of its priority says, and reads one slot after another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from arcturus.pictures.memory import number_slots, used_slots
from arcturus.pictures.style import DIM, GRID, VERMILION, Sheet, boundaries, number_columns, show, styled
from arcturus.pictures.tapes import Tape


class Line(NamedTuple):
    head: int
    at: np.ndarray  # where this head's weight is largest, for each x, counted among the used slots
    slope: float
    start: float
    explained: float  # R^2: 1 if the line explains everything, 0 if nothing


def fit_heads(x: np.ndarray, weightings: np.ndarray) -> Line:
    """Least-squares fit of a head's position (weightings [N, heads, slots]) to x [N]; of the heads, the one a line explains best."""
    lines = []
    for head in range(weightings.shape[1]):
        at = weightings[:, head].argmax(-1)
        slope, start = np.polyfit(x, at, 1)
        around = float(((at - at.mean()) ** 2).sum())
        left = float(((at - start - slope * x) ** 2).sum())
        lines.append(Line(head, at, float(slope), float(start), 1 - left / around if around else 0.0))
    return max(lines, key=lambda line: line.explained)


@styled
def priorities(tape: Tape) -> Figure:
    """Where each vector is written against its priority, with the linear fit; where that fit would write; where it is written; where
    heads read.  Of several heads, those whose positions are most linear, in the priority and in time."""
    N, best = tape.lengths[0], int(tape.mask.argmax())
    w_read, w_write = tape.core["w_read"], tape.core["w_write"]
    slots = used_slots(w_write[:N], w_read[best:])
    priority = tape.inputs[:N, -1]
    written = fit_heads(priority, w_write[:N][..., slots])
    answers = np.arange(len(tape.mask) - best)
    read = fit_heads(answers, w_read[best:][..., slots])
    fitted = np.zeros((N, len(slots)))
    fitted[np.arange(N), (written.start + written.slope * priority).round().astype(int).clip(0, len(slots) - 1)] = 1

    tall, wide, gap, left, top = 2.6, 2.6, 0.45, 0.6, 0.75
    sheet = Sheet(left + 4 * wide + 3 * gap + 0.15, top + tall + 0.75)
    sheet.text(left, 0.08, tape.caption, size=9)
    axes = sheet.axes(left, top, wide, tall)
    reach = np.array([-1.0, 1.0])
    axes.plot(reach, written.start + written.slope * reach, color=DIM, linewidth=1)
    axes.plot(priority, written.at, "o", color=VERMILION, markersize=4)
    axes.set_ylim(-0.5, len(slots) - 0.5)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_xlabel("priority", labelpad=1.5)
    axes.set_ylabel("slot with most of the write weighting")
    axes.set_title(
        f"write location, head {written.head + 1} of {w_write.shape[1]}\nlinear fit explains {100 * written.explained:.0f}%"
    )
    number_slots(axes, slots)
    for i, (title, values, mask) in enumerate(
        (
            ("where the linear fit writes", fitted, None),
            (f"where is written, head {written.head + 1}", w_write[:, written.head][:, slots], tape.mask),
            (f"where is read, head {read.head + 1} of {w_read.shape[1]}\nlinear in time: {100 * read.explained:.0f}%",
             w_read[:, read.head][:, slots], tape.mask),
        ),
        1,
    ):  # fmt: skip
        axes = sheet.axes(left + i * (wide + gap), top, wide, tall)
        show(axes, values.T, up=True)
        number_slots(axes, slots)
        number_columns(axes, "item" if mask is None else "row of the tape")
        axes.set_title(title)
        if mask is not None:
            boundaries(axes, mask)
    told = "weightings: black 0, white 1; the line: where the answer begins"
    sheet.text(left, sheet.height - 0.06, told, size=7, color=DIM, va="bottom")
    return sheet.figure
