"""How heads are steered, over time: of a Neural Turing Machine (Graves, Wayne & Danihelka 2014, section 3.3) each head's gate, key
strength, shift and sharpening; of a Differentiable Neural Computer (Graves et al. 2016, extended data figure 1) usage, allocation,
gates, read modes and links."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arcturus.pictures.memory import number_slots, row_height, used_slots
from arcturus.pictures.style import BLUE, DIM, GRID, LINES, VERMILION, Sheet, boundaries, number_columns, show, styled
from arcturus.pictures.tapes import Tape

LEFT, GAP = 0.95, 0.12  # inches
MODES = ("backward", "content", "forward")


def _lines(axes: Axes, values: np.ndarray, mask: np.ndarray, colours: tuple[str, ...], names: tuple[str, ...] = ()) -> None:
    """values [T, lines]."""
    for i, line in enumerate(values.T):
        style, label = ("-", "--")[i % 2], names[i] if names else None
        axes.plot(line, color=colours[i % len(colours)], linestyle=style, linewidth=1.1, label=label, drawstyle="steps-mid")
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(3))
    boundaries(axes, mask)


@styled
def ntm_gates(tape: Tape) -> Figure:
    """A line for each head, read heads first.  Gate 0: from where it was, 1: from the key; shift: how far it moves, by its taps."""
    columns = (("gate", "gate g"), ("strength", "key strength \u03b2"), ("shift", "shift s"), ("sharpening", "sharpening \u03b3"))
    heads = [(kind, i) for kind in ("read", "write") for i in range(tape.core[f"w_{kind}"].shape[1])]
    tall, wide, between = 0.7 if len(heads) <= 8 else 0.5, 2.6, 0.5
    sheet = Sheet(LEFT + len(columns) * (wide + between) - between + 0.15, 0.6 + len(heads) * (tall + GAP) + 0.4)
    sheet.text(LEFT, 0.08, tape.caption, size=9)
    most = {name: max(float(tape.core[f"{kind}_{name}"].max()) for kind, _ in heads) for name in ("strength", "sharpening")}
    spans = {"gate": (-0.04, 1.04), "strength": (0, 1.06 * most["strength"]), "sharpening": (0.9, 1.06 * most["sharpening"])}
    for line, (kind, head) in enumerate(heads):
        count = tape.core[f"w_{kind}"].shape[1]
        for column, (name, title) in enumerate(columns):
            values = tape.core[f"{kind}_{name}"][:, head]
            axes = sheet.axes(LEFT + column * (wide + between), 0.55 + line * (tall + GAP), wide, tall)
            if name == "shift":
                show(axes, values.T, up=True)
                taps = values.shape[1]
                axes.set_yticks(range(taps), [f"{i - taps // 2:+d}".replace("+0", "0") for i in range(taps)])
                boundaries(axes, tape.mask)
            else:
                _lines(axes, values, tape.mask, (BLUE if kind == "read" else VERMILION,))
                axes.set_ylim(*spans[name])
                if name == "gate":
                    axes.set_yticks((0, 0.5, 1))
            if line == 0:
                axes.set_title(title)
            if column == 0:
                label = f"{kind} head" if count == 1 else f"{kind} {head + 1}"
                axes.set_ylabel(label, color=BLUE if kind == "read" else VERMILION)
            if line == len(heads) - 1:
                number_columns(axes, "row of the tape")
    return sheet.figure


@styled
def dnc_gates(tape: Tape) -> Figure:
    """Usage and allocation of the slots that are written or read, the write and allocation gates, each read head's free gate and
    modes, all over time; and the links after the rows in tape.moments.  Without links there are no modes."""
    core, T, mask = tape.core, len(tape.mask), tape.mask
    slots, reads = used_slots(core["w_read"], core["w_write"]), core["w_read"].shape[1]
    links = {t: kept["link"] for t, kept in tape.moments.items() if "link" in kept}
    left, wide = 1.35, float(np.clip(0.075 * T, 4.0, 9.0))
    square = min((wide - 0.45 * (len(links) - 1)) / max(len(links), 1), 2.2)
    images, lines, strips, modes = max(row_height(2 * len(slots)), 0.03) * len(slots), 0.8, max(0.22 * reads, 0.3), 0.42
    heights = [max(images, 0.5)] * 2 + [lines, strips] + ([modes] * reads if "read_modes" in core else [])
    tall = sum(heights) + GAP * len(heights)
    sheet = Sheet(left + wide + 0.9, 0.4 + tall + (square + 0.9 if links else 0.4))
    sheet.text(left, 0.08, tape.caption, size=9)
    names = ["usage", "allocation", "gates", "free gates"]
    names += ["read modes" if reads == 1 else f"read modes, {head + 1}" for head in range(len(heights) - 4)]
    rows: list[Axes] = []
    for name, top, height in zip(names, np.cumsum([0.4, *heights[:-1]]) + GAP * np.arange(len(heights)), heights, strict=True):
        rows.append(sheet.axes(left, top, wide, height))
        sheet.text(0.1, top + height / 2, name, va="center", size=8)
    for axes, name in zip(rows, ("usage", "allocation"), strict=False):
        show(axes, core[name].reshape(T, -1).T[slots], up=True)
        number_slots(axes, slots)
    gates = np.stack([core[name].reshape(T) for name in ("write_gate", "allocation_gate")], -1)
    _lines(rows[2], gates, mask, LINES, ("write", "allocation"))
    rows[2].set_ylim(-0.04, 1.04)
    rows[2].set_yticks((0, 0.5, 1))
    rows[2].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    show(rows[3], core["free_gates"].reshape(T, reads).T)
    if reads > 1:
        rows[3].set_yticks(range(reads), [str(i + 1) for i in range(reads)])
    for head, axes in enumerate(rows[4:]):
        show(axes, core["read_modes"][:, head].T)
        axes.set_yticks(range(3), MODES)
        axes.tick_params(axis="y", labelright=True, labelleft=False, left=False, right=True)
    for axes in (*rows[:2], *rows[3:]):
        boundaries(axes, mask)
    number_columns(rows[-1], "row of the tape")
    for i, (t, link) in enumerate(links.items()):
        axes = sheet.axes(left + i * (square + 0.45), 0.4 + tall + 0.45, square, square)
        show(axes, link[np.ix_(slots, slots)], up=True)
        axes.set_title(f"links after row {t}", color=DIM)
        number_slots(axes, slots)
        axes.set_xticks([0, len(slots) - 1], [str(slots[0]), str(slots[-1])])
        axes.set_xlabel("from slot", labelpad=1)
        if i == 0:
            axes.set_ylabel("to slot")
    return sheet.figure
