"""PQN: its targets and loss by their definition, when it learns and from what, and the optimiser its authors use."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arcturus.agents import pqn
from arcturus.loop import run
from arcturus.optimizers import load_optimizer_tensors, optimizer_tensors, radam
from arcturus.replay.rollout import Minibatch, Trajectory
from arcturus.seeding import Seeds

SMALL = {"torso": "mlp", "horizon": 8, "epochs": 2, "minibatches": 2}


def build(envs, **changes):
    return pqn.Agent(pqn.Config(**(SMALL | changes)), envs.spec, "cpu", Seeds(0))


def rows_of(agent, envs, rows, interrupt_due=lambda steps: False):
    g = torch.Generator().manual_seed(0)
    n = envs.num_envs
    return run(envs, agent, steps=rows * n, seeds=lambda: np.arange(n), generator=g, interrupt_due=interrupt_due)


# -- targets and loss --------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.sampled_from([0.0, 0.5, 0.8125, 1.0]), st.booleans(), st.integers(0, 10_000))
def test_targets_are_pengs_across_ends_time_limits_cuts_and_lives(rows, lam, end_on_life_loss, seed):
    g = torch.Generator().manual_seed(seed)
    how = torch.randint(
        8, (rows, 3), generator=g
    )  # how the row after each arrived: 0 terminated, 1 truncated, 2 cut, 3 a life lost
    terminated, truncated, cut, lost = (how == i for i in range(4))
    reward, q = torch.randn(rows, 3, dtype=torch.float64, generator=g), torch.randn(rows, 3, 4, dtype=torch.float64, generator=g)
    no, last = torch.zeros_like(cut), terminated | truncated | cut
    trajectory = Trajectory(no, ~no, no.long(), reward, terminated, truncated, lost, last)
    c = pqn.Config(gamma=0.9375, q_lambda=lam, reward_clip=1.0, end_on_life_loss=end_on_life_loss)
    G = pqn.q_lambda_targets(trajectory, q, c)

    def plain(t, n):
        r = min(max(float(reward[t, n]), -1.0), 1.0)
        if how[t, n] == 0 or (how[t, n] == 3 and end_on_life_loss):
            return r
        v = max(float(x) for x in q[t, n])
        if how[t, n] in (1, 2) or t == rows - 1:
            return r + 0.9375 * v
        return r + 0.9375 * ((1 - lam) * v + lam * plain(t + 1, n))

    expected = [[plain(t, n) for n in range(3)] for t in range(rows)]
    assert G.dtype == torch.float64
    assert torch.allclose(G, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_loss_is_half_the_mean_squared_error_of_the_actions_taken_where_they_count():
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, 6, 3, dtype=torch.float64, generator=g, requires_grad=True)
    action, target = torch.tensor([[0, 1, 2, 2, 1, 0]]), torch.randn(1, 6, dtype=torch.float64, generator=g)
    target[0, 4] = 1e9
    valid = torch.tensor([[True, True, False, True, False, True]])
    batch = Minibatch(None, None, (), action, valid, target)
    value = pqn.loss(SimpleNamespace(unroll=lambda *_: (q, ())), batch, pqn.Config()).value
    errors = {i: float(target[0, i] - q.detach()[0, i, action[0, i]]) for i in (0, 1, 3, 5)}
    assert value.item() == pytest.approx(sum(0.5 * e**2 for e in errors.values()) / 4, rel=1e-12)
    value.backward()
    expected = torch.zeros_like(q)
    for i, e in errors.items():
        expected[0, i, action[0, i]] = -e / 4
    assert torch.allclose(q.grad, expected, atol=1e-12)


# -- when, and from what -----------------------------------------------------------------------------------------------


def test_epsilon_falls_with_every_agent_step_from_the_first(counter, monkeypatch):
    seen = []
    monkeypatch.setattr(pqn, "epsilon_greedy", lambda q, epsilon, generator: (seen.append(epsilon), q.argmax(-1))[1])
    agent = build(counter(4), epsilon_initial=1.0, epsilon_final=0.2, epsilon_steps=40)
    shown = [agent.scalars()["charts/epsilon"] for _ in rows_of(agent, counter(4), 14)]
    expected = [max(1 - 0.8 * 4 * row / 40, 0.2) for row in range(15)]
    assert seen == pytest.approx(expected[:14])  # a row is acted before its steps are counted
    assert shown == pytest.approx(expected[1:])


def test_a_rollout_is_learnt_from_once_when_the_row_after_it_is_there(counter):
    agent = build(counter(4), epochs=3, minibatches=4)
    updates = [(row.steps // 4, agent.updates) for row in rows_of(agent, counter(4), 33) if row.metrics]
    assert updates == [(9, 12), (17, 24), (25, 36), (33, 48)]


def test_the_learning_rate_falls_to_zero_over_anneal_steps(counter):
    agent = build(counter(4), learning_rate=1.0, anneal_steps=128)
    used = []
    set_rate = agent.gradient_step.set_learning_rate
    agent.gradient_step.set_learning_rate = lambda value: (used.append(value), set_rate(value))
    list(rows_of(agent, counter(4), 41))
    assert used == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("core", ["none", "gru"])
def test_every_bootstrap_is_the_present_networks(core, counter, monkeypatch):
    """At every update, before it, the action-values of the targets are those the network gives the rows after each."""
    envs, checked = counter(4), []
    agent = build(envs, core=core, core_width=8, learning_rate=1e-2, end_on_life_loss=True)
    targets, learn = pqn.q_lambda_targets, agent.learn_from_rollout

    def watched(rows, q_t, c):
        ts, after = agent.now
        n = torch.arange(4).expand(8, 4)
        obs = torch.cat([agent.rollout.obs(torch.arange(8)[:, None].expand(8, 4), n), ts.obs[None]])
        first = torch.cat([rows.first, ts.first[None]])
        with torch.no_grad():
            q, _ = agent.network.unroll(obs, first, agent.rollout.state(torch.zeros(4, dtype=torch.int64), torch.arange(4)))
            assert torch.allclose(agent.network.unroll(ts.obs[None], ts.first[None], after)[0], q[-1:], atol=1e-5)
        assert torch.allclose(q_t, q[1:], atol=1e-5)
        checked.append(q_t)
        return targets(rows, q_t, c)

    def noted(ts, state):
        agent.now = ts, state
        return learn(ts, state)

    agent.learn_from_rollout = noted
    monkeypatch.setattr(pqn, "q_lambda_targets", watched)
    list(rows_of(agent, envs, 41, interrupt_due=lambda steps: steps == 76))
    assert len(checked) == 5
    assert not torch.allclose(checked[0], checked[-1])


def test_void_rows_train_nothing(counter):
    """Other actions in rows where nothing is decided, and other action-values where an episode terminated, change no weight."""

    def weights(poison):
        envs = counter(4)
        agent = build(envs)
        observe = agent.observe

        def poisoned(step):
            void = ~step.timestep.valid
            step.extras["q_values"][step.timestep.terminated] += poison
            observe(step._replace(action=torch.where(void, (step.action + int(poison)) % 3, step.action)))

        agent.observe = poisoned
        list(rows_of(agent, envs, 60, interrupt_due=lambda steps: steps == 80))
        return [p.clone() for p in agent.network.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(0.0), weights(7.0), strict=True))


def test_time_limits_and_cuts_bootstrap(counter):
    """The same poison where an episode was truncated (the counter's odd environments) or cut does change them."""
    for name in ("truncated", "interrupted"):
        found = []
        for poison in (0.0, 7.0):
            envs = counter(4)
            agent = build(envs)
            observe = agent.observe

            def poisoned(step, observe=observe, poison=poison, name=name):
                step.extras["q_values"][getattr(step.timestep, name)] += poison
                observe(step)

            agent.observe = poisoned
            list(rows_of(agent, envs, 30, interrupt_due=lambda steps: steps == 80))
            found.append([p.clone() for p in agent.network.parameters()])
        assert any(not torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_torso_is_normalised_before_every_relu(layer_norm, counter):
    layers = [type(m).__name__ for m in build(counter(4), layer_norm=layer_norm).network.torso.layers]
    relus = [i for i, name in enumerate(layers) if name == "ReLU"]
    assert relus
    assert all((layers[i - 1] in ("LayerNorm", "GroupNorm")) == layer_norm for i in relus)


# -- rectified Adam ----------------------------------------------------------------------------------------------------


def problem():
    g = torch.Generator().manual_seed(0)
    return torch.nn.Parameter(torch.randn(5, generator=g)), [torch.randn(5, generator=g) for _ in range(30)]


def test_radam_is_torchs_and_its_state_can_be_saved_at_any_step():
    (mine, gradients), (theirs, _) = problem(), problem()
    optimizer, reference = radam([mine], 0.1, 1e-8), torch.optim.RAdam([theirs], 0.1, eps=1e-8)
    names = sorted(optimizer_tensors(optimizer))
    for i, gradient in enumerate(gradients):
        if i == 15:
            saved, optimizer = optimizer_tensors(optimizer), radam([mine], 0.1, 1e-8)
            assert sorted(saved) == names
            load_optimizer_tensors(optimizer, saved)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
        assert torch.equal(mine, theirs)


def test_radam_changes_nothing_where_a_gradient_was_found_infinite():
    """As GradientStep tells it on CUDA, where it doesn't wait to see the number."""
    (mine, gradients), (clean, _) = problem(), problem()
    optimizer, reference = radam([mine], 0.1, 1e-8), radam([clean], 0.1, 1e-8)
    for i, gradient in enumerate(gradients):
        bad = i % 3 == 1
        mine.grad, clean.grad = gradient / (0.0 if bad else 1.0), gradient.clone()
        optimizer.found_inf = torch.tensor(float(bad))
        optimizer.step()
        if not bad:
            reference.step()
    assert torch.equal(mine, clean)
    assert all(torch.equal(a, b) for a, b in zip(optimizer.state[mine].values(), reference.state[clean].values(), strict=True))
