"""What was asked for and what was answered: Graves, Wayne & Danihelka 2014, figures 4, 5, 8 (targets and outputs) and 14 (n-grams)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from arcturus.pictures.style import DIM, GREEN, VERMILION, Sheet, mark, number_columns, show, styled
from arcturus.pictures.tapes import Tape

WIDE = 12.0  # inches
LINE = 100  # bits of an n-gram tape in a line


@styled
def targets_and_outputs(tapes: Sequence[Tape]) -> Figure:
    """For each tape the targets and below them the outputs, a column for each answer; wrong bits are marked.  Tapes are side by side
    as far as there is room, the rest below."""
    bits = tapes[0].task.outputs
    counts = [tape.answers(tape.wrong).shape[1] for tape in tapes]
    cell = float(np.clip((WIDE - 1.8) / max(counts), 0.03, 0.14))
    tall = max(bits * max(cell, 0.06), 0.2)
    gap, left = 0.25, 0.75
    rooms = [max(n * cell, 1.35) for n in counts]
    lines: list[list[int]] = [[]]
    for i, room in enumerate(rooms):
        if lines[-1] and left + sum(rooms[j] + gap for j in lines[-1]) + room > WIDE:
            lines.append([])
        lines[-1].append(i)
    wide = left + max(sum(rooms[i] for i in line) + gap * (len(line) - 1) for line in lines) + 0.15
    pitch = 2 * tall + 0.95
    sheet = Sheet(max(wide, 4.0), len(lines) * pitch + 0.2)
    for row, line in enumerate(lines):
        x, top = left, 0.4 + row * pitch
        for i in line:
            tape, n = tapes[i], counts[i]
            wrong = tape.answers(tape.wrong)
            told = f"{wrong.sum()} of {wrong.size} bits wrong"
            sheet.text(x, top - 0.07, f"{tape.title}\n", va="bottom", size=8, linespacing=1.15)
            sheet.text(x, top - 0.07, told, va="bottom", size=7, color=VERMILION if wrong.any() else DIM)
            above, below = (sheet.axes(x, top + k * (tall + 0.07), n * cell, tall) for k in (0, 1))
            show(above, tape.answers(tape.targets), first=1)
            show(below, tape.answers(tape.outputs), first=1)
            mark(below, wrong, first=1)
            for after in _interruptions(tape):
                for axes in (above, below):
                    axes.axvline(after + 0.5, color=GREEN, linewidth=1)
            number_columns(below, "answer")
            if i == line[0]:
                for axes, name in ((above, "Targets"), (below, "Outputs")):
                    axes.set_ylabel(name, rotation=0, ha="right", va="center")
            x += rooms[i] + gap
    sheet.text(0.1, sheet.height - 0.05, "probability that a bit is 1: black 0, white 1", size=7, color=DIM, va="bottom")
    sheet.text(sheet.width - 0.1, sheet.height - 0.05, "\u25a0 wrong bit", size=7, color=VERMILION, va="bottom", ha="right")
    return sheet.figure


def _interruptions(tape: Tape) -> list[int]:
    """Answers after which something else is shown before the next."""
    rows = np.flatnonzero(tape.mask)
    per_answer = tape.task.outputs // tape.targets.shape[1]
    return [(int(i) + 1) // per_answer for i in np.flatnonzero(np.diff(rows) > 1)]


@styled
def ngrams(tape: Tape) -> Figure:
    """Strips of an n-gram tape: the bits before (the context), the bit, and the probability of its being 1 that an optimal observer
    and the network hold; below, how much higher the network's is.  Arrows: where its answer cost most more."""
    assert tape.optimal is not None
    bits, held, best = tape.targets[:, 0], tape.outputs[:, 0], tape.optimal
    n, T = tape.task.n, len(tape.targets)
    before = [np.concatenate([np.zeros(k), bits])[:T] for k in range(n - 1, 0, -1)]
    chance = [np.where(bits == 1, p, 1 - p).clip(1e-12) for p in (held, best)]
    excess = np.log2(chance[1] / chance[0])
    marked = np.argsort(excess)[::-1][:3]
    strips = [
        *([(f"last {n - 1} bits", np.stack(before), 0.09 * (n - 1))] if before else []),
        ("bit", bits[None], 0.17),
        ("optimal", best[None], 0.17),
        ("network", held[None], 0.17),
        ("difference", (held - best)[None], 0.17),
    ]
    left, gap = 0.95, 0.05
    tall = sum(h + gap for *_, h in strips)
    starts = range(0, T, LINE)
    most = max(float(np.abs(held - best).max()), 1e-6)
    sheet = Sheet(max(left + 0.09 * min(LINE, T) + 0.2, 7.0), 0.4 + len(starts) * (tall + 0.5) + 0.15)
    sheet.text(left, 0.1, f"{tape.caption}, {excess.sum():+.1f} over the optimal observer", size=9)
    for row, start in enumerate(starts):
        end, top = min(start + LINE, T), 0.4 + row * (tall + 0.5)
        for name, values, height in strips:
            axes = sheet.axes(left, top, 0.09 * (end - start), height)
            signed = name == "difference"
            show(axes, values[:, start:end], signed=signed, high=most if signed else 1.0, first=start)
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
            if name == "network":
                for t in marked[(marked >= start) & (marked < end)]:
                    axes.plot([t], [0], marker="v", markersize=5, color=VERMILION, markeredgecolor="white", markeredgewidth=0.6)
            top += height + gap
        number_columns(axes, "row of the tape")
    told = f"probabilities: black 0, white 1;  difference: blue below 0, black 0, amber above, to \u00b1{most:.2f}"
    sheet.text(left, sheet.height - 0.05, told, size=7, color=DIM, va="bottom")
    right = sheet.width - 0.2
    sheet.text(right, sheet.height - 0.05, "\u25bc costliest answers", size=7, color=VERMILION, va="bottom", ha="right")
    return sheet.figure
