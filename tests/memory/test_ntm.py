"""The Neural Turing Machine beside a definition of its equations in plain loops, one environment, head and slot at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from arcturus.api import map_state, state_leaves
from arcturus.memory.ntm import NTM

# ---- the definition


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def controlled(core, x, state):
    """One environment's h, by the controller's weights."""
    for i, layer in enumerate(core.controller.layers):
        weights = [p.detach().numpy() for p in layer.parameters()]
        if not core.controller.recurrent:
            x = np.tanh(weights[0] @ x + weights[1])
        else:
            h, c = state[i]
            gates = weights[0] @ x + weights[1 + 1] + weights[1] @ h + weights[3]
            i_, f, g, o = np.split(gates, 4)
            x = sigmoid(o) * np.tanh(sigmoid(f) * c + sigmoid(i_) * np.tanh(g))
    return x


def address(q, memory, w_tm1, radius, kind):
    """One head's weighting over the slots: (5)-(9)."""
    slots = len(memory)
    if kind != "location":
        like = []
        for i in range(slots):
            norms = math.sqrt(np.dot(q["key"], q["key"]) + 1e-6) * math.sqrt(np.dot(memory[i], memory[i]) + 1e-6)
            like.append(np.dot(q["key"], memory[i]) / norms)  # (6)
        powers = [math.exp(q["beta"] * k) for k in like]
        content = [p / sum(powers) for p in powers]  # (5)
        if kind == "content":
            return np.array(content)
        w_tm1 = [q["g"] * c + (1 - q["g"]) * w for c, w in zip(content, w_tm1, strict=True)]  # (7)
    shifted = [0.0] * slots
    for j in range(slots):
        for move in range(-radius, radius + 1):
            shifted[(j + move) % slots] += w_tm1[j] * q["s"][move + radius]  # (8)
    powers = [w ** q["gamma"] for w in shifted]
    return np.array([p / sum(powers) for p in powers])  # (9)


