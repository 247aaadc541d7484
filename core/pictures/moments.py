"""Draws one moment of a film: the game, beside it the agent's values or policy, below it the value over time."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from arcturus.envs import EnvConfig, is_atari
from arcturus.pictures.palette import DIM, GOOD, GROUND, HEAD, HEIGHT, INK, font

PANEL, TRACE = 240, 120  # pixels: the panel's width, the value trace's height
MOST_BARS = 24  # actions that have a bar
FADE, GLOW, GREYED = 0.93, 0.9, 0.85  # a step's fall of the heat map's scale; its strongest alpha; colour taken from the game
CHOSEN, BAR, LINE, HEAT = HEAD, "#4f6d8f", GOOD, "#ff5a1f"


class Bars(NamedTuple):
    """A number for every action."""

    what: str  # action-values or policy
    numbers: np.ndarray  # [A] float32
    low: float  # where a bar has no length


class Moment(NamedTuple):
    """One step of an episode that is played again."""

    picture: np.ndarray  # [H, W, 3] uint8, the screen before the action
    action: int | list[int]
    reward: float  # that this action earned
    score: float  # before the action
    bars: Bars | None
    value: float | None
    returns: tuple[np.ndarray, np.ndarray] | None = None  # the action's possible returns [K] and their probabilities [K]
    heat: np.ndarray | None = None  # [H, W] float32 >= 0 over what the agent saw: what the action depends on (scoring/explain.py)


def labels(config: EnvConfig, count: int) -> list[str]:
    if is_atari(config.id):
        from arcturus.envs.atari import action_names

        return list(action_names(config.id, config.full_action_space))
    return [str(i) for i in range(count)]


class Histogram:
    """The distribution of the chosen action's return, in a panel of its own.

    The scale reaches as far as the returns so far that had at least 1% of the probability beyond them, so that distant, unused bounds of
    a support don't flatten everything.
    """

    BINS = 40

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def draw(self, pen: ImageDraw.ImageDraw, x: int, name: str, returns: np.ndarray, probabilities: np.ndarray) -> None:
        """x: where the panel begins.  returns, probabilities [K]."""
        order = np.argsort(returns)
        returns, probabilities = returns[order], probabilities[order]
        below = probabilities.cumsum()
        ends = returns[np.searchsorted(below, [0.01, 0.99]).clip(max=len(returns) - 1)]
        self.low, self.high = min(self.low, float(ends[0])), max(self.high, float(ends[1]))
        margin = max(0.05 * (self.high - self.low), 1e-3)
        low, high = self.low - margin, self.high + margin
        shares, _ = np.histogram(returns.clip(low, high), self.BINS, (low, high), weights=probabilities)
        mean = float(returns @ probabilities)
        spread = float(np.sqrt(max(((returns - mean) ** 2) @ probabilities, 0.0)))
        pen.text((x, 10), f"return of action {name}", INK, font(13))
        pen.text((x, 32), f"{mean:.2f}", INK, font(22))
        pen.text((x, 62), f"standard deviation {spread:.2f}", DIM, font(13))
        left, right, top, bottom = x, x + PANEL - 20, 96, HEIGHT - 40
        width = (right - left) / self.BINS
        for i, share in enumerate(shares / max(float(shares.max()), 1e-9)):
            if share > 0:
                edge = left + i * width
                pen.rectangle((edge, bottom - max(1, share * (bottom - top)), edge + width - 1, bottom), fill=BAR)
        pen.line((left, bottom + 1, right, bottom + 1), fill=DIM)
        place = left + (mean - low) / (high - low) * (right - left)
        pen.line((place, top - 6, place, bottom), fill=CHOSEN, width=2)
        pen.text((left, bottom + 6), f"{low:.2f}", DIM, font(13))
        pen.text((right, bottom + 6), f"{high:.2f}", DIM, font(13), anchor="ra")


class Glow:
    """Lays heat maps over pictures, stretched to their size: what the agent saw is the whole picture, scaled and not cropped."""

    def __init__(self) -> None:
        self.full = 0.0

    def over(self, picture: Image.Image, heat: np.ndarray) -> Image.Image:
        """Full colour is the highest 99.5th percentile lately: a single pixel sets nothing, and a calm moment looks calm."""
        self.full = max(float(np.percentile(heat, 99.5)), FADE * self.full)
        alpha = Image.fromarray((255 * GLOW * np.clip(heat / max(self.full, 1e-12), 0, 1)).astype(np.uint8))
        grey = Image.blend(picture, picture.convert("L").convert("RGB"), GREYED)  # a warm colour shows on every game's palette
        grey.paste(Image.new("RGB", grey.size, HEAT), mask=alpha.resize(grey.size, Image.Resampling.BILINEAR))
        return grey


class Canvas:
    """Draws one moment: the game, the panel beside it, the value's trace below."""

    def __init__(self, config: EnvConfig, title: str, step_seconds: float, explain: str | None = None):
        self.config, self.title, self.step_seconds, self.explain = config, title, step_seconds, explain
        self.glow = Glow()
        self.big, self.small = font(22), font(13)
        self.trace: deque[float] = deque(maxlen=400)
        self.low, self.high = np.inf, -np.inf
        self.histogram: Histogram | None = None
        self.count = 0

    def draw(self, moment: Moment) -> Image.Image:
        h, w = moment.picture.shape[:2]
        wide = min(round(w * HEIGHT / h), 640) // 2 * 2
        if self.count == 0 and moment.returns is not None:
            self.histogram = Histogram()
        full = wide + PANEL + (0 if self.histogram is None else PANEL)
        image = Image.new("RGB", (full, HEIGHT + TRACE), GROUND)
        game = Image.fromarray(moment.picture).resize((wide, HEIGHT), Image.Resampling.NEAREST)
        image.paste(game if moment.heat is None else self.glow.over(game, moment.heat), (0, 0))
        pen, x = ImageDraw.Draw(image), wide + 14
        pen.text((x, 10), self.title, INK, self.small)
        pen.text((x, 32), f"score {moment.score:g}", INK, self.big)
        pen.text((x, 62), f"{self.count * self.step_seconds:.1f} s   step {self.count}", DIM, self.small)
        y = 86
        if moment.heat is not None:
            of = "Q(s,a)" if moment.bars is not None and moment.bars.what == "action-values" else "log pi(a|s)"
            pen.text((x, y), f"{'guided saliency' if self.explain == 'guided' else self.explain} of {of}", HEAT, self.small)
            y += 20
        if moment.value is not None and (moment.bars is None or moment.bars.what == "policy"):
            pen.text((x, y), f"value {moment.value:.3f}", INK, self.small)
            y += 20
        if moment.bars is not None:
            self._bars(pen, moment, moment.bars, x, y)
        if moment.value is not None:
            self.trace.append(moment.value)
            self.low, self.high = min(self.low, moment.value), max(self.high, moment.value)
        if self.histogram is not None and moment.returns is not None and moment.bars is not None:
            name = labels(self.config, len(moment.bars.numbers))[int(moment.action)]  # type: ignore[arg-type]  # a Discrete one
            self.histogram.draw(pen, wide + PANEL, name, *moment.returns)
        self._line(pen, full)
        self.count += 1
        return image

    def _bars(self, pen: ImageDraw.ImageDraw, moment: Moment, bars: Bars, x: int, y: int) -> None:
        what, numbers, low = bars
        names, high = labels(self.config, len(numbers)), float(numbers.max())
        shown = range(len(numbers))
        if len(numbers) > MOST_BARS:  # the best of them, and the one that was played
            best = np.argsort(-numbers, kind="stable")[:MOST_BARS]
            shown = sorted({*best[: MOST_BARS - 1].tolist(), moment.action if moment.action in shown else int(best[-1])})  # type: ignore[assignment]
        some = "" if len(shown) == len(numbers) else f", {len(shown)} of {len(numbers):,}"
        pen.text((x, y), f"{what} {numbers.min():.2f} to {high:.2f}{some}", DIM, self.small)
        pitch = min(26, (HEIGHT - y - 26) // len(shown))
        letters = font(min(13, max(9, pitch - 4)))
        span = max(high - low, 1e-6)
        for place, i in enumerate(shown):
            name, value = names[i], numbers[i]
            top, colour = y + 22 + place * pitch, CHOSEN if i == moment.action else BAR
            length = 4 + int((PANEL - 140) * (float(value) - low) / span)
            pen.text((x, top), name, CHOSEN if i == moment.action else INK, letters)
            pen.rectangle((x + 114, top + 2, x + 114 + length, top + pitch - 4), fill=colour)

    def _line(self, pen: ImageDraw.ImageDraw, width: int) -> None:
        top, bottom = HEIGHT + 22, HEIGHT + TRACE - 12
        if not self.trace:
            return
        pen.text(
            (10, HEIGHT + 4), f"value {self.trace[-1]:.2f}   (from {self.low:.2f} to {self.high:.2f} so far)", DIM, self.small
        )
        span = max(self.high - self.low, 1e-6)
        step = (width - 20) / (self.trace.maxlen or 1)
        points = [(10 + i * step, bottom - (v - self.low) / span * (bottom - top)) for i, v in enumerate(self.trace)]
        if len(points) > 1:
            pen.line(points, fill=LINE, width=2)
        x, y = points[-1]
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=CHOSEN)
