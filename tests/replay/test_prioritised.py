"""Prioritised replay: draws in proportion, exact sums, and never a row that can't be learnt from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arcturus.agents import c51, dqn, drqn
from arcturus.api import Objective
from arcturus.errors import ConfigError
from arcturus.replay.learner import EpsilonConfig, ReplayLearner
from arcturus.replay.prioritised import LEAST, Priorities
from arcturus.replay.ring import Ring
from arcturus.replay.sum_tree import UNIT, SumTree
from arcturus.seeding import Seeds


def coins(batch, generator):
    return torch.rand(batch, dtype=torch.float64, generator=generator)


def places(batch, total, seed):
    """Where in the sum each of `batch` draws looks, by definition: one uniform place in each equal part."""
    coin = coins(batch, torch.Generator().manual_seed(seed)).tolist()
    return [min(int((i + u) * (total / batch)), total - 1) for i, u in enumerate(coin)]


@given(
    leaves=st.lists(st.integers(0, 5 * UNIT), min_size=1, max_size=70).filter(any),
    width=st.sampled_from([1, 4, 16, 64]),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_a_draw_is_that_of_the_cumulative_sum(leaves, width, batch, seed):
    tree = SumTree(len(leaves), "cpu", width)
    tree.fill(0, len(leaves), torch.tensor(leaves))
    sums = np.cumsum(np.array(leaves, np.int64))
    want = [int(np.searchsorted(sums, place, side="right")) for place in places(batch, int(sums[-1]), seed)]
    assert tree.draw(coins(batch, torch.Generator().manual_seed(seed))).tolist() == want


@given(data=st.data(), size=st.integers(1, 90), width=st.sampled_from([1, 8, 16]))
@settings(max_examples=100, deadline=None)
def test_sums_are_of_what_they_say_after_any_changes(data, size, width):
    tree, model = SumTree(size, "cpu", width), np.zeros(size, np.int64)
    numbers = st.integers(0, 1 << 40)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            first, end = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
            value = data.draw(numbers)
            tree.fill(first, end, value)
            model[first:end] = value
        else:
            index = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9, unique=True))
            values = data.draw(st.lists(numbers, min_size=len(index), max_size=len(index)))
            tree.set(torch.tensor(index), torch.tensor(values))
            model[index] = values
        assert tree.leaf[:size].tolist() == model.tolist()
        assert tree.block.tolist() == [int(model[i : i + width].sum()) for i in range(0, size, width)]


def test_what_stands_twice_in_a_minibatch_keeps_the_sums_right():
    tree = SumTree(40, "cpu", 8)
    tree.set(torch.tensor([3, 3, 3, 20]), torch.tensor([5, 6, 7, 9]))
    assert tree.leaf[3] in (5, 6, 7)
    assert tree.block.tolist() == [int(tree.leaf[3]), 0, 9, 0, 0]


def test_the_largest_priorities_overflow_no_sum():
    tree = SumTree(1000, "cpu")
    tree.fill(0, 1000, tree.fixed_point(torch.full((1000,), 1e30)))
    assert 0 < tree.block.sum() <= 1 << 62
    drawn = tree.draw(coins(512, torch.Generator().manual_seed(0)))
    assert len(set(drawn.tolist())) > 300
    assert tree.fixed_point(torch.tensor([0.0, 1e-12])).tolist() == [1, 1]


def test_draws_are_in_proportion():
    tree = SumTree(300, "cpu")
    p = torch.arange(300)
    tree.fill(0, 300, p)
    g = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.cat([tree.draw(coins(64, g)) for _ in range(2_000)]), minlength=300)
    assert counts[0] == 0
    expected = 128_000 * p / p.sum()
    assert ((counts - expected).abs()[1:] < 6 * expected[1:].sqrt() + 6).all()


@pytest.mark.parametrize(("kept", "reach", "cut_every", "each"), [(40, 1, 0, 1), (40, 3, 11, 2), (25, 3, 7, 60), (137, 5, 13, 5)])
def test_only_rows_with_a_decision_and_a_whole_window_can_be_drawn(counter, random_actor, played, kept, reach, cut_every, each):
    """Through several turns of the ring, whether it is drawn from after every row or seldom."""
    envs = counter(3, 4)
    ring = Ring(kept * 3, envs.spec, "cpu")
    priorities, rows = Priorities(ring, 0.6, reach), played(envs, random_actor(), 137, cut_every)
    g = torch.Generator().manual_seed(0)
    for i, step in enumerate(rows, 1):
        ring.append(step)
        if i % each or not ring.ready(reach):
            continue
        index, weight = priorities.draw(16, g, 0.4)
        valid = {
            t % kept * 3 + n
            for t, n in itertools.product(range(ring.oldest, ring.count - reach), range(3))
            if rows[t].timestep.valid[n]
        }
        assert set(torch.nonzero(priorities.tree.leaf).squeeze(1).tolist()) == valid
        assert set(index.tolist()) <= valid
        assert (weight > 0).all()
        batch = ring.transitions(index // 3, index % 3, reach, Objective(0.9))
        assert (batch.weight == 1).all()
        priorities.set(index, torch.rand(16, generator=g))
    assert i % each or len(valid) > 30


@pytest.fixture
def stored(counter, random_actor, played):
    """A ring of 40 rows of 3 environments, and its priorities."""
    envs = counter(3, 4)
    ring = Ring(120, envs.spec, "cpu")
    for step in played(envs, random_actor(), 60, 11):
        ring.append(step)
    return ring, Priorities(ring, 0.6, 3)


def test_importance_weights_are_the_papers(stored):
    _, priorities = stored
    g = torch.Generator().manual_seed(0)
    for _ in range(30):
        index, _ = priorities.draw(16, g, 0.4)
        priorities.set(index, 3 * torch.rand(16, generator=g))
    index, weight = priorities.draw(16, g, 0.7)
    leaf = priorities.tree.leaf.double()
    size, p = int((leaf > 0).sum()), (leaf / leaf.sum())[index]
    want = (1 / (size * p)) ** 0.7
    torch.testing.assert_close(weight.double(), want / want.max(), rtol=1e-5, atol=0)
    assert (priorities.draw(16, g, 0.0)[1] == 1).all()


def test_new_rows_enter_with_the_largest_priority_that_has_been(stored, counter, random_actor, played):
    ring, priorities = stored
    g = torch.Generator().manual_seed(0)
    index, _ = priorities.draw(4, g, 0.4)
    priorities.set(index, torch.tensor([0.1, 7.0, 0.2, 0.3]))
    top = int(((7.0 + LEAST) ** 0.6) * UNIT)
    before = ring.count
    for step in played(counter(3, 4), random_actor(), 6):
        ring.append(step)
    priorities.set(index, torch.zeros(4))  # the largest there is now is smaller
    priorities.draw(4, g, 0.4)
    entered = priorities.tree.leaf.view(-1)[:120].view(40, 3)[[(before - 3 + k) % 40 for k in range(3, 6)]]
    assert set(entered.flatten().tolist()) <= {0, top}
    assert (entered == top).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_error_that_is_not_finite_leaves_the_priority_as_it_was(stored, bad):
    _, priorities = stored
    index, _ = priorities.draw(4, torch.Generator().manual_seed(0), 0.4)
    priorities.set(index, torch.tensor([0.5, 0.6, 0.7, 0.8]))
    before, largest = priorities.tree.leaf.clone(), priorities.largest.clone()
    priorities.set(index, torch.tensor([bad] * 4))
    assert torch.equal(priorities.tree.leaf, before)
    assert torch.equal(priorities.largest, largest)


def test_alpha_0_draws_uniformly(counter, random_actor, played):
    envs = counter(3, 4)
    ring = Ring(120, envs.spec, "cpu")
    for step in played(envs, random_actor(), 60):
        ring.append(step)
    priorities, g = Priorities(ring, 0.0, 1), torch.Generator().manual_seed(0)
    for _ in range(20):
        index, weight = priorities.draw(16, g, 1.0)
        assert (weight == 1).all()
        priorities.set(index, 100 * torch.rand(16, generator=g))
    assert len(set(priorities.tree.leaf[priorities.tree.leaf > 0].tolist())) == 1


def test_restored_priorities_draw_as_the_saved_ones(stored):
    ring, priorities = stored
    g = torch.Generator().manual_seed(0)
    index, _ = priorities.draw(16, g, 0.4)
    priorities.set(index, torch.rand(16, generator=g))
    twin = Priorities(ring, 0.6, 3)
    twin.load_state_dict(priorities.state_dict())
    one, two = (p.draw(16, torch.Generator().manual_seed(3), 0.4) for p in (priorities, twin))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    empty = Priorities(Ring(120, ring.spec, "cpu"), 0.6, 3)  # the rows were not saved
    empty.load_state_dict(priorities.state_dict())
    assert not empty.tree.leaf.any()
    with pytest.raises(ValueError, match="not those of the replay"):
        twin.load_state_dict(priorities.state_dict() | {"entered": ring.count + 1})


def test_beta_rises_to_1_over_its_steps(counter):
    spec = counter(2).spec
    config = EpsilonConfig(capacity=200, prioritised=True, importance_exponent=0.4, importance_steps=100)
    learner = ReplayLearner(config, spec, torch.device("cpu"), Seeds(0), lambda batch: ({}, None))
    seen = []
    for learner.steps in (0, 50, 100, 500):
        seen.append(learner.beta)
    assert seen == pytest.approx([0.4, 0.7, 1.0, 1.0])


@pytest.mark.parametrize(
    ("agent", "settings", "told"),
    [
        (drqn, {"core": "lstm", "prioritised": True}, "draws sequences uniformly"),
        (dqn, {"munchausen": 0.9, "double": True}, "Munchausen targets"),
        (c51, {"v_min": 1.0, "v_max": 1.0}, "use a smaller one"),
    ],
)
def test_parts_that_contradict_each_other_are_refused_in_one_line(counter, agent, settings, told):
    with pytest.raises(ConfigError) as e:
        agent.Agent(agent.Config(capacity=200, **settings), counter(2).spec, "cpu", Seeds(0))
    assert told in f"{e.value} {e.value.fix}"
