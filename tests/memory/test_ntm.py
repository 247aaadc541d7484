"""The Neural Turing Machine beside a definition of its equations in plain loops, one environment, head and slot at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from arcturus.api import map_state, state_leaves, state_like
from arcturus.errors import ConfigError
from arcturus.memory import addressing, unroll
from arcturus.memory.heads import Layout, UseMemory, parameters, use_memory
from arcturus.memory.ntm import NTM, NTMState

KINDS = {
    "one head": {},
    "several heads": {"read_heads": 2, "write_heads": 3, "shift": 2},
    "feedforward": {"controller": "feedforward", "layers": 2, "read_heads": 2},
    "two layers": {"layers": 2, "write_heads": 2},
    "content": {"addressing": "content", "write_heads": 2},
    "location": {"addressing": "location", "read_heads": 2},
}
INPUTS, WIDTH, SLOTS, WORD = 3, 4, 7, 2


def make(kind="one head", seed=0, scale=1.0, **options):
    """A small core in float64 whose parameters are all random, the biases and what is learned of the start among them."""
    core = NTM(INPUTS, WIDTH, **({"slots": SLOTS, "word": WORD} | KINDS[kind] | options)).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in core.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return core


def lived(core, n=2, steps=3, seed=1):
    """Inputs [steps, n, INPUTS] and a state with weightings and contents that are anything."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, n, INPUTS, generator=g, dtype=torch.float64)
    state = map_state(lambda t: torch.randn(t.shape, generator=g, dtype=t.dtype), core.initial_state(n))
    return x, state._replace(w_read=state.w_read.softmax(-1), w_write=state.w_write.softmax(-1))


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
    """One environment's step: x [INPUTS], state without its first dimension -> y, memory, w_read, w_write."""
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


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_is_the_papers_equations(kind):
    core = make(kind)
    xs, state = lived(core)
    for x in xs:
        y, after = core(x, state)
        for n in range(len(x)):
            one = map_state(lambda t: t[n].detach().numpy(), state)
            expected = step(core, x[n].numpy(), one)
            for got, want in zip((y, after.memory, after.w_read, after.w_write), expected, strict=True):
                np.testing.assert_allclose(got[n].detach().numpy(), want, rtol=1e-8, atol=1e-10)
        state = after


# ---- addressing, one equation at a time


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
            torch.testing.assert_close(w[n, k], torch.tensor(softmax((beta[n, k] * own).numpy())), rtol=1e-5, atol=0)


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


# ---- gradients


class Unrolled(nn.Module):
    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, x):
        state, out = self.core.initial_state(x.shape[1]), []
        for x_t in x:
            y, state = self.core(x_t, state)
            out.append(y)
        return torch.stack(out), state.memory, state.w_read, state.w_write


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_parameter_through_time(kind):
    model = Unrolled(make(kind, scale=0.7, slots=5))
    x, _ = lived(model.core, n=2, steps=3)
    names, values = zip(*model.named_parameters(), strict=True)

    def f(x, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, (x.requires_grad_(), *values), fast_mode=kind != "one head")


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


def test_nothing_an_episode_begins_with_is_beyond_learning():
    """But memory and weightings, which are constants."""
    core = make()
    Unrolled(core)(torch.randn(2, 1, INPUTS, dtype=torch.float64))[0].sum().backward()
    for name, p in core.named_parameters():
        assert p.grad.abs().sum() > 0, name


