"""SAC: losses against plain definitions, what each of them moves, and the temperature."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete

from arcturus import agents
from arcturus.agents import sac
from arcturus.api import ActedStep, EnvSpec
from arcturus.config import from_mapping
from arcturus.errors import ConfigError
from arcturus.losses import expected_soft_value, soft_value
from arcturus.networks import TORSOS
from arcturus.replay.records import Transition
from arcturus.runs.files import flatten
from arcturus.runs.settings import resolve
from arcturus.scoring.instruments import as_timestep
from arcturus.seeding import Seeds

A = 4


def spec(shape=(3,), n=2):
    dtype = torch.uint8 if len(shape) > 1 else torch.float32
    return EnvSpec("test/X", n, shape, dtype, Discrete(A), shape[0] if len(shape) > 1 else 1)


def agent(n=2, shape=(3,), **settings):
    c = sac.Config(**{"capacity": 1000, "learning_starts": 20, "learning_rate": 1e-2, **settings})
    return sac.Agent(c, spec(shape, n), "cpu", Seeds(0))


def transitions(count=6, shape=(3,), seed=0):
    """With importance weights."""
    g = torch.Generator().manual_seed(seed)
    dtype = torch.uint8 if len(shape) > 1 else torch.float32
    obs = [(torch.rand(count, *shape, generator=g) * (255 if len(shape) > 1 else 2)).to(dtype) for _ in range(2)]
    number = lambda: torch.rand(count, generator=g)  # noqa: E731
    return Transition(obs[0], torch.randint(A, (count,), generator=g), number(), number(), obs[1], number() + 0.1)


def feed(a, rows):
    """rows rows of one-decision-per-row experience through act, observe, learn."""
    generator, metrics, state = torch.Generator().manual_seed(0), [], a.initial_state(a.spec.num_envs)
    for t in range(rows):
        obs = torch.randn(a.spec.num_envs, 3, generator=torch.Generator().manual_seed(t))
        ts = as_timestep(obs)._replace(age=torch.full((a.spec.num_envs,), min(t, 255), dtype=torch.uint8))
        act = a.act(ts, state, explore=True, generator=generator)
        a.observe(ActedStep(ts, state, act.action, act.extras))
        metrics.append(a.learn())
    return metrics


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# -- the losses ------------------------------------------------------------------------------------------------------------

B = 20


@pytest.fixture
def numbers():
    """float64: log pi [B, A], q [2, B, A], and r, discount, v, weight [B], of which every fourth row is void."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    weight = draw(B).abs()
    weight[::4] = 0
    return draw(B, A).log_softmax(-1), draw(2, B, A), draw(B), draw(B).sigmoid(), draw(B), weight


def plain_mean(each, weight):
    counting = [i for i in range(len(weight)) if weight[i] > 0]
    return sum(float(weight[i]) * each[i] for i in counting) / len(counting)


def test_the_critics_loss_is_its_definition(numbers):
    _, q, r, discount, v, weight = numbers
    a = torch.arange(B) % A
    value, td = sac.critic_loss(q, v, Transition(None, a, r, discount, None, weight))
    want = [[float(r[i] + discount[i] * v[i] - q[k, i, a[i]]) for i in range(B)] for k in (0, 1)]
    torch.testing.assert_close(td, torch.tensor(want, dtype=torch.float64))
    assert math.isclose(value, plain_mean([0.5 * (x**2 + y**2) for x, y in zip(*want, strict=True)], weight), rel_tol=1e-12)


def test_the_policys_loss_is_its_definition(numbers):
    log_pi, (q, _), *_, weight = numbers
    each = [sum(math.exp(log_pi[i, a]) * (0.3 * float(log_pi[i, a]) - float(q[i, a])) for a in range(A)) for i in range(B)]
    assert math.isclose(sac.loss(sac.PolicyBatch(log_pi, q, 0.3, weight)).value, plain_mean(each, weight), rel_tol=1e-12)


def test_the_temperatures_loss_and_its_slope_are_their_definitions(numbers):
    log_pi, *_, weight = numbers
    entropy = [-sum(math.exp(p) * p for p in row) for row in log_pi.tolist()]
    log_alpha = torch.tensor(-1.2, dtype=torch.float64, requires_grad=True)
    value = sac.temperature_loss(log_alpha, torch.tensor(entropy, dtype=torch.float64), 0.9, weight)
    want = plain_mean([math.exp(-1.2) * (h - 0.9) for h in entropy], weight)
    assert math.isclose(value.detach(), want, rel_tol=1e-12)
    value.backward()
    assert math.isclose(log_alpha.grad, want, rel_tol=1e-12)  # alpha's own slope, times alpha


