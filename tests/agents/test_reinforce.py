"""REINFORCE: which episodes an update is made of, and that its gradient doesn't depend on how it is accumulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from arcturus.agents import reinforce
from arcturus.errors import TrainingFailed
from arcturus.loop import run
from arcturus.losses import normalised
from arcturus.seeding import Seeds


def build(envs, **changes):
    settings = {"episodes": 5, "horizon": 40, "torso": "mlp", "core_width": 8} | changes
    return reinforce.Agent(reinforce.Config(**settings), envs.spec, "cpu", Seeds(0))


def rows_of(agent, envs, rows):
    g = torch.Generator().manual_seed(0)
    return run(envs, agent, steps=rows * envs.num_envs, seeds=lambda: np.arange(envs.num_envs), generator=g)


@pytest.mark.parametrize("baseline", ["none", "learned"])
def test_reinforce_updates_on_the_first_episodes_to_begin_all_of_them_whole(baseline, counter, monkeypatch):
    """Not the first to end: those are short.  Replayed here from the rows alone."""
    envs, K = counter(4), 6
    agent = build(envs, episodes=K, horizon=60, baseline=baseline)
    pieces, updates, history = reinforce.Agent._pieces, [], []

    def watched(self, rows, inside, counts, *rest):
        updates.append((self.rollout.begin, counts.clone()))
        return pieces(self, rows, inside, counts, *rest)

    monkeypatch.setattr(reinforce.Agent, "_pieces", watched)
    for row in rows_of(agent, envs, 120):
        history.append(row.step.timestep)
    assert len(updates) >= 4
    for begin, counts in updates:
        want, begun = torch.zeros_like(counts), 0
        playing = torch.zeros(4, dtype=torch.bool)
        for t in range(len(counts)):
            ts = history[begin + t]
            for n in range(4):
                if ts.first[n] and begun < K:
                    playing[n], begun = True, begun + 1
            want[t] = playing & ts.valid
            playing &= ~ts.last
        assert begun == K
        assert torch.equal(counts, want)
        last = history[begin + len(counts)]
        assert not (playing & ~last.last).any()  # all are over


@pytest.mark.parametrize("core", ["none", "gru"])
def test_reinforces_gradient_does_not_depend_on_how_it_is_accumulated(core, counter):
    def weights(chunk):
        envs = counter(4)
        agent = build(envs, core=core, chunk=chunk, episodes=6, horizon=60, entropy_cost=0.1)
        agent.gradient_step = type(agent.gradient_step)(torch.optim.SGD(agent.network.parameters(), 0.01))
        list(rows_of(agent, envs, 40))
        assert agent.updates
        return [p.clone() for p in agent.network.parameters()]

    whole = weights(10_000)
    for chunk in (1, 7):
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(weights(chunk), whole, strict=True))


@pytest.mark.parametrize("core", ["none", "gru"])
def test_further_baseline_steps_move_the_baseline_and_leave_the_policy_alone(core, counter):
    one, ten = after_updates(1, counter(4), core=core), after_updates(1, counter(4), core=core, baseline_steps=10)
    moved = {k for k in one if not torch.equal(one[k], ten[k])}
    assert moved == {k for k in one if k.startswith("value")}


def after_updates(count, envs, **changes):
    """The network's parameters."""
    agent = build(envs, episodes=6, horizon=60, **changes)
    for _ in rows_of(agent, envs, 400):
        if agent.updates == count:
            return {k: v.clone() for k, v in agent.network.state_dict().items()}


def test_a_policy_waits_for_a_baseline_that_knows_nothing_yet(counter):
    start = build(counter(4)).network.state_dict()
    for count, waits in ((2, True), (3, False)):
        after = after_updates(count, counter(4), baseline_first=2)
        assert all(torch.equal(after[k], start[k]) is waits for k in start if k.startswith("policy"))
        assert not any(torch.equal(after[k], start[k]) for k in start if k.startswith("value") and k.endswith("weight"))


