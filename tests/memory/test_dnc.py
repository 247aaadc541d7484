"""The Differentiable Neural Computer beside a definition of its equations in plain loops, one environment and slot at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from arcturus.api import map_state, state_leaves
from arcturus.errors import ConfigError
from arcturus.memory import dnc, unroll
from arcturus.memory.dnc import DNC

KINDS = {
    "one head": {},
    "several heads": {"read_heads": 3},
    "feedforward": {"controller": "feedforward", "layers": 2, "read_heads": 2},
    "no links": {"links": False, "read_heads": 2},
}
INPUTS, WIDTH, SLOTS, WORD = 3, 4, 6, 2


def make(kind="one head", seed=0, scale=1.0, **options):
    """A small core in float64 whose parameters are all random."""
    core = DNC(INPUTS, WIDTH, **({"slots": SLOTS, "word": WORD} | KINDS[kind] | options)).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in core.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return core


def lived(core, n=2, steps=4, warm_up=5, seed=1):
    """Inputs [steps, n, INPUTS], and the state after some others."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(warm_up + steps, n, INPUTS, generator=g, dtype=torch.float64)
    state = core.initial_state(n)
    with torch.no_grad():
        for x_t in x[:warm_up]:
            _, state = core(x_t, state)
    return x[warm_up:], state


class Unrolled(nn.Module):
    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, x):
        state, out = self.core.initial_state(x.shape[1]), []
        for x_t in x:
            y, state = self.core(x_t, state)
            out.append(y)
        return torch.stack(out), state.memory, state.w_read, state.usage


# ---- the definition, of one environment


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def define_content(memory, key, strength):
    powers = []
    for word in memory:
        norms = math.sqrt(np.dot(key, key) + 1e-6) * math.sqrt(np.dot(word, word) + 1e-6)
        powers.append(math.exp(strength * np.dot(key, word) / norms))
    return np.array(powers) / sum(powers)


def define_usage(u, w_write, w_reads, free):
    result = []
    for i in range(len(u)):
        retention = 1.0
        for w, f in zip(w_reads, free, strict=True):
            retention *= 1 - f * w[i]
        result.append((u[i] + w_write[i] - u[i] * w_write[i]) * retention)
    return np.array(result)


def define_allocation(u):
    u = 1e-6 + (1 - 1e-6) * np.array(u)
    free_list = sorted(range(len(u)), key=lambda i: (u[i], i))
    a, product = np.zeros(len(u)), 1.0
    for i in free_list:
        a[i] = (1 - u[i]) * product
        product *= u[i]
    return a


def define_link(link, precedence, w):
    new = np.zeros_like(link)
    for i in range(len(w)):
        for j in range(len(w)):
            if i != j:
                new[i, j] = (1 - w[i] - w[j]) * link[i, j] + w[i] * precedence[j]
    return new, (1 - sum(w)) * precedence + w


