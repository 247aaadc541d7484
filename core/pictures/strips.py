"""How a task is shown in films: a picture of 640 x 420 pixels with the inputs, the targets and the answers as three strips.

Time runs to the right, a column for each row of the tape; inputs and answers are shown up to the present, targets as a whole.
The present step is framed.  White bits are 1; wrong ones are red.  What isn't a bit of a vector (flags, the end marker, numbers)
has lines, names and a colour of its own.  If a tape is too long for the picture, the part around the present step is shown,
and all of it in a bar below.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from arcturus.pictures.palette import BAD, DIM, EDGE, EMPTY, GOOD, GROUND, HEAD, HEIGHT, INK, MARGIN, WIDTH, font

LEFT, TOP, BOTTOM = 86, 84, 372  # pixels: where the strips begin, and end at the latest
NARROWEST, WIDEST, TALLEST = 8, 44, 56  # pixels of a cell
NAMED = 12  # pixels of a line that has a name, at least
GAP = 16  # pixels between strips
ZERO, FALSE_ZERO, BELOW = "#30353f", "#9c2f3a", "#a583dd"  # a bit that is 0; one that should be 1; a number below 0


class Scene(NamedTuple):
    """One moment of an episode of T rows."""

    name: str
    inputs: np.ndarray  # [T, inputs]: bits, then one channel for each of `flags`
    targets: np.ndarray  # [T, outputs]: bits, then one for each of `markers`
    mask: np.ndarray  # [T] bool: rows that ask
    answers: np.ndarray  # [T, outputs]: the chance of a 1 that was answered; nan where nothing was
    flags: tuple[str, ...]
    markers: tuple[str, ...]
    t: int  # the present step
    over: bool
    solved: bool
    score: float

    @property
    def wrong(self) -> np.ndarray:
        """[T, outputs] bool."""
        return ~np.isnan(self.answers) & ((self.answers > 0.5) != (self.targets > 0.5))


def picture(scene: Scene) -> np.ndarray:
    """[420, 640, 3] uint8."""
    return _Drawing(scene).draw()


def _mix(low: str, high: str, amount: np.ndarray) -> np.ndarray:
    """[..., 3] from `low` where the amount is 0 to `high` where it is 1 or more."""
    a, b = (np.array(ImageColor.getrgb(c), float) for c in (low, high))
    return a + (b - a) * np.clip(amount, 0, 1)[..., None]


def _cells(values: np.ndarray, wrong: np.ndarray | None = None, bit: str = INK) -> np.ndarray:
    """values [T, k] in [-1, 1], nan where there is nothing -> their colours [k, T, 3]."""
    out = np.where((values < 0)[..., None], _mix(ZERO, BELOW, -values), _mix(ZERO, bit, values))
    if wrong is not None:
        out = np.where(wrong[..., None], _mix(FALSE_ZERO, BAD, values), out)
    return np.where(np.isnan(values)[..., None], ImageColor.getrgb(EMPTY), out).swapaxes(0, 1)


class _Drawing:
    """One picture: the header, the strips, the steps' numbers, and the bar of the whole tape."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.image = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
        self.pen = ImageDraw.Draw(self.image)
        rows, room = len(scene.mask), WIDTH - LEFT - MARGIN
        self.columns = min(rows, room // NARROWEST)
        self.first = min(max(0, scene.t - self.columns // 2), rows - self.columns)
        self.wide = min(WIDEST, room // self.columns)
        names, lines = len(scene.flags) + 2 * len(scene.markers), scene.inputs.shape[1] + 2 * scene.targets.shape[1]
        room = BOTTOM - TOP - 2 * GAP
        self.named = max(NAMED, min(TALLEST, room // lines))
        tall = min(TALLEST, (room - names * self.named) / max(lines - names, 1))
        self.tall = int(tall) if tall >= 1 else tall  # many bits share a pixel

    def draw(self) -> np.ndarray:
        scene = self.scene
        self._header()
        come = np.arange(len(scene.mask)) <= scene.t - scene.over
        seen = np.where(come[:, None], scene.inputs, np.nan)
        asked = np.where(scene.mask[:, None], scene.targets, np.nan)
        end = self._strip("inputs", TOP, seen, None, scene.flags)
        end = self._strip("targets", end + GAP, asked, None, scene.markers)
        end = self._strip("answers", end + GAP, scene.answers, scene.wrong, scene.markers)
        self._steps(end)
        if not scene.over:
            self._present(end)
        if self.columns < len(scene.mask):
            self._whole_tape()
        return np.array(self.image)

    def _text(self, x: float, y: float, words: str, size: int, colour: str, anchor: str = "lm") -> None:
        self.pen.text((x, y), words, colour, font(size), anchor)

    def _header(self) -> None:
        scene, right, rows = self.scene, WIDTH - MARGIN, len(self.scene.mask)
        self._text(MARGIN, 22, scene.name, 19, INK)
        self._text(right, 22, f"step {scene.t} of {rows}    score {scene.score:.4g}", 15, INK, "rm")
        if scene.over:
            doing = "solved" if scene.solved else "not solved"
        elif scene.mask[scene.t]:
            doing = f"answer {scene.mask[: scene.t + 1].sum()} of {scene.mask.sum()} is asked for"
        else:
            doing = "nothing is asked for"
        self._text(MARGIN, 48, doing, 15, GOOD if scene.over and scene.solved else DIM)
        wrong, answered = scene.wrong.sum(), (~np.isnan(scene.answers)).sum()
        self._text(right, 48, f"{wrong} of {answered} answered bits wrong", 15, BAD if wrong else DIM, "rm")
        self.pen.line((0, 64, WIDTH, 64), EDGE)

    def _strip(self, name: str, top: int, values: np.ndarray, wrong: np.ndarray | None, named: tuple[str, ...]) -> int:
        """values [T, k], of which the last have names; where it ends."""
        shown, bits = slice(self.first, self.first + self.columns), values.shape[1] - len(named)
        wrong = wrong[shown] if wrong is not None else np.zeros((self.columns, values.shape[1]), bool)
        self._text(MARGIN, top + 6, name, 15, INK)
        end = top
        if bits:
            end = self._block(end, _cells(values[shown, :bits], wrong[:, :bits]), self.tall)
        for i, channel in enumerate(named, bits):
            self._text(LEFT - 6, end + self.named / 2, channel, 11, GOOD, "rm")
            end = self._block(end, _cells(values[shown, i : i + 1], wrong[:, i : i + 1], GOOD), self.named)
        return end

    def _block(self, top: int, colours: np.ndarray, tall: float) -> int:
        """Cells of these colours [k, columns, 3]; where they end."""
        height = max(1, round(len(colours) * tall))
        how = Image.Resampling.NEAREST if tall >= 1 else Image.Resampling.BOX
        block = np.array(Image.fromarray(colours.astype(np.uint8)).resize((self.columns * self.wide, height), how))
        block[:, :: self.wide] = ImageColor.getrgb(GROUND)
        if tall >= 5:
            block[:: int(tall)] = ImageColor.getrgb(GROUND)
        self.image.paste(Image.fromarray(block), (LEFT, top))
        return top + height

    def _steps(self, top: int) -> None:
        """Numbers of the steps, as many as there is room for, and an arrow."""
        room, y = 12 + 7 * len(str(len(self.scene.mask))), top + 22
        far = next(n for n in (1, 2, 5, 10) if n * self.wide >= room)
        self._text(MARGIN, y, "step", 12, DIM)
        for t in range(-(-self.first // far) * far, self.first + self.columns, far):
            self._text(self._middle(t), y, str(t), 12, DIM, "mm")
        x, y = min(LEFT + self.columns * self.wide, WIDTH - MARGIN), top + 10
        self.pen.line((LEFT, y, x, y), DIM)
        self.pen.polygon([(x + 6, y), (x, y - 3), (x, y + 3)], DIM)

    def _middle(self, t: int) -> float:
        return LEFT + (t - self.first + 0.5) * self.wide

    def _present(self, end: int) -> None:
        x = self._middle(self.scene.t)
        self.pen.rectangle((x - self.wide / 2 - 1, TOP - 2, x + self.wide / 2 + 1, end + 2), None, HEAD, 2)
        self.pen.polygon([(x, TOP - 3), (x - 6, TOP - 12), (x + 6, TOP - 12)], HEAD)

    def _whole_tape(self) -> None:
        """Grey where answers are asked for, red where one was wrong; what the strips show is framed."""
        scene, top, room, rows = self.scene, HEIGHT - 16, WIDTH - LEFT - MARGIN, len(self.scene.mask)
        colours = _mix(EMPTY, DIM, scene.mask)
        colours[scene.wrong.any(1)] = ImageColor.getrgb(BAD)
        bar = Image.fromarray(colours[None].astype(np.uint8)).resize((room, 10), Image.Resampling.BOX)
        self.image.paste(bar, (LEFT, top))
        self._text(MARGIN, top + 5, "whole tape", 12, DIM)
        left, right, x = (LEFT + t * room // rows for t in (self.first, self.first + self.columns, scene.t))
        self.pen.rectangle((left - 1, top - 2, right, top + 11), None, INK)
        self.pen.line((x, top - 4, x, top + 13), HEAD, 2)
