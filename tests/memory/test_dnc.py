"""The Differentiable Neural Computer beside a definition of its equations in plain loops, one environment and slot at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from arcturus.api import map_state, state_leaves
from arcturus.memory import dnc

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
    """What follows the controller's h [width], from a state without its first dimension: as a dict."""
    xi = core.interface.weight.detach().numpy() @ h + core.interface.bias.detach().numpy()
    xi, heads, word = iter(np.clip(xi, -20, 20)), range(core.reads), core.word
    take = lambda n: np.array([next(xi) for _ in range(n)])  # noqa: E731
    oneplus = lambda x: 1 + np.log1p(np.exp(x))  # noqa: E731
    r_keys, r_strengths = [take(word) for _ in heads], oneplus(take(core.reads))
    w_key, w_strength, erase, add = take(word), oneplus(take(1))[0], sigmoid(take(word)), take(word)
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


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_each_step_is_the_papers_equations(dnc_kind, scale, make, lived):
    """scale 10: a third of the interface is at its clip."""
    core = make(dnc_kind, scale=scale)
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


def test_links_lead_forwards_in_the_order_of_writing_and_backwards_against_it(make):
    """Slots 2, 0, 3 written one after another: from 0 forward is 3, backward is 2."""
    link, precedence = torch.zeros(1, 4, 4), torch.zeros(1, 4)
    for slot in (2, 0, 3):
        link, precedence = dnc.linked(link, precedence, torch.eye(4)[None, slot : slot + 1])
    assert precedence.argmax() == 3
    assert link[0].nonzero().tolist() == [[0, 2], [3, 0]]
    core = make("dnc", slots=4).float()
    with torch.no_grad():
        core.interface.weight.zero_()
        core.interface.bias.zero_()
        core.interface.bias[sum(core.sizes[:-2])] = -20.0  # the write gate
        state = core.initial_state(1)._replace(link=link, precedence=precedence, w_read=torch.eye(4)[None, :1])
        for mode, slot in ((0, 2), (2, 3)):
            core.interface.bias[-3:] = 20 * torch.eye(3)[mode] - 10
            _, after = core(torch.zeros(1, 3), state)
            torch.testing.assert_close(after.w_read[0, 0], torch.eye(4)[slot], atol=1e-6, rtol=0)


def test_freed_slots_are_written_again():
    """Where no slot is free, writing by allocation alone writes nothing."""
    usage = torch.ones(1, 5)
    assert dnc.allocation(usage).sum() < 1e-4
    usage[0, 3] = 0
    assert dnc.allocation(usage)[0, 3] > 0.99


# ---- what holds of every step


def test_a_trace_is_the_step_itself(dnc_kind, make, lived):
    core = make(dnc_kind)
    xs, state = lived(core)
    for x in xs:
        y, after = core(x, state)
        y_trace, after_trace, seen = core.trace(x, state)
        for a, b in zip(state_leaves((y, after)), state_leaves((y_trace, after_trace)), strict=True):
            assert torch.equal(a, b)
        state = after
    S = core.slots
    shapes = {
        "memory": (2, S, core.word),
        "reads": (2, core.reads, core.word),
        "w_read": (2, core.reads, S),
        "w_write": (2, 1, S),
        "usage": (2, S),
        "allocation": (2, S),
        "allocation_gate": (2, 1),
        "write_gate": (2, 1),
        "free_gates": (2, core.reads, 1),
    }
    if core.links:
        shapes |= {"link": (2, S, S), "read_modes": (2, core.reads, 3), "precedence": (2, S)}
    assert shapes.items() <= {name: tuple(value.shape) for name, value in seen.items()}.items()
    assert core.links or not {"link", "read_modes", "precedence"} & seen.keys()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_weightings_sum_to_at_most_one(dnc_kind, scale, make, lived):
    """In float32; usage and links stay in [0, 1] too, and no slot is linked to itself."""
    core = make(dnc_kind, scale=scale).float()
    state = core.initial_state(4)
    with torch.no_grad():
        for x in lived(core, n=4, steps=50)[0]:
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
@pytest.mark.parametrize("kind", ["dnc, several heads", "dnc, no links"])
def test_no_number_and_no_gradient_goes_bad_at_the_edges(kind, scale, make, lived, unrolled):
    """An empty memory and keys of zeros (scale 0), gates and strengths at both ends of their clip (scale 1000)."""
    core = make(kind, scale=scale, slots=64).float()
    x = lived(core, steps=8)[0].requires_grad_()
    out = unrolled(core)(x)
    gradients = torch.autograd.grad(sum(o.square().sum() for o in out), [x, *core.parameters()])
    for number in (*out, *gradients):
        assert torch.isfinite(number).all()


@pytest.mark.parametrize("edge", ["all used", "all free"])
def test_allocation_has_a_finite_gradient_at_its_ends(edge):
    usage = torch.full((2, 128), float(edge == "all used"), requires_grad=True)
    dnc.allocation(usage)[:, ::2].square().sum().backward()
    assert torch.isfinite(usage.grad).all()


def test_slots_that_are_all_alike_at_first_are_told_apart(make, lived):
    core = make("dnc")
    state = core.initial_state(2)
    assert all(not t.any() for t in (state.memory, state.usage, state.link, state.precedence, state.w_read, state.w_write))
    for x in lived(core)[0]:
        y, state = core(x, state)
    assert state.memory.std(1).min() > 1e-3
    y.sum().backward()
    for name, p in core.named_parameters():
        assert p.grad.abs().sum() > 0, name
