"""The compiled loops of the Neural Turing Machine beside its definition in tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arcturus.api import map_state, state_leaves, where_first
from arcturus.memory import steps_are_compiled, unroll
from arcturus.memory.compiled import exp, log, loop
from arcturus.memory.ntm import NTM
from arcturus.speed import eagerly


def by_definition(core, x, first, state):
    """unroll() by the core's own single steps."""
    fresh, out = core.initial_state(x.shape[1]), []
    for x_t, first_t in zip(x, first, strict=True):
        y, state = core(x_t, where_first(first_t, fresh, state))
        out.append(y)
    return torch.stack(out), state


def results(run, core, x, first, state):
    """Outputs and the last state, and the gradients of a random sum of them all: of x, of the first state and of every parameter."""
    leaves = [one.detach().clone().requires_grad_() for one in (x, *state_leaves(state))]
    remaining = iter(leaves[1:])
    y, after = run(core, leaves[0], first, map_state(lambda _: next(remaining), state))
    out, g = [y, *state_leaves(after)], torch.Generator().manual_seed(5)
    total = sum((one * torch.randn(one.shape, generator=g, dtype=torch.float64).to(one.dtype)).sum() for one in out)
    return out, torch.autograd.grad(total, [*leaves, *core.parameters()], allow_unused=True, materialize_grads=True)


RESETS = torch.tensor([[False, False], [True, False], [False, False], [False, True]])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("first", [torch.zeros(4, 2, dtype=torch.bool), RESETS], ids=["one episode", "three"])
def test_all_steps_at_once_are_the_definitions_steps(kind, make, lived, dtype, tolerance, first):
    core = make(kind).to(dtype)
    x, state = lived(core)
    assert steps_are_compiled(core, x)
    for mine, theirs in zip(*(results(run, core, x, first, state) for run in (unroll, by_definition)), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_gradients_are_those_of_finite_differences(kind, make, lived):
    core = make(kind, scale=0.5)
    x, state = lived(core, steps=3)
    leaves = [one.detach().clone().requires_grad_() for one in (x, *state_leaves(state))]

    def run(x, *parts):
        remaining = iter(parts)
        y, after = unroll(core, x, torch.zeros(3, 2, dtype=torch.bool), map_state(lambda _: next(remaining), state))
        return y, *state_leaves(after)

    assert torch.autograd.gradcheck(run, leaves, atol=1e-7)


def test_sizes_of_the_paper_agree_in_float32():
    torch.manual_seed(0)
    core = NTM(9, 100)
    x, first = torch.randn(21, 3, 9), torch.zeros(21, 3, dtype=torch.bool)
    for mine, theirs in zip(*(results(run, core, x, first, core.initial_state(3)) for run in (unroll, by_definition)), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert float((a - b).detach().abs().max()) <= 1e-5 * max(1.0, float(b.detach().abs().max()))


@pytest.mark.parametrize("memory", [0.0, 1e-6, 1e3])
@pytest.mark.parametrize("bias", [100.0, -100.0, 0.0])
def test_no_number_and_no_gradient_goes_bad_at_the_clips_ends(memory, bias):
    """Sharpest and flattest heads, gates shut and open, keys and memories of zeros."""
    core = NTM(3, 4, slots=128, word=2)
    with torch.no_grad():
        core.heads.weight.zero_()
        core.heads.bias.fill_(bias)
    state = core.initial_state(2)
    state = state._replace(memory=torch.full_like(state.memory, memory))
    out, gradients = results(unroll, core, torch.zeros(3, 2, 3), torch.zeros(3, 2, dtype=torch.bool), state)
    assert all(torch.isfinite(one).all() for one in (*out, *gradients))


def test_a_state_keeps_no_earlier_rows_alive():
    """Views of all rows would: acting for a thousand steps at a time would keep a thousand memories."""
    core = NTM(3, 4, slots=64, word=8)
    with torch.no_grad():
        _, state = unroll(core, torch.zeros(50, 1, 3), torch.zeros(50, 1, dtype=torch.bool), core.initial_state(1))
    for leaf in state_leaves(state):
        assert leaf.untyped_storage().nbytes() <= 2 * leaf.numel() * leaf.element_size()


def test_who_listens_to_single_steps_hears_all_of_them():
    core, heard = NTM(3, 4), []
    x, first = torch.zeros(5, 1, 3), torch.zeros(5, 1, dtype=torch.bool)
    handle = core.heads.register_forward_hook(lambda *_: heard.append(1))
    y, _ = unroll(core, x, first, core.initial_state(1))
    handle.remove()
    assert len(heard) == 5
    torch.testing.assert_close(unroll(core, x, first, core.initial_state(1))[0], y)


def test_one_built_eagerly_takes_the_definitions_steps():
    with eagerly():
        core = NTM(3, 4)
    assert not steps_are_compiled(core, torch.zeros(1, 1, 3))


def test_exponentials_and_logarithms_of_float32_are_the_c_librarys_to_three_units():
    @loop
    def both(x, up, down):
        for i in range(len(x)):
            up[i] = exp(x[i])
            down[i] = log(up[i])

    x = np.linspace(-86, 86, 100_001, dtype=np.float32)
    up, down = np.empty_like(x), np.empty_like(x)
    both(x, up, down)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(up / exact - 1).max() < 3 * 2**-23
    exact = np.log(up.astype(np.float64))
    assert np.abs(down - exact).max() <= 3 * 2**-23 * 86
    assert np.abs(down - exact)[np.abs(x) < 0.5].max() < 2e-7
