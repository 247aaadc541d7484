"""Tape tasks through others' interfaces: three forms of actions, Gymnasium's and stable-baselines3's checkers, settings, arcturus.make."""

from __future__ import annotations

import inspect
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import arcturus
from arcturus.envs import family
from arcturus.envs.own import TAPES

COPY, TWICE, _, _, ADD, *_ = TAPES
FORMS = ("multi", "flat", "tuple")

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date.*")  # Gymnasium on every v0 that has a v1


def make(env_id, **settings):
    return gym.make(env_id, **settings).unwrapped


@pytest.mark.parametrize("env_id", TAPES)
def test_three_forms_of_actions_play_the_same_game(env_id):
    envs = {form: make(env_id, actions=form, low=2, high=6) for form in FORMS}
    moves = 4 if "Addition" in env_id else 2
    base = envs["multi"].base
    assert envs["multi"].action_space == gym.spaces.MultiDiscrete([moves, 2, base])
    assert envs["flat"].action_space == gym.spaces.Discrete(moves * 2 * base)
    assert envs["tuple"].action_space == gym.spaces.Tuple([gym.spaces.Discrete(n) for n in (moves, 2, base)])
    rng = np.random.default_rng(0)
    for seed in range(30):
        assert len({env.reset(seed=seed)[0] for env in envs.values()}) == 1
        while envs["multi"].playing:
            right = envs["multi"].target[len(envs["multi"].written)]
            m, w, c = (int(rng.integers(n)) for n in (moves, 2, base))
            c = right if rng.random() < 0.8 else c
            actions = {"multi": np.array([m, w, c]), "flat": np.int64((m * 2 + w) * base + c), "tuple": (m, np.int64(w), c)}
            assert all(envs[form].action_space.contains(a) for form, a in actions.items())
            assert len({envs[form].step(a)[:4] for form, a in actions.items()}) == 1


def test_every_flat_action_is_a_move_a_write_and_a_symbol_of_its_own():
    env = make(ADD, actions="flat")
    assert len({env._decode(a) for a in range(env.action_space.n)}) == env.action_space.n == 24


@pytest.mark.parametrize(
    ("form", "action"), [("multi", [2, 0, 0]), ("multi", [-1, 0, 0]), ("multi", [0, 0, 5]), ("flat", 20), ("flat", -1)]
)
def test_an_impossible_action_raises_instead_of_reading_a_list_from_its_end(form, action):
    env = make(COPY, actions=form)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="is not in"):
        env.step(action)


@given(
    st.sampled_from(list(TAPES)), st.sampled_from(FORMS), st.integers(2, 26), st.integers(1, 40), st.integers(0, 2**32 - 1)
)
def test_random_play_never_raises_and_always_ends(env_id, form, base, length, seed):
    env = make(env_id, actions=form, base=base, low=length, high=length)
    env.action_space.seed(seed)
    seen, _ = env.reset(seed=seed)
    rewards, ended = [], False
    while not ended:
        assert env.observation_space.contains(seen)
        seen, reward, ended, truncated, _ = env.step(env.action_space.sample())
        rewards.append(reward)
        assert reward in ((1.0, -0.5, -1.0, 0.0) if ended else (1.0, 0.0))
        assert not truncated
    assert len(rewards) <= env.time_limit + 1
    assert env.solved == (sum(rewards) == len(env.target))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("env_id", TAPES)
@pytest.mark.parametrize("form", FORMS)
def test_gymnasiums_checker_passes(env_id, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        check_env(make(env_id, actions=form))


@pytest.mark.parametrize("env_id", TAPES)
@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_gymnasiums_checker_passes_with_pictures(env_id, mode):
    check_env(make(env_id, render_mode=mode))


@pytest.mark.parametrize("env_id", TAPES)
@pytest.mark.parametrize("form", ["multi", "flat"])
def test_stable_baselines_checker_passes(env_id, form):
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        check(make(env_id, actions=form))


def test_all_are_listed_and_their_settings_are_told_by_their_signatures():
    assert set(TAPES) <= set(gym.registry)
    for env_id in TAPES:
        assert family(env_id) == "tape"
        shown = inspect.signature(type(make(env_id))).parameters
        assert make(env_id).base == shown["base"].default
        assert (make(env_id).low, make(env_id).high) == (shown["low"].default, shown["high"].default) == (30, 32)


IMPOSSIBLE = [{"base": 1}, {"base": 27}, {"base": 2.5}, {"low": 0}, {"low": 9, "high": 8}, {"high": 10**6}, {"low": "2"}]


@pytest.mark.parametrize("settings", [*IMPOSSIBLE, {"actions": "box"}, {"duplication": 0}, {"duplication": 1.5}], ids=str)
def test_impossible_settings_are_told_in_one_line(settings):
    with pytest.raises(ValueError, match="must be") as e:
        make(TWICE, **settings)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("length", [0, -3, 10**6, 2.5, "4", None])
def test_an_impossible_length_is_told_in_one_line(length):
    with pytest.raises(ValueError, match="length .* must be"):
        make(COPY).reset(options={"length": length})


@pytest.mark.parametrize(("env_id", "options"), [(ADD, "low=2,high=3,actions=flat"), (TWICE, "low=4,high=9,duplication=3")])
def test_they_play_through_arcturus_make(env_id, options):
    with arcturus.make(env_id, 3, options=options) as envs:
        obs, _ = envs.reset()
        ended = 0
        for t in range(60):
            assert (obs.sum(-1) == 1).all()  # one-hot
            action = torch.tensor(np.array([envs.single_action_space.sample() for _ in range(3)]))
            obs, _, terminated, truncated, _ = envs.step(action)
            ended += int(terminated.sum())
            assert not truncated.any()
        assert ended > 3
