"""How heads address slots, one equation at a time, and the hand-written gradient of reading and writing."""

from __future__ import annotations

import pytest
import torch

from arcturus.memory import addressing
from arcturus.memory.heads import Layout, UseMemory, parameters, use_memory


def test_content_weighting_is_the_softmax_of_cosines():
    g = torch.Generator().manual_seed(0)
    keys, memory = torch.randn(2, 3, 4, generator=g).double(), torch.randn(2, 5, 4, generator=g).double()
    beta = torch.rand(2, 3, 1, generator=g).double() * 5
    cosines = addressing.cosine(keys, memory, addressing.inverse_norm(keys), addressing.inverse_norm(memory))
    w = addressing.content_weighting(beta, cosines)
    for n in range(2):
        for k in range(3):
            own = torch.nn.functional.cosine_similarity(memory[n], keys[n, k], dim=-1)
            torch.testing.assert_close(cosines[n, k], own, rtol=1e-5, atol=0)
            torch.testing.assert_close(w[n, k], (powers := (beta[n, k] * own).exp()) / powers.sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("tap", "to"), [(0, 5), (1, 6), (2, 0)])
def test_the_last_tap_moves_a_focus_forwards_and_around_the_end(tap, to):
    w, s = torch.zeros(1, 1, 7), torch.zeros(1, 1, 3)
    w[..., 6], s[..., tap] = 1.0, 1.0
    assert addressing.convolve(addressing.wrap(w, 3), s).argmax() == to


@pytest.mark.parametrize(("g", "expected"), [(0.0, [0.2, 0.8]), (1.0, [1.0, 0.0]), (0.25, [0.4, 0.6])])
def test_a_closed_gate_keeps_the_last_weighting(g, expected):
    w = addressing.interpolate(torch.tensor([[[0.2, 0.8]]]), torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[g]]]))
    torch.testing.assert_close(w.flatten(), torch.tensor(expected))


def test_sharpening_is_a_power():
    w = addressing.sharpen(torch.tensor([[[0.1, 0.3, 0.6]]]), torch.tensor([[[2.0]]]))
    torch.testing.assert_close(w.flatten(), torch.tensor([0.01, 0.09, 0.36]) / 0.46)


def test_a_uniform_weighting_survives_the_sharpest_power():
    """In float32 (1 / 128)^21 is 2e-45."""
    w = addressing.sharpen(torch.full((1, 1, 128), 1 / 128), torch.full((1, 1, 1), 21.0))
    torch.testing.assert_close(w, torch.full((1, 1, 128), 1 / 128))


@pytest.mark.parametrize("addressing_", ["both", "content", "location"])
def test_the_hand_written_gradient_is_autograds(addressing_):
    layout = Layout(2, 3, 4, 5, addressing_)
    g = torch.Generator().manual_seed(0)
    new = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    p = 8 * new(3, sum(layout.groups))  # some of it beyond the clip
    inputs = [p, new(3, 9, 4), new(3, 2, 9).softmax(-1), new(3, 3, 9).softmax(-1)]
    inputs[1][:, 3] = 0  # a slot of zeros
    inputs[2][0] = torch.eye(9)[:2]

    def plain(p, memory, w_read, w_write):
        use = use_memory(parameters(p, layout), memory, torch.cat([w_read, w_write], 1), layout)
        return use.memory, use.read, *use.w.split([2, 3], 1)

    results = []
    for f in (plain, lambda *inputs: UseMemory.apply(*inputs, layout)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = f(*leaves)
        weights = torch.Generator().manual_seed(1)
        loss = sum((o * torch.randn(o.shape, generator=weights, dtype=o.dtype)).sum() for o in out)
        results.append((out, torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)))
    for mine, theirs in zip(results[1][0], results[0][0], strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert (p.abs() > 20).any()
    assert not results[1][1][0][p.abs() > 20].any()


def harshest(word):
    """Head parameters at both ends of the clip, and a key of zeros."""
    layout = Layout(1, 1, word, 3, "both")
    ends = [torch.full((1, sum(layout.groups)), 100.0), torch.full((1, sum(layout.groups)), -100.0)]
    zero_key = torch.full((1, sum(layout.groups)), 100.0)
    zero_key[:, : 2 * word] = 0
    return layout, [*ends, zero_key, torch.zeros_like(ends[0])]


@pytest.mark.parametrize("memory", [0.0, 1e-6, 1e3])
@pytest.mark.parametrize("peaked", [True, False])
def test_no_number_and_no_gradient_goes_bad_at_the_edges(memory, peaked):
    layout, parameters_ = harshest(word=2)
    for p in parameters_:
        inputs = [p.clone(), torch.full((1, 128, 2), memory), *torch.full((2, 1, 1, 128), 1 / 128)]
        if peaked:
            inputs[2], inputs[3] = torch.eye(128)[None, :1], torch.eye(128)[None, :1]
        inputs = [x.requires_grad_() for x in inputs]
        out = UseMemory.apply(*inputs, layout)
        gradients = torch.autograd.grad(sum(o.square().sum() for o in out), inputs)
        for x in (*out, *gradients):
            assert torch.isfinite(x).all()
