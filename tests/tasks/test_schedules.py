"""Curricula: each rule as its table says it, against plain counts; and that an evaluation is none of a curriculum's business."""

from __future__ import annotations

import json
import math
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arcturus.envs import EnvConfig, make, open_training
from arcturus.envs.schedules import SCHEDULES, WINDOW, Schedule
from arcturus.envs.tasks.device import TaskEnvs

ADAPTIVE = SCHEDULES[1:]
DRAWS = 20_000


def at_level(name, level, ranges=((1, 21),), **kwargs):
    schedule = Schedule(name, ranges, **kwargs)
    schedule.level = level
    return schedule


RANGES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30)).map(lambda r: (r[0], r[0] + r[1])), min_size=1, max_size=3)
EPISODES = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, -0.5, -1.0, -1.5, -40.0])), max_size=60)


# -- draws --------------------------------------------------------------------------------------------------------------------------


@given(st.sampled_from(SCHEDULES), RANGES, EPISODES, st.integers(0, 2**32 - 1))
def test_lengths_stay_in_their_ranges_and_levels_below_the_top(name, ranges, episodes, seed):
    """However the episodes go; each outcome is told often enough to decide something."""
    schedule, rng = Schedule(name, ranges), np.random.default_rng(seed)
    reach = max(high - low for low, high in ranges)
    assert schedule.adaptive == (name != "uniform")
    before = 0
    for solved, shortfall in episodes:
        for _ in range(35):
            schedule.note(solved, shortfall)
            assert before <= schedule.level <= before + 1
            before = schedule.level
        lengths = schedule.draw(rng)
        assert all(isinstance(n, int) and low <= n <= high for n, (low, high) in zip(lengths, ranges, strict=True))
        assert 0 <= schedule.level <= max(reach - 2 if name == "promotion" else reach, 0)
        if name == "lessons":
            assert all(n <= low + schedule.level for n, (low, _) in zip(lengths, ranges, strict=True))
    if name == "uniform":
        assert schedule.level == 0


@given(st.sampled_from(ADAPTIVE), RANGES, st.integers(0, 2**32 - 1))
def test_whose_every_episode_is_solved_is_at_the_top_and_stays(name, ranges, seed):
    schedule = Schedule(name, ranges)
    for _ in range(100 * 30 + 1):
        schedule.note(True, 0.0)
    assert schedule.level == schedule.top
    assert schedule.state_dict()["outcomes"] == []  # nothing more can come of them
    rng = np.random.default_rng(seed)
    assert tuple(high for _, high in ranges) in {schedule.draw(rng) for _ in range(40)}


def shares(schedule, seed=0):
    """How often each first length comes."""
    rng = np.random.default_rng(seed)
    return Counter(schedule.draw(rng)[0] for _ in range(DRAWS))


def agree(counted, wanted):
    """Every share within 4.5 standard deviations, and nothing else is drawn."""
    assert abs(sum(wanted.values()) - 1) < 1e-9
    assert set(counted) <= {n for n, p in wanted.items() if p}
    for n, p in wanted.items():
        assert abs(counted[n] - DRAWS * p) < 4.5 * math.sqrt(DRAWS * p * (1 - p)) + 1, n


def test_uniform_draws_every_length_by_itself_over_its_whole_range():
    rng, schedule = np.random.default_rng(0), Schedule("uniform", ((3, 5), (1, 4)))
    counted = Counter(schedule.draw(rng) for _ in range(DRAWS))
    agree(counted, {(a, b): 1 / 12 for a in (3, 4, 5) for b in (1, 2, 3, 4)})


@pytest.mark.parametrize("level", [0, 1, 7, 20])
def test_mixture_is_10_percent_anything_25_percent_up_to_ahead_and_65_percent_ahead(level):
    """c + e with e = 1, 2, 3, ... of probability 1/2, 1/4, 1/8, ...; no longer than the longest."""
    low, top, wanted = 1, 20, Counter()
    for e in range(1, 60):
        ahead = min(level + e, top)
        for n in range(ahead + 1):
            wanted[low + n] += 0.25 / 2**e / (ahead + 1)
        wanted[low + ahead] += 0.65 / 2**e
    for n in range(top + 1):
        wanted[low + n] += 0.10 / (top + 1)
    agree(shares(at_level("mixture", level)), wanted)


