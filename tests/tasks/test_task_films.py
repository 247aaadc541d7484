"""The picture a task draws of itself for films: three named strips that show what was asked and answered, and when."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from PIL import ImageColor, ImageDraw

from arcturus.envs.own import TASKS as NAMES
from arcturus.pictures.palette import BAD, GROUND, HEAD, INK
from arcturus.pictures.strips import FALSE_ZERO, LEFT, TOP, Scene, picture

GREY = np.array(ImageColor.getrgb(GROUND))


def drawn(name="Copy", lengths=None, **settings):
    env = gym.make(f"NTM/{name}-v0", render_mode="rgb_array", disable_env_checker=True, **settings).unwrapped
    env.reset(seed=3, options={"lengths": lengths} if lengths else None)
    return env


def where(shown, colour):
    """[420, 640] bool: pixels of exactly this colour."""
    return (shown == np.array(ImageColor.getrgb(colour))).all(-1)


def below(shown):
    """Without the header, whose words and numbers differ for other reasons."""
    return shown[TOP - 14 :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [2, 5, 120])
def test_one_even_size_at_every_length_and_every_step_is_another_picture(name, length):
    env = drawn(name, (length, 3) if name == "RepeatCopy" else (length,), **({"low": 2, "best": 2} if "Sort" in name else {}))
    shown, over = [env.render()], False
    while not over and len(shown) < 20:
        over = env.step(env._y[env.t])[2]
        shown.append(env.render())
    assert {p.shape for p in shown} == {(420, 640, 3)}  # H.264 wants even ones, a film one size, and this one isn't scaled in it
    assert all((below(a) != below(b)).any() for a, b in itertools.pairwise(shown))


@pytest.fixture
def words(monkeypatch):
    """What is written, as (word, x, y)."""
    written, write = [], ImageDraw.ImageDraw.text

    def noted(self, xy, text, *how):
        written.append((text, *xy))
        write(self, xy, text, *how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    return written


@pytest.mark.parametrize(
    ("name", "flags", "markers"),
    [
        ("Copy", ["end"], []),
        ("RepeatCopy", ["end", "repeats"], ["end"]),
        ("AssociativeRecall", ["item", "query"], []),
        ("PrioritySort", ["end", "priority"], []),
        ("DynamicNGrams", [], []),
    ],
)
def test_strips_and_all_that_is_no_bit_have_their_names_beside_them(name, flags, markers, words):
    shown = drawn(name).render()
    beside = [(word, int(y)) for word, x, y in words if x < LEFT and y > TOP and word not in ("step", "whole tape")]
    assert [word for word, _ in beside] == ["inputs", *flags, "targets", *markers, "answers", *markers]
    assert [y for _, y in beside] == sorted(y for _, y in beside)
    for word, y in beside:
        assert (shown[y - 4 : y + 5, :LEFT] != GREY).any(), word
        assert (shown[y - 2 : y + 3, LEFT + 1 : LEFT + 7] != GREY).any(), word  # a cell
    ends = [y for word, y in beside if word in ("targets", "answers")]
    assert all((shown[y - 16, LEFT:] == GREY).mean() > 0.9 for y in ends)  # the strips are apart, but for the frame


def test_flags_and_numbers_are_in_colours_of_their_own():
    """The end flag is green, and so are priorities above 0; those below are violet; bits are neither."""
    env = drawn("PrioritySort", (5,), low=5, best=1)
    for _ in range(6):
        env.step(env._y[env.t])
    cells = env.render()[TOP : TOP + 109, LEFT : LEFT + 6 * 44].astype(int)
    green, violet = (cells @ np.array(sides) > 30 for sides in ([-1, 2, -1], [1, -2, 1]))
    columns = [[bool(c[:, 44 * t + 20].any()) for t in range(6)] for c in (green, violet)]
    assert columns[0] == [*(env._x[:5, -1] > 0.3), True]
    assert columns[1] == [*(env._x[:5, -1] < -0.3), False]
    assert sum(columns[0]) > 1
    assert any(columns[1])


FORMS = {
    "bits": [list(bits) for bits in itertools.product((0, 1), repeat=3)],
    "symbol": list(range(8)),
    "serial": [0, 1],
    "probs": [[p, 0.2, 0.9] for p in (0.0, 0.25, 0.5, 0.75, 1.0)],
    "quantised": [[k, 3, 12] for k in range(16)],
}


@pytest.mark.parametrize("actions", FORMS)
def test_different_answers_are_different_pictures(actions):
    shown = []
    for answer in FORMS[actions]:
        env = drawn("Copy", (2,), width=3, actions=actions)
        for _ in range(3):
            env.step(env.action_space.sample())
        env.step(np.array(answer))
        shown.append(below(env.render()).tobytes())
    assert len(set(shown)) == len(shown)


def test_actions_that_answer_nothing_are_not_drawn():
    a, b = drawn("Copy", (3,)), drawn("Copy", (3,))
    a.step(np.ones(8, np.int8))
    b.step(np.zeros(8, np.int8))
    np.testing.assert_array_equal(a.render(), b.render())


def scene(rows=9, bits=4, t=3, seed=0, **changes):
    """Of a tape that asks in its second half."""
    rng = np.random.default_rng(seed)
    answers = np.full((rows, bits), np.nan)
    answers[rows // 2 : t] = rng.integers(2, size=(max(t - rows // 2, 0), bits))
    one = Scene("a tape", rng.integers(2, size=(rows, bits + 1)).astype(float), rng.integers(2, size=(rows, bits)),
                np.arange(rows) >= rows // 2, answers, ("end",), (), t, over=False, solved=False, score=1.5)  # fmt: skip
    return one._replace(**changes)


def test_exactly_the_wrong_bits_are_red():
    """Bright where a 1 was answered, dark where a 0."""
    right = scene(t=9, over=True)
    right.answers[4:] = right.targets[4:]
    before, cells = below(picture(right)), np.zeros((420 - TOP + 14, 640), int)
    assert not (where(before, BAD) | where(before, FALSE_ZERO)).any()
    for t, i in itertools.product(range(4, 9), range(4)):
        wrong = right.answers.copy()
        wrong[t, i] = 1 - wrong[t, i]
        after = below(picture(right._replace(answers=wrong)))
        red = where(after, BAD if wrong[t, i] else FALSE_ZERO)
        np.testing.assert_array_equal(red, (after != before).any(-1))
        assert red.sum() > 500
        cells += red
        assert red.any(0).argmax() == LEFT + 44 * t + 1
    assert cells.max() == 1  # each has a place of its own


def test_no_input_is_shown_before_it_comes():
    now, later = scene().inputs.copy(), scene().inputs.copy()
    now[3] = 1 - now[3]
    later[4:] = 1 - later[4:]
    np.testing.assert_array_equal(picture(scene()), picture(scene(inputs=later)))
    assert (picture(scene()) != picture(scene(inputs=now))).any()


def test_the_present_step_is_framed_until_all_is_over():
    def frame(t, rows, **changes):
        columns = np.flatnonzero(where(picture(scene(rows, t=t, **changes))[: TOP - 3], HEAD).any(0))
        return columns.mean() if len(columns) else None

    assert np.allclose(np.diff([frame(t, 9) for t in range(9)]), 44)  # a cell to the right
    places = [frame(t, 400) for t in range(0, 400, 10)]
    assert min(places) > LEFT
    assert max(places) < 640
    assert np.allclose(places[5:35], places[5])  # the tape moves, and not the frame
    assert frame(9, 9, over=True) is None


def test_of_a_long_tape_the_part_round_the_present_step_and_a_bar_of_all_are_shown():
    def bar(shown):
        return shown[400:, LEFT:]

    one = scene(400, t=300)
    far = one.targets.copy()
    far[:200] = 1 - far[:200]
    np.testing.assert_array_equal(picture(one), picture(one._replace(targets=far)))
    near = one.targets.copy()
    near[290:310] = 1 - near[290:310]
    assert (picture(one) != picture(one._replace(targets=near))).any()
    assert (bar(picture(one)) != bar(picture(one._replace(t=301)))).any()
    assert not where(bar(picture(scene())), HEAD).any()  # of a short one there is nothing more to show
    wrong = one._replace(answers=np.where(np.isnan(one.answers), np.nan, one.targets))
    assert not where(bar(picture(wrong)), BAD).any()
    wrong.answers[210] = 1 - one.targets[210]  # long ago
    assert where(bar(picture(wrong)), BAD).any()


@pytest.mark.parametrize("bits", [1, 3, 60, 2_000])
@pytest.mark.parametrize("rows", [1, 3, 66, 67, 1_000])
def test_any_tape_fits(rows, bits):
    shown = picture(scene(rows, bits, t=rows - 1))
    assert shown.shape == (420, 640, 3)
    names = np.flatnonzero(where(shown[TOP:, :LEFT], INK).any(1))
    assert len(names) > 20
    assert names.max() < 290
    assert (shown[-2:] == GREY).all()  # nothing runs out of the picture
    assert (shown[TOP:, -8:] == GREY).all()


def test_without_a_render_mode_there_is_no_picture():
    assert gym.make("NTM/Copy-v0").unwrapped.render() is None
