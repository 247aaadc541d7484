"""The loop: who learns when, and what a cut and an exception leave behind."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from arcturus.api import Act
from arcturus.loop import run


def rows_of(envs, agent, rows, interrupt_due=lambda steps: False):
    seeds = (np.arange(envs.num_envs) + 100 * k for k in itertools.count())
    return run(envs, agent, steps=rows * envs.num_envs, seeds=lambda: next(seeds), generator=torch.Generator(), interrupt_due=interrupt_due)


class OnPolicy:
    """Counts updates; writes into every row which policy acted."""

    on_policy, stochastic, network, objective = True, True, None, None

    def __init__(self, horizon):
        self.horizon, self.version, self.rows, self.trained = horizon, 0, [], []

    def initial_state(self, n):
        return torch.zeros(n)

    def act(self, ts, state, *, explore, generator=None):
        return Act(
            torch.zeros(len(state), dtype=torch.int64), state + 1, {"version": torch.full((len(state),), float(self.version))}
        )

    def observe(self, step):
        self.rows.append(step)

    def learn_from_rollout(self, ts, state):
        if len(self.rows) < self.horizon:
            return {}
        self.trained.append(({int(r.extras["version"][0]) for r in self.rows}, self.version, self.rows[-1], ts))
        self.rows = []
        self.version += 1
        return {"losses/x": torch.zeros(())}


def test_an_on_policy_agent_never_acts_with_a_policy_older_than_its_last_update(counter):
    agent = OnPolicy(5)
    list(rows_of(counter(), agent, 101))
    assert len(agent.trained) == 20
    for versions, now, _, _ in agent.trained:
        assert versions == {now}


def test_the_row_that_bootstraps_a_rollout_is_the_next_one_the_agent_sees(counter):
    agent = OnPolicy(4)
    steps = [row.step for row in rows_of(counter(), agent, 30)]
    for k, (_, _, last, bootstrap) in enumerate(agent.trained):
        assert last is steps[4 * k + 3]
        assert torch.equal(bootstrap.obs, steps[4 * k + 4].timestep.obs)


def test_a_replay_agent_learns_while_the_environments_step(counter, random_actor):
    envs, seen = counter(), []

    class Watching(random_actor):
        def learn(self):
            seen.append(envs.backend.sent is not None)
            return {}

    list(rows_of(envs, Watching(), 20))
    assert seen == [True] * 19 + [False]  # the last row of a run is cut


def test_the_state_given_back_is_the_state_of_the_next_row(counter):
    steps = [row.step for row in rows_of(counter(), OnPolicy(3), 10)]
    assert [int(s.state[0]) for s in steps] == list(range(10))


def test_a_cut_row_is_void_bootstraps_and_never_counts_as_an_episode(counter, random_actor):
    envs, actor = counter(2), random_actor()
    rows = list(rows_of(envs, actor, 60, interrupt_due=lambda steps: steps % 26 == 0))
    cuts = [i for i, row in enumerate(rows) if row.step.timestep.interrupted.any()]
    assert cuts
    for i in cuts:
        ts = rows[i].step.timestep
        assert not ts.valid.any()
        assert ts.last.all()
        if i + 1 < len(rows):
            assert rows[i + 1].step.timestep.first.all()
    natural = sum(int((r.step.timestep.terminated | r.step.timestep.truncated).sum()) for r in rows)
    assert len(envs.take_finished()) == natural


@pytest.mark.parametrize("where", ["observe", "learn", "reader"])
def test_an_exception_in_the_gap_leaves_the_environments_idle(counter, random_actor, where):
    envs = counter()

    class Failing(random_actor):
        def observe(self, step):
            super().observe(step)
            if where == "observe" and len(self.rows) == 5:
                raise OverflowError

        def learn(self):
            if where == "learn" and len(self.rows) == 5:
                raise OverflowError
            return {}

    rows = rows_of(envs, Failing(), 50)

    def read():
        for i, _ in enumerate(rows):
            if where == "reader" and i == 5:
                raise OverflowError

    with pytest.raises(OverflowError):
        read()
    rows.close()
    assert envs.backend.sent is None
    envs.restart(np.arange(3))  # legal again
    envs.close()


def test_steps_count_every_environment(counter, random_actor):
    assert [row.steps for row in rows_of(counter(3), random_actor(), 4)] == [3, 6, 9, 12]
