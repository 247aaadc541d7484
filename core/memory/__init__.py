"""Memory cores: what an agent remembers from step to step.

A core is an nn.Module, made from (inputs, width), with

    outputs: int                                              the width of what it gives
    initial_state(n) -> State                                 a nest of tensors [n, ...]; learned parameters may be in it
    forward(x [N, inputs], state) -> (y [N, outputs], state)  one step

The caller owns the state.  unroll() runs a core over time and wipes its state where an episode opens; acting is unrolling with
T = 1.  `none` remembers nothing, and costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arcturus.api import State, where_first
from arcturus.errors import ConfigError, nearest
from arcturus.extensions import build
from arcturus.memory.recurrent import GRU, LSTM, RNN, NoMemory

CORES: dict[str, type[nn.Module]] = {"none": NoMemory, "rnn": RNN, "lstm": LSTM, "gru": GRU}


def make_core(name: str, inputs: int, width: int) -> nn.Module:
    """By name, or by dotted path for one of your own."""
    if name in CORES:
        return CORES[name](inputs, width)
    if "." in name:
        return build(name, "--agent.core", ("outputs", "initial_state"), inputs, width)
    raise ConfigError(f"unknown memory core {name!r}", where="--agent.core", fix=nearest(name, CORES, "cores"))


def unroll(core: nn.Module, x: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
    """x [T, N, inputs], first [T, N] bool -> [T, N, outputs] and the state after them.  Gradients flow through all T steps."""
    if isinstance(core, NoMemory):
        return x, state
    fresh, out = core.initial_state(x.shape[1]), []  # type: ignore[operator]
    for x_t, first_t in zip(x.unbind(), first.unbind(), strict=True):
        y, state = core(x_t, where_first(first_t, fresh, state))
        out.append(y)
    return torch.stack(out), state
