"""Sequences from the ring, for agents with memory: what was lived through, row by row, and the memory it began with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arcturus.agents import dqn, drqn
from arcturus.api import Act, Objective, State
from arcturus.loop import run
from arcturus.networks import QNetwork
from arcturus.replay.records import SequenceSpan
from arcturus.replay.ring import Ring
from arcturus.seeding import Seeds


class Rememberer:
    """Acts at random; its memory is a nest that tells the row and the environment."""

    stochastic, on_policy, network, objective = True, False, None, None

    def __init__(self):
        self.rows, self.t = [], 0

    def initial_state(self, n) -> State:
        return (torch.zeros(n, 2), (torch.zeros(n, dtype=torch.int64),))

    def act(self, ts, state, *, explore, generator=None):
        self.t += 1
        n = torch.arange(len(ts.age))
        memory = (torch.stack([torch.full_like(n, self.t), n], -1).float(), (n * 1000 + self.t,))
        return Act(torch.randint(3, ts.reward.shape, generator=generator), memory, {})

    def observe(self, step):
        self.rows.append(step)

    def learn(self, ts=None, state=()):
        return {}


def lived(envs, capacity, reach, rows=70):
    actor = Rememberer()
    ring = Ring(capacity, envs.spec, "cpu", reach, state=actor.initial_state(3))
    g = torch.Generator().manual_seed(0)
    cut = lambda steps: steps // 57 > (steps - 3) // 57  # noqa: E731
    for row in run(envs, actor, steps=rows * 3, seeds=lambda: np.arange(3), generator=g, interrupt_due=cut):
        ring.append(row.step)
    return actor.rows, ring


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize(("burn_in", "length", "n_step"), [(0, 1, 1), (3, 5, 1), (2, 4, 3)])
def test_sequences_are_what_was_lived_through(burn_in, length, n_step, stack, counter):
    """70 rows through a ring of 40, cut every 19 rows."""
    rows, ring = lived(counter(3, stack), 120, burn_in + length + n_step - 1)
    g = torch.Generator().manual_seed(1)
    seen = set()
    for _ in range(40):
        batch = ring.sequences(8, g, SequenceSpan(burn_in, length, whole=False), n_step, Objective(0.9, 2.0, True))
        for b in range(8):
            row, n = int(batch.state[0][b, 0]), int(batch.state[0][b, 1])  # memory before row t was made at row t - 1
            assert int(batch.state[1][0][b]) == n * 1000 + row
            seen.add((row, n))
            assert ring.oldest <= row <= ring.count - burn_in - length - n_step
            for t in range(burn_in + length + n_step):
                ts = rows[row + t].timestep
                assert torch.equal(batch.obs[t, b], ts.obs[n])
                assert batch.first[t, b] == ts.first[n]
        first, env = batch.state[0][:, 0].long() + burn_in, batch.state[0][:, 1].long()
        for i in range(length):
            want = ring.transitions(first + i, env, n_step, Objective(0.9, 2.0, True))
            for got, theirs in zip(
                (batch.a_tm1, batch.r_t, batch.discount_t, batch.weight), (want[1], want[2], want[3], want[5]), strict=True
            ):
                assert torch.equal(got[i], theirs)
            later = batch.obs[burn_in + i + batch.steps[i], torch.arange(8)]
            counts = want.weight > 0  # of an autoreset row nothing else has a meaning
            assert torch.equal(later[counts], want.s_t[counts])
    assert len(seen) > 50


def test_without_memory_the_loss_over_sequences_is_that_over_their_transitions(counter):
    _, ring = lived(counter(3), 200, 7)
    q, target = (QNetwork(ring.spec, 3, "mlp") for _ in range(2))
    c = drqn.Config(double=True, n_step=3, bptt=4, burn_in=0)
    span = SequenceSpan(0, 4, whole=False)
    batch = ring.sequences(6, torch.Generator().manual_seed(0), span, 3, Objective(0.9, 2.0))
    t = (batch.state[0][:, 0].long() + torch.arange(4)[:, None]).flatten()
    n = batch.state[0][:, 1].long().repeat(4)
    one = drqn.loss(q, target, batch._replace(state=()), c).value
    two = dqn.loss(q, target, ring.transitions(t, n, 3, Objective(0.9, 2.0)), dqn.Config(double=True, n_step=3)).value
    assert torch.allclose(one, two, atol=1e-6)


def test_burn_in_brings_the_stored_memory_up_to_date_and_trains_nothing(counter):
    envs = counter(3)
    c = drqn.Config(core="gru", core_width=4, torso="mlp", capacity=120, learning_starts=6, bptt=3, burn_in=4, batch_size=4)
    agent = drqn.Agent(c, envs.spec, "cpu", Seeds(0))
    g = torch.Generator().manual_seed(0)
    list(run(envs, agent, steps=90, seeds=lambda: np.arange(3), generator=g))
    batch = agent.replay.sequences(4, g, SequenceSpan(4, 3, whole=False), 1, Objective(0.9))
    batch = batch._replace(obs=batch.obs.float() / 255, first=torch.zeros_like(batch.first))
    obs = batch.obs.requires_grad_()
    value, _, _ = drqn.loss(agent.network, agent.target, batch, c)
    (gradient,) = torch.autograd.grad(value, obs)
    assert (gradient[:4] == 0).all()
    assert (gradient[4:7].abs().flatten(1).sum(1) > 0).all()
    stale, _, _ = drqn.loss(agent.network, agent.target, batch._replace(state=batch.state + 1), c)
    assert stale != value
