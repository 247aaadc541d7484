"""What pictures drawn by Pillow share: sizes, colours and letters."""

from __future__ import annotations

from functools import cache
from typing import Any

from PIL import ImageFont

WIDTH, HEIGHT, MARGIN = 640, 420, 14  # pixels
GROUND, EMPTY, EDGE, INK, PALE, DIM = "#16181d", "#1d2027", "#343842", "#e8e6df", "#b4b2aa", "#8d8b84"
HEAD, GOOD, BAD = "#f2b134", "#6cc3a0", "#e5484d"


@cache
def font(size: int) -> Any:
    """Pillow's own font; reading it takes longer than drawing a picture."""
    return ImageFont.load_default(size)
