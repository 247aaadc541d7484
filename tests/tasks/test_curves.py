"""Curves of the tape tasks: what is drawn over what, and what guessing and the optimal observer cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from arcturus.envs.tasks.sequences import TASKS, Copy, DynamicNGrams
from arcturus.pictures.curves import chance, learning_curves, length_curves, optimum, points, smooth


@pytest.mark.parametrize("name", TASKS)
def test_guessing_costs_what_it_says_over_all_lengths(name):
    task = TASKS[name](low=16, high=21) if name == "PrioritySort" else TASKS[name](low=3, high=7)
    every = itertools.product(*(range(low, high + 1) for low, high in task.ranges))
    assert chance(task) == pytest.approx(np.mean([task.outputs * task.answers(lengths) for lengths in every]))


def test_the_optimum_of_ngrams():
    """Two coins of one bias from Beta(1/2, 1/2): the second is as the first with probability 3/4."""
    assert optimum(DynamicNGrams(low=2, high=2, n=1)) == pytest.approx(1 - (3 * np.log2(3 / 4) + np.log2(1 / 4)) / 4, abs=0.06)
    assert optimum(DynamicNGrams(low=2, high=4, n=2)) == pytest.approx(1 + 2 * 1, abs=0.4)
    assert optimum(DynamicNGrams()) == pytest.approx(optimum(DynamicNGrams(low=199, high=201), 2_000), abs=4)
    assert optimum(Copy()) == 0


def test_the_curve_is_a_mean_over_long_and_short_sequences_and_ends_where_the_run_does():
    """Costs of 2 bits half as often as of 17, whose mean is 12: what guessing is a mean of, too."""
    mean = smooth(np.tile([2.0, 17.0, 17.0], 100))
    assert len(mean) == 300
    np.testing.assert_allclose(mean[10:-10], 12, atol=1)
    assert smooth(np.array([5.0, 3.0])).tolist() == [5.0, 3.0]
    assert not len(smooth(np.empty(0)))


def test_bits_are_drawn_over_sequences_seen():
    """The supervised agent counts its sequences itself; of an agent that learns by reward they are the episodes at the evaluation's step."""
    taught = [
        {"step": 10 * i, "task/bits_per_sequence": 80.0 - i, "task/sequences": 4 * i, "charts/episodes": 0} for i in range(5)
    ]
    x, y = points(taught, "task/bits_per_sequence")
    assert (x.tolist(), y.tolist()) == ([0, 4, 8, 12, 16], [80, 79, 78, 77, 76])
    played = [
        {"step": 0, "charts/episodes": 0},
        {"step": 100, "charts/episodes": 20},
        {"step": 50, "eval/bits_per_sequence": 7.0},
    ]
    x, y = points(played, "eval/bits_per_sequence")
    assert (x.tolist(), y.tolist()) == ([10], [7])
    figure = learning_curves([("a", taught), ("b", played)], Copy(), "copy")
    lines = [line.get_ydata() for line in figure.axes[0].lines]
    assert any(np.allclose(y, 84) for y in lines if len(y) == 2)  # guessing: 8 bits of 10.5 vectors


def test_scores_by_length_are_drawn_where_they_belong():
    scores = [{"lengths": [n], "bits": 0.5 * n, "error_bits": 0.0, "exact": 0.9, "chance": 8 * n} for n in (30, 10)]
    figure = length_curves([("a", scores)], Copy(), "copy")
    bits, wrong, exact = (axes.lines[0] for axes in figure.axes)
    assert (bits.get_xdata().tolist(), bits.get_ydata().tolist()) == ([10, 30], [5, 15])
    assert exact.get_ydata().tolist() == [90, 90]
    length_curves([("a", [{**s, "lengths": [*s["lengths"], 2]} for s in scores])], TASKS["RepeatCopy"](), "repeat copy")
