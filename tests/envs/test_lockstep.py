"""Groups of environments that take turns: the same rows, and nobody waits where there is other work."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.api import Act
from arcturus.envs import EnvConfig, make, open_groups
from arcturus.envs.lockstep import Lockstep
from arcturus.errors import ConfigError
from arcturus.loop import run
from arcturus.seeding import Seeds

PONG = {"id": "ALE/Pong-v5", "num_envs": 4, "frame_size": 24, "threads": 2}


@pytest.fixture
def pair(counter):
    """Two groups of two."""
    return Lockstep([counter(2), counter(2)])


def rows_of(envs, agent, rows, cut_due=lambda steps: False):
    seeds = (np.arange(envs.num_envs) + 100 * k for k in itertools.count())
    return run(envs, agent, steps=rows * envs.num_envs, seeds=lambda: next(seeds), generator=torch.Generator(), cut_due=cut_due)


def test_groups_of_a_game_play_what_one_group_plays():
    whole, groups = (open_groups(EnvConfig(**PONG, groups=k), 0, "cpu") for k in (1, 2))
    seeds, rng = Seeds(0).environments(4), np.random.default_rng(0)
    with whole, groups:
        a, b = whole.restart(seeds), groups.restart(seeds)
        for _ in range(150):
            for mine, other in zip(a[:-1], b[:-1], strict=True):
                assert torch.equal(mine, other)
            action = torch.from_numpy(rng.integers(6, size=4))
            whole.send(action)
            groups.send(action)
            a, b = whole.recv(), groups.recv()


class Following:
    """Acts by what it sees alone, and remembers how many rows it saw."""

    stochastic, on_policy, network, objective = False, False, None, None

    def __init__(self):
        self.steps = []

    def initial_state(self, n):
        return torch.zeros(n)

    def act(self, ts, state, *, explore, generator=None):
        return Act(ts.obs[:, -1, 0, 0].long() % 3, state + 1, {"seen": ts.obs[:, -1, 0, 0].float()})

    def observe(self, step):
        self.steps.append(step)

    def learn(self, ts=None, state=()):
        return {}


class Learning(Following):
    """On policy: learns from every fourth row on, and says so beforehand."""

    on_policy = True

    def __init__(self):
        super().__init__()
        self.learnt = []

    def due(self):
        return len(self.steps) % 4 == 0 and bool(self.steps)

    def learn(self, ts, state):
        self.learnt.append((len(self.steps), ts, state))
        return {"losses/x": torch.zeros(())}


@pytest.mark.parametrize("kind", [Following, Learning])
def test_an_agent_is_told_the_same_rows_however_its_environments_are_grouped(counter, kind):
    """Rewards of the counters depend on an environment's place in its group: everything else is compared."""
    told = []
    for envs in (Lockstep([counter(4)]), Lockstep([counter(2), counter(2)])):
        agent = kind()
        rows = list(rows_of(envs, agent, 60, cut_due=lambda steps: steps % 52 == 0))
        told.append((agent, rows))
    (one, one_rows), (two, two_rows) = told
    assert len(one.steps) == len(two.steps) == 60
    for a, b, row, other in zip(one.steps, two.steps, one_rows, two_rows, strict=True):
        for name in ("obs", "age", "terminated", "truncated", "decides", "cut"):
            assert torch.equal(getattr(a.timestep, name), getattr(b.timestep, name)), name
        assert torch.equal(a.action, b.action)
        assert torch.equal(a.state, b.state)
        assert torch.equal(a.extras["seen"], b.extras["seen"])
        assert torch.equal(row.state, other.state)
        assert row.metrics.keys() == other.metrics.keys()
    if kind is Learning:
        assert [k for k, _, _ in one.learnt] == [k for k, _, _ in two.learnt] == list(range(4, 60, 4))
        for (k, ts, memory), (_, other_ts, other_memory) in zip(one.learnt, two.learnt, strict=True):
            assert torch.equal(ts.obs, other_ts.obs)
            assert torch.equal(ts.cut, other_ts.cut)
            assert torch.equal(memory, other_memory)
            assert torch.equal(ts.obs, one.steps[k].timestep.obs)  # the row that it acts on next


def test_the_agent_acts_for_one_group_while_the_other_is_on_its_way(pair):
    out = []

    class Watching(Following):
        def act(self, ts, state, **how):
            out.append([group.backend.sent is not None for group in pair.groups])
            return super().act(ts, state, **how)

    list(rows_of(pair, Watching(), 5))
    # the first row was restarted and the last is cut; in between the other group is out whenever one is acted for
    assert out == [[False, False], [True, False], *[[False, True], [True, False]] * 3, [False, True], [False, False]]


