"""The tapes of the algorithmic tasks, against definitions in plain Python: one sequence at a time, lists of whole numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arcturus.envs.own import TASKS as NAMES
from arcturus.envs.own import TURING
from arcturus.envs.tasks import task_of
from arcturus.envs.tasks.sequences import MOST, TASKS, AssociativeRecall, Copy, DynamicNGrams, PrioritySort, RepeatCopy, Tapes

SMALL = {
    "Copy": Copy(high=4, width=3),
    "RepeatCopy": RepeatCopy(high=3, repeats_high=3, width=2),
    "AssociativeRecall": AssociativeRecall(high=4, width=2, vectors=2),
    "DynamicNGrams": DynamicNGrams(low=3, high=9, n=3),
    "PrioritySort": PrioritySort(low=3, high=5, width=3, best=3),
}


def sample(task, batch, lengths, seed=0) -> Tapes:
    return task.sample(torch.Generator().manual_seed(seed), batch, lengths)


def sequences(tapes):
    """(inputs, targets, mask) of each sequence as lists of rows."""
    x, y, mask = tapes
    return [(x[:, i].tolist(), y[:, i].tolist(), mask.tolist()) for i in range(x.shape[1])]


# -- layout: a sequence is taken apart by what is said of it, and must come out of its parts again ------------------------------


def written(shown, answers):
    """Rows of input and rows of answers, one after the other, with nothing shown while the answer is asked for."""
    blank_in, blank_out = [0] * len(shown[0]), [0] * len(answers[0])
    inputs = shown + [blank_in] * len(answers)
    targets = [blank_out] * len(shown) + answers
    return inputs, targets, [False] * len(shown) + [True] * len(answers)


def bits_of(rows, width):
    """The first `width` numbers of each row: bits."""
    out = [row[:width] for row in rows]
    assert all(b in (0.0, 1.0) for row in out for b in row)
    return [[int(b) for b in row] for row in out]


def plain_copy(task, sequence, length):
    w = task.width
    inputs, targets, mask = [], [], []
    for k in range(task.series):
        vectors = bits_of(sequence[0][k * (2 * length + 1) :][:length], w)
        x, y, m = written([[*v, 0] for v in vectors] + [[0] * w + [1]], vectors)
        inputs, targets, mask = inputs + x, targets + y, mask + m
    return inputs, targets, mask


def plain_repeat_copy(task, sequence, length, repeats):
    w = task.width
    possible = range(task.repeats_low, task.repeats_high + 1)
    mean = sum(possible) / len(possible)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in possible) / len(possible)) or 1.0
    vectors = bits_of(sequence[0][:length], w)
    count = pytest.approx((repeats - mean) / deviation, abs=1e-6)
    answers = [[*v, 0] for _ in range(repeats) for v in vectors] + [[0] * w + [1]]
    return written([[*v, 0, 0] for v in vectors] + [[0] * w + [1, count]], answers)


def plain_recall(task, sequence, items):
    w, v = task.width, task.vectors
    shown = [bits_of(sequence[0][k * (v + 1) + 1 :][:v], w) for k in range(items)]
    asked = bits_of(sequence[0][items * (v + 1) + 2 :][:v], w)
    after = [shown[k + 1] for k in range(items - 1) if shown[k] == asked]  # never the last; there may be equal items
    answer = sequence[1][-v:]
    assert answer in after
    item_flag, query_flag = [[0] * w + [1, 0]], [[0] * w + [0, 1]]
    rows = [row for item in shown for row in item_flag + [[*x, 0, 0] for x in item]] + item_flag
    return written(rows + query_flag + [[*x, 0, 0] for x in asked] + query_flag, answer)


def plain_ngrams(task, sequence, length):
    bits = [row[0] for row in sequence[1]]
    assert set(bits) <= {0, 1}
    return [[b] for b in [0, *bits[:-1]]], [[b] for b in bits], [True] * length


def plain_sort(task, sequence, items):
    w = task.width
    vectors, priorities = bits_of(sequence[0][:items], w), [row[-1] for row in sequence[0][:items]]
    assert all(-1 <= p <= 1 for p in priorities)
    assert len(set(priorities)) == items
    order = sorted(range(items), key=lambda i: -priorities[i])
    shown = [[*v, 0, p] for v, p in zip(vectors, priorities, strict=True)]
    return written([*shown, [0] * w + [1, 0]], [vectors[i] for i in order[: task.best]])


PLAIN = dict(zip(NAMES, (plain_copy, plain_repeat_copy, plain_recall, plain_ngrams, plain_sort), strict=True))

CASES = [
    *((Copy(width=w, series=s), (n,)) for w, s, n in [(8, 1, 20), (1, 1, 1), (3, 4, 2), (6, 10, 5)]),
    *((RepeatCopy(width=w), (n, r)) for w, n, r in [(8, 10, 10), (6, 1, 1), (2, 3, 20)]),
    (RepeatCopy(repeats_low=3, repeats_high=3), (2, 3)),
    (RepeatCopy(repeats_low=2, repeats_high=5), (2, 2)),
    *((AssociativeRecall(), (n,)) for n in (2, 6, 20)),
    (AssociativeRecall(width=1, vectors=1), (3,)),
    (AssociativeRecall(width=4, vectors=5), (4,)),
    *((DynamicNGrams(low=1, n=n), (length,)) for n, length in [(6, 200), (6, 3), (1, 9), (2, 1)]),
    *((PrioritySort(low=low, best=best), (n,)) for low, best, n in [(20, 16, 20), (1, 1, 1), (4, 4, 9)]),
]


@pytest.mark.parametrize(("task", "lengths"), CASES, ids=str)
def test_a_tape_is_what_the_paper_says_row_by_row(task, lengths):
    tapes = sample(task, 9, lengths)
    T = task.rows(lengths)
    assert tapes.inputs.shape == (T, 9, task.inputs)
    assert tapes.targets.shape == (T, 9, task.outputs)
    assert tapes.mask.shape == (T,)
    assert int(tapes.mask.sum()) == task.answers(lengths)
    assert (tapes.inputs.dtype, tapes.targets.dtype, tapes.mask.dtype) == (torch.float32, torch.uint8, torch.bool)
    for sequence in sequences(tapes):
        assert PLAIN[type(task).__name__](task, sequence, *lengths) == sequence


def test_lengths_in_rows_are_those_of_the_paper():
    """Sequences of 20: 41 rows.  Recall: 4 N + 1 rows of items, 5 of the query, 3 of the answer."""
    assert Copy().rows((20,)) == 41
    assert Copy(series=10).rows((5,)) == 110
    assert RepeatCopy().rows((10, 10)) == 10 + 1 + 100 + 1
    assert AssociativeRecall().rows((6,)) == 4 * 6 + 1 + 5 + 3
    assert DynamicNGrams().rows((200,)) == 200
    assert PrioritySort().rows((20,)) == 20 + 1 + 16


@pytest.mark.parametrize(
    ("env_id", "inputs", "outputs", "chance"),
    [("Copy", 9, 8, 160), ("RepeatCopy", 10, 9, 909), ("AssociativeRecall", 8, 6, 18), ("DynamicNGrams", 1, 1, 200),
     ("PrioritySort", 10, 8, 128)],
)  # fmt: skip
def test_widths_and_bits_of_guessing_at_the_longest_are_the_papers(env_id, inputs, outputs, chance):
    task, _ = task_of(f"NTM/{env_id}-v0", {})
    assert (task.inputs, task.outputs) == (inputs, outputs)
    assert task.answers(task.longest) * task.outputs == chance


def test_ranges_of_training_are_the_papers():
    ranges = {name: task_of(f"NTM/{name}-v0", {})[0].ranges for name in NAMES}
    assert ranges == {
        "Copy": ((1, 20),), "RepeatCopy": ((1, 10), (1, 10)), "AssociativeRecall": ((2, 6),), "DynamicNGrams": ((200, 200),),
        "PrioritySort": ((20, 20),),
    }  # fmt: skip
    assert len(TURING) == len(NAMES) * 4 - 3 + 1


@pytest.mark.parametrize(("low", "high"), [(1, 10), (3, 4), (2, 17)])
def test_repeats_are_shown_with_mean_0_and_variance_1_over_their_range(low, high):
    task = RepeatCopy(repeats_low=low, repeats_high=high)
    shown = torch.stack([sample(task, 1, (2, r)).inputs[2, 0, -1] for r in range(low, high + 1)])
    assert shown.mean().abs() < 1e-6
    assert (shown.square().mean() - 1).abs() < 1e-5


# -- what is drawn --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lengths"), [("Copy", (4,)), ("RepeatCopy", (3, 2)), ("AssociativeRecall", (4,)),
                                               ("PrioritySort", (5,))])  # fmt: skip
def test_bits_are_fair_and_independent_between_rows_channels_and_sequences(name, lengths):
    """Correlations of 6,000 draws have a standard deviation of 1/77."""
    task = SMALL[name]
    x = sample(task, 6_000, lengths).inputs
    width = task.width
    rows = [t for t in range(len(x)) if (x[t, :, :width] != 0).any()]
    bits = x[rows][:, :, :width].transpose(0, 1).flatten(1)  # [B, every bit of a sequence]
    if name == "AssociativeRecall":
        bits = bits[:, : lengths[0] * task.vectors * width]  # the query says again what was said
    assert (bits.mean(0) - 0.5).abs().max() < 5 * 0.5 / 77
    off = torch.corrcoef(bits.T) - torch.eye(bits.shape[1])
    assert off.abs().max() < 5 / 77
    neighbours = ((bits[1:] == bits[:-1]).float().mean() - 0.5).abs()
    assert neighbours < 0.01


def test_every_item_but_the_last_is_asked_for_equally_often():
    """With items that differ; 4,000 draws over 4 places, each within 5 standard deviations."""
    task = AssociativeRecall(width=16)
    tapes = sample(task, 4_000, (5,))
    items = tapes.inputs[:20].view(5, 4, 4_000, 18)[:, 1:, :, :16]
    query = tapes.inputs[22:25, :, :16]
    place = (items == query).all(-1).all(1)  # [5, B]
    assert (place.sum(0) == 1).all()
    counts = place.sum(1)
    assert counts[4] == 0
    assert (counts[:4] - 1_000).abs().max() < 5 * (1_000 * 0.75) ** 0.5


def test_priorities_are_uniform_and_answers_come_in_falling_order():
    tapes = sample(PrioritySort(width=32), 2_000, (20,))
    p = tapes.inputs[:20, :, 33]
    assert abs(p.mean()) < 4 * (1 / 3 / 40_000) ** 0.5
    assert abs(p.square().mean() - 1 / 3) < 0.01
    assert -1 <= p.min() < -0.999
    assert 0.999 < p.max() <= 1
    said = tapes.targets[21:]  # 32 bits tell the vectors apart
    which = (said[:, None] == tapes.inputs[None, :20, :, :32]).all(-1)  # [16, 20, B]
    assert (which.sum(1) == 1).all()
    chosen = torch.einsum("kib,ib->kb", which.float(), p)
    assert (chosen[1:] < chosen[:-1]).all()
    assert (chosen[-1] >= p.sort(0, descending=True).values[15]).all()


def test_tables_of_ngrams_are_beta_one_half_one_half():
    """Of a table with one entry: E[p^k] = 1/2, 3/8, 5/16, 35/128, each estimated from sequences of 40 bits without bias."""
    task, N, L = DynamicNGrams(low=1, n=1), 20_000, 40
    ones = sample(task, N, (L,)).targets.sum((0, 2)).double()
    for k, moment in enumerate((1 / 2, 3 / 8, 5 / 16, 35 / 128), 1):
        estimate = torch.ones(N, dtype=torch.float64)
        for j in range(k):
            estimate *= (ones - j) / (L - j)
        assert abs(estimate.mean() - moment) < 4 * estimate.std() / N**0.5


def test_the_first_bits_are_fair_coins_whatever_the_table():
    """Drawn from the table they would agree with one another: 000 would come in 5/16 of the sequences instead of 1/8."""
    bits = sample(DynamicNGrams(n=4), 16_000, (3,)).targets[..., 0].long()
    counts = (bits * torch.tensor([4, 2, 1])[:, None]).sum(0).bincount(minlength=8)
    assert (counts - 2_000).abs().max() < 5 * (2_000 * 7 / 8) ** 0.5


def test_bits_depend_on_the_bits_before_by_a_table_that_stays_for_the_tape_and_changes_between_tapes():
    """After the same context the same probability: 400 bits of one sequence, split into halves, agree on every context."""
    bits = sample(DynamicNGrams(n=3), 3_000, (400,)).targets[..., 0].double()
    context = (2 * bits[:-2] + bits[1:-1]).long()
    rates = []
    for half in (slice(0, 199), slice(199, 398)):
        here = torch.stack([context[half] == c for c in range(4)])
        ones = (here * bits[2:][half]).sum(1)
        rates.append(torch.where(here.sum(1) >= 20, ones / here.sum(1).clamp_min(1), torch.nan))  # [4, B]
    first, second = rates
    seen = ~(first.isnan() | second.isnan())
    for c in range(4):
        both = torch.stack([first[c][seen[c]], second[c][seen[c]]])
        assert torch.corrcoef(both)[0, 1] > 0.9
    several = seen[1] & seen[2]
    assert abs(torch.corrcoef(torch.stack([first[1][several], first[2][several]]))[0, 1]) < 0.1


# -- the optimal observer of n-grams --------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.lists(st.integers(0, 1), min_size=1, max_size=40))
def test_the_optimal_observer_counts_what_followed_the_same_context(n, bits):
    told = DynamicNGrams(n=n).optimal(torch.tensor(bits)[:, None])[:, 0].tolist()
    for t in range(len(bits)):
        context = bits[t - n + 1 : t]
        before = [bits[s] for s in range(n - 1, t) if bits[s - n + 1 : s] == context]
        wanted = (before.count(1) + 0.5) / (len(before) + 1) if t >= n - 1 else 0.5
        assert told[t] == wanted


def test_the_optimal_observer_needs_133_bits():
    """Reference: 133.27 +- 0.09 bits per sequence of 200 by 160,000 sequences; one costs 36 more or less."""
    task = DynamicNGrams()
    y = sample(task, 4_000, (200,), seed=1).targets[..., 0]
    p = task.optimal(y)
    cost = -torch.where(y.bool(), p, 1 - p).log2().sum(0)
    error = cost.std() / 4_000**0.5
    assert 34 < cost.std() < 38
    assert abs(cost.mean() - 133.27) < 4 * error
    assert p[:5].eq(0.5).all()
    right = ((p > 0.5) == y.bool()).double()[5:]
    assert abs(right.mean() - 0.769) < 0.01  # the likelier bit, of the 195 that follow a context


def test_no_other_observer_of_the_counts_does_better_on_the_same_tapes():
    """Neither one of shorter or longer contexts, nor one that is more or less sure of itself."""
    task = DynamicNGrams(n=3)
    y = sample(task, 3_000, (100,), seed=2).targets[..., 0]

    def cost(p):
        return -torch.where(y.bool(), p, 1 - p).log2().sum(0)

    p = task.optimal(y)
    surer = [(0.5 + k * (p - 0.5)).clamp(0.005, 0.995) for k in (0.95, 1.05)]
    for rival in [*surer, *(DynamicNGrams(n=n).optimal(y) for n in (1, 2, 4))]:
        excess = cost(rival) - cost(p)
        assert excess.mean() > 2 * excess.std() / 3_000**0.5


# -- generators, batches and impossible numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_tapes_are_a_function_of_the_generator_and_of_nothing_else(name):
    task = SMALL[name]
    one, two = (sample(task, 5, task.longest, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    other = sample(task, 5, task.longest, seed=4)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator was used"
    assert not torch.equal(one.inputs, other.inputs)
    generator = torch.Generator().manual_seed(3)
    first, second = (task.sample(generator, 5, task.longest) for _ in range(2))
    assert torch.equal(first.inputs, one.inputs)
    assert not torch.equal(first.inputs, second.inputs)
    assert len({str(first.targets[:, i].tolist()) for i in range(5)}) > 1


@pytest.mark.parametrize(("kind", "settings", "says"), [
    (Copy, {"low": 0}, "low is 0"), (Copy, {"low": -3}, "low is -3"), (Copy, {"high": MOST + 1}, "high is 100001"),
    (Copy, {"low": 5, "high": 4}, "range of length is empty"), (Copy, {"width": 0}, "width is 0"),
    (Copy, {"width": 2.0}, "width is 2.0"), (Copy, {"width": True}, "width is True"), (Copy, {"width": "8"}, "width is '8'"),
    (Copy, {"width": None}, "width is None"), (Copy, {"series": 0}, "series is 0"), (Copy, {"high": float("nan")}, "high is nan"),
    (RepeatCopy, {"repeats_low": 4, "repeats_high": 3}, "range of repeats is empty"), (RepeatCopy, {"repeats_low": 0}, "repeats_low is 0"),
    (AssociativeRecall, {"low": 1}, "low is 1"), (AssociativeRecall, {"low": 7}, "range of items is empty"),
    (AssociativeRecall, {"vectors": 0}, "vectors is 0"), (DynamicNGrams, {"n": 0}, "n is 0"), (DynamicNGrams, {"n": 17}, "at most"),
    (PrioritySort, {"low": 15, "best": 16}, "best 16"), (PrioritySort, {"best": 21}, "best 21"), (PrioritySort, {"best": 0}, "best is 0"),
])  # fmt: skip
def test_impossible_numbers_are_told_in_one_line(kind, settings, says):
    with pytest.raises(ValueError, match=says) as e:
        kind(**settings)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("name", "lengths"), [
    ("Copy", (0,)), ("Copy", ()), ("Copy", (2, 2)), ("Copy", (2.5,)), ("Copy", (MOST + 1,)), ("Copy", ("3",)), ("RepeatCopy", (3,)),
    ("RepeatCopy", (3, 0)), ("AssociativeRecall", (1,)), ("PrioritySort", (2,)), ("DynamicNGrams", (-1,)),
])  # fmt: skip
def test_impossible_lengths_are_told_in_one_line(name, lengths):
    with pytest.raises(ValueError, match=r"is not a length|at least 2|are too few") as e:
        SMALL[name].check(lengths)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", NAMES)
def test_any_length_that_passes_the_check_makes_a_tape(name):
    task = SMALL[name]
    for lengths in [tuple(low for low, _ in task.ranges), task.longest, tuple(3 * high for high in task.longest)]:
        task.check(lengths)
        assert len(sample(task, 2, lengths).mask) == task.rows(lengths)
        assert task.remembered(lengths) >= 1


def test_what_a_memory_must_hold():
    assert Copy(series=10).remembered((5,)) == 5  # slots can be used again
    assert RepeatCopy().remembered((10, 20)) == 10
    assert AssociativeRecall().remembered((6,)) == 6
    assert DynamicNGrams().remembered((200,)) == 32
    assert PrioritySort().remembered((20,)) == 20


def test_every_task_has_a_name_and_its_ids():
    assert tuple(TASKS) == NAMES
    for env_id, entry in TURING.items():
        settings = entry["kwargs"]
        task, play = task_of(env_id, {})
        assert type(task) is TASKS[settings["task"]]
        assert play.reward == settings.get("reward", "bits")
    with pytest.raises(TypeError, match="no setting colour"):
        task_of("NTM/Copy-v0", {"colour": 1})
