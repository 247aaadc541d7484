"""How a tape task is shown: as text for a terminal, and as a picture of 640 x 420 pixels for films.

Both show the tape with a blank cell on each side, the head in a frame (beyond those blanks it stays on them, and its position is
given in numbers), and the target with what was written under it, broken into lines where it is long.
"""

from __future__ import annotations

import colorsys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from arcturus.pictures.palette import BAD, DIM, EDGE, EMPTY, GOOD, GROUND, HEAD, HEIGHT, INK, MARGIN, PALE, WIDTH, font

if TYPE_CHECKING:
    from arcturus.envs.tapes import Tape

MOVE_NAMES = ("left", "right", "up", "down")
COLUMNS = 34  # cells of a row that a picture shows at most; longer tapes are scrolled


def _name(env: Tape) -> str:
    return env.spec.id if env.spec else type(env).__name__


def _state(env: Tape) -> str:
    if env.playing:
        return "playing"
    return "solved" if env.solved else "too late" if env.t > env.time_limit else "wrong symbol"


def _action(env: Tape) -> str:
    """The last action, in words."""
    if env.last is None:
        return "nothing yet"
    move, write, symbol, _ = env.last
    return f"{f'write {env.letters[symbol]}, then' if write else 'move'} {MOVE_NAMES[move]}"


def _per_line(env: Tape, columns: int) -> int:
    """Symbols of the target in a line: all of them where there is room, else as many as the tape has cells."""
    return len(env.target) if len(env.target) < columns else min(len(env.tape[0]), columns - 2)


def _margins(env: Tape) -> int:
    """Blank rows above and below the tape: none where the head only moves along it."""
    return int(env.rows > 1)


def _head(env: Tape) -> tuple[int, int]:
    """The head's row and column, or those of the blank cell on its side."""
    return min(max(env.row, -1), env.rows), min(max(env.column, -1), len(env.tape[0]))


def text(env: Tape) -> str:
    """Plain text of at most 80 columns for tapes of up to 32 cells."""
    n, head = len(env.tape[0]), _head(env)
    place = f"{env.column}" if env.rows == 1 else f"{env.column}, row {env.row}"
    out = [
        f"{_name(env)}   step {env.t} of {env.time_limit}   score {env.score:g}   {_state(env)}",
        f"action   {_action(env)}" + (f"   reward {env.last[-1]:g}" if env.last else ""),
        f"head     at cell {place}",
    ]
    for row in range(-_margins(env), env.rows + _margins(env)):
        line = " "
        for column in range(-1, n + 1):
            on = 0 <= row < env.rows and 0 <= column < n
            frame = (row, column) == head
            line = line[:-1] + ("[" if frame else line[-1]) + (env.letters[env.tape[row][column]] if on else ".")
            line += "]" if frame else " "
        out.append(f"{'tape' if row == -_margins(env) else '':9}{line}".rstrip())
    step = _per_line(env, COLUMNS)
    for start in range(0, len(env.target), step):
        written = env.written[start : start + step]
        wrong = "!" if written and written != env.target[start : start + len(written)] else ""  # it can only be the last one
        out.append(f"{'target':12}" + " ".join(env.letters[s] for s in env.target[start : start + step]))
        out.append((f"{'written':12}" + " ".join(env.letters[s] for s in written) + wrong).rstrip())
    return "\n".join(out)


@cache
def _colour(symbol: int, base: int, light: float) -> tuple[int, int, int]:
    """From green over blue to purple; what is wrong is red, and the head yellow."""
    hue = 0.36 + 0.5 * symbol / max(base - 1, 1)
    r, g, b = colorsys.hls_to_rgb(hue, light * (0.40 + 0.10 * (symbol % 2)), 0.42)
    return round(255 * r), round(255 * g), round(255 * b)


def picture(env: Tape) -> np.ndarray:
    """[420, 640, 3] uint8.  Cells are as large as an environment's longest tape allows."""
    image = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    _Drawing(env, ImageDraw.Draw(image)).draw()
    return np.array(image)


