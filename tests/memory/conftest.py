"""What the tests of cores with slots share: small ones of every kind, something to feed them, and unrolling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from arcturus.api import map_state, state_leaves
from arcturus.memory.dnc import DNC
from arcturus.memory.ntm import NTM

NTMS = {
    "ntm": {},
    "ntm, several heads": {"read_heads": 2, "write_heads": 3, "shift": 2},
    "ntm, feedforward": {"controller": "feedforward", "layers": 2, "read_heads": 2},
    "ntm, two layers": {"layers": 2, "write_heads": 2},
    "ntm, content": {"addressing": "content", "write_heads": 2},
    "ntm, location": {"addressing": "location", "read_heads": 2},
}
DNCS = {
    "dnc": {},
    "dnc, several heads": {"read_heads": 3},
    "dnc, feedforward": {"controller": "feedforward", "layers": 2, "read_heads": 2},
    "dnc, no links": {"links": False, "read_heads": 2},
}
INPUTS, WIDTH, SLOTS, WORD = 3, 4, 6, 2


class Unrolled(nn.Module):
    """x [T, N, INPUTS] -> y [T, N, outputs], and the last state's tensors from the memory on, but for the controller's."""

    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, x):
        state, out = self.core.initial_state(x.shape[1]), []
        for x_t in x:
            y, state = self.core(x_t, state)
            out.append(y)
        return torch.stack(out), *state_leaves(state._replace(controller=()))


@pytest.fixture(params=NTMS)
def ntm_kind(request):
    return request.param


@pytest.fixture(params=DNCS)
def dnc_kind(request):
    return request.param


@pytest.fixture(params=[*NTMS, *DNCS])
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def make():
    """make(kind): a small core in float64 whose parameters are all random, biases and what is learned of the start among them."""

    def made(kind, seed=0, scale=1.0, **options):
        core = (NTM if kind in NTMS else DNC)(INPUTS, WIDTH, **({"slots": SLOTS, "word": WORD} | (NTMS | DNCS)[kind] | options))
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in core.double().parameters():
                p.copy_(scale * torch.randn(p.shape, generator=g, dtype=p.dtype))
        return core

    return made


@pytest.fixture(scope="session")
def lived():
    """lived(core): inputs [steps, n, INPUTS], and a state of n environments: an NTM's is anything; a DNC's is reached in a few
    steps, as its usage and links belong to what was written."""

    def after(core, n=2, steps=4, seed=1):
        g = torch.Generator().manual_seed(seed)
        new = lambda *shape: torch.randn(*shape, generator=g, dtype=core.first_reads.dtype)  # noqa: E731
        warm_up = 0 if isinstance(core, NTM) else 5
        x, state = new(warm_up + steps, n, INPUTS), core.initial_state(n)
        with torch.no_grad():
            for x_t in x[:warm_up]:
                _, state = core(x_t, state)
        if not warm_up:
            state = map_state(lambda t: new(*t.shape), state)
            state = state._replace(w_read=state.w_read.softmax(-1), w_write=state.w_write.softmax(-1))
        return x[warm_up:], state

    return after


@pytest.fixture(scope="session")
def unrolled():
    """unrolled(core): the core over whole sequences, as a module."""
    return Unrolled
