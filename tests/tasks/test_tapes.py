"""Tape tasks: controllers that see one symbol at a time must solve them in time, and the rules must be Gym's to the letter."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from arcturus.envs.own import TAPES

LEFT, RIGHT, UP, DOWN = range(4)
COPY, TWICE, REPEAT, REVERSE, ADD, ADD3, ADD3_V1 = TAPES

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date.*")  # Gymnasium on every v0 that has a v1


def make(env_id, **settings):
    return gym.make(env_id, **settings).unwrapped


# -- controllers: coroutines that are sent observations and yield actions ------------------------------------------------------


def copy(base):
    seen = yield
    while True:
        seen = yield RIGHT, 1, seen


def every_second(base):
    seen = yield
    while True:
        yield RIGHT, 1, seen
        seen = yield RIGHT, 0, 0


def there_and_back(base):
    seen, towards = (yield), RIGHT
    while True:
        while seen != base:
            seen = yield towards, 1, seen
        towards = LEFT if towards == RIGHT else RIGHT
        seen = yield towards, 0, 0


def reverse(base):
    seen = yield
    while seen != base:
        seen = yield RIGHT, 0, 0
    seen = yield LEFT, 0, 0
    while True:
        seen = yield LEFT, 1, seen


def add(rows):
    """Down one column and up the next; all that is remembered is the sum of the column so far, and where in it the head is."""

    def controller(base):
        seen, carry, onward = (yield), 0, DOWN
        while True:
            if seen != base:
                for _ in range(rows - 1):
                    carry += seen
                    seen = yield onward, 0, 0
                carry += seen
                onward = UP if onward == DOWN else DOWN
            carry, digit = divmod(carry, base)
            seen = yield RIGHT, 1, digit

    return controller


CONTROLLERS = {
    **{COPY: copy, TWICE: every_second, REPEAT: there_and_back, REVERSE: reverse},
    **{ADD: add(2), ADD3: add(3), ADD3_V1: add(3)},
}


def play(env, controller, **reset):
    """The rewards of an episode; the controller is told nothing but observations."""
    seen, _ = env.reset(**reset)
    player, rewards, ended = controller(env.base), [], False
    next(player)
    while not ended:
        seen, reward, ended, truncated, _ = env.step(player.send(seen))
        assert not truncated
        rewards.append(reward)
    return rewards


@pytest.mark.parametrize("env_id", [i for i in TAPES if i != ADD3])
def test_a_controller_of_a_few_states_writes_every_target_in_time(env_id):
    env = make(env_id)
    for length in range(1, 33):
        for seed in range(5):
            rewards = play(env, CONTROLLERS[env_id], seed=seed, options={"length": length})
            assert sum(rewards) == len(env.target) == rewards.count(1.0)
            assert len(rewards) <= env.time_limit
            assert env.solved


def test_three_numbers_can_be_added_in_gyms_time_up_to_four_digits_only():
    """3 n cells in 2 n + 4 steps; a digit that is carried out takes one more."""
    env = make(ADD3)
    for length in range(1, 33):
        for seed in range(10):
            rewards = play(env, CONTROLLERS[ADD3], seed=seed, options={"length": length})
            if 3 * length + (len(env.target) - length) <= 2 * length + 4:
                assert length <= 4
                assert sum(rewards) == len(env.target)
            else:
                assert length >= 4
                assert sum(rewards) == min((2 * length + 4) // 3, length) - 1
                assert len(rewards) == 2 * length + 5


def test_the_best_mean_returns_at_gyms_last_level_are_above_its_thresholds_but_for_one():
    """31 cells on average; half the sums of two numbers carry a digit out, five sixths of those of three."""
    best = {COPY: 31, TWICE: 46 / 3, REPEAT: 93, REVERSE: 31, ADD: 31.5, ADD3: 31 + 5 / 6, ADD3_V1: 31 + 5 / 6}
    thresholds = {COPY: 25, TWICE: 9, REPEAT: 75, REVERSE: 25, ADD: 25, ADD3: 25, ADD3_V1: 25}
    for env_id in TAPES:
        env, total, played = make(env_id), 0.0, []
        for i in range(1_200):
            env.reset(seed=0 if i == 0 else None, options={"length": 30 + i % 3})
            total += len(env.target)
        assert total / 1_200 == pytest.approx(best[env_id], abs=0.06 if "Addition" in env_id else 1e-9)
        assert env.spec.reward_threshold == thresholds[env_id]
        assert env.spec.max_episode_steps is None
        for seed in range(6):
            played.append(sum(play(env, CONTROLLERS[env_id], seed=seed)))
        assert (np.mean(played) > thresholds[env_id]) == (env_id != ADD3)


# -- targets -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [ADD, ADD3, ADD3_V1])
@pytest.mark.parametrize("base", range(2, 11))
def test_sums_are_those_of_whole_numbers_in_every_base(env_id, base):
    def number(digits):
        return sum(d * base**i for i, d in enumerate(digits))

    env = make(env_id, base=base)
    for length in [*range(1, 9), 40]:
        for seed in range(8):
            env.reset(seed=seed, options={"length": length})
            n = sum(map(number, env.tape))
            assert number(env.target) == n
            assert all(0 <= d < base for d in env.target)
            assert len(env.target) == length or (n >= base**length and env.target[-1] > 0)
    top = [[base - 1] * 3] * env.rows
    assert number(env._answer(top)) == env.rows * (base**3 - 1)


def test_targets_are_those_of_the_tasks_descriptions():
    a, b, c = 0, 1, 2
    assert make(COPY)._answer([[a, b, c]]) == [a, b, c]
    assert make(TWICE)._answer([[a, a, b, b, c, c]]) == [a, b, c]
    assert make(REPEAT)._answer([[a, b, c]]) == [a, b, c, c, b, a, a, b, c]
    assert make(REVERSE)._answer([[a, b, b]]) == [b, b, a]


def test_a_duplicated_tape_is_rounded_down_to_whole_groups_and_holds_one_at_least():
    env = make(TWICE, duplication=3)
    for length, cells in [(1, 3), (2, 3), (3, 3), (5, 3), (6, 6), (32, 30)]:
        env.reset(seed=1, options={"length": length})
        assert len(env.tape[0]) == cells
        assert env.tape[0] == np.repeat(env.target, 3).tolist()
        assert env.time_limit == cells + cells // 3 + 4


@pytest.mark.parametrize("env_id", TAPES)
def test_lengths_and_symbols_cover_their_ranges_and_no_more(env_id):
    env = make(env_id, low=4, high=7)
    lengths, symbols = set(), set()
    for seed in range(80):
        env.reset(seed=seed)
        lengths.add(len(env.tape[0]))
        symbols |= {s for row in env.tape for s in row}
        assert len(env.tape) == env.rows
        assert len({len(row) for row in env.tape}) == 1
    assert lengths == ({4, 6} if env_id == TWICE else {4, 5, 6, 7})
    assert symbols == set(range(env.base))


# -- rules ---------------------------------------------------------------------------------------------------------------------


def test_an_episode_played_by_hand(at):
    """Observations, rewards and ends, step by step: the write comes before the move, and doing nothing costs nothing."""
    env = at(make(COPY), [[2, 0, 4]])
    assert env._read() == 2
    script = [  # action -> observation, reward, terminated
        ((LEFT, 0, 0), (5, 0.0, False)),
        ((LEFT, 1, 2), (5, 1.0, False)),  # any symbol can be written anywhere
        ((RIGHT, 0, 3), (5, 0.0, False)),  # symbols that aren't written don't matter
        ((RIGHT, 0, 0), (2, 0.0, False)),
        ((RIGHT, 0, 0), (0, 0.0, False)),
        ((RIGHT, 1, 0), (4, 1.0, False)),
        ((LEFT, 1, 4), (0, 1.0, True)),
    ]
    for action, (seen, reward, ended) in script:
        assert env.step(action) == (seen, reward, ended, False, {})
    assert env.solved
    with pytest.raises(gym.error.ResetNeeded):
        env.step((RIGHT, 0, 0))


def test_a_wrong_symbol_ends_the_episode_with_minus_a_half(at):
    env = at(make(COPY), [[2, 0, 4]])
    assert env.step((RIGHT, 1, 2))[1:3] == (1.0, False)
    assert env.step((RIGHT, 1, 4)) == (4, -0.5, True, False, {})
    assert not env.solved


@pytest.mark.parametrize("env_id", TAPES)
@pytest.mark.parametrize("last", ["right", "wrong", "none"])
def test_the_step_after_the_time_limit_ends_with_minus_one_whatever_is_written(env_id, last):
    env = make(env_id)
    env.reset(seed=3, options={"length": 6})
    target = len(env.target)
    limits = {TWICE: 6 + 3 + 4, REPEAT: 6 + 18 + 4, ADD: 2 * 6 + 4, ADD3: 2 * 6 + 4, ADD3_V1: 3 * 6 + 6 + 4}
    limit = limits.get(env_id, 6 + 6 + 4)
    for t in range(limit):  # all but one symbol of the target, then waiting
        due = t < target - 1
        assert env.step((RIGHT, int(due), env.target[t] if due else 0))[1:3] == (float(due), False)
    symbol = env.target[-1] if last == "right" else (env.target[-1] + 1) % env.base
    assert env.step((RIGHT, int(last != "none"), symbol))[1:3] == (-1.0, True)
    assert env.score == target - 2
    assert not env.solved


def test_the_last_step_in_time_still_counts(at):
    env = at(make(COPY), [[1]])
    for _ in range(env.time_limit - 1):
        assert env.step((LEFT, 0, 0))[1:3] == (0.0, False)
    assert env.step((LEFT, 1, 1))[1:3] == (1.0, True)


def test_off_the_tape_everything_is_blank_and_the_head_comes_back_cell_by_cell(at):
    """Python's lists can be read at -1, and a tape can't."""
    env = at(make(COPY, base=3), [[0, 1, 2]])
    env.time_limit = 100
    seen = [env.step((move, 0, 0))[0] for move in [LEFT] * 4 + [RIGHT] * 8 + [LEFT] * 3]
    assert seen == [3, 3, 3, 3] + [3, 3, 3, 0, 1, 2, 3, 3] + [3, 2, 1]
    env = at(make(ADD, base=3), [[0, 1], [2, 0]])
    env.time_limit = 100
    moves = [UP, UP, DOWN, DOWN, DOWN, DOWN, DOWN, UP, UP, RIGHT, RIGHT, UP, LEFT, LEFT, LEFT, DOWN]
    assert [env.step((m, 0, 0))[0] for m in moves] == [3, 3, 3, 0, 2, 3, 3, 3, 2, 0, 3, 3, 1, 0, 3, 3]


# -- nothing is shared, everything is seeded -----------------------------------------------------------------------------------


def test_environments_played_in_turns_are_what_they_are_alone():
    def course(env, seed):
        """Actions drawn from a generator of its own; one step for every next()."""
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        for _ in range(300):
            if not env.playing:
                yield env.reset()[0], env.tape
            yield env.step([rng.integers(n) for n in env.action_space.nvec])

    alone = [list(course(make(ADD, low=1, high=9), seed)) for seed in (1, 2)]
    a, b = (course(make(ADD, low=1, high=9), seed) for seed in (1, 2))
    turns = list(zip(a, b, strict=False))
    assert len(turns) > 250
    assert turns == list(zip(*alone, strict=False))


@pytest.mark.parametrize("env_id", TAPES)
def test_seeded_resets_come_again_and_episodes_leave_no_trace(env_id):
    env, other = make(env_id, low=1, high=32), make(env_id, low=1, high=32)
    first = []
    for seed in range(5):
        env.reset(seed=seed)
        first.append((env.tape, env.target, env.time_limit))
    assert len({str(tape) for tape, *_ in first}) > 3
    for seed in range(5):
        for _ in range(10):
            play(other, CONTROLLERS[env_id])  # what was solved before changes nothing
        other.reset(seed=seed)
        assert (other.tape, other.target, other.time_limit) == first[seed]


class Schedule:
    """Asks for lengths 1, 2, 3, ... and keeps what it is told."""

    def __init__(self):
        self.asked, self.told = 0, []

    def draw(self, generator):
        assert isinstance(generator, np.random.Generator)
        self.asked += 1
        return (self.asked,)

    def note(self, solved, shortfall):
        self.told.append((solved, shortfall))


def test_a_schedule_is_asked_once_an_episode_and_told_how_far_it_fell_short():
    env = make(COPY)
    env.schedule = schedule = Schedule()
    play(env, copy)
    assert (schedule.asked, schedule.told) == (1, [(True, 0.0)])
    env.reset()  # two cells; broken off: never told
    env.step((RIGHT, 1, env.target[0]))
    env.reset()  # three cells, of which one is written before a mistake
    assert len(env.target) == 3
    env.step((RIGHT, 1, env.target[0]))
    env.step((RIGHT, 1, (env.target[1] + 1) % env.base))
    assert (schedule.asked, schedule.told) == (3, [(True, 0.0), (False, 0.5 - 3)])
    env.reset()  # four cells, of which two are written before time is up
    for t in range(env.time_limit + 1):
        env.step((RIGHT, int(t < 2), env.target[min(t, 3)]))
    assert (schedule.asked, schedule.told[2:]) == (4, [(False, 1.0 - 4)])
    play(env, copy, options={"length": 7})  # a length from outside is nothing of the schedule's
    assert len(env.target) == 7
    assert (schedule.asked, len(schedule.told)) == (4, 3)
    play(env, copy)
    assert (schedule.asked, schedule.told[3:]) == (5, [(True, 0.0)])
    env.schedule = None
    play(env, copy)
    assert (schedule.asked, len(schedule.told)) == (5, 4)


def test_a_schedules_draws_come_from_the_environments_own_generator():
    class Drawing(Schedule):
        def draw(self, generator):
            return (int(generator.integers(1, 100)),)

    env, lengths = make(REVERSE), []
    env.schedule = Drawing()
    for seed in [*range(6), *range(6)]:
        env.reset(seed=seed)
        lengths.append(len(env.target))
    assert lengths[:6] == lengths[6:]
    assert len(set(lengths)) > 3