# ---- what holds of every step


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_the_step_itself(kind):
    """Bit for bit, with and without gradients."""
    core = make(kind)
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


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_know_nothing_of_one_another(kind):
    core = make(kind)
    x, state = lived(core, n=3, steps=1)
    y, after = core(x[0], state)
    for n in range(3):
        y_alone, alone = core(x[0, n : n + 1], map_state(lambda t: t[n : n + 1], state))
        torch.testing.assert_close(y_alone[0], y[n], rtol=1e-12, atol=1e-14)
        for a, b in zip(state_leaves(alone), state_leaves(after), strict=True):
            torch.testing.assert_close(a[0], b[n], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_weightings_are_distributions(kind, scale):
    """In float32, with parameters at their clip too."""
    core = make(kind, scale=scale).float()
    xs, state = lived(core, n=4, steps=20)
    state = map_state(lambda t: t.float(), state)
    with torch.no_grad():
        for x in xs.float():
            _, state = core(x, state)
            for w in (state.w_read, state.w_write):
                assert (w >= 0).all()
                torch.testing.assert_close(w.sum(-1), torch.ones(w.shape[:2]), rtol=1e-5, atol=1e-5)


def harshest(word=WORD):
    """Head parameters at both ends of the clip, and a key of zeros."""
    layout = Layout(1, 1, word, 3, "both")
    ends = [torch.full((1, sum(layout.groups)), 100.0), torch.full((1, sum(layout.groups)), -100.0)]
    zero_key = torch.full((1, sum(layout.groups)), 100.0)
    zero_key[:, : 2 * word] = 0
    return layout, [*ends, zero_key, torch.zeros_like(ends[0])]


@pytest.mark.parametrize("memory", [0.0, 1e-6, 1e3])
@pytest.mark.parametrize("peaked", [True, False])
def test_no_number_and_no_gradient_goes_bad_at_the_edges(memory, peaked):
    layout, parameters_ = harshest()
    for p in parameters_:
        inputs = [p.clone(), torch.full((1, 128, WORD), memory), *torch.full((2, 1, 1, 128), 1 / 128)]
        if peaked:
            inputs[2], inputs[3] = torch.eye(128)[None, :1], torch.eye(128)[None, :1]
        inputs = [x.requires_grad_() for x in inputs]
        out = UseMemory.apply(*inputs, layout)
        gradients = torch.autograd.grad(sum(o.square().sum() for o in out), inputs)
        for x in (*out, *gradients):
            assert torch.isfinite(x).all()


@pytest.mark.slow
def test_ten_thousand_steps_stay_finite():
    core = make("several heads", scale=3.0).float()
    g = torch.Generator().manual_seed(2)
    state = core.initial_state(2)
    with torch.no_grad():
        for _ in range(10_000):
            y, state = core(torch.randn(2, INPUTS, generator=g), state)
    for x in state_leaves((y, state)):
        assert torch.isfinite(x).all()


# ---- the start, and the number of slots


def slot_gradient(core, state):
    """Of the parameters that move heads, after two steps from this state."""
    for x in torch.randn(3, 2, INPUTS, generator=torch.Generator().manual_seed(3), dtype=torch.float64):
        y, state = core(x, state)
    moves = core.layout.groups[-1]
    return torch.autograd.grad(y.sum(), core.heads.bias)[0][-moves:].abs().max(), state


def test_slots_that_are_all_alike_at_first_can_be_told_apart():
    """Beginning everywhere at once they could not: no parameter that moves a head would ever have a gradient."""
    core = make()
    gradient, state = slot_gradient(core, core.initial_state(2))
    assert gradient > 1e-4
    assert (state.memory[:, 0] - state.memory[:, 3]).abs().max() > 1e-3
    uniform = torch.full((2, 1, SLOTS), 1 / SLOTS, dtype=torch.float64)
    trap, state = slot_gradient(core, core.initial_state(2)._replace(w_read=uniform, w_write=uniform))
    assert trap < 1e-12
    torch.testing.assert_close(state.memory, state.memory[:, :1].expand_as(state.memory))


def test_an_episode_begins_at_slot_0_of_a_constant_memory():
    core = make("several heads")
    state = core.initial_state(3)
    assert (state.memory == 1e-6).all()
    for w in (state.w_read, state.w_write):
        assert (w[..., 0] == 1).all()
        assert (w.sum(-1) == 1).all()
    torch.testing.assert_close(state.reads[2], core.first_reads.tanh())
    assert [t.shape[0] for t in state_leaves(state)] == [3] * 6


@pytest.mark.parametrize("kind", KINDS)
def test_memory_can_grow_after_training(kind):
    core, twin = make(kind), make(kind, slots=300)
    twin.load_state_dict(core.state_dict())  # the names and shapes are the same
    core.slots = 300
    x, _ = lived(core)
    y, memory, *_ = Unrolled(core)(x)
    assert memory.shape == (2, 300, WORD)
    assert torch.isfinite(y).all()
    assert torch.equal(y, Unrolled(twin)(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_an_episode_leaks_into_the_next(kind):
    """Neither memory, reads, weightings nor the controller's state."""
    core = make(kind)
    x, state = lived(core, n=2, steps=4)
    first = torch.tensor([[False, False], [True, False], [False, False], [False, True]])
    y, after = unroll(core, x, first, state)
    fresh, _ = unroll(core, x[1:, :1], first[1:, :1], core.initial_state(1))
    torch.testing.assert_close(y[1:, 0], fresh[:, 0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(y[3, 1:], core(x[3, 1:], core.initial_state(1))[0], rtol=1e-12, atol=1e-14)
    assert isinstance(state_like(after, state_leaves(after)), NTMState)
    assert core.outputs == y.shape[-1] == WIDTH + core.layout.reads * WORD


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": 2}, "slots can't be 2"),
        ({"slots": 4, "shift": 2}, "slots can't be 4"),
        ({"slots": 100_000}, "slots can't be 100000"),
        ({"word": 0}, "word can't be 0"),
        ({"read_heads": 0}, "read_heads can't be 0"),
        ({"write_heads": -1}, "write_heads can't be -1"),
        ({"shift": 0}, "shift can't be 0"),
        ({"layers": 0}, "layers can't be 0"),
        ({"word": 2.5}, "word can't be 2.5"),
        ({"read_heads": True}, "read_heads can't be True"),
        ({"controller": "gru"}, "controller can't be 'gru'"),
        ({"addressing": "none"}, "addressing can't be 'none'"),
    ],
)
def test_an_impossible_option_is_one_clear_error(options, said):
    with pytest.raises(ConfigError) as e:
        NTM(INPUTS, WIDTH, **options)
    assert e.value.what == said
    assert e.value.where == "--agent.core-options"
    assert e.value.fix


@pytest.mark.slow
def test_it_learns_to_copy_and_copies_longer_than_it_was_taught():
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
        return head(Unrolled(core)(x)[0][length + 1 :]), bits

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