def step(core, x, state):
    """One environment's step: x [inputs], state without its first dimension -> y, memory, w_read, w_write."""
    reads, writes, word, taps, kind = core.layout
    heads = reads + writes
    h = controlled(core, np.concatenate([x, state.reads.flatten()]), state.controller)
    p = core.heads.weight.detach().numpy() @ h + core.heads.bias.detach().numpy()
    p = iter(np.clip(p, -20, 20))
    take = lambda n: np.array([next(p) for _ in range(n)])  # noqa: E731
    key, add = [np.tanh(take(word)) for _ in range(heads)], [np.tanh(take(word)) for _ in range(writes)]
    g, erase = sigmoid(take(heads)), [sigmoid(take(word)) for _ in range(writes)]
    beta, gamma = np.log1p(np.exp(take(heads))), 1 + np.log1p(np.exp(take(heads)))
    s = [softmax(take(taps)) for _ in range(heads)]
    w_tm1 = [*state.w_read, *state.w_write]
    w = []
    for i in range(heads):
        q = {"key": key[i], "beta": beta[i], "g": g[i], "s": s[i], "gamma": gamma[i]}
        w.append(address(q, state.memory, w_tm1[i], taps // 2, kind))
    memory = state.memory.copy()
    for i in range(len(memory)):
        for head in range(writes):
            memory[i] = memory[i] * (1 - w[reads + head][i] * erase[head])  # (3)
    for i in range(len(memory)):
        for head in range(writes):
            memory[i] = memory[i] + w[reads + head][i] * add[head]  # (4)
    read = [sum(w[head][i] * memory[i] for i in range(len(memory))) for head in range(reads)]  # (2)
    return np.concatenate([h, *read]), memory, np.array(w[:reads]), np.array(w[reads:])


def test_each_step_is_the_papers_equations(ntm_kind, make, lived):
    core = make(ntm_kind)
    xs, state = lived(core)
    for x in xs:
        y, after = core(x, state)
        for n in range(len(x)):
            one = map_state(lambda t: t[n].detach().numpy(), state)
            expected = step(core, x[n].numpy(), one)
            for got, want in zip((y, after.memory, after.w_read, after.w_write), expected, strict=True):
                np.testing.assert_allclose(got[n].detach().numpy(), want, rtol=1e-8, atol=1e-10)
        state = after


def test_nothing_an_episode_begins_with_is_beyond_learning(make, lived, unrolled):
    """But memory and weightings, which are constants."""
    core = make("ntm")
    unrolled(core)(lived(core)[0])[0].sum().backward()
    for name, p in core.named_parameters():
        assert p.grad.abs().sum() > 0, name


# ---- what holds of every step


def test_a_trace_is_the_step_itself(ntm_kind, make, lived):
    """Bit for bit, with and without gradients."""
    core = make(ntm_kind)
    xs, state = lived(core)
    for x in xs:
        y, after = core(x, state)
        with torch.no_grad():
            y_trace, after_trace, seen = core.trace(x, state)
        for a, b in zip(state_leaves((y, after)), state_leaves((y_trace, after_trace)), strict=True):
            assert torch.equal(a, b)
        state = after
    reads, writes, word, taps, _ = core.layout
    for name in ("memory", "reads", "w_read", "w_write"):
        assert torch.equal(seen[name], getattr(state, name))
    for name, heads in (("read_", reads), ("write_", writes)):
        assert seen[name + "key"].shape == (2, heads, word)
        assert seen[name + "shift"].shape == (2, heads, taps)
        torch.testing.assert_close(seen[name + "shift"].sum(-1), torch.ones(2, heads, dtype=torch.float64))
        for number in ("strength", "gate", "sharpening"):
            assert seen[name + number].shape == (2, heads, 1)
        assert (seen[name + "sharpening"] >= 1).all()
        assert (seen[name + "strength"] >= 0).all()
    assert seen["add"].shape == seen["erase"].shape == (2, writes, word)
    assert ((seen["erase"] >= 0) & (seen["erase"] <= 1)).all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_weightings_are_distributions(ntm_kind, scale, make, lived):
    """In float32, with parameters at their clip too."""
    core = make(ntm_kind, scale=scale).float()
    xs, state = lived(core, n=4, steps=20)
    with torch.no_grad():
        for x in xs:
            _, state = core(x, state)
            for w in (state.w_read, state.w_write):
                assert (w >= 0).all()
                torch.testing.assert_close(w.sum(-1), torch.ones(w.shape[:2]), rtol=1e-5, atol=1e-5)


# ---- the start, and learning


def slot_gradient(core, xs, state):
    """Of the parameters that move heads, after two steps from this state."""
    for x in xs:
        y, state = core(x, state)
    moves = core.layout.groups[-1]
    return torch.autograd.grad(y.sum(), core.heads.bias)[0][-moves:].abs().max(), state


def test_slots_that_are_all_alike_at_first_can_be_told_apart(make, lived):
    """Beginning everywhere at once they could not: no parameter that moves a head would ever have a gradient."""
    core = make("ntm")
    xs, _ = lived(core, steps=3)
    gradient, state = slot_gradient(core, xs, core.initial_state(2))
    assert gradient > 1e-4
    assert (state.memory[:, 0] - state.memory[:, 3]).abs().max() > 1e-3
    uniform = torch.full((2, 1, core.slots), 1 / core.slots, dtype=torch.float64)
    trap, state = slot_gradient(core, xs, core.initial_state(2)._replace(w_read=uniform, w_write=uniform))
    assert trap < 1e-12
    torch.testing.assert_close(state.memory, state.memory[:, :1].expand_as(state.memory))


def test_an_episode_begins_at_slot_0_of_a_constant_memory(make):
    core = make("ntm, several heads")
    state = core.initial_state(3)
    assert (state.memory == 1e-6).all()
    for w in (state.w_read, state.w_write):
        assert (w[..., 0] == 1).all()
        assert (w.sum(-1) == 1).all()
    torch.testing.assert_close(state.reads[2], core.first_reads.tanh())
    assert [t.shape[0] for t in state_leaves(state)] == [3] * 6


@pytest.mark.slow
def test_it_learns_to_copy_and_copies_longer_than_it_was_taught(unrolled):
    """4-bit vectors, 1 to 5 of them; then 8."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    core = NTM(5, 64, slots=24, word=12, controller="feedforward")
    head = nn.Linear(core.outputs, 4)
    optimizer = torch.optim.Adam([*core.parameters(), *head.parameters()], 2e-3)

    def copy(length, n):
        bits = torch.randint(2, (length, n, 4), generator=g).float()
        x = torch.zeros(2 * length + 1, n, 5)
        x[:length, :, :4], x[length, :, 4] = bits, 1
        return head(unrolled(core)(x)[0][length + 1 :]), bits

    for _ in range(1500):
        logits, bits = copy(int(torch.randint(1, 6, (), generator=g)), 32)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, bits).backward()
        nn.utils.clip_grad_norm_(core.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        exact = {}
        for length in (5, 8):
            logits, bits = copy(length, 512)
            exact[length] = ((logits > 0) == (bits > 0.5)).all(-1).all(0).float().mean()
    assert exact[5] > 0.95
    assert exact[8] > 0.5