class _Drawing:
    """One picture: the header, the tape, the target and what was written."""

    def __init__(self, env: Tape, pen: ImageDraw.ImageDraw):
        self.env, self.pen = env, pen
        self.columns = min(max(env.high, 6) + 2, COLUMNS)
        self.wide = min(32, (WIDTH - 2 * MARGIN) // self.columns)
        self.high = min(32, round(1.5 * self.wide))
        self.left = (WIDTH - self.columns * self.wide) // 2

    def draw(self) -> None:
        env, rows = self.env, self.env.rows + 2 * _margins(self.env)
        self._header()
        lines = min(3 if env.rows == 1 else 2, -(-len(env.target) // _per_line(env, self.columns)))
        free = HEIGHT - 74 - self.high * (rows + 2 * lines) - 12 * (lines - 1)
        top = 74 + free // 2
        self._tape(top)
        self._target(top + rows * self.high + free // 4 + 10, lines)

    def _text(self, x: float, y: float, words: str, size: int, colour: str, anchor: str = "lm") -> None:
        self.pen.text((x, y), words, colour, font(size), anchor)

    def _header(self) -> None:
        env, right = self.env, WIDTH - MARGIN
        place = f"head at {env.column}" + (f", row {env.row}" if env.rows > 1 else "")
        self._text(MARGIN, 22, _name(env), 19, INK)
        self._text(right, 22, f"step {env.t} of {env.time_limit}    score {env.score:g}", 15, INK, "rm")
        self._text(MARGIN, 48, f"{_action(env)}    {place}", 15, DIM)
        reward = env.last[-1] if env.last else 0.0
        said = "" if env.playing else f"    {_state(env)}"
        colour = GOOD if reward > 0 else BAD if reward < 0 else DIM
        self._text(right, 48, f"reward {reward:g}{said}", 15, colour, "rm")
        self.pen.line((0, 64, WIDTH, 64), EDGE)

    def _cell(self, x: int, y: int, symbol: int | None, light: float = 1.0, fill: Any = None) -> None:
        """A cell with its symbol; None: an empty one."""
        box = (x + 1, y + 1, x + self.wide - 2, y + self.high - 2)
        if symbol is None:
            self.pen.rectangle(box, EMPTY, EDGE)
            return
        self.pen.rectangle(box, fill or _colour(symbol, self.env.base, light))
        size = min(self.wide, 24) - 4
        ink = INK if light == 1.0 else PALE
        self._text(x + self.wide / 2 - 0.5, y + self.high / 2, self.env.letters[symbol], size, ink, "mm")

    def _frame(self, x: int, y: int, width: int) -> None:
        self.pen.rectangle((x - 1, y - 1, x + self.wide, y + self.high), None, HEAD, width)

    def _tape(self, top: int) -> None:
        """The columns of the tape that stand round the head, or all."""
        env, n, (head_row, head_column) = self.env, len(self.env.tape[0]), _head(self.env)
        first = min(max(-1, head_column - self.columns // 2), max(-1, n + 1 - self.columns))
        self._text(self.left, top - 24, "tape", 14, DIM)
        for row in range(-_margins(env), env.rows + _margins(env)):
            y = top + (row + _margins(env)) * self.high
            for column in range(first, min(first + self.columns, n + 1)):
                on = 0 <= row < env.rows and 0 <= column < n
                self._cell(self.left + (column - first) * self.wide, y, env.tape[row][column] if on else None)
        x, y = self.left + (head_column - first) * self.wide, top + (head_row + _margins(env)) * self.high
        self._frame(x, y, 3)
        if not _margins(env):
            middle = x + self.wide / 2 - 0.5
            self.pen.polygon([(middle, y - 4), (middle - 6, y - 13), (middle + 6, y - 13)], HEAD)

    def _target(self, top: int, shown: int) -> None:
        """Lines of the target, each over what was written of it; the line that is being written is among them."""
        env, step, done = self.env, _per_line(self.env, self.columns), len(self.env.written)
        lines = -(-len(env.target) // step)
        first = min(max(0, done // step - 1), max(0, lines - shown))
        self._text(self.left, top - 14, "target, and what was written", 14, DIM)
        for line in range(first, min(first + shown, lines)):
            y = top + (line - first) * (2 * self.high + 12)
            for i in range(line * step, min((line + 1) * step, len(env.target))):
                x = self.left + (1 + i - line * step) * self.wide
                wrong = i < done and env.written[i] != env.target[i]
                self._cell(x, y, env.target[i], 1.0 if wrong else 0.6)  # what it should have been stands out
                self._cell(x, y + self.high, env.written[i] if i < done else None, 1.0, BAD if wrong else None)
                if i == done and env.playing:
                    self._frame(x, y + self.high, 1)
