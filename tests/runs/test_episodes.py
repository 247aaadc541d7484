"""The account of episodes: restarts at checkpoints may break episodes off, but never make a mean return one of short episodes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import arcturus
from arcturus.envs import EnvConfig
from arcturus.envs.vector import Episode
from arcturus.runs.settings import resolve
from arcturus.runs.state import LONGEST_STRETCH, Account


def simulate(lengths, num_envs, rows, every, account):
    """Episodes of drawn lengths, restarted every so often where the account allows it: (length of every episode that ended, of every one
    that counts, rows between restarts)."""
    left = np.array([lengths() for _ in range(num_envs)])
    age = np.zeros(num_envs, int)
    over = np.zeros(num_envs, bool)
    ended, counted, stretches, since = [], [], [], 0
    for row in range(rows):
        age = np.where(over, 0, age + 1)
        left = np.array([lengths() if o else k for o, k in zip(over, left, strict=True)])
        over = age == left
        finished = [Episode(int(i), float(age[i]), int(age[i])) for i in np.flatnonzero(over)]
        playing = np.where(over, 0, age)
        ended += [e.length for e in finished]
        counted += [e.length for e in account.take(finished, playing)]
        since += 1
        if row % every == every - 1 and account.may_restart(since, playing):
            account.restart(playing)
            stretches.append(since)
            since, over = 0, np.zeros(num_envs, bool)
            age, left = np.zeros(num_envs, int), np.array([lengths() for _ in range(num_envs)])
    return ended, counted, stretches


@pytest.mark.parametrize("num_envs", [8, 256])
def test_a_mean_of_long_and_short_episodes_is_not_that_of_the_short_ones(num_envs):
    """Nine in ten have 5 steps, the tenth 200: 24.5 on average.  Counting what has ended by each restart makes it less."""
    rng = np.random.default_rng(3)
    account = Account()
    ended, counted, stretches = simulate(lambda: 5 if rng.random() < 0.9 else 200, num_envs, 16_000 // num_envs * 8, 50, account)
    assert min(stretches) >= 2 * 200
    assert account.finished == len(ended)
    error = 200 * 0.3 / np.sqrt(len(counted) / 10)
    assert abs(np.mean(counted) - 24.5) < 3 * error
    assert np.mean(ended) < np.mean(counted)
    assert account.broken_off == num_envs * len(stretches)


def test_counting_whatever_has_ended_would_be_wrong():
    """The same with restarts every 50 rows and no account: no long episode ever ends."""
    rng = np.random.default_rng(3)

    class Careless(Account):
        def may_restart(self, rows, playing):
            return True

    ended, _, _ = simulate(lambda: 5 if rng.random() < 0.9 else 200, 8, 4_000, 50, Careless())
    assert np.mean(ended) == 5


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 120))
def test_every_episode_counts_once(lengths, rows):
    """Environments whose episodes always have one length: nobody is held up for ever, and nothing is counted twice."""
    account, age, counted = Account(), np.zeros(len(lengths), int), []
    over = np.zeros(len(lengths), bool)
    for row in range(rows + 200):
        age = np.where(over, 0, age + 1)
        over = age == np.array(lengths)
        done = [Episode(int(i), float(row * 10 + i), int(age[i])) for i in np.flatnonzero(over)]  # each with a score of its own
        counted += [e.score for e in account.take(done, np.where(over, 0, age))]
    assert len(set(counted)) == len(counted)
    assert account.finished == len(counted) + len(account.waiting)
    assert len(account.waiting) <= 2 * sum(max(lengths) // n + 2 for n in lengths)


def test_an_episode_that_never_ends_holds_nobody_up():
    account, counted = Account(), 0
    for row in range(1, 400):
        done = [Episode(0, 1.0, 10)] if row % 11 == 10 else []
        counted += len(account.take(done, np.array([row % 11 if row % 11 != 10 else 0, row])))
    assert counted >= 30


def test_restarts_wait_for_two_of_the_longest_and_not_for_ever():
    account = Account()
    account.take([Episode(0, 0.0, 300)], np.array([0, 20]))
    assert not account.may_restart(599, np.array([10, 20]))
    assert account.may_restart(600, np.array([10, 20]))
    assert not account.may_restart(600, np.array([10, 320]))
    assert account.may_restart(LONGEST_STRETCH, np.array([LONGEST_STRETCH, 1]))


def test_the_account_is_saved_whole():
    account = Account()
    account.take([Episode(1, 2.5, 3)], np.array([7, 0]))
    again = Account()
    again.load_state_dict(account.state_dict())
    assert again.state_dict() == account.state_dict()
    with pytest.raises(ValueError, match="record of episodes"):
        again.load_state_dict(account.state_dict() | {"waiting": [["x"]]})


def test_intervals_follow_the_number_of_environments():
    def every(n, env="CartPole-v1"):
        return resolve("uniform", env={"id": env, "num_envs": n}).checkpoint_every

    assert every(8) == every(1) == 100_000
    assert every(256) == 256_000
    assert every(4, "ALE/Pong-v5") == 4 * 54_000


class Long(gym.Env):
    """Episodes of 5 steps, or, one in four, of 200; the return is the length."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, 200 if self.np_random.random() < 0.25 else 5
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t >= self.length, False, {}


def test_a_run_of_many_environments_with_close_checkpoints_tells_true_returns(tmp_path):
    """53.75 on average; with a restart at every checkpoint it would be 5 for ever."""
    gym.register("Long-v0", entry_point=Long)
    try:
        run = arcturus.train("uniform", "Long-v0", steps=64 * 2_500, eval_every=0, quiet=True, run_dir=tmp_path / "r",
                             checkpoint_every=64 * 50, env_config={"num_envs": 64}, log_every=64 * 50)  # fmt: skip
    finally:
        del gym.registry["Long-v0"]
    lines = arcturus.read_metrics(run)
    means = [line["charts/episodic_return"] for line in lines if "charts/episodic_return" in line]
    assert abs(np.mean(means[len(means) // 3 :]) - 53.75) < 12
    assert lines[-1]["charts/episodes_broken_off"] > 0
    assert lines[-1]["charts/episodes"] > 1_000


def test_the_one_place_that_says_when_nobody_may_open_a_second():
    from arcturus.envs import single

    assert not single(EnvConfig(id="ALE/Pong-v5", num_envs=1))
    assert not single(EnvConfig(id="NTM/Copy-v0", num_envs=1))
