"""Policies, returns and memory as pure functions: against plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical

from arcturus.actor_critic import ActorCritic, Categoricals
from arcturus.api import EnvSpec, map_state, where_first
from arcturus.errors import ConfigError
from arcturus.losses import clipped_surrogate, explained_variance, lambda_returns, masked_mean, normalised
from arcturus.memory import CORES, make_core, unroll

SPACES = {
    "discrete": spaces.Discrete(5),
    "multi": spaces.MultiDiscrete([2, 5, 3]),
    "even": spaces.MultiDiscrete([[3, 3], [3, 3]]),
    "binary": spaces.MultiBinary(4),
}


def plain_returns(r, discount, v, last, lam):
    """Of one environment, from the definition of the lambda-return: the mixture of all n-step returns."""
    T, out = len(r), []
    for start in range(T):
        end = next(t for t in range(start, T) if last[t] or t == T - 1)
        steps, total, product = [], 0.0, 1.0
        for t in range(start, end + 1):  # the n-step returns
            total += product * r[t]
            product *= discount[t]
            steps.append(total + product * v[t])
        n = len(steps)
        out.append(sum((1 - lam) * lam**i * steps[i] for i in range(n - 1)) + lam ** (n - 1) * steps[-1])
    return out


@given(st.integers(1, 12), st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.integers(0, 10_000))
def test_lambda_returns_are_the_mixture_of_n_step_returns(T, lam, seed):
    g = np.random.default_rng(seed)
    r, v = g.normal(size=(2, T, 3))
    kind = g.integers(0, 5, size=(T, 3))  # 0 terminated, 1 truncated or cut, 2 a life lost, else going on
    discount, last = np.where((kind == 0) | (kind == 2), 0.0, 0.9), kind < 2
    got = lambda_returns(*(torch.from_numpy(x) for x in (r, discount, v, last)), lam)
    for n in range(3):
        assert np.allclose(got[:, n].numpy(), plain_returns(r[:, n], discount[:, n], v[:, n], last[:, n], lam), atol=1e-12)


def test_nothing_leaks_over_the_end_of_an_episode():
    r = torch.tensor([1.0, 2.0, 100.0, 4.0], dtype=torch.float64)[:, None]
    v = torch.tensor([10.0, 20.0, 1e9, 40.0], dtype=torch.float64)[:, None]
    last = torch.tensor([False, True, False, False])[:, None]
    for lam in (0.5, 1.0):
        assert lambda_returns(r, torch.full_like(r, 0.9), v, last, lam)[1].item() == pytest.approx(2 + 0.9 * 20)
        ended = torch.tensor([0.9, 0.0, 0.9, 0.9])[:, None]
        assert lambda_returns(r, ended, v, last, lam)[1].item() == 2.0


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_log_probabilities_and_entropies_are_summed_over_components(space):
    """Against torch.distributions, component by component."""
    actions, g = Categoricals(space), torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, actions.logits, generator=g, dtype=torch.float64)
    action = actions.sample(logits, g)
    assert action.shape == (7, 3, *space.shape)
    assert action.dtype == torch.int64
    assert all(space.contains(a.numpy().astype(space.dtype)) for a in action.flatten(0, 1))
    if isinstance(space, spaces.MultiBinary):  # one logit: of the bit being 1
        parts = [Categorical(probs=torch.stack([1 - p, p], -1)) for p in logits.sigmoid().unbind(-1)]
    else:
        parts = [Categorical(logits=part) for part in logits.split(actions.choices, -1)]
    flat = action.reshape(7, 3, -1).unbind(-1)
    assert torch.allclose(actions.log_prob(logits, action), sum(p.log_prob(a) for p, a in zip(parts, flat, strict=True)))
    assert torch.allclose(actions.entropy(logits), sum(p.entropy() for p in parts))
    best = torch.stack([p.logits.argmax(-1) for p in parts], -1).view(7, 3, *space.shape)
    assert torch.equal(actions.mode(logits), best)


def test_uneven_components_have_finite_gradients():
    actions = Categoricals(SPACES["multi"])
    logits = torch.randn(6, actions.logits, requires_grad=True)
    (actions.entropy(logits).sum() + actions.log_prob(logits, actions.mode(logits)).sum()).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).all()


def test_actions_are_drawn_as_often_as_their_probabilities_say():
    actions, g = Categoricals(spaces.MultiDiscrete([3, 2])), torch.Generator().manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0])
    drawn = actions.sample(logits.expand(20_000, -1), g)
    for component, part in enumerate(logits.split([3, 2])):
        frequency = torch.bincount(drawn[:, component], minlength=len(part)) / 20_000
        assert torch.allclose(frequency, part.softmax(-1), atol=0.015)


def test_numbers_that_are_not_finite_draw_some_action_and_not_an_exception():
    actions = Categoricals(spaces.Discrete(3))
    assert actions.sample(torch.full((2, 3), float("nan")), torch.Generator().manual_seed(0)).shape == (2,)


def test_a_box_has_no_categorical_policy():
    with pytest.raises(ConfigError, match="Box actions"):
        Categoricals(spaces.Box(-1, 1, (2,)), "Pendulum-v1")


def test_masked_statistics_never_see_void_rows():
    x, mask = torch.tensor([1.0, 3.0, 1e30]), torch.tensor([True, True, False])
    assert masked_mean(x, mask).item() == 2.0
    assert torch.allclose(normalised(x, mask)[:2], torch.tensor([-1.0, 1.0]))
    assert masked_mean(torch.tensor([math.nan, 2.0]), torch.tensor([False, True])).item() == 2.0
    assert explained_variance(x, x, mask).item() == 1.0
    assert explained_variance(torch.tensor([2.0, 2.0, 0.0]), x, mask).item() == pytest.approx(0.0)


def test_the_clipped_surrogate_is_pessimistic():
    """The four cases of the paper's figure 1."""
    rho, up = torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0])
    assert clipped_surrogate(rho, up, 0.2).tolist() == pytest.approx([1.2, 0.5])
    assert clipped_surrogate(rho, -up, 0.2).tolist() == pytest.approx([-1.5, -0.8])


