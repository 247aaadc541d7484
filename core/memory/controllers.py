"""The controller network of a core with an external memory, and the checks of such cores' options."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from arcturus.api import State
from arcturus.errors import ConfigError

WHERE = "--agent.core-options"


def check_size(name: str, value: Any, least: int, most: int) -> None:
    """A ConfigError for a value that is not a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} can't be {value!r}", where=WHERE, fix=f"use a whole number from {least:,} to {most:,}")


def check_word(name: str, value: Any, words: tuple[Any, ...]) -> None:
    if value not in words:
        raise ConfigError(f"{name} can't be {value!r}", where=WHERE, fix=f"use one of {', '.join(str(word) for word in words)}")


class Controller(nn.Module):
    """x [N, inputs], state -> h [N, width], state.

    lstm: `layers` of them, each on the one below; state ((h, c), ...), [N, width] each, begins as a learned one.
    feedforward: `layers` hidden layers of tanh units; no state, ().

    Weights begin as torch's own do, uniform in +-1/sqrt(fan-in), and the LSTM's forget gates half open: one that remembers by
    itself from the start (orthogonal weights, a forget bias of 1) learns short tasks without the memory, and long ones not at all.
    """

    def __init__(self, kind: str, inputs: int, width: int, layers: int):
        super().__init__()
        check_word("controller", kind, ("lstm", "feedforward"))
        check_size("width", width, 1, 65_536)
        check_size("layers", layers, 1, 16)
        self.recurrent = kind == "lstm"
        layer = nn.LSTMCell if self.recurrent else nn.Linear
        self.layers = nn.ModuleList(layer(inputs if i == 0 else width, width) for i in range(layers))
        if self.recurrent:
            self.first = nn.Parameter(torch.zeros(layers, 2, width))

    def initial_state(self, n: int) -> State:
        if not self.recurrent:
            return ()
        return tuple((h.tanh().expand(n, -1), c.expand(n, -1)) for h, c in self.first)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not self.recurrent:
            for layer in self.layers:
                x = layer(x).tanh()
            return x, ()
        new = []
        for layer, hc in zip(self.layers, state, strict=True):
            x, c = layer(x, hc)
            new.append((x, c))
        return x, tuple(new)

    def stacked(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """h and c [layers, N, width] of an LSTM's state; [0, N, width] each without one.  x: of the dtype wanted, [T, N, inputs]."""
        if not self.recurrent:
            width: Any = self.layers[0].out_features
            empty = x.new_zeros(0, x.shape[1], width)
            return empty, empty
        h, c = (torch.stack(parts) for parts in zip(*state, strict=True))
        return h, c

    def weights(self) -> list[Tensor]:
        """Of all layers: w_ih, w_hh, b_ih, b_hh of every LSTM's, weight, bias of every feedforward one's."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.recurrent else ("weight", "bias")
        return [getattr(layer, name) for layer in self.layers for name in names]