@pytest.mark.parametrize("level", [0, 1, 5, 20])
def test_a_tenth_of_the_lessons_are_of_those_before(level):
    wanted = {1 + level: 0.9 if level else 1.0} | {1 + n: 0.1 / level for n in range(level)}
    agree(shares(at_level("lessons", level)), wanted)


@pytest.mark.parametrize("level", [0, 6, 18])
def test_promotion_draws_one_of_three_lengths_and_the_longest_only_at_the_top(level):
    schedule = at_level("promotion", level)
    assert schedule.top == 18
    agree(shares(schedule), {1 + level + n: 1 / 3 for n in range(3)})


@pytest.mark.parametrize(("ranges", "drawn"), [(((4, 4),), {4}), (((4, 5),), {4, 5}), (((2, 4),), {2, 3, 4})])
def test_promotion_over_fewer_than_four_lengths_has_one_level(ranges, drawn):
    schedule = Schedule("promotion", ranges)
    assert schedule.top == 0
    assert set(shares(schedule)) == drawn


def test_of_two_lengths_both_grow_until_each_is_at_its_end():
    rng = np.random.default_rng(0)
    for level, wanted in [(0, (1, 5)), (2, (3, 7)), (9, (10, 7)), (11, (12, 7))]:
        drawn = {at_level("lessons", level, ((1, 12), (5, 7))).draw(rng) for _ in range(40)}
        assert wanted in drawn


# -- steps up -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "needed"), [("mixture", 80), ("lessons", 90)])
def test_a_step_up_takes_100_episodes_of_which_enough_were_solved(name, needed):
    def after(solved, first=False):
        """The level after 100 episodes, the solved ones last (or first)."""
        schedule = Schedule(name, ((1, 20),))
        for i in range(WINDOW):
            assert schedule.level == 0
            schedule.note((i < solved) if first else (i >= WINDOW - solved), -99.0)  # what it fell short by is not asked
        return schedule.level

    assert [after(needed - 1), after(needed), after(needed, first=True), after(100)] == [0, 1, 1, 1]


@given(st.sampled_from([("mixture", 0.8), ("lessons", 0.9)]), st.lists(st.tuples(st.integers(1, 90), st.booleans()), max_size=12))
def test_the_last_100_episodes_since_the_last_step_up_decide(rule, stretches):
    name, share = rule
    schedule, level, past = Schedule(name, ((1, 5),)), 0, []
    for solved in [s for count, s in stretches for _ in range(count)]:
        schedule.note(solved, 0.0)
        past.append(solved)
        if level < 4 and len(past) >= 100 and sum(past[-100:]) >= round(100 * share):
            level, past = level + 1, []
        assert schedule.level == level


@given(
    st.sampled_from([(10, -1.0), (50, -0.1), (1, 0.0), (3, -2.5)]),
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.0, -0.05, -0.1, -1.0, -1.5, -2.5, -3.0])), max_size=12),
)
def test_promotion_takes_exactly_so_many_last_episodes_that_fell_short_by_no_more(rule, stretches):
    last, least = rule
    schedule, level, past = Schedule("promotion", ((1, 9),), promotion=rule), 0, []
    for shortfall in [s for count, s in stretches for _ in range(count)]:
        schedule.note(False, shortfall)  # whether it counts as solved is not asked
        past.append(shortfall)
        if level < 6 and len(past) >= last and all(s >= least for s in past[-last:]):
            level, past = level + 1, []
        assert schedule.level == level


# -- keeping --------------------------------------------------------------------------------------------------------------------------


STRETCHES = st.lists(st.tuples(st.integers(1, 90), st.booleans(), st.sampled_from([0.0, -1.0, -1.5])), min_size=1, max_size=5)


