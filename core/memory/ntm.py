"""Neural Turing Machine: Graves, Wayne & Danihelka 2014, arXiv:1410.5401.  Numbers are the paper's equations.

A controller reads and writes a memory M of S slots, words of width W, through heads that look at all slots at once, each with a
weighting w over them.  At every step, for one environment,

    h_t      = controller([x_t, r_t-1])              r_t-1: what was read at the step before
    w_t      = weightings of all heads, from their parameters (a linear layer of h_t), w_t-1 and M_t-1          (5)-(9)
    M~_t(i)  = M_t-1(i) [1 - w_t(i) e_t]             each write head erases ...                                 (3)
    M_t(i)   = M~_t(i) + w_t(i) a_t                  ... and then each adds                                     (4)
    r_t      = sum_i w_t(i) M_t(i)                   each read head reads what is there after writing           (2)
    y_t      = [h_t, r_t]

Read heads, too, find their slots in M_t-1 (so that all heads are addressed at once), and read them in M_t.

Parameters of the heads, of p clipped to [-20, 20]:

    key, add = tanh p    erase, gate g = sigmoid p    strength beta = softplus p    shift s = softmax p    gamma = 1 + softplus p

An episode begins with a memory of 1e-6 everywhere, which learns fastest (Collier & Beel 2018, arXiv:1807.08518).  All slots being
alike, something else must tell them apart, or they stay alike for ever: every head begins at slot 0.  First read vectors and the
first state of the controller are learned.  No parameter knows how many slots there are, and `slots` may be changed at any time.

A feedforward controller is, as in the paper's experiments, a hidden layer of tanh units on the input and the last read vectors
(`layers` of them in a row).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcturus.api import State
from arcturus.errors import ConfigError
from arcturus.memory.addressing import content_weighting, convolve, interpolate, sharpen
from arcturus.memory.recurrent import LSTM

WHERE = "--agent.core-options"
CLIP = 20.0  # of the heads' parameters


class NTMState(NamedTuple):
    memory: Tensor  # [N, S, W]
    reads: Tensor  # [N, R, W]
    w_read: Tensor  # [N, R, S]
    w_write: Tensor  # [N, H, S]
    controller: State  # ((h, c), ...), [N, width] each, a pair for each layer of an LSTM; () of a feedforward one


class NTM(nn.Module):
    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        slots: int = 128,
        word: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        controller: str = "lstm",
        layers: int = 1,
        shift: int = 1,
        addressing: str = "both",
    ):
        super().__init__()
        sizes = {"slots": (slots, 65_536), "word": (word, 4096), "read_heads": (read_heads, 64), "write_heads": (write_heads, 64)}
        for name, (size, most) in (sizes | {"width": (width, 65_536), "layers": (layers, 16), "shift": (shift, 64)}).items():
            if not 1 <= size <= most:
                raise ConfigError(f"{name} of an NTM can't be {size}", where=WHERE, fix=f"1 to {most:,}")
        if slots < 2 * shift + 1:
            raise ConfigError(
                f"{slots} slots are too few for shifts of +-{shift}", where=WHERE, fix=f"slots={2 * shift + 1} or more"
            )
        for name, word_, words in (
            ("controller", controller, ("lstm", "feedforward")),
            ("addressing", addressing, ("both", "content", "location")),
        ):
            if word_ not in words:
                raise ConfigError(f"unknown {name} {word_!r} of an NTM", where=WHERE, fix=f"{name}={'|'.join(words)}")
        self.least_slots = 2 * shift + 1
        self.slots, self.word, self.heads, self.addressing = slots, word, (read_heads, write_heads), addressing
        heads, taps = read_heads + write_heads, 2 * shift + 1
        self.outputs = width + read_heads * word
        widths = [inputs + read_heads * word] + [width] * layers
        kind = LSTM if controller == "lstm" else nn.Linear
        self.controller = nn.ModuleList(kind(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.recurrent = controller == "lstm"
        # in groups of one activation: keys, adds; erases, gates; strengths, sharpenings; shifts
        self.groups = [(heads + write_heads) * word, write_heads * word + heads, 2 * heads, heads * taps]
        self.head = nn.Linear(width, sum(self.groups))
        self.first_reads = nn.Parameter(torch.zeros(read_heads, word))
        if self.recurrent:
            self.first_state = nn.Parameter(torch.zeros(layers, 2, width))
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def initial_state(self, n: int) -> NTMState:
        new = self.first_reads.new_zeros
        memory = new(n, self.slots, self.word).fill_(1e-6)
        focus = []
        for heads in self.heads:
            focus.append(new(n, heads, self.slots))
            focus[-1][..., 0] = 1.0
        reads = self.first_reads.tanh().expand(n, -1, -1)
        controller = ()
        if self.recurrent:
            controller = tuple((h.tanh().expand(n, -1), c.expand(n, -1)) for h, c in self.first_state)
        return NTMState(memory, reads, *focus, controller)

    def _control(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not self.recurrent:
            for layer in self.controller:
                x = layer(x).tanh()
            return x, ()
        new = []
        for layer, old in zip(self.controller, state, strict=True):
            x, hc = layer(x, old)
            new.append(hc)
        return x, tuple(new)

    def _step(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState, dict[str, Tensor]]:
        """One step, with the parameters of all heads (read heads first), [N, heads, ...]."""
        n, (reads, writes) = len(x), self.heads
        h, controller = self._control(torch.cat([x, state.reads.flatten(1)], -1), state.controller)
        p_tanh, p_sigmoid, p_softplus, p_shift = self.head(h).clamp(-CLIP, CLIP).split(self.groups, -1)
        heads = reads + writes
        key, add = p_tanh.tanh().view(n, -1, self.word).split([heads, writes], 1)
        gate, erase = p_sigmoid.sigmoid().split([heads, writes * self.word], 1)
        beta, gamma = F.softplus(p_softplus).view(n, heads, 2).split(1, -1)
        gate, erase, gamma = gate.unsqueeze(-1), erase.view(n, writes, self.word), 1 + gamma
        s = p_shift.view(n, heads, -1).softmax(-1)

        w = torch.cat([state.w_read, state.w_write], 1)
        if self.addressing != "location":
            w_content = content_weighting(key, beta, state.memory)
            w = w_content if self.addressing == "content" else interpolate(w, w_content, gate)
        if self.addressing != "content":
            w = sharpen(convolve(w, s), gamma)
        w_read, w_write = w.split([reads, writes], 1)

        memory = state.memory
        for i in range(writes):
            memory = torch.addcmul(memory, memory, w_write[:, i, :, None] * erase[:, i, None], value=-1)  # (3)
        memory = torch.baddbmm(memory, w_write.mT, add)  # (4)
        read = w_read @ memory  # (2)
        y = torch.cat([h, read.flatten(1)], -1)
        return (
            y,
            NTMState(memory, read, w_read, w_write, controller),
            {"key": key, "strength": beta, "gate": gate, "shift": s, "sharpening": gamma, "add": add, "erase": erase},
        )

    def forward(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """One step: x [N, inputs] -> y [N, outputs]."""
        y, state, _ = self._step(x, state)
        return y, state

    def trace(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState, dict[str, Tensor]]:
        """The same step, and what it did: memory [N, S, W], reads [N, R, W], w_read [N, R, S], w_write, add and erase
        [N, H, W], and of both kinds of heads read_key ..., write_key ...: key, strength, gate, shift, sharpening."""
        y, state, parameters = self._step(x, state)
        seen = {name: getattr(state, name) for name in ("memory", "reads", "w_read", "w_write")}
        seen |= {name: parameters.pop(name) for name in ("add", "erase")}
        for name, value in parameters.items():
            seen["read_" + name], seen["write_" + name] = value.split(list(self.heads), 1)
        return y, state, seen
