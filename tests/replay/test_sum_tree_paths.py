"""Drawing by priority is one algorithm, whether NumPy or torch does it: a run on a GPU must be checkable on a CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from arcturus.replay.prioritised import Priorities

ROWS, BATCH = 1_000, 32


def priorities(xp, alpha: float) -> Priorities:
    ring = SimpleNamespace(capacity=ROWS, device="cpu", count=0, oldest=0, rows=ROWS)  # to which nothing is added
    out = Priorities(ring, alpha, 1)  # type: ignore[arg-type]
    out.tree.work_with(xp or out.tree.xp)
    out.tree.fill(10, ROWS, torch.arange(10, ROWS))
    return out


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.63])
def test_numpy_and_torch_draw_and_change_the_same(alpha):
    first, second = priorities(None, alpha), priorities(torch, alpha)
    assert first.tree.xp is not second.tree.xp
    coins, more_coins, noise = (torch.Generator().manual_seed(seed) for seed in (3, 3, 4))
    for _ in range(50):
        (index, weight), (other_index, other_weight) = first.draw(BATCH, coins, 0.41), second.draw(BATCH, more_coins, 0.41)
        assert torch.equal(index, other_index)
        assert torch.equal(weight, other_weight)
        assert weight.min() > 0
        assert weight.max() == 1
        error = torch.randn(BATCH, generator=noise) * 100
        error[0], error[1] = torch.nan, torch.inf
        for one in (first, second):
            one.set(index, error)
        assert torch.equal(first.tree.leaf, second.tree.leaf)
        assert torch.equal(first.tree.block, second.tree.block)
        assert torch.equal(first.largest, second.largest)
    assert torch.equal(first.tree.leaf.view(-1, first.tree.width).sum(1), first.tree.block)


@pytest.mark.parametrize("xp", [None, torch])
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_where_nothing_can_be_drawn_nothing_weighs(xp, beta):
    empty = priorities(xp, 0.5)
    empty.tree.fill(0, ROWS, 0)
    _, weight = empty.draw(BATCH, torch.Generator().manual_seed(0), beta)
    assert (weight == 0).all()


@pytest.mark.parametrize("xp", [None, torch])
def test_a_row_of_little_priority_is_drawn_all_the_same(monkeypatch, xp):
    """Were the sum rounded to float32 on the way, this one would be lost in the rounding."""
    tree, large, little = priorities(xp, 0.5).tree, 1 << 42, 1 << 25
    tree.fill(0, ROWS - 1, large)
    tree.fill(ROWS - 1, ROWS, little)

    def last_of(coin: float) -> int:
        monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.full((BATCH,), coin, dtype=torch.float64))
        return int(tree.draw(BATCH, torch.Generator())[-1])

    share = little / int(tree.block.sum()) * BATCH  # of the last of the equal parts
    assert [last_of(1 - share * x) for x in (0.01, 0.99, 1.01)] == [ROWS - 1, ROWS - 1, ROWS - 2]
