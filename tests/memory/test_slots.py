"""What holds of every core with slots, the Neural Turing Machine and the Differentiable Neural Computer."""

from __future__ import annotations

import pytest
import torch

from arcturus.api import map_state, state_leaves, state_like
from arcturus.errors import ConfigError
from arcturus.memory import unroll
from arcturus.memory.dnc import DNC
from arcturus.memory.ntm import NTM


def test_gradients_of_every_parameter_through_time(kind, make, lived, unrolled):
    """The order of a DNC's free list is constant near these inputs, as no two slots are used equally."""
    model = unrolled(make(kind, scale=0.7, slots=5))
    x, _ = lived(model.core)
    names, values = zip(*model.named_parameters(), strict=True)

    def f(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x.requires_grad_(), *values), fast_mode=kind != "ntm")


def test_rows_of_a_batch_know_nothing_of_one_another(kind, make, lived):
    core = make(kind)
    x, state = lived(core, n=3)
    y, after = core(x[0], state)
    for n in range(3):
        y_alone, alone = core(x[0, n : n + 1], map_state(lambda t: t[n : n + 1], state))
        torch.testing.assert_close(y_alone[0], y[n], rtol=1e-12, atol=1e-14)
        for a, b in zip(state_leaves(alone), state_leaves(after), strict=True):
            torch.testing.assert_close(a[0], b[n], rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ntm, several heads", "dnc, several heads"])
def test_ten_thousand_steps_stay_finite(kind, make, lived):
    core = make(kind, scale=3.0).float()
    state = core.initial_state(2)
    with torch.no_grad():
        for x in lived(core, steps=10_000)[0]:
            y, state = core(x, state)
    for x in state_leaves((y, state)):
        assert torch.isfinite(x).all()


def test_memory_can_grow_after_training(kind, make, lived, unrolled):
    core, twin = make(kind), make(kind, slots=300)
    twin.load_state_dict(core.state_dict())  # the names and shapes are the same
    core.slots = 300
    x, _ = lived(core)
    y, memory, *_ = unrolled(core)(x)
    assert memory.shape[:2] == (2, 300)
    assert torch.isfinite(y).all()
    assert torch.equal(y, unrolled(twin)(x)[0])


def test_nothing_of_an_episode_leaks_into_the_next(kind, make, lived):
    """Neither memory, reads, weightings nor the controller's state."""
    core = make(kind)
    x, state = lived(core)
    first = torch.tensor([[False, False], [True, False], [False, False], [False, True]])
    y, after = unroll(core, x, first, state)
    fresh, _ = unroll(core, x[1:, :1], first[1:, :1], core.initial_state(1))
    torch.testing.assert_close(y[1:, 0], fresh[:, 0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(y[3, 1:], core(x[3, 1:], core.initial_state(1))[0], rtol=1e-12, atol=1e-14)
    assert isinstance(state_like(after, state_leaves(after)), type(state))
    assert core.outputs == y.shape[-1] == 4 + state.reads[0].numel()


@pytest.mark.parametrize(
    ("core", "options", "said"),
    [
        (NTM, {"slots": 2}, "slots can't be 2"),
        (NTM, {"slots": 4, "shift": 2}, "slots can't be 4"),
        (NTM, {"slots": 100_000}, "slots can't be 100000"),
        (NTM, {"word": 0}, "word can't be 0"),
        (NTM, {"read_heads": 0}, "read_heads can't be 0"),
        (NTM, {"write_heads": -1}, "write_heads can't be -1"),
        (NTM, {"shift": 0}, "shift can't be 0"),
        (NTM, {"layers": 0}, "layers can't be 0"),
        (NTM, {"word": 2.5}, "word can't be 2.5"),
        (NTM, {"read_heads": True}, "read_heads can't be True"),
        (NTM, {"controller": "gru"}, "controller can't be 'gru'"),
        (NTM, {"addressing": "none"}, "addressing can't be 'none'"),
        (DNC, {"slots": 1}, "slots can't be 1"),
        (DNC, {"slots": 5000}, "slots can't be 5000"),
        (DNC, {"word": 0}, "word can't be 0"),
        (DNC, {"read_heads": 0}, "read_heads can't be 0"),
        (DNC, {"layers": 17}, "layers can't be 17"),
        (DNC, {"controller": "gru"}, "controller can't be 'gru'"),
        (DNC, {"links": "maybe"}, "links can't be 'maybe'"),
    ],
)
def test_an_impossible_option_is_one_clear_error(core, options, said):
    with pytest.raises(ConfigError) as e:
        core(3, 4, **options)
    assert e.value.what == said
    assert e.value.where == "--agent.core-options"
    assert e.value.fix
