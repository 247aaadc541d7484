"""A sum tree of two levels, for drawing in proportion to priority.

Priorities are in blocks of about the square root of their number; for each block its sum is kept.  A draw finds its place among the
block sums and then inside one block; a change sums its block again.  All this is a fixed, small number of tensor operations, whatever
is drawn, on any device, and nothing waits for the host.

Numbers are int64 fixed point, UNIT for 1: sums are exact, so they never drift away from the numbers they add up (in a float tree they
do, and then a row of priority 0 is drawn), and are the same in any order of summation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arcturus.replay import compiled
from arcturus.speed import fast

UNIT = 1 << 20  # what a priority of 1 is stored as
LARGEST_SUM = 1 << 62


class SumTree:
    """`size` numbers >= 0.

    width: numbers in a block.  The default takes more blocks than numbers in each, as a draw looks once at all block sums but at as
    many blocks as it draws numbers.
    """

    def __init__(self, size: int, device: torch.device | str, width: int | None = None):
        self.size, self.width = size, width or max(16, 1 << ((size.bit_length() - 3) // 2))
        self.most = LARGEST_SUM // size  # so that no sum overflows
        blocks = -(-size // self.width)
        self.leaf = torch.zeros(blocks * self.width, dtype=torch.int64, device=device)
        self.block = torch.zeros(blocks, dtype=torch.int64, device=device)
        self.compiled = self.leaf.device.type == "cpu" and fast()  # loops instead of tensors (replay/compiled.py)
        self.arrays: Any = (self.leaf.numpy(), self.block.numpy()) if self.compiled else None  # the same memory

    def fixed_point(self, x: Tensor) -> Tensor:
        """x >= 0 as stored: at least the smallest number above 0, at most the largest; int64."""
        return (x.double() * UNIT).clamp(1, self.most).long()

    def fill(self, first: int, end: int, value: Tensor | int) -> None:
        """Numbers [first, end) become value, int64 [end - first] or one for all."""
        if first < end:
            self.leaf[first:end] = value
            blocks = slice(first // self.width, (end - 1) // self.width + 1)
            torch.sum(self.leaf.view(-1, self.width)[blocks], 1, out=self.block[blocks])

    def set(self, index: Tensor, value: Tensor) -> None:
        """Numbers at index [B] become value [B] int64.  If an index occurs twice, one of its values is kept."""
        if self.compiled:
            compiled.change(index.numpy(), value.numpy(), self.width, *self.arrays)
            return
        self.leaf[index] = value
        block = index // self.width
        self.block[block] = self.leaf.view(-1, self.width)[block].sum(1)

    def draw(self, coin: Tensor) -> Tensor:
        """index [B] int64: one from each of B equal parts of the sum, in proportion to the numbers (stratified: Schaul et al. 2016,
        appendix B.2.1); coin [B] float64 in [0, 1) says where in its part.  A number of 0 is drawn only if all are 0."""
        if self.compiled:
            return torch.from_numpy(compiled.draw(coin.numpy(), self.width, *self.arrays))
        sums, batch = self.block.cumsum(0), len(coin)
        total = sums[-1]
        place = ((coin + torch.arange(batch, dtype=torch.float64, device=coin.device)) * total / batch).long()
        place = place.minimum(total - 1)  # rounding may have gone past the end
        block = torch.searchsorted(sums, place, right=True)
        rest = place - (sums - self.block)[block]
        inside = self.leaf.view(-1, self.width)[block].cumsum(1)
        return block * self.width + (inside <= rest[:, None]).sum(1)
