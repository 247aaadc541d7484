"""Tape tasks as pictures and text: one size, every step another picture, mistakes in red, the head where it stands."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from arcturus.envs import EnvConfig
from arcturus.envs.own import TAPES
from arcturus.scoring.film import frames_per_second, opened

LEFT, RIGHT, UP, _ = range(4)
COPY, _, REPEAT, _, ADD, *_ = TAPES

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date.*")  # Gymnasium on every v0 that has a v1


def make(env_id, **settings):
    return gym.make(env_id, **settings).unwrapped


def walk(env, rng, steps=12):
    """Renders along random play that writes right symbols, and some wrong ones."""
    env.reset(seed=int(rng.integers(1000)))
    pictures = [env.render()]
    for _ in range(steps):
        if env.playing:
            symbol = (env.target[len(env.written)] + int(rng.random() < 0.05)) % env.base
            env.step((int(rng.integers(env.moves)), int(rng.random() < 0.5), symbol))
            pictures.append(env.render())
    return pictures


@pytest.mark.slow
@pytest.mark.parametrize("env_id", TAPES)
@pytest.mark.parametrize(("low", "high", "base"), [(1, 5, 2), (30, 32, 5), (3, 200, 26)])
def test_pictures_keep_one_even_size_and_show_every_step(env_id, low, high, base):
    """A film that begins with one size can't go on with another, and H.264 wants even ones."""
    env = make(env_id, render_mode="rgb_array", low=low, high=high, base=base)
    for seed in range(3):
        pictures = walk(env, np.random.default_rng(seed))
        assert {p.shape for p in pictures} == {(420, 640, 3)}
        assert all(p.dtype == np.uint8 for p in pictures)
        assert all((a != b).any() for a, b in zip(pictures, pictures[1:], strict=False))


def red(picture):
    return int((picture == np.array([0xE5, 0x48, 0x4D])).all(-1).sum())


def test_a_mistake_is_drawn_in_red_and_the_head_where_it_stands(at):
    env = at(make(COPY, render_mode="rgb_array", low=1, high=5), [[2, 0, 4]])

    def head():
        """The middle of what is drawn in the head's colour over the tape."""
        return np.argwhere((env.render()[:250] == np.array([0xF2, 0xB1, 0x34])).all(-1)).mean(0)

    places = [head()]
    for _ in range(6):
        env.step((RIGHT, 0, 0))
        places.append(head())
    steps = np.diff(np.array(places)[:, 1])
    assert np.allclose(steps[:3], 32)  # a cell to the right
    assert np.allclose(steps[3:], 0)  # beyond the blank cell it stays on it
    before = red(env.render())
    env.step((RIGHT, 1, 1))
    assert before == 0
    assert red(env.render()) > 300


def test_the_text_is_what_a_reader_of_the_terminal_needs(at):
    env = at(make(COPY, render_mode="ansi"), [[2, 0, 4]])
    env.step((RIGHT, 1, 2))
    env.step((RIGHT, 1, 1))
    assert env.render().splitlines() == [
        "Tape/Copy-v0   step 2 of 10   score 0.5   wrong symbol",
        "action   write B, then right   reward -0.5",
        "head     at cell 2",
        "tape      . C A[E].",
        "target      C A E",
        "written     C B!",
    ]
    env = at(make(ADD, render_mode="ansi"), [[2, 0], [1, 2]])
    for move in (UP, LEFT, LEFT):
        env.step((move, 0, 0))
    assert env.render().splitlines()[1:] == [
        "action   move left   reward 0",
        "head     at cell -2, row -1",
        "tape     [.]. . .",
        "          . 2 0 .",
        "          . 1 2 .",
        "          . . . .",
        "target      0 0 1",
        "written",
    ]


@pytest.mark.parametrize("env_id", TAPES)
def test_texts_fit_a_terminal(env_id):
    env = make(env_id, render_mode="ansi")
    for text in walk(env, np.random.default_rng(0), 40):
        assert max(map(len, text.splitlines())) <= 80
        assert text.isascii()
    assert make(env_id).render() is None


def test_films_run_at_four_steps_a_second_and_are_drawn_by_the_environment_that_is_played():
    config = EnvConfig(id=REPEAT, options="low=2,high=4")
    assert frames_per_second(config) == 4
    with opened(config, "cpu") as (envs, screen):
        envs.restart(np.array([5]))
        first = screen.first(5)
        action = np.array([RIGHT, 1, envs.backend._envs.envs[0].unwrapped.target[0]])
        envs.send(torch.as_tensor(action)[None])
        assert envs.recv().reward.tolist() == [1.0]
        picture, _ = screen.next(action)
    assert picture.shape == first.shape == (420, 640, 3)
    assert (picture != first).any()
