"""The classic recurrent cores.  Each gate's weights are orthogonal, biases 0 but for the LSTM's forget gate.

    rnn    h = tanh(W x + U h + b)                                                                       (Elman 1990)
    lstm   i, f, o = sigmoid(...),  g = tanh(...),  c = f c + i g,  h = o tanh(c)       (Hochreiter & Schmidhuber 1997; Gers 2000)
    gru    r, z = sigmoid(W x + U h + b),  n = tanh(W x + U (r h) + b),  h = z h + (1 - z) n             (Cho et al. 2014, eq. 5-8)

The LSTM's forget gate begins with a bias of 1, open, so that gradients pass from the start (Gers et al. 2000; Jozefowicz et al. 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arcturus.api import State
from arcturus.errors import ConfigError


class NoMemory(nn.Module):
    """x itself; the state is ()."""

    def __init__(self, inputs: int, width: int = 0):
        super().__init__()
        self.outputs = inputs

    def initial_state(self, n: int) -> State:
        return ()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return x, state


def _orthogonal(module: nn.Module, width: int) -> None:
    """Makes every gate's matrix orthogonal separately: stacked into one matrix, none of them would be."""
    for p in module.parameters():
        if p.dim() == 2:
            for gate in p.detach().split(width):
                nn.init.orthogonal_(gate)
        else:
            nn.init.zeros_(p)


class RNN(nn.Module):
    """State: h [N, width]."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.outputs, self.cell = width, nn.RNNCell(inputs, width)
        _orthogonal(self, width)

    def initial_state(self, n: int) -> State:
        return self.cell.weight_hh.new_zeros(n, self.outputs)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h = self.cell(x, state)
        return h, h


class LSTM(nn.Module):
    """State: (h, c), [N, width] each."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.outputs, self.cell = width, nn.LSTMCell(inputs, width)
        _orthogonal(self, width)
        with torch.no_grad():
            self.cell.bias_ih[width : 2 * width].fill_(1.0)  # gates in torch's order: i, f, g, o

    def initial_state(self, n: int) -> State:
        zeros = self.cell.weight_hh.new_zeros
        return zeros(n, self.outputs), zeros(n, self.outputs)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = self.cell(x, state)
        return h, (h, c)


class DeepLSTM(nn.Module):
    """`layers` LSTMs one above the other; each reads the input and the layer below, and all are read (Graves 2013, section 2): the
    baseline of Graves et al. 2014.  The state it begins with is learned.  State: (h, c), [N, layers, width] each."""

    def __init__(self, inputs: int, width: int, layers: int = 3):
        super().__init__()
        if not isinstance(layers, int) or not 1 <= layers <= 16:
            raise ConfigError(f"layers can't be {layers!r}", where="--agent.core-options", fix="use layers=1 to 16")
        self.layers = nn.ModuleList(LSTM(inputs + (width if i else 0), width) for i in range(layers))
        self.outputs = layers * width
        self.h_0, self.c_0 = (nn.Parameter(torch.zeros(layers, width)) for _ in range(2))

    def initial_state(self, n: int) -> State:
        return self.h_0.tanh().expand(n, -1, -1), self.c_0.expand(n, -1, -1)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hs: list[Tensor] = []
        cs: list[Tensor] = []
        for layer, h, c in zip(self.layers, state[0].unbind(1), state[1].unbind(1), strict=True):
            _, (h, c) = layer(torch.cat([x, *hs[-1:]], -1), (h, c))
            hs.append(h)
            cs.append(c)
        return torch.cat(hs, -1), (torch.stack(hs, 1), torch.stack(cs, 1))


class GRU(nn.Module):
    """State: h [N, width].  The reset gate acts on h before the product with U, as in the paper; torch's own acts after."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.outputs = width
        self.gates_x, self.gates_h = nn.Linear(inputs, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.new_x, self.new_h = nn.Linear(inputs, width), nn.Linear(width, width, bias=False)
        _orthogonal(self, width)

    def initial_state(self, n: int) -> State:
        return self.new_h.weight.new_zeros(n, self.outputs)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        r, z = (self.gates_x(x) + self.gates_h(state)).sigmoid().chunk(2, -1)  # (5), (6)
        new = (self.new_x(x) + self.new_h(r * state)).tanh()  # (8)
        h = z * state + (1 - z) * new  # (7)
        return h, h
