"""The compiled loops of the Neural Turing Machine beside its definition in tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arcturus.api import map_state, state_leaves, where_first
from arcturus.memory import LEAST_STRETCH, steps_are_compiled, unroll
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


def at_once(core, x, first, state):
    """By the loops alone, without resets."""
    assert not first.any()
    return core.through_time(x, state)


def results(run, core, x, first, state, *, slots=True):
    """Outputs and the last state, and the gradients of a random sum of them all: of x, of the first state and of every parameter.

    slots: otherwise of the outputs alone, in which it doesn't matter which slot holds what."""
    leaves = [one.detach().clone().requires_grad_() for one in (x, *state_leaves(state))]
    remaining = iter(leaves[1:])
    y, after = run(core, leaves[0], first, map_state(lambda _: next(remaining), state))
    out, g = [y, *(state_leaves(after) if slots else ())], torch.Generator().manual_seed(5)
    total = sum((one * torch.randn(one.shape, generator=g, dtype=torch.float64).to(one.dtype)).sum() for one in out)
    return out, torch.autograd.grad(total, [*leaves, *core.parameters()], allow_unused=True, materialize_grads=True)


RESETS = torch.zeros(3 * LEAST_STRETCH, 2, dtype=torch.bool)
RESETS[LEAST_STRETCH, 0] = RESETS[2 * LEAST_STRETCH + 1, 1] = True


def differences(kind, make, lived, dtype, first):
    """Between unroll() and the definition: of every result and gradient the greatest, as a share of its largest number if that is above 1.
    A new DNC's slots are all alike, and rounding decides which of them is used first."""
    core = make(kind, scale=0.5).to(dtype)
    x, state = lived(core, steps=len(first))
    assert steps_are_compiled(core, x)
    slots = isinstance(core, NTM) or not first.any()
    for mine, theirs in zip(*(results(run, core, x, first, state, slots=slots) for run in (unroll, by_definition)), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            yield float((a - b).detach().abs().max()) / max(1.0, float(b.detach().abs().max()))


@pytest.mark.parametrize("first", [torch.zeros_like(RESETS), RESETS], ids=["one episode", "three"])
def test_all_steps_at_once_are_the_definitions_steps(kind, make, lived, first):
    assert max(differences(kind, make, lived, torch.float64, first)) < 1e-11


def test_they_are_in_float32_too(kind, make, lived):
    assert max(differences(kind, make, lived, torch.float32, RESETS[:LEAST_STRETCH])) < 1e-5


@pytest.mark.parametrize(("steps", "n"), [(1, 1), (1, 2), (2, 1), (4, 3)])
def test_the_loops_change_nothing_but_their_results(kind, make, lived, steps, n):
    """Of one row the expanded biases are the parameters themselves: adding to them learnt without an optimiser."""
    core = make(kind)
    x, state = lived(core, n=n, steps=steps)
    before = [one.detach().clone() for one in (*core.parameters(), x, *state_leaves(state))]
    first = torch.zeros(steps, n, dtype=torch.bool)
    for mine, theirs in zip(*(results(run, core, x, first, state) for run in (at_once, by_definition)), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
    assert all(torch.equal(a, b) for a, b in zip(before, (*core.parameters(), x, *state_leaves(state)), strict=True))


def test_what_is_not_a_number_stays_so(make, lived, kind):
    """It would be acted on as if the network were sound."""
    for place in range(len(make(kind).linear.bias)):
        core = make(kind).float()
        x, state = lived(core, steps=LEAST_STRETCH)
        with torch.no_grad():
            core.linear.bias[place] = torch.nan
            never = torch.zeros(len(x), 2, dtype=torch.bool)
            mine, theirs = (state_leaves(run(core, x, never, state)) for run in (at_once, by_definition))
        assert all(torch.isnan(a).any() or not torch.isnan(b).any() for a, b in zip(mine, theirs, strict=True))


class OfTheUsers(NTM):
    def forward(self, x, state):
        y, state = super().forward(x, state)
        return torch.full_like(y, 7.0), state


def test_a_subclass_takes_its_own_steps():
    core = OfTheUsers(3, 4)
    y, _ = unroll(core, torch.zeros(9, 1, 3), torch.zeros(9, 1, dtype=torch.bool), core.initial_state(1))
    assert (y == 7).all()


def test_the_gradients_are_those_of_finite_differences(kind, make, lived):
    core = make(kind, scale=0.5)
    x, state = lived(core, steps=2)
    leaves = [one.detach().clone().requires_grad_() for one in (x, *state_leaves(state))]

    def run(x, *parts):
        remaining = iter(parts)
        y, after = core.through_time(x, map_state(lambda _: next(remaining), state))
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
    out, gradients = results(at_once, core, torch.zeros(3, 2, 3), torch.zeros(3, 2, dtype=torch.bool), state)
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
    handles = [core.heads.register_forward_hook(lambda *_: heard.append(1))]
    handles.append(core.heads.register_full_backward_hook(lambda *_: heard.append(1)))
    y, _ = unroll(core, x, first, core.initial_state(1))
    y.sum().backward()
    for handle in handles:
        handle.remove()
    assert len(heard) == 10
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