def test_reinforce_breaks_off_what_does_not_fit_and_says_how_much_it_used(counter):
    envs = counter(4)
    agent = build(envs, episodes=50, horizon=10, baseline="none")
    metrics = [row.metrics for row in rows_of(agent, envs, 45)]
    assert agent.updates == 4
    assert all(int(m["charts/update_episodes"]) < 50 for m in metrics if m)
    assert 0 < agent.scalars()["charts/used_rows"] < 1


def test_reinforce_does_not_train_for_ever_on_nothing(counter):
    """Episodes of the counter last at least 2 steps; none that begins in a rollout of 2 rows ends in it."""
    with pytest.raises(TrainingFailed, match="10 times in a row"):
        list(rows_of(build(counter(4), horizon=2, baseline="none", episodes=1), counter(4), 200))


def test_a_cut_never_makes_an_update_of_the_short_episodes_only(counter):
    """Without a baseline a cut episode is lost; the update waits for another in its place."""
    envs, sizes = counter(4), []
    agent = build(envs, episodes=6, horizon=60, baseline="none")
    g = torch.Generator().manual_seed(0)
    cut = lambda steps: steps // 68 > (steps - 4) // 68  # noqa: E731
    for row in run(envs, agent, steps=2000, seeds=lambda: np.arange(4), generator=g, interrupt_due=cut):
        sizes += [int(row.metrics["charts/update_episodes"])] if row.metrics else []
    assert len(sizes) > 10
    assert set(sizes) == {6}


def test_rows_that_decide_nothing_leave_an_episode_whole(counter, monkeypatch):
    """As in a task's input phase: memory runs through them, and they are out of the loss."""
    envs, seen = counter(4), []
    agent = build(envs, core="gru", episodes=5, horizon=60)
    pieces = reinforce.episode_pieces

    def watched(inside, counts, length, chunk):
        for t, n, real, begins in pieces(inside, counts, length, chunk):
            seen.append((t, n, real, counts, inside))
            yield t, n, real, begins

    monkeypatch.setattr(reinforce, "episode_pieces", watched)
    observe = agent.observe
    agent.observe = lambda step: observe(
        step._replace(timestep=step.timestep._replace(valid=step.timestep.valid & (step.timestep.age % 2 == 1)))
    )
    list(rows_of(agent, envs, 60))
    assert seen
    for t, n, real, counts, inside in seen:
        assert inside[t[0], n[0]].all()
        assert (real <= counts[t, n]).all()
        assert int(real.sum()) == int(counts.sum())  # all of them in the one piece
        assert not real[0].any()  # the first row of an episode, of age 0, decided nothing


def test_the_ladders_stages_are_switches(counter):
    rows = reinforce.Trajectory(
        first=torch.tensor([[True], [False], [False], [True]]),
        valid=torch.ones(4, 1, dtype=torch.bool),
        action=torch.zeros(4, 1),
        reward=torch.tensor([[1.0], [2.0], [4.0], [8.0]]),
        terminated=torch.tensor([[False], [False], [True], [True]]),
        truncated=torch.zeros(4, 1, dtype=torch.bool),
        life_lost=torch.zeros(4, 1, dtype=torch.bool),
        last=torch.tensor([[False], [False], [True], [True]]),
    )
    c, zero = reinforce.Config(reward_clip=0.0, gamma=1.0), torch.zeros(4, 1)
    assert reinforce.returns(rows, zero, c)[:, 0].tolist() == [7, 6, 4, 8]
    assert reinforce.returns(rows, zero, replace(c, reward_to_go=False))[:, 0].tolist() == [7, 7, 7, 8]
    assert reinforce.returns(rows, zero, replace(c, gamma=0.5))[:, 0].tolist() == [3, 4, 4, 8]
    weight = normalised(reinforce.returns(rows, zero, c), rows.valid)
    assert weight.mean().abs() < 1e-6
