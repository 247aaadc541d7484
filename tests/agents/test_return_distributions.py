"""Distributions of returns: projections and quantile losses against plain-Python definitions in float64; the parts of value heads."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from arcturus.agents import c51, dqn, iqn, qr_dqn
from arcturus.api import EnvSpec
from arcturus.losses import munchausen_bonus, soft_value, td_loss, weighted_mean
from arcturus.networks import QNetwork, TorsoOptions
from arcturus.replay.records import Transition
from arcturus.return_distributions import CategoricalMean, categorical_projection, midpoints, quantile_huber
from arcturus.runs.settings import resolve
from arcturus.scoring.instruments import as_timestep
from arcturus.seeding import Seeds
from arcturus.value_heads import NoisyLinear, ValueHead

VECTOR = EnvSpec("test/X", 2, (3,), torch.float32, Discrete(4))


def algorithm_1(p, r, discount, low, high):
    """Bellemare et al. 2017, algorithm 1, where l = u loses nothing."""
    K = len(p)
    dz = (high - low) / (K - 1)
    m = [0.0] * K
    for j in range(K):
        tz = min(max(r + discount * (low + j * dz), low), high)
        b = min(max((tz - low) / dz, 0.0), K - 1.0)
        if math.isclose(b, round(b), abs_tol=1e-9):
            m[round(b)] += p[j]
        else:
            m[math.floor(b)] += p[j] * (math.ceil(b) - b)
            m[math.ceil(b)] += p[j] * (b - math.floor(b))
    return m


@given(
    p=st.lists(st.floats(0.01, 1), min_size=2, max_size=9),
    r=st.floats(-6, 6),
    discount=st.sampled_from([0.0, 0.5, 0.9, 0.99**3, 1.0]),
    low=st.floats(-3, 0),
    width=st.floats(0.5, 5),
)
@settings(max_examples=300, deadline=None)
def test_the_projection_is_that_of_algorithm_1(p, r, discount, low, width):
    p = [x / sum(p) for x in p]
    support = torch.linspace(low, low + width, len(p), dtype=torch.float64)
    args = (torch.tensor([x], dtype=torch.float64) for x in (p, r, discount))
    got = categorical_projection(*args, support)[0]
    torch.testing.assert_close(
        got, torch.tensor(algorithm_1(p, r, discount, low, low + width), dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert float(got.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("r", "discount", "want"),
    [
        (0.0, 1.0, [0.2, 0.3, 0.5]),  # every return falls on an atom: l = u
        (1.0, 0.0, [0.0, 0.0, 1.0]),  # terminal, on an atom
        (0.25, 0.0, [0.0, 0.75, 0.25]),  # terminal, between two
        (9.0, 0.9, [0.0, 0.0, 1.0]),  # beyond the end
        (-9.0, 0.9, [1.0, 0.0, 0.0]),
        (1.0, 1.0, [0.0, 0.2, 0.8]),
    ],
)
def test_the_projections_edge_cases(r, discount, want):
    p, support = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    got = categorical_projection(
        p, torch.tensor([r], dtype=torch.float64), torch.tensor([discount], dtype=torch.float64), support
    )
    torch.testing.assert_close(got, torch.tensor([want], dtype=torch.float64))


def definition_of_quantile_huber(theta, target, tau, kappa):
    total = 0.0
    for i, prediction in enumerate(theta):
        for goal in target:
            u = goal - prediction
            huber = abs(u)
            if kappa:
                huber = (0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)) / kappa
            total += abs(tau[i] - (1.0 if u < 0 else 0.0)) * huber / len(target)
    return total


@given(
    theta=st.lists(st.floats(-4, 4), min_size=1, max_size=5),
    target=st.lists(st.floats(-4, 4), min_size=1, max_size=4),
    kappa=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_the_quantile_loss_is_its_definition(theta, target, kappa, seed):
    tau = torch.rand(len(theta), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    one = quantile_huber(torch.tensor([theta], dtype=torch.float64), torch.tensor([target], dtype=torch.float64), tau, kappa)
    each = quantile_huber(
        torch.tensor([theta], dtype=torch.float64), torch.tensor([target], dtype=torch.float64), tau[None], kappa
    )
    want = definition_of_quantile_huber(theta, target, tau.tolist(), kappa)
    assert one.tolist() == each.tolist() == [pytest.approx(want, abs=1e-6)]


def test_quantile_regression_finds_the_quantiles():
    g = torch.Generator().manual_seed(0)
    theta, tau = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True), midpoints(5).double()
    returns = torch.randn(1, 4_000, dtype=torch.float64, generator=g)
    gradient_step = torch.optim.Adam([theta], lr=0.05)
    for _ in range(300):
        gradient_step.zero_grad()
        quantile_huber(theta, returns, tau, 0.0).sum().backward()
        gradient_step.step()
    torch.testing.assert_close(theta[0].detach(), returns[0].quantile(tau), rtol=0, atol=0.03)


def test_munchausen_is_its_definition():
    g = torch.Generator().manual_seed(0)
    q, a = torch.randn(20, 4, dtype=torch.float64, generator=g), torch.randint(4, (20,), generator=g)
    log_pi, v = soft_value(q, 0.3)
    bonus = munchausen_bonus(log_pi, a, 0.9, 0.3, -1.0)
    for i in range(20):
        z = [math.exp(x / 0.3) for x in q[i].tolist()]
        pi = [x / sum(z) for x in z]
        assert float(v[i]) == pytest.approx(sum(p * (x - 0.3 * math.log(p)) for p, x in zip(pi, q[i].tolist(), strict=True)))
        assert float(bonus[i]) == pytest.approx(0.9 * max(-1.0, 0.3 * math.log(pi[a[i]])))
    assert (bonus == -0.9).any()  # some are clipped


def test_as_the_temperature_falls_a_soft_value_becomes_the_largest_action_value():
    q = torch.tensor([[1.0, 3.0, 2.0]])
    torch.testing.assert_close(soft_value(q, 1e-3)[1], torch.tensor([3.0]))


def test_importance_weights_multiply_and_void_rows_count_nowhere():
    loss, weight = torch.tensor([2.0, 4.0, 100.0]), torch.tensor([1.0, 0.25, 0.0])
    assert weighted_mean(loss, weight) == (2 + 1) / 2
    assert weighted_mean(loss, torch.zeros(3)) == 0
    for huber in (False, True):
        td = torch.tensor([0.5, 3.0, 9.0])
        each = td_loss(td[:1], torch.ones(1), huber=huber), td_loss(td[1:2], torch.ones(1), huber=huber)
        assert float(td_loss(td, weight, huber=huber)) == pytest.approx(float(each[0] + 0.25 * each[1]) / 2)


# -- heads ----------------------------------------------------------------------------------------------------------------


def test_a_noisy_layer_is_its_equation_and_without_noise_its_mean():
    layer = NoisyLinear(3, 2, 0.5)
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), x @ layer.mu_weight.T + layer.mu_bias)
    y = layer(x, torch.Generator().manual_seed(0))
    e = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    f = e.sign() * e.abs().sqrt()
    for row in range(4):
        w = layer.mu_weight + layer.sigma_weight * torch.outer(f[row, 3:], f[row, :3])
        torch.testing.assert_close(y[row], w @ x[row] + layer.mu_bias + layer.sigma_bias * f[row, 3:])
    assert torch.equal(layer.sigma_weight, torch.full((2, 3), 0.5 / math.sqrt(3)))
    assert layer.mu_weight.abs().max() <= 1 / math.sqrt(3)


@pytest.mark.parametrize("noisy", [0.0, 0.5])
def test_dueling_streams_are_their_equation(noisy):
    head, x = ValueHead(5, 3, 2, hidden=4, dueling=True, noisy=noisy), torch.randn(6, 5)
    z, v, u = head(x), head.value(x), head.advantage(x).view(6, 3, 2)
    for a in range(3):
        torch.testing.assert_close(z[:, a], v + u[:, a] - u.mean(1))
    torch.testing.assert_close(z.mean(1), v)


def test_rainbows_network_has_the_papers_layers():
    """Wang et al. 2016, figure 1: two streams of 512 behind the convolutions; Hessel et al. 2018: both layers of each are noisy."""
    spec = EnvSpec("x", 1, (4, 84, 84), torch.uint8, Discrete(6), 4)
    agent = c51.Agent(
        replace(resolve("c51", preset="rainbow").agent, capacity=100), spec, "cpu", Seeds(0)
    )
    noisy = {k: tuple(m.mu_weight.shape) for k, m in agent.network.named_modules() if isinstance(m, NoisyLinear)}
    assert noisy == {
        "head.advantage.layers.fc": (512, 3136),
        "head.advantage.layers.out": (6 * 51, 512),
        "head.value.layers.fc": (512, 3136),
        "head.value.layers.out": (51, 512),
    }
    assert [m.out_channels for m in agent.network.modules() if isinstance(m, torch.nn.Conv2d)] == [32, 64, 64]
    assert agent.config.epsilon(0) == 0


def test_noise_is_in_exploring_and_in_each_pass_of_an_update_but_not_in_playing():
    agent = dqn.Agent(dqn.Config(capacity=100, noisy=0.5), VECTOR, "cpu", Seeds(0))
    ts = as_timestep(torch.ones(2, 3))
    g = torch.Generator().manual_seed(0)
    explored = [agent.act(ts, (), explore=True, generator=g).extras["q_values"] for _ in range(2)]
    assert not torch.equal(explored[0], explored[1])
    assert not torch.equal(explored[0][0], explored[0][1])  # side by side, each with noise of its own
    played = [agent.act(ts, (), explore=False).extras["q_values"] for _ in range(2)]
    assert torch.equal(played[0], played[1])
    batch = Transition(torch.ones(5, 3), torch.zeros(5).long(), torch.ones(5), torch.ones(5), torch.ones(5, 3), torch.ones(5))
    errors = dqn.loss(agent.network, agent.network, batch, agent.config, agent.noise).priority
    assert len(set(errors.tolist())) == 5
    sigma = agent.network.head.advantage.layers["out"].sigma_weight
    dqn.loss(agent.network, agent.target, batch, agent.config, agent.noise)[0].backward()
    assert sigma.grad.abs().sum() > 0


def test_layer_norm_stands_before_every_relu_of_a_torso():
    spec = EnvSpec("x", 1, (4, 84, 84), torch.uint8, Discrete(6), 4)
    normed = TorsoOptions(layer_norm=True)
    for network in (QNetwork(spec, 4, "nature", normed), QNetwork(VECTOR, 4, "mlp", normed)):
        layers = list(network.torso.layers)
        relus = [i for i, m in enumerate(layers) if isinstance(m, torch.nn.ReLU)]
        assert relus
        assert all(isinstance(layers[i - 1], (torch.nn.GroupNorm, torch.nn.LayerNorm)) for i in relus)


# -- the agents' losses ---------------------------------------------------------------------------------------------------


def transitions(n=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Transition(
        torch.randn(n, 3, generator=g), torch.randint(4, (n,), generator=g), torch.randn(n, generator=g),
        torch.tensor([0.9, 0.0, 0.81] * (n // 3)), torch.randn(n, 3, generator=g), torch.ones(n),
    )  # fmt: skip


@pytest.mark.parametrize("double", [False, True])
def test_c51s_loss_is_the_cross_entropy_to_the_projected_target(double):
    support = torch.linspace(-2, 2, 7)
    q, target = (QNetwork(VECTOR, 4, atoms=7, expectation=CategoricalMean(-2, 2, 7)) for _ in range(2))
    b = transitions()
    each = c51.loss(q, target, b, c51.Config(double=double)).priority
    p_t, p_tm1 = target.atoms(b.s_t).softmax(-1), q.atoms(b.s_tm1).softmax(-1)
    chooser = (q.atoms(b.s_t).softmax(-1) if double else p_t) @ support
    for i in range(len(each)):
        best = int(chooser[i].argmax())
        m = algorithm_1(p_t[i, best].tolist(), float(b.r_t[i]), float(b.discount_t[i]), -2.0, 2.0)
        want = -sum(x * math.log(p) for x, p in zip(m, p_tm1[i, b.a_tm1[i]].tolist(), strict=True))
        assert float(each[i]) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("double", [False, True])
def test_qr_dqns_loss_is_its_definition(double):
    config = qr_dqn.Config(capacity=100, quantiles=5, double=double)
    agent, b = qr_dqn.Agent(config, VECTOR, "cpu", Seeds(0)), transitions()
    torch.nn.init.normal_(agent.target.head.advantage.layers["out"].bias)
    each = agent.loss(b).priority
    theta_t, theta_tm1 = agent.target.atoms(b.s_t), agent.network.atoms(b.s_tm1)
    chooser = (agent.network.atoms(b.s_t) if double else theta_t).mean(-1)
    for i in range(len(each)):
        goal = [float(b.r_t[i] + b.discount_t[i] * x) for x in theta_t[i, chooser[i].argmax()]]
        tau = [(2 * k + 1) / 10 for k in range(5)]
        want = definition_of_quantile_huber(theta_tm1[i, b.a_tm1[i]].tolist(), goal, tau, 1.0)
        assert float(each[i]) == pytest.approx(want, abs=1e-5)


def test_iqns_network_is_its_equations_and_its_loss_the_definition():
    config = iqn.Config(capacity=100, samples=3, target_samples=2, policy_samples=4, cosines=5)
    agent, b = iqn.Agent(config, VECTOR, "cpu", Seeds(0)), transitions()
    net, tau = agent.network, torch.rand(12, 3)
    cosines = torch.stack([torch.cos(math.pi * i * tau) for i in range(5)], -1)
    phi = (cosines @ net.phi[0].weight.T + net.phi[0].bias).relu()
    want = net.head(net.torso(b.s_tm1)[:, None] * phi).squeeze(-1)
    torch.testing.assert_close(net.returns(b.s_tm1, tau), want)
    torch.testing.assert_close(net(b.s_t), net.returns(b.s_t, midpoints(4).expand(12, 4)).mean(1))

    each = iqn.loss(net, agent.target, b, config, torch.Generator().manual_seed(5)).priority
    g = torch.Generator().manual_seed(5)  # the same probabilities, in the order they are drawn
    z_t = agent.target.returns(b.s_t, torch.rand(12, 2, generator=g))
    best = agent.target.returns(b.s_t, torch.rand(12, 4, generator=g)).mean(1).argmax(-1)
    tau = torch.rand(12, 3, generator=g)
    z_tm1 = net.returns(b.s_tm1, tau)
    for i in range(12):
        goal = [float(b.r_t[i] + b.discount_t[i] * x) for x in z_t[i, :, best[i]]]
        want_i = definition_of_quantile_huber(z_tm1[i, :, b.a_tm1[i]].tolist(), goal, tau[i].tolist(), 1.0)
        assert float(each[i]) == pytest.approx(want_i, abs=1e-5)


def test_munchausen_dqns_target_is_soft_and_of_the_target_network():
    config = dqn.Config(capacity=100, munchausen=0.9, temperature=0.03)
    agent, b = dqn.Agent(config, VECTOR, "cpu", Seeds(0)), transitions()
    torch.nn.init.normal_(agent.target.head.bias)
    td = dqn.loss(agent.network, agent.target, b, config).priority
    values = agent.network(b.s_tm1).detach()
    before, after = (agent.target(x).double().detach() for x in (b.s_tm1, b.s_t))
    for i in range(12):
        pi, pi_next = (before[i] / 0.03).log_softmax(-1), (after[i] / 0.03).softmax(-1)
        soft = float((pi_next * (after[i] - 0.03 * pi_next.clamp_min(1e-300).log())).sum())
        bonus = 0.9 * max(-1.0, 0.03 * float(pi[b.a_tm1[i]]))
        want = float(b.r_t[i]) + bonus + float(b.discount_t[i]) * soft - float(values[i, b.a_tm1[i]])
        assert float(td[i]) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize(
    ("module", "settings"),
    [(c51, {}), (qr_dqn, {"quantiles": 5}), (iqn, {"samples": 4}), (iqn, {"samples": 4, "munchausen": 0.9})],
)
def test_returns_and_probabilities_make_the_action_values(module, settings):
    """What a film shows of the returns has the mean that the agent acts by."""
    agent = module.Agent(module.Config(capacity=100, **settings), VECTOR, "cpu", Seeds(0))
    extras = agent.act(as_timestep(torch.randn(3, 3)), (), explore=False).extras
    torch.testing.assert_close(extras["probabilities"].sum(-1), torch.ones(3, 4))
    torch.testing.assert_close((extras["returns"] * extras["probabilities"]).sum(-1), extras["q_values"], rtol=1e-4, atol=1e-5)
    value, _, priority = agent.loss(transitions())
    assert value.shape == ()
    assert priority.shape == (12,)
    assert priority.isfinite().all()