def test_the_best_policy_of_the_policys_loss_is_the_softmax_of_the_values(numbers):
    """There expected_soft_value is alpha logsumexp(q / alpha), and its slope 0."""
    _, (q, _), *_ = numbers
    logits = (q / 0.3).requires_grad_()
    value = expected_soft_value(logits.log_softmax(-1), q, 0.3)
    torch.testing.assert_close(value.detach(), soft_value(q, 0.3)[1])
    sac.loss(sac.PolicyBatch(logits.log_softmax(-1), q, 0.3, torch.ones(B))).value.backward()
    assert logits.grad.abs().max() < 1e-12


def test_each_loss_moves_its_own_and_void_rows_move_nothing(numbers):
    log_pi, q, r, discount, v, weight = (x.requires_grad_() for x in numbers)
    critics, _ = sac.critic_loss(q, v, Transition(None, torch.zeros(B, dtype=torch.int64), r, discount, None, weight.detach()))
    critics.backward()
    assert v.grad is None
    assert q.grad[..., 1:].eq(0).all()
    assert q.grad[..., 0].ne(0).equal(weight.detach().ne(0).expand(2, -1))
    q.grad = None
    sac.loss(sac.PolicyBatch(log_pi, q[0], 0.3, weight.detach())).value.backward()
    assert q.grad is None
    assert log_pi.grad.ne(0).all(1).equal(weight.detach().ne(0))


# -- an update -------------------------------------------------------------------------------------------------------------


def test_an_update_is_the_algorithms():
    """By the target's smaller value at s', the critics' smaller value at s, and alpha; priorities are the mean absolute error."""
    a, batch = agent(alpha=0.2, autotune=False), transitions()
    torch.nn.init.normal_(a.network.policy.weight, generator=torch.Generator().manual_seed(1))
    for p, q in zip(a.target.parameters(), a.critics.parameters(), strict=True):
        p.copy_(q.detach() * 1.5)
    a.gradient_steps["critics"].set_learning_rate(0.0)  # so that the policy's loss sees the critics that are looked at here
    with torch.no_grad():
        log_pi, log_pi_t = a.log_policy(batch.s_tm1).tolist(), a.log_policy(batch.s_t).tolist()
        q, q_t = a.critics(batch.s_tm1).tolist(), a.target(batch.s_t).tolist()
    shown, told = a.update(batch)
    errors, losses, worths = [], [], []
    for i in range(len(batch.weight)):
        soft = lambda log_pi, q, i=i: sum(  # noqa: E731
            math.exp(log_pi[i][b]) * (min(q[0][i][b], q[1][i][b]) - 0.2 * log_pi[i][b]) for b in range(A)
        )
        target = float(batch.r_t[i]) + float(batch.discount_t[i]) * soft(log_pi_t, q_t)
        td = [target - q[k][i][int(batch.a_tm1[i])] for k in (0, 1)]
        errors.append((abs(td[0]) + abs(td[1])) / 2)
        losses.append(0.5 * td[0] ** 2 + 0.5 * td[1] ** 2)
        worths.append(-soft(log_pi, q))
    torch.testing.assert_close(told, torch.tensor(errors))
    assert math.isclose(shown["losses/td_loss"], plain_mean(losses, batch.weight), rel_tol=1e-4)
    assert math.isclose(shown["losses/policy_loss"], plain_mean(worths, batch.weight), rel_tol=1e-4)


def test_the_actor_does_not_move_the_critics_nor_the_critics_the_actor():
    for still, moving in (("critics", "actor"), ("actor", "critics")):
        a = agent()
        parts = {"critics": a.critics, "actor": a.network}
        before = {k: weights(part) for k, part in parts.items()}
        a.gradient_steps[still].set_learning_rate(0.0)
        a.update(transitions())
        assert same(weights(parts[still]), before[still])
        assert not same(weights(parts[moving]), before[moving])


def test_the_two_critics_are_not_one():
    first, second = agent().critics(transitions().s_tm1)
    assert not torch.allclose(first, second, atol=1e-3)


def test_void_rows_change_no_weight():
    good = transitions()
    void = good._replace(s_tm1=good.s_tm1 * 0 + 7, s_t=good.s_t * 0 - 7, r_t=good.r_t + 100, weight=good.weight * 0)
    one, two = agent(), agent()
    both = Transition(*(torch.cat(pair) for pair in zip(good, void, strict=True)))
    shown = [one.update(good)[0], two.update(both)[0]]
    for x, y in zip(flatten(one.state_dict())[0].values(), flatten(two.state_dict())[0].values(), strict=True):
        torch.testing.assert_close(x, y)
    for tag in ("losses/td_loss", "losses/policy_loss", "losses/entropy"):
        torch.testing.assert_close(shown[0][tag], shown[1][tag])


