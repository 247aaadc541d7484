"""Replay is one algorithm, as compiled loops on a CPU and as tensors elsewhere: a run on a GPU must be checkable on a CPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from gymnasium.spaces import Discrete
from hypothesis import given
from hypothesis import strategies as st

from arcturus.api import EnvSpec, Objective
from arcturus.replay.prioritised import Priorities
from arcturus.replay.ring import Ring, uniform

ROWS, BATCH = 1_000, 32


def priorities(compiled: bool, alpha: float) -> Priorities:
    ring = SimpleNamespace(capacity=ROWS, device="cpu", count=0, oldest=0, rows=ROWS)  # to which nothing is added
    out = Priorities(ring, alpha, 1)  # type: ignore[arg-type]
    out.tree.compiled = compiled
    out.tree.fill(10, ROWS, torch.arange(10, ROWS))
    return out


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.63])
def test_loops_and_tensors_draw_and_change_the_same(alpha):
    first, second = priorities(True, alpha), priorities(False, alpha)
    coins, more_coins, noise = (torch.Generator().manual_seed(seed) for seed in (3, 3, 4))
    for _ in range(50):
        (index, weight), (other_index, other_weight) = first.draw(BATCH, coins, 0.41), second.draw(BATCH, more_coins, 0.41)
        assert torch.equal(index, other_index)
        assert torch.allclose(weight, other_weight, rtol=1e-6, atol=0)
        assert weight.min() > 0
        assert weight.max() == 1
        error = torch.randn(BATCH, generator=noise) * 100
        error[0], error[1] = torch.nan, torch.inf
        for one in (first, second):
            one.set(index, error)
        assert (first.tree.leaf - second.tree.leaf).abs().max() <= 1  # powers are rounded by either's own library
        assert (first.largest - second.largest).abs() <= 1
        second.tree.leaf.copy_(first.tree.leaf)
        torch.sum(second.tree.leaf.view(-1, second.tree.width), 1, out=second.tree.block)
        assert torch.equal(first.tree.block, second.tree.block)


@given(
    st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 5]), st.integers(1, 3)),
    st.sampled_from([0.0, 0.5]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_loops_and_tensors_give_the_same_transitions(shape, clip, end_on_life_loss, seed):
    """Over rows that no environment would give, too: flags, ages and rewards of all kinds, not finite ones among them."""
    stack, n_step, n = shape
    g = torch.Generator().manual_seed(seed)
    ring = Ring(40 * n, EnvSpec("x", n, (stack, 3), torch.uint8, Discrete(7), stack), "cpu", n_step)
    ring.frame[:-1] = torch.randint(256, ring.frame[:-1].shape, generator=g, dtype=torch.uint8)
    ring.flags.copy_(torch.randint(32, ring.flags.shape, generator=g))
    ring.age.copy_(torch.randint(6, ring.age.shape, generator=g))
    ring.action.copy_(torch.randint(7, ring.action.shape, generator=g))
    ring.reward.copy_(torch.randn(ring.reward.shape, generator=g))
    ring.reward[3], ring.reward[4], ring.reward[5] = torch.nan, torch.inf, -torch.inf
    ring.count = 40 + int(torch.randint(90, (), generator=g))
    t, env = uniform(64, ring.oldest, ring.count - n_step, n, g)
    first = [x.clone() for x in ring.transitions(t, env, n_step, Objective(0.9, clip, end_on_life_loss))]
    ring.compiled = False
    for name, x, y in zip(("s_tm1", "a_tm1", "r_t", "discount_t", "s_t", "weight"), first,
                          ring.transitions(t, env, n_step, Objective(0.9, clip, end_on_life_loss)), strict=True):  # fmt: skip
        assert x.dtype == y.dtype
        assert torch.equal(x.nan_to_num(5.0, 6.0, 7.0), y.nan_to_num(5.0, 6.0, 7.0)), name


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_where_nothing_can_be_drawn_nothing_weighs(compiled, beta):
    empty = priorities(compiled, 0.5)
    empty.tree.fill(0, ROWS, 0)
    _, weight = empty.draw(BATCH, torch.Generator().manual_seed(0), beta)
    assert (weight == 0).all()


@pytest.mark.parametrize("compiled", [True, False])
def test_a_row_of_little_priority_is_drawn_all_the_same(monkeypatch, compiled):
    """Were the sum rounded to float32 on the way, this one would be lost in the rounding."""
    tree, large, little = priorities(compiled, 0.5).tree, 1 << 42, 1 << 25
    tree.fill(0, ROWS - 1, large)
    tree.fill(ROWS - 1, ROWS, little)

    def last_of(coin: float) -> int:
        monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.full((BATCH,), coin, dtype=torch.float64))
        return int(tree.draw(torch.rand(BATCH, dtype=torch.float64))[-1])

    share = little / int(tree.block.sum()) * BATCH  # of the last of the equal parts
    assert [last_of(1 - share * x) for x in (0.01, 0.99, 1.01)] == [ROWS - 1, ROWS - 1, ROWS - 2]