@given(st.sampled_from(SCHEDULES), STRETCHES, STRETCHES, st.integers(0, 2**32 - 1))
def test_what_was_kept_goes_on_as_if_nothing_had_been(name, before, after, seed):
    first, second = (Schedule(name, ((1, 9), (2, 4))) for _ in range(2))
    for count, solved, shortfall in before:
        for _ in range(count):
            first.note(solved, shortfall)
    second.note(False, -3.0)  # forgotten
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rngs = [np.random.default_rng(seed) for _ in range(2)]
    for count, solved, shortfall in after:
        for _ in range(count):
            first.note(solved, shortfall)
            second.note(solved, shortfall)
            assert first.level == second.level
        assert first.state_dict() == second.state_dict()
        assert first.draw(rngs[0]) == second.draw(rngs[1])


def test_episodes_before_and_after_are_counted_together():
    first = Schedule("lessons", ((1, 9),))
    for _ in range(60):
        first.note(True, 0.0)
    second = Schedule("lessons", ((1, 9),))
    second.load_state_dict(first.state_dict())
    for i in range(40):
        assert second.level == 0, i
        second.note(True, 0.0)
    assert second.level == 1


def test_what_is_kept_is_a_copy():
    schedule = Schedule("lessons", ((1, 9),))
    state = schedule.state_dict()
    schedule.note(True, 0.0)
    assert state == {"of": "lessons 8", "level": 0, "outcomes": []}


def test_another_curriculum_goes_on_at_the_level_it_finds_and_counts_anew():
    """As when a run is forked: what counted as solved for one may be a shortfall to the other."""
    first = Schedule("mixture", ((1, 9),))
    first.level = 7
    for _ in range(5):
        first.note(False, -3.0)
    for second in (Schedule("promotion", ((1, 9),)), Schedule("mixture", ((1, 4),))):
        second.load_state_dict(first.state_dict())
        assert second.level == second.top < 7
        assert not second.outcomes


@pytest.mark.parametrize("state", [{"level": -1, "outcomes": []}, {"level": 9, "outcomes": []}, {"level": "x", "outcomes": []}, {"level": 0},
                                   {"level": 0, "outcomes": ["x"]}, {"level": 0, "outcomes": 3}, {}])  # fmt: skip
def test_a_state_that_can_t_be_is_refused(state):
    with pytest.raises((ValueError, TypeError, KeyError)):
        Schedule("lessons", ((1, 9),)).load_state_dict({"of": "lessons 8"} | state)


# -- environments that follow one -----------------------------------------------------------------------------------------------------


class Listening(Schedule):
    """Keeps what it is asked and told."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.drawn, self.told = [], []

    def draw(self, rng):
        self.drawn.append(super().draw(rng))
        return self.drawn[-1]

    def note(self, solved, shortfall):
        self.told.append((solved, shortfall))
        super().note(solved, shortfall)


def together(n, reward="bits", name="promotion", **settings):
    """n environments of copying two bits at lengths 1 to 9, that follow a curriculum."""
    options = f"low=1,high=9,width=2,reward={reward}"
    envs = open_training(EnvConfig(id="NTM/Copy-v0", num_envs=n, options=options), 0, "cpu")
    envs.schedule = Listening(name, ((1, 9),), **settings)
    return envs


def episode(envs, ts, wrong=()):
    """Right answers, but of environments `wrong` to the last row; the rows up to the next episode's first."""
    while not ts.last.any():
        action = ts.target.clone()
        if envs.t == len(envs.tapes.mask) - 1:
            action[list(wrong)] = 1 - action[list(wrong)]
        envs.send(action)
        ts = envs.recv()
    envs.send(ts.target)
    return envs.recv()


def test_a_batch_tells_of_every_episode_once_and_draws_once():
    envs = together(3)
    ts = episode(envs, envs.restart(np.arange(3)), wrong=[1])
    assert len(envs.schedule.drawn) == 2
    assert envs.schedule.told == [(True, 0.0), (False, -2.0), (True, 0.0)]
    envs.restart(np.arange(3))  # broken off: not told
    assert (len(envs.schedule.drawn), len(envs.schedule.told)) == (3, 3)
    assert torch.equal(ts.reward, torch.zeros(3))