def test_nobody_acts_before_an_update_that_is_due(pair):
    out = []

    class Watching(Learning):
        def learn(self, ts, state):
            out.append([group.backend.sent is not None for group in pair.groups])
            return super().learn(ts, state)

    list(rows_of(pair, Watching(), 20))
    assert out == [[False, False]] * 4


def test_an_agent_that_does_not_say_when_it_learns_is_given_every_row(pair):
    class Silent(Learning):
        due = property()  # it has none

        def learn(self, ts, state):
            self.learnt.append(ts)
            return {}

    agent = Silent()
    list(rows_of(pair, agent, 20))
    assert len(agent.learnt) == 20


@pytest.mark.parametrize("which", [0, 1])
def test_an_exception_in_one_group_leaves_the_others_idle(pair, monkeypatch, which):
    rows = rows_of(pair, Following(), 50)
    for _ in range(3):
        next(rows)

    def fails():
        raise OverflowError

    monkeypatch.setattr(pair.groups[which].backend, "recv", fails)
    with pytest.raises(OverflowError):
        list(rows)
    assert pair.groups[1 - which].backend.sent is None
    pair.groups[which].backend.sent = None  # what failed had received it
    pair.close()


def test_episodes_and_bad_rows_name_the_environment_among_all(pair):
    pair.restart(np.arange(4))
    for _ in range(40):
        pair.send(torch.zeros(4, dtype=torch.int64))
        pair.recv()
    assert {e.env for e in pair.take_finished()} == {0, 1, 2, 3}
    pair.groups[1].backend.count[1] = 0
    backend = pair.groups[1].backend
    row = backend._row
    backend._row = lambda reward, *flags: row(np.where(np.arange(2) == 1, np.nan, reward), *flags)
    pair.send(torch.zeros(4, dtype=torch.int64))
    pair.recv()
    assert [(bad.env, bad.what) for bad in pair.take_bad()] == [(3, "reward")]


def test_single_environments_of_groups_can_be_reset(pair):
    before = pair.restart(np.arange(4))
    pair.send(torch.zeros(4, dtype=torch.int64))
    pair.recv()
    ts = pair.restart(np.arange(4), np.array([False, False, True, False]))
    assert ts.age.tolist() == [1, 1, 0, 1]
    assert pair.host.obs.shape == (4, 9, 9)
    assert before.age.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("agent", ["dqn", pytest.param("ppo", marks=pytest.mark.slow)])
def test_a_run_in_groups_that_was_stopped_ends_the_same(small_run, stop_at, tmp_path, agent):
    from arcturus.scripts.survival import digests

    config = {"dqn": {"capacity": 300, "torso": "small"}, "ppo": {"torso": "small", "horizon": 16}}[agent]
    options = {"agent": agent, "env": "ALE/Breakout-v5", "steps": 500, "checkpoint_every": 200, "agent_config": config,
               "env_config": {"num_envs": 4, "frame_size": 36, "groups": 2}, "eval_every": 0}  # fmt: skip
    whole = small_run(tmp_path / "whole", **options)
    stop_at(300)
    run = small_run(tmp_path / "r", **options)
    assert run.about["checkpoint"] == 300
    arcturus.resume(run, quiet=True)
    assert digests(run.path) == digests(whole.path)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"num_envs": 4, "groups": 3}, "4 environments aren't 3 groups"),
        ({"id": "CartPole-v1", "groups": 2}, "steps its environments together"),
        ({"id": "NTM/Copy-v0", "groups": 2}, "steps its environments together"),
    ],
)
def test_groups_that_cannot_be_are_refused(config, told):
    with pytest.raises(ConfigError, match=told):
        open_groups(EnvConfig(**PONG | config), 0, "cpu")


def test_groups_are_the_loops_and_not_gymnasiums():
    with pytest.raises(ConfigError, match="groups take turns in training only"):
        make("ALE/Pong-v5", 4, groups=2)


def test_a_hung_group_is_told_by_its_environments_numbers():
    from arcturus.envs.watch import Call

    with open_groups(EnvConfig(**PONG, groups=2), 0, "cpu") as envs:
        told = str(Call(envs.groups[1].backend, "step", np.zeros(2, np.int64)))
    assert "environments 2 to 3" in told


def test_agents_that_learn_from_rollouts_say_when():
    spec = EnvConfig(**PONG)
    with open_groups(spec, 0, "cpu") as envs:
        for name in ("ppo", "a2c", "pqn"):
            module = agents.load(name)
            config = module.Config(horizon=4, torso="small")
            agent = module.Agent(config, envs.spec, "cpu", Seeds(0))
            due = []
            for row in rows_of(envs, agent, 9):
                due.append((agent.due(), bool(row.metrics)))
            assert [d for d, _ in due] == [k % 4 == 3 for k in range(9)], name  # after its fourth row
            assert [m for _, m in due] == [k % 4 == 0 and k > 0 for k in range(9)], name