# -- memory ------------------------------------------------------------------------------------------------------------


class Pair(torch.nn.Module):
    """A core with a nest of tensors and a learned initial state, as a Neural Turing Machine has."""

    def __init__(self, inputs, width):
        super().__init__()
        self.outputs, self.read = width, torch.nn.Linear(inputs + width, width)
        self.start = torch.nn.Parameter(torch.randn(4, width))

    def initial_state(self, n):
        return (self.start.expand(n, -1, -1), (self.start.new_zeros(n, self.outputs),))

    def forward(self, x, state):
        memory, (h,) = state
        h = self.read(torch.cat([x, h + memory.mean(1)], -1)).tanh()
        return h, (0.9 * memory + 0.1 * h[:, None], (h,))


def cores():
    torch.manual_seed(0)
    return {name: make_core(name, 6, 5).double() for name in CORES} | {"nested": Pair(6, 5).double()}


@pytest.mark.parametrize("name", [*CORES, "nested"])
def test_acting_step_by_step_is_unrolling_once(name):
    core, T, N = cores()[name], 9, 4
    g = torch.Generator().manual_seed(1)
    x, first = torch.randn(T, N, 6, generator=g, dtype=torch.float64), torch.rand(T, N, generator=g) < 0.3
    lived = torch.randn(3, N, 6, generator=g, dtype=torch.float64)
    begin = unroll(core, lived, torch.zeros(3, N, dtype=torch.bool), core.initial_state(N))[1]
    whole, end = unroll(core, x, first, begin)
    state = begin
    for t in range(T):
        y, state = unroll(core, x[t : t + 1], first[t : t + 1], state)
        assert torch.equal(y[0], whole[t])
    map_state(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0) or a, state, end)


@pytest.mark.parametrize("name", [name for name in (*CORES, "nested") if name != "none"])
def test_memory_is_wiped_exactly_where_an_episode_opens(name):
    core = cores()[name]
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    first = torch.tensor([[False, False], [False, False], [True, False], [False, False]])
    fresh = core.initial_state(2)
    other = unroll(core, torch.randn(3, 2, 6, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.bool), fresh)[1]
    one, two = unroll(core, x, first, fresh)[0], unroll(core, x, first, other)[0]
    assert not torch.equal(one[1, 0], two[1, 0])
    assert torch.equal(one[2:, 0], two[2:, 0])  # what came before is forgotten
    assert not torch.equal(one[2:, 1], two[2:, 1])  # and not in the environment beside it
    assert torch.allclose(one[2:, :1], unroll(core, x[2:, :1], first[2:, :1], core.initial_state(1))[0])


def test_a_learned_initial_state_is_learnt():
    core = cores()["nested"]
    x, first = torch.randn(3, 2, 6, dtype=torch.float64), torch.tensor([[True, True], [False, False], [False, False]])
    unroll(core, x, first, map_state(torch.Tensor.detach, core.initial_state(2)))[0].sum().backward()
    assert core.start.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_every_gate_begins_orthogonal(name):
    for key, p in make_core(name, 5, 5).named_parameters():
        for gate in p.detach().split(5) if p.dim() == 2 else ():
            assert torch.allclose(gate.T @ gate, torch.eye(5), atol=1e-5), key


def test_gru_is_the_papers():
    """Cho et al. 2014, equations 5 to 8, by hand; the reset gate stands inside the product."""
    core = cores()["gru"]
    x, h = torch.randn(1, 6, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    wx, wh, b = core.gates_x.weight, core.gates_h.weight, core.gates_x.bias
    r = torch.sigmoid(x @ wx[:5].T + h @ wh[:5].T + b[:5])
    z = torch.sigmoid(x @ wx[5:].T + h @ wh[5:].T + b[5:])
    new = torch.tanh(x @ core.new_x.weight.T + core.new_x.bias + (r * h) @ core.new_h.weight.T)
    assert torch.allclose(core(x, h)[0], z * h + (1 - z) * new)


def test_where_first_keeps_the_nest():
    state = (torch.zeros(2, 3), (torch.zeros(2, 4, 5),))
    out = where_first(torch.tensor([True, False]), map_state(torch.ones_like, state), state)
    assert out[1][0][0].sum() == 20
    assert out[1][0][1].sum() == out[0][1].sum() == 0


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("core", ["none", "lstm"])
def test_the_actor_critic_acts_as_it_unrolls(core, shared):
    spec = EnvSpec("x", 3, (4,), torch.float32, spaces.MultiDiscrete([2, 3]))
    network = ActorCritic(spec, core=core, core_width=8, shared=shared)
    obs, first = torch.randn(5, 3, 4), torch.zeros(5, 3, dtype=torch.bool)
    logits, v, _ = network.unroll(obs, first, network.initial_state(3))
    state = network.initial_state(3)
    for t in range(5):
        one, value, state = network.unroll(obs[t : t + 1], first[t : t + 1], state)
        assert torch.allclose(one[0], logits[t], atol=1e-6)
        assert torch.allclose(value[0], v[t], atol=1e-6)
    assert (network.value_torso is None) == shared
    assert logits.abs().max() < 0.2  # a head of gain 0.01: nearly uniform at first


def test_unknown_cores_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean lstm"):
        make_core("lsmt", 3, 4)
