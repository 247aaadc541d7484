"""Prioritised experience replay, proportional variant (Schaul et al. 2016, arXiv:1511.05952).

    P(i) = p_i^alpha / sum_k p_k^alpha                (1)        p_i = |delta_i| + 1e-6, the error when i was last learnt from
    w_i  = (1 / (N P(i)))^beta / max_j w_j            section 3.4, the largest weight of the minibatch as in the authors' code

A transition enters with the largest priority so far, so that each is soon learnt from.  The priorities of a ring's rows are in a sum
tree, in the ring's order.  They are above 0 exactly where a transition may begin: at valid rows whose whole stack and whole n-step
window are stored.  So an autoreset row is never drawn, nor one at the write head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arcturus.replay import compiled
from arcturus.replay.ring import VALID, Ring
from arcturus.replay.sum_tree import UNIT, SumTree
from arcturus.speed import captured, remembered

LEAST = 1e-6  # added to an error, so that every transition may be drawn again


class Priorities:
    """The priorities of a ring's rows; reach: the rows a transition reaches beyond its first.  alpha: 0 draws uniformly."""

    def __init__(self, ring: Ring, alpha: float, reach: int):
        self.ring, self.alpha, self.reach = ring, alpha, reach
        self.tree = SumTree(ring.capacity, ring.device)
        self.largest = torch.full((), UNIT, dtype=torch.int64, device=ring.device)
        self.left = self.entered = 0  # rows [left, entered) are in the tree
        stored = (self.tree.leaf, self.tree.block, self.largest)
        self._drawn = captured(self._draw, self.tree.leaf.device, kept=True)
        self._set = captured(self._change, self.tree.leaf.device, remember=lambda: remembered(stored))

    def draw(self, batch: int, generator: torch.Generator, beta: float) -> tuple[Tensor, Tensor]:
        """Places in the ring (slot times environments, plus environment), int64, and importance weights, float32; [batch] each."""
        self._follow()
        device = self.tree.leaf.device
        coin = torch.rand(batch, dtype=torch.float64, device=device, generator=generator)
        if self.tree.compiled:
            index = self.tree.draw(coin)
            return index, torch.from_numpy(compiled.importance(index.numpy(), self.tree.arrays[0], beta))
        return self._drawn(coin, torch.full((), beta, dtype=torch.float64, device=device))

    def _draw(self, coin: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        index = self.tree.draw(coin)
        p = self.tree.leaf[index].double()
        drawable = p > 0  # all or none
        return index, ((p.min() / p.where(drawable, 1.0)).pow(beta) * drawable).float()

    def set(self, index: Tensor, error: Tensor) -> None:
        """Sets priorities from the errors [batch] of drawn transitions; ignores errors not finite, and rows of priority 0."""
        tree, error = self.tree, error.detach()
        if not tree.compiled:
            self._set(index, error)
            return
        arrays = (index.numpy(), error.numpy(), tree.arrays[0], self.largest.view(1).numpy())
        tree.set(index, torch.from_numpy(compiled.priorities(*arrays, self.alpha, LEAST, UNIT, tree.most)))

    def _change(self, index: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        before = self.tree.leaf[index]
        new = self.tree.fixed_point((error.double().abs() + LEAST).pow(self.alpha))
        new = torch.where(error.isfinite() & (before > 0), new, before)
        self.largest.copy_(torch.maximum(self.largest, new.max()))
        self.tree.set(index, new)
        return ()

    def _follow(self) -> None:
        """Adds the rows stored since the last draw, and removes those that will be overwritten."""
        ring = self.ring
        end, oldest = max(ring.count - self.reach, self.entered), ring.oldest
        for first, last in self._places(self.left, min(oldest, self.entered)):
            self.tree.fill(first, last, 0)
        for first, last in self._places(max(self.entered, oldest), end):
            valid = (ring.flags.view(-1)[first:last] & VALID).ne(0)
            self.tree.fill(first, last, self.largest * valid)
        self.left, self.entered = max(self.left, oldest), end

    def _places(self, first: int, end: int) -> list[tuple[int, int]]:
        """Rows [first, end), at most as many as the ring has, as one or two stretches of the tree."""
        if first >= end:
            return []
        rows, n = self.ring.rows, self.ring.spec.num_envs
        start, stop = first % rows, (end - 1) % rows + 1
        stretches = [(start, stop)] if start < stop else [(start, rows), (0, stop)]
        return [(a * n, b * n) for a, b in stretches]

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"leaf": self.tree.leaf, "largest": self.largest, "left": self.left, "entered": self.entered}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Nothing is loaded for a ring whose rows were not saved: new rows enter as usual."""
        if not self.ring.count:
            return
        if not 0 <= state["left"] <= state["entered"] <= self.ring.count:
            raise ValueError("the priorities are not those of the replay")
        self.tree.leaf.copy_(state["leaf"])  # type: ignore[arg-type]
        torch.sum(self.tree.leaf.view(-1, self.tree.width), 1, out=self.tree.block)
        self.largest.copy_(torch.as_tensor(state["largest"]))
        self.left, self.entered = state["left"], state["entered"]  # type: ignore[assignment]
