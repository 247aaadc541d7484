"""What is written and read where: Graves, Wayne & Danihelka 2014, figures 6, 9 and 12."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arcturus.pictures.style import DIM, GREEN, Sheet, boundaries, inked, number_columns, show, styled
from arcturus.pictures.tapes import Tape

USED = 0.05  # the weight that makes a slot a used one
LEFT, BETWEEN, GAP = 0.8, 0.8, 0.1  # inches


def used_slots(*weightings: np.ndarray) -> np.ndarray:
    """For weightings [T, heads, S] the numbers of the slots that any head ever gave USED or more, from first to last without gaps, and
    one more on each side.  Slots are a ring: a stretch that runs over its end stays in one piece."""
    most = np.max([w.max((0, 1)) for w in weightings], 0)
    used, S = np.flatnonzero(most >= min(USED, most.max())), len(most)
    holes = np.diff(used, append=used[0] + S)  # to the next used slot, around the ring
    widest = int(holes.argmax())
    first, count = used[(widest + 1) % len(used)] - 1, S - holes[widest] + 3
    return np.arange(first, first + count) % S if count < S else np.arange(S)


def number_slots(axes: Axes, slots: np.ndarray) -> None:
    """The slots' own numbers on the y axis: first, last, and where the ring closes."""
    closes = np.flatnonzero(np.diff(slots) < 0) + 1
    ends = [i for i in (0, len(slots) - 1) if all(abs(i - k) > len(slots) / 8 for k in closes)]
    places = [*ends, *closes]
    axes.set_yticks(places, [str(slots[i]) for i in places])


def row_height(rows: int) -> float:
    """Inches of a row of numbers, when so many stand above each other: figures grow with their content, but more slowly."""
    return float(np.clip(9.0 / max(rows, 1), 0.018, 0.075))


@styled
def memory_panel(tape: Tape) -> Figure:
    """Left the inputs, what is added and the write weightings, right the outputs, what is read and the read weightings, of every head;
    time runs to the right.  Needs w_read [T, R, S], w_write [T, H, S], add [T, H, W] and reads [T, R, W] in tape.core."""
    core, T = tape.core, len(tape.mask)
    slots = used_slots(core["w_read"], core["w_write"])
    heads = max(core["w_read"].shape[1], core["w_write"].shape[1])
    row = row_height(tape.inputs.shape[1] + heads * (core["add"].shape[-1] + len(slots)))
    wide = float(np.clip(0.075 * T, 2.6, 6.2))
    vectors, weights = max(row * core["add"].shape[-1], 0.42), max(row * len(slots), 0.75)
    top = 0.5
    ends = max(max(row * n, 0.42) for n in (tape.inputs.shape[1], tape.targets.shape[1]))
    sheet = Sheet(LEFT + 2 * wide + BETWEEN + 0.2, top + ends + heads * (vectors + weights + 2 * GAP) + 0.72)
    most = [float(np.abs(core[name]).max()) for name in ("add", "reads")]
    sides = (
        ("Inputs", tape.inputs, "Adds", core["add"], "Write\nweightings", core["w_write"]),
        ("Outputs", tape.outputs, "Reads", core["reads"], "Read\nweightings", core["w_read"]),
    )
    for column, (first, seen, second, words, third, weightings) in enumerate(sides):
        left = LEFT + column * (wide + BETWEEN)
        y = top
        axes = [sheet.axes(left, y, wide, ends)]
        show(axes[0], inked(seen.T) if column == 0 else seen.T)
        axes[0].set_ylabel(first)
        _name_phases(sheet, left, wide, top, tape.mask)
        y += ends + GAP
        for name, values, height in ((second, words, vectors), (third, weightings, weights)):
            count = values.shape[1]
            for head in range(count):
                axes.append(sheet.axes(left, y + head * (height + GAP), wide, height))
                if name == second:
                    show(axes[-1], values[:, head].T, signed=True, high=most[column])
                else:
                    show(axes[-1], values[:, head].T[slots], up=True)
                    number_slots(axes[-1], slots)
                axes[-1].set_ylabel(name if count == 1 else f"{name} {head + 1}")
            y += count * (height + GAP)
        for each in axes:
            boundaries(each, tape.mask)
        number_columns(axes[-1], "row of the tape")
    sheet.text(LEFT, 0.08, tape.caption, size=9)
    shown = f"slots {slots[0]} to {slots[-1]} of {core['w_read'].shape[-1]}; weightings and bits: black 0, white 1\n"
    shown += f"other numbers: blue below 0, black 0, amber above; adds to \u00b1{most[0]:.2g}, reads to \u00b1{most[1]:.2g}"
    sheet.text(LEFT, sheet.height - 0.08, shown, size=7, color=DIM, va="bottom")
    return sheet.figure


def _name_phases(sheet: Sheet, left: float, wide: float, top: float, mask: np.ndarray) -> None:
    """ "shown" and "asked" above the rows, where there is room."""
    cuts = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1), len(mask)]
    if not 2 <= len(cuts) - 1 <= 6:
        return
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        where = left + wide * (a + b) / 2 / len(mask)
        sheet.text(where, top - 0.04, "asked" if mask[a] else "shown", size=7, color=GREEN, ha="center", va="bottom")
