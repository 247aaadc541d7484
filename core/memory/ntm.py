"""Neural Turing Machine: Graves, Wayne & Danihelka 2014, arXiv:1410.5401.  Numbers are the paper's equations.

A controller reads and writes a memory M of S slots, words of width W, through heads that look at all slots at once, each with a
weighting w over them.  At every step, for one environment,

    h_t      = controller([x_t, r_t-1])             r_t-1: what was read at the step before
    w_t      = weightings of all heads, from their parameters (a linear layer of h_t), w_t-1 and M_t-1          (5)-(9)
    M~_t(i)  = M_t-1(i) [1 - w_t(i) e_t]            each write head erases ...                                  (3)
    M_t(i)   = M~_t(i) + w_t(i) a_t                 ... and then each adds                                      (4)
    r_t      = sum_i w_t(i) M_t(i)                  each read head reads what is there after writing            (2)
    y_t      = [h_t, r_t]

Read heads, too, find their slots in M_t-1 (so that all heads are addressed at once), and read them in M_t.  Of p, what the linear
layer gives, clipped to [-20, 20]:

    key, add = tanh p    erase, gate g = sigmoid p    strength beta = softplus p    shift s = softmax p    gamma = 1 + softplus p

An episode begins with a memory of 1e-6 everywhere, which learns fastest (Collier & Beel 2018, arXiv:1807.08518).  As all slots are
equal, something else must break the symmetry: every head begins at slot 0.  The initial read vectors and the controller's initial
state are learned.  No parameter depends on the number of slots, and `slots` may be changed at any time for the episodes that begin
after that.

The feedforward controller is the paper's: hidden units on the input and the last read vectors, here tanh; its only memory is M.
Initial weights are torch's in the controller (controllers.py says why), Xavier-uniform with biases of 0 in the heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from arcturus.api import State
from arcturus.memory.controllers import Controller, check_size, check_word
from arcturus.memory.heads import Layout, UseMemory, parameters
from arcturus.speed import fast


class NTMState(NamedTuple):
    memory: Tensor  # [N, S, W]
    reads: Tensor  # [N, R, W]
    w_read: Tensor  # [N, R, S]
    w_write: Tensor  # [N, H, S]
    controller: State  # an LSTM's ((h, c), ...), [N, width] each; a feedforward one's ()


class NTM(nn.Module):
    """width: the controller's units.  shift: heads move at most this many slots a step.  addressing: both, or content alone,
    (5)-(6), or location alone, (8)-(9) of the last weighting.  ConfigError for invalid sizes and options."""

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
        check_size("shift", shift, 1, 64)
        self.slots, self.least_slots, self.most_slots = slots, 2 * shift + 1, 65_536
        check_size("slots", slots, self.least_slots, self.most_slots)
        check_size("word", word, 1, 4096)
        check_size("read_heads", read_heads, 1, 64)
        check_size("write_heads", write_heads, 1, 64)
        check_word("addressing", addressing, ("both", "content", "location"))
        self.layout = Layout(read_heads, write_heads, word, 2 * shift + 1, addressing)
        self.outputs = width + read_heads * word
        self.controller = Controller(controller, inputs + read_heads * word, width, layers)
        self.heads = nn.Linear(width, sum(self.layout.groups))
        nn.init.xavier_uniform_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        self.first_reads = nn.Parameter(torch.zeros(read_heads, word))
        self.compiled = fast()

    @property
    def linear(self) -> nn.Module:
        """The layer behind the controller."""
        return self.heads

    def initial_state(self, n: int) -> NTMState:
        reads, writes, word = self.layout[:3]
        new = self.first_reads.new_zeros
        w = new(n, reads + writes, self.slots)
        w[..., 0] = 1.0
        memory, learned = new(n, self.slots, word).fill_(1e-6), self.first_reads.tanh().expand(n, -1, -1)
        return NTMState(memory, learned, w[:, :reads], w[:, reads:], self.controller.initial_state(n))

    def _step(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState, Tensor]:
        """One step; also returns the output of the heads' linear layer."""
        h, controller = self.controller(torch.cat([x, state.reads.flatten(1)], -1), state.controller)
        p = self.heads(h)
        memory, reads, w_read, w_write = UseMemory.apply(p, state.memory, state.w_read, state.w_write, self.layout)
        return torch.cat([h, reads.flatten(1)], -1), NTMState(memory, reads, w_read, w_write, controller), p

    def forward(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """One step: x [N, inputs] -> y [N, outputs]."""
        y, state, _ = self._step(x, state)
        return y, state

    def through_time(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """All steps of x [T, N, inputs] -> [T, N, outputs] and the state after them, by compiled loops: on the CPU only."""
        from arcturus.memory.unrolled import UnrolledNTM

        start = *state[:4], *self.controller.stacked(x, state.controller)
        weights = self.heads.weight, self.heads.bias, *self.controller.weights()
        y, memory, reads, w_read, w_write, h, c = UnrolledNTM.apply(self.layout, x, *start, *weights)
        return y, NTMState(memory, reads, w_read, w_write, tuple(zip(h.unbind(), c.unbind(), strict=True)))

    def trace(self, x: Tensor, state: NTMState) -> tuple[Tensor, NTMState, dict[str, Tensor]]:
        """The same step, and what was done: memory [N, S, W], reads [N, R, W], w_read [N, R, S], w_write [N, H, S], add and
        erase [N, H, W], and for both kinds of heads key, strength, gate, shift and sharpening, named read_key, write_key ..."""
        y, state, p = self._step(x, state)
        q = parameters(p, self.layout)
        done = {name: getattr(state, name) for name in ("memory", "reads", "w_read", "w_write")} | {
            "add": q.add,
            "erase": q.erase,
        }
        for name, values in {"key": q.key, "strength": q.beta, "gate": q.g, "shift": q.s, "sharpening": q.gamma}.items():
            done["read_" + name], done["write_" + name] = values.split(self.layout[:2], 1)
        return y, state, done