def step(core, h, state):
    """What follows the controller's h [WIDTH], from a state without its first dimension: as a dict."""
    xi = core.interface.weight.detach().numpy() @ h + core.interface.bias.detach().numpy()
    xi, heads = iter(np.clip(xi, -20, 20)), range(core.reads)
    take = lambda n: np.array([next(xi) for _ in range(n)])  # noqa: E731
    oneplus = lambda x: 1 + np.log1p(np.exp(x))  # noqa: E731
    r_keys, r_strengths = [take(WORD) for _ in heads], oneplus(take(core.reads))
    w_key, w_strength, erase, add = take(WORD), oneplus(take(1))[0], sigmoid(take(WORD)), take(WORD)
    free, allocate, write = sigmoid(take(core.reads)), sigmoid(take(1))[0], sigmoid(take(1))[0]
    modes = [np.exp(m) / np.exp(m).sum() for m in (take(3) for _ in heads)] if core.links else [[0, 1, 0] for _ in heads]
    usage = define_usage(state.usage, state.w_write[0], state.w_read, free)
    a = define_allocation(usage)
    w_write = write * (allocate * a + (1 - allocate) * define_content(state.memory, w_key, w_strength))
    memory = np.array([m * (1 - w * erase) + w * add for m, w in zip(state.memory, w_write, strict=True)])
    result = {"usage": usage, "w_write": w_write[None], "memory": memory}
    if core.links:
        link, result["precedence"] = define_link(state.link, state.precedence, w_write)
        result["link"] = link
    else:
        link = np.zeros((len(usage), len(usage)))
    w_read = []
    for i in heads:
        backward, forward = link.T @ state.w_read[i], link @ state.w_read[i]
        w_read.append(
            modes[i][0] * backward + modes[i][1] * define_content(memory, r_keys[i], r_strengths[i]) + modes[i][2] * forward
        )
    return result | {"w_read": np.array(w_read), "reads": np.array([memory.T @ w for w in w_read])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_each_step_is_the_papers_equations(kind, scale):
    """scale 10: a third of the interface is at its clip."""
    core = make(kind, scale=scale)
    xs, state = lived(core)
    for x in xs:
        y, after = core(x, state)
        h, controller = core.controller(torch.cat([x, state.reads.flatten(1)], -1), state.controller)
        for a, b in zip(state_leaves(controller), state_leaves(after.controller), strict=True):
            assert torch.equal(a, b)
        for n in range(len(x)):
            one = map_state(lambda t: t[n].detach().numpy(), state)
            expected = step(core, h[n].detach().numpy(), one)
            for name, want in expected.items():
                np.testing.assert_allclose(getattr(after, name)[n].detach().numpy(), want, rtol=1e-7, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(
                y[n].detach().numpy(), np.concatenate([h[n].detach().numpy(), *expected["reads"]]), rtol=1e-7
            )
        state = after
    assert state.usage.max() > 0.01  # something was there to be compared
    assert not core.links or state.link.abs().max() > 1e-4


# ---- one mechanism at a time


def test_allocation_goes_to_the_least_used_slot():
    usage = torch.tensor([[0.9, 0.0, 1.0, 0.3], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    a = dnc.allocation(usage)
    for n in range(3):
        np.testing.assert_allclose(a[n].numpy(), define_allocation(usage[n].numpy()), atol=1e-12)
    assert a[0].argmax() == 1
    assert a[1].abs().max() < 1e-5  # nothing is free
    assert a[2].argmax() == 0  # the first of equals
    assert (a.sum(-1) <= 1).all()


def test_a_slot_is_used_once_written_and_free_once_read_with_an_open_free_gate():
    usage, w = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[[1.0, 0.5, 0.0]]])
    gate = lambda f: torch.full((1, 1, 1), f)  # noqa: E731
    read = torch.tensor([[[0.0, 0.0, 1.0]]])
    torch.testing.assert_close(dnc.used(usage, w, read, gate(0.0)), torch.tensor([[1.0, 0.75, 1.0]]))
    torch.testing.assert_close(dnc.used(usage, w, read, gate(1.0)), torch.tensor([[1.0, 0.75, 0.0]]))


def test_links_lead_forwards_in_the_order_of_writing_and_backwards_against_it():
    """Slots 2, 0, 3 written one after another: from 0 forward is 3, backward is 2."""
    link, precedence = torch.zeros(1, 4, 4), torch.zeros(1, 4)
    for slot in (2, 0, 3):
        link, precedence = dnc.linked(link, precedence, torch.eye(4)[None, slot : slot + 1])
    assert precedence.argmax() == 3
    assert link[0].nonzero().tolist() == [[0, 2], [3, 0]]
    core = make(slots=4).float()
    with torch.no_grad():
        core.interface.weight.zero_()
        core.interface.bias.zero_()
        core.interface.bias[sum(core.sizes[:-2])] = -20.0  # the write gate
        state = core.initial_state(1)._replace(link=link, precedence=precedence, w_read=torch.eye(4)[None, :1])
        for mode, slot in ((0, 2), (2, 3)):
            core.interface.bias[-3:] = 20 * torch.eye(3)[mode] - 10
            _, after = core(torch.zeros(1, INPUTS), state)
            torch.testing.assert_close(after.w_read[0, 0], torch.eye(4)[slot], atol=1e-6, rtol=0)


def test_freed_slots_are_written_again():
    """Where no slot is free, writing by allocation alone writes nothing."""
    usage = torch.ones(1, 5)
    assert dnc.allocation(usage).sum() < 1e-4
    usage[0, 3] = 0
    assert dnc.allocation(usage)[0, 3] > 0.99


# ---- gradients, and what holds of every step


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_parameter_through_time(kind):
    """The order of the free list is constant near these inputs, as no two slots are used equally."""
    model = Unrolled(make(kind, scale=0.7, slots=4))
    x, _ = lived(model.core, n=2, steps=4, warm_up=0)
    names, values = zip(*model.named_parameters(), strict=True)

    def f(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x.requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_the_step_itself(kind):
    core = make(kind)
    xs, state = lived(core)
    for x in xs:
        y, after = core(x, state)
        y_trace, after_trace, seen = core.trace(x, state)
        for a, b in zip(state_leaves((y, after)), state_leaves((y_trace, after_trace)), strict=True):
            assert torch.equal(a, b)
        state = after
    shapes = {
        "memory": (2, SLOTS, WORD),
        "reads": (2, core.reads, WORD),
        "w_read": (2, core.reads, SLOTS),
        "w_write": (2, 1, SLOTS),
        "usage": (2, SLOTS),
        "allocation": (2, SLOTS),
        "allocation_gate": (2, 1),
        "write_gate": (2, 1),
        "free_gates": (2, core.reads, 1),
    }
    if core.links:
        shapes |= {"link": (2, SLOTS, SLOTS), "read_modes": (2, core.reads, 3), "precedence": (2, SLOTS)}
    assert shapes.items() <= {name: tuple(value.shape) for name, value in seen.items()}.items()
    assert core.links or not {"link", "read_modes", "precedence"} & seen.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_know_nothing_of_one_another(kind):
    core = make(kind)
    x, state = lived(core, n=3)
    y, after = core(x[0], state)
    for n in range(3):
        y_alone, alone = core(x[0, n : n + 1], map_state(lambda t: t[n : n + 1], state))
        torch.testing.assert_close(y_alone[0], y[n], rtol=1e-12, atol=1e-14)
        for a, b in zip(state_leaves(alone), state_leaves(after), strict=True):
            torch.testing.assert_close(a[0], b[n], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_weightings_sum_to_at_most_one(kind, scale):
    """In float32; usage and links stay in [0, 1] too, and no slot is linked to itself."""
    core = make(kind, scale=scale).float()
    state = core.initial_state(4)
    with torch.no_grad():
        for x in torch.randn(50, 4, INPUTS, generator=torch.Generator().manual_seed(2)):
            _, state, seen = core.trace(x, state)
            for w in (state.w_read, state.w_write, seen["allocation"]):
                assert (w >= 0).all()
                assert (w.sum(-1) <= 1 + 1e-5).all()
            assert ((state.usage >= 0) & (state.usage <= 1 + 1e-6)).all()
            if core.links:
                assert (state.link >= -1e-6).all()
                assert (state.link.sum(1) <= 1 + 1e-4).all()
                assert (state.link.sum(2) <= 1 + 1e-4).all()
                assert not state.link.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("kind", ["several heads", "no links"])
def test_no_number_and_no_gradient_goes_bad_at_the_edges(kind, scale):
    """An empty memory and keys of zeros (scale 0), gates and strengths at both ends of their clip (scale 1000)."""
    core = make(kind, scale=scale, slots=64).float()
    x = torch.randn(8, 2, INPUTS, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = Unrolled(core)(x)
    gradients = torch.autograd.grad(sum(o.square().sum() for o in out), [x, *core.parameters()])
    for number in (*out, *gradients):
        assert torch.isfinite(number).all()


@pytest.mark.parametrize("edge", ["all used", "all free"])
def test_allocation_has_a_finite_gradient_at_its_ends(edge):
    usage = torch.full((2, 128), float(edge == "all used"), requires_grad=True)
    dnc.allocation(usage)[:, ::2].square().sum().backward()
    assert torch.isfinite(usage.grad).all()


@pytest.mark.slow
def test_ten_thousand_steps_stay_finite():
    core = make("several heads", scale=3.0).float()
    g = torch.Generator().manual_seed(2)
    state = core.initial_state(1)
    with torch.no_grad():
        for _ in range(10_000):
            y, state = core(torch.randn(1, INPUTS, generator=g), state)
    for x in state_leaves((y, state)):
        assert torch.isfinite(x).all()


def test_slots_that_are_all_alike_at_first_are_told_apart():
    core = make()
    state = core.initial_state(2)
    assert all(not t.any() for t in (state.memory, state.usage, state.link, state.precedence, state.w_read, state.w_write))
    for x in torch.randn(4, 2, INPUTS, generator=torch.Generator().manual_seed(3), dtype=torch.float64):
        y, state = core(x, state)
    assert state.memory.std(1).min() > 1e-3
    y.sum().backward()
    for name, p in core.named_parameters():
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_memory_can_grow_after_training(kind):
    core, twin = make(kind), make(kind, slots=100)
    twin.load_state_dict(core.state_dict())  # the names and shapes are the same
    core.slots = 100
    x, _ = lived(core, warm_up=0)
    y, memory, *_ = Unrolled(core)(x)
    assert memory.shape == (2, 100, WORD)
    assert torch.isfinite(y).all()
    assert torch.equal(y, Unrolled(twin)(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_an_episode_leaks_into_the_next(kind):
    core = make(kind)
    x, state = lived(core)
    first = torch.tensor([[False, False], [True, False], [False, False], [False, True]])
    y, _ = unroll(core, x, first, state)
    fresh, _ = unroll(core, x[1:, :1], first[1:, :1], core.initial_state(1))
    torch.testing.assert_close(y[1:, 0], fresh[:, 0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(y[3, 1:], core(x[3, 1:], core.initial_state(1))[0], rtol=1e-12, atol=1e-14)
    assert core.outputs == y.shape[-1] == WIDTH + core.reads * WORD


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": 1}, "slots can't be 1"),
        ({"slots": 5000}, "slots can't be 5000"),
        ({"word": 0}, "word can't be 0"),
        ({"read_heads": 0}, "read_heads can't be 0"),
        ({"layers": 17}, "layers can't be 17"),
        ({"controller": "gru"}, "controller can't be 'gru'"),
        ({"links": "maybe"}, "links can't be 'maybe'"),
    ],
)
def test_an_impossible_option_is_one_clear_error(options, said):
    with pytest.raises(ConfigError) as e:
        DNC(INPUTS, WIDTH, **options)
    assert e.value.what == said
    assert e.value.where == "--agent.core-options"
    assert e.value.fix