def test_a_bad_reward_is_told_even_if_only_the_critics_skip_it():
    a, batch = agent(), transitions()
    before = weights(a.critics)
    shown, _ = a.update(batch._replace(r_t=batch.r_t * torch.inf))
    assert shown["health/skipped_updates"] == 1
    assert same(weights(a.critics), before)
    assert a.update(batch)[0]["health/skipped_updates"] == 0


def test_the_targets_move_only_at_their_period():
    a, moves, before = agent(target_period=40, learning_starts=4), [], None
    for t in range(60):
        feed(a, 1)
        now = weights(a.target)
        if before is not None and not same(now, before):
            moves.append(a.steps)
            assert same(now, weights(a.critics))
        before = now
    assert moves == [40, 80, 120]


def test_nothing_is_learnt_before_learn_start_and_play_is_nearly_uniform():
    a = agent(learning_starts=50)
    assert not any(feed(a, 25))
    assert any(feed(a, 10))
    for shape in ((4,), (4, 42, 42)):
        policy = agent(shape=shape).log_policy(transitions(200, shape).s_tm1).exp()
        assert (policy - 1 / A).abs().max() < 0.02


# -- the temperature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 5.0])
def test_the_temperature_brings_the_entropy_to_its_target_from_both_sides(alpha):
    """For the policy softmax(q / alpha), which (3) makes."""
    log_alpha = torch.tensor(math.log(alpha), requires_grad=True)
    optimizer, target = torch.optim.Adam([log_alpha], 0.02), 0.5 * math.log(3)
    for _ in range(1_000):
        pi = (torch.tensor([[1.0, 0.0, -1.0]]) / log_alpha.detach().exp()).softmax(-1)
        entropy = torch.special.entr(pi).sum(-1)
        optimizer.zero_grad()
        sac.temperature_loss(log_alpha, entropy, target, torch.ones(1)).backward()
        optimizer.step()
    assert abs(float(entropy) - target) < 0.02


@pytest.mark.parametrize(("peak", "target_entropy", "sign"), [(0.0, 0.5, -1), (9.0, 0.5, 1), (0.0, 1.0, 0)])
def test_an_update_moves_the_temperature_the_right_way(peak, target_entropy, sign):
    a = agent(alpha=0.5, target_entropy=target_entropy)
    torch.nn.init.zeros_(a.network.policy.weight)
    a.network.policy.bias.data[0] = peak
    before = a.log_alpha.item()
    a.update(transitions())
    moved = a.log_alpha.item() - before
    assert (moved > 1e-3) - (moved < -1e-3) == sign


def test_a_fixed_temperature_stays():
    a = agent(alpha=0.3, autotune=False)
    feed(a, 30)
    assert a.updates > 0
    assert math.isclose(a.log_alpha.detach().exp(), 0.3, rel_tol=1e-6)


# -- settings and saving ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autotune", [True, False])
@pytest.mark.parametrize("shape", [(3,), (4, 20, 20)])
def test_a_restored_agent_goes_on_exactly_as_the_saved_one(shape, autotune):
    first, second = (agent(shape=shape, autotune=autotune, capacity=200) for _ in range(2))
    for seed in range(3):
        first.update(transitions(shape=shape, seed=seed))
    second.load_state_dict(first.state_dict())
    for seed in range(3, 6):
        first.update(transitions(shape=shape, seed=seed))
        second.update(transitions(shape=shape, seed=seed))
    assert same(flatten(first.state_dict())[0].values(), flatten(second.state_dict())[0].values())


@pytest.mark.parametrize(
    "wrong", [{"target_entropy": 1.1}, {"target_entropy": -0.1}, {"alpha": 0.0}, {"alpha": -1.0}, {"alpha": 101.0}]
)
def test_impossible_temperatures_are_refused(wrong):
    with pytest.raises(ConfigError, match="must be from"):
        from_mapping(sac.Config, wrong, "agent")


def test_other_actions_than_discrete_ones_are_refused():
    with pytest.raises(ConfigError, match="sac plays one discrete action"):
        sac.Agent(sac.Config(capacity=100), replace(spec(), action_space=MultiDiscrete([2, 2])), "cpu", Seeds(0))


def test_presets_are_valid_and_the_papers_is_the_papers():
    for preset in agents.presets("sac").named:
        assert resolve("sac", preset=preset).agent.torso in TORSOS
    c = resolve("sac", preset="christodoulou2019").agent
    assert (c.batch_size, c.learning_rate, c.optimizer_eps, c.replay_ratio) == (64, 3e-4, 1e-4, 1 / 4)
    assert (c.target_period, c.learning_starts, c.capacity, c.reward_clip) == (8_000, 20_000, 1_000_000, 1.0)
    assert (c.gamma, c.n_step, c.autotune, c.target_entropy, c.alpha) == (0.99, 1, True, 0.98, 1.0)