def test_what_is_left_of_a_batch_is_not_counted_for_the_level_after_it():
    """12 solved at once: 10 are a step up; the other 2 were played at the level before."""
    envs = together(12)
    ts = envs.restart(np.arange(12))
    ts = episode(envs, ts)
    assert envs.schedule.state_dict() == {"of": "promotion 8", "level": 1, "outcomes": []}
    assert len(envs.schedule.told) == 10
    assert 2 <= envs.schedule.drawn[-1][0] <= 4
    assert len(envs.tapes.mask) == 2 * envs.schedule.drawn[-1][0] + 1
    episode(envs, ts, wrong=range(5))
    assert envs.schedule.level == 1


def test_a_batch_larger_than_all_windows_steps_up_once():
    envs = together(250, name="mixture")
    episode(envs, envs.restart(np.arange(250)))
    assert envs.schedule.state_dict() == {"of": "mixture 8", "level": 1, "outcomes": []}


@pytest.mark.parametrize(("reward", "shortfall"), [("bits", -2.0), ("exact", -1.0), ("sparse", -1.0)])
def test_every_reward_s_solved_episodes_fall_short_by_nothing(reward, shortfall):
    """At length 1 the least that can go wrong is told in parts of what the length has to give."""
    envs = together(2, reward=reward, name="lessons")
    episode(envs, envs.restart(np.arange(2)), wrong=[1])
    assert envs.schedule.drawn[0] == (1,)
    assert envs.schedule.told == [(True, 0.0), (False, shortfall)]


def test_a_uniform_curriculum_is_told_nothing():
    envs = together(2, name="uniform")
    episode(envs, envs.restart(np.arange(2)))
    assert envs.schedule.told == []


def test_environments_one_by_one_follow_it_too_and_tell_of_their_own_episodes_only():
    env = gym.make("NTM/CopyStop-v0", low=1, high=9, width=2).unwrapped
    env.schedule = schedule = Listening("promotion", ((1, 9),))

    def play(slip=None, **options):
        env.reset(options=options or None)
        ended, t = False, 0
        while not ended:
            y = env._y[env.t].copy()
            t += env._mask[env.t]
            _, _, ended, _, _ = env.step(1 - y if t == slip else y)

    for _ in range(9):
        play()
    assert (len(schedule.drawn), schedule.told, schedule.level) == (9, [(True, 0.0)] * 9, 0)
    play(lengths=(5,))  # from outside: neither asked for nor told
    assert len(schedule.drawn) == len(schedule.told) == 9
    play()
    assert schedule.level == 1
    play(slip=1)
    assert schedule.told[-1] == (False, -0.5 - schedule.drawn[-1][0])  # nothing was earned of all there was
    env.reset()
    env.reset()
    assert (len(schedule.drawn), len(schedule.told)) == (13, 11)


@pytest.mark.parametrize("options", ["low=1,high=9", "low=1,high=9,reward=stop"])
def test_a_level_reaches_every_environment_at_its_next_episode(options):
    with make("NTM/Copy-v0", 3, options=options, curriculum="lessons") as envs:
        envs.schedule.level = 8
        lengths = []
        for seed in range(12):
            envs.restart(np.arange(3) + 10 * seed)
            one = envs.tapes.mask if isinstance(envs, TaskEnvs) else envs.backend._envs.envs[2].unwrapped._mask
            lengths.append(len(one) // 2)
        assert lengths.count(9) >= 7


# -- evaluations ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["exact", "stop"])
def test_evaluations_in_training_neither_see_nor_change_a_curriculum(reward, small_run, tmp_path, monkeypatch):
    """Runs with none and with six go the same way; right answers by chance are enough for some steps up."""
    import arcturus.envs.schedules as schedules

    def course(name, every):
        seen = []

        class Kept(Listening):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                seen.append(self)

        monkeypatch.setattr(schedules, "Schedule", Kept)
        env = {"options": f"low=1,high=5,width=1,reward={reward}", "num_envs": 4, "curriculum": "promotion"}
        small_run(tmp_path / name, 2_000, "uniform", "NTM/Copy-v0", env_config=env, eval_every=every, heldout_states=0)
        (schedule,) = seen
        return schedule.drawn, schedule.told, schedule.state_dict()

    without, often = course("without", 0), course("often", 300)
    assert without == often
    _, told, state = without
    assert len(told) > 100
    assert state["level"] > 0 or reward == "stop"
