"""Differentiable Neural Computer: Graves, Wayne, Reynolds et al. 2016, Nature 538:471; equations as in its Methods.

A controller writes through one head and reads through R heads; a memory M of S slots, words of width W.  At every step:

    h_t    = controller([x_t, r_t-1])                                  r_t-1: what was read at the step before
    xi_t   = a linear layer of h_t, the interface, clipped to [-20, 20] and cut into the names below

  Content-based addressing
    C(M, k, beta)[i] = softmax_i(beta cosine(k, M[i]))
  Dynamic memory allocation
    psi_t  = prod_i (1 - f_i w^r_i,t-1)                                retention: what read heads don't set free
    u_t    = (u_t-1 + w^w_t-1 - u_t-1 w^w_t-1) psi_t                   usage
    phi_t  = slots by rising usage                                     the free list; equals in the order of slots
    a_t[phi_t[j]] = (1 - u_t[phi_t[j]]) prod_i<j u_t[phi_t[i]]         allocation
  Writing
    w^w_t  = g^w (g^a a_t + (1 - g^a) C(M_t-1, k^w, beta^w))           write gate, allocation gate
    M_t    = M_t-1 (1 - w^w_t e^T) + w^w_t v^T
  Temporal memory linkage
    L_t[i, j] = (1 - w^w_t[i] - w^w_t[j]) L_t-1[i, j] + w^w_t[i] p_t-1[j],  L_t[i, i] = 0    was i written after j?
    p_t    = (1 - sum_i w^w_t[i]) p_t-1 + w^w_t                        precedence: was i written last?
  Reading, of M_t
    w^r_i  = pi_i[1] L_t^T w^r_i,t-1 + pi_i[2] C(M_t, k^r_i, beta^r_i) + pi_i[3] L_t w^r_i,t-1    backward, content, forward
    r_i    = M_t^T w^r_i
    y_t    = [h_t, r_t]

Where the paper leaves it open: gradients don't flow through the order of the free list but through all else (DeepMind's code also
stops them at the write weighting in the usage), and usage is at least 1e-6 in the product, so that it can be differentiated.
An episode begins with memory, usage, links and weightings of 0; slot 0 is allocated first, which breaks the symmetry.  The initial
read vectors and the controller's initial state are learned.  No parameter depends on the number of slots: `slots` may be changed at
any time for the episodes that begin after that.

Without links read heads go by content alone.  With them a state of every environment holds S^2 numbers; the time of a step
grows with S^2 either way (the free list's product).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcturus.api import State
from arcturus.memory.addressing import content_weighting, cosine, inverse_norm
from arcturus.memory.controllers import Controller, check_size, check_word
from arcturus.memory.heads import CLIP, erase
from arcturus.speed import fast

LEAST_USAGE = 1e-6


class DNCState(NamedTuple):
    memory: Tensor  # [N, S, W]
    reads: Tensor  # [N, R, W]
    w_read: Tensor  # [N, R, S]
    w_write: Tensor  # [N, 1, S]
    usage: Tensor  # [N, S]
    link: State  # [N, S, S], link[i, j]: i was written after j; () without links
    precedence: State  # [N, S]; () without links
    controller: State  # an LSTM's ((h, c), ...), [N, width] each; a feedforward one's ()


class Interface(NamedTuple):
    read_keys: Tensor  # [N, R, W]
    read_strengths: Tensor  # [N, R, 1] >= 1
    write_key: Tensor  # [N, 1, W]
    write_strength: Tensor  # [N, 1, 1] >= 1
    erase: Tensor  # [N, 1, W] in [0, 1]
    add: Tensor  # [N, 1, W], the paper's write vector v
    free_gates: Tensor  # [N, R, 1]
    allocation_gate: Tensor  # [N, 1]
    write_gate: Tensor  # [N, 1]
    read_modes: Tensor  # [N, R, 3] backward, content, forward; [N, R, 0] without links


def content(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """C(M, k, beta), [N, K, S]."""
    return content_weighting(strengths, cosine(keys, memory, inverse_norm(keys), inverse_norm(memory)))


def used(usage: Tensor, w_write: Tensor, w_read: Tensor, free_gates: Tensor) -> Tensor:
    """u_t [N, S] of u_t-1 [N, S], w^w_t-1 [N, 1, S], w^r_t-1 [N, R, S] and the free gates [N, R, 1]."""
    retention = (1 - free_gates * w_read).prod(1)
    w = w_write.squeeze(1)
    return (usage + w - usage * w) * retention


def allocation(usage: Tensor) -> Tensor:
    """a_t [N, S]: where to write something new; sums to at most 1, and to little where all slots are in use."""
    rising, free_list = torch.sort(LEAST_USAGE + (1 - LEAST_USAGE) * usage, stable=True)
    # The product as a sum of logarithms: on CUDA cumprod's gradient waits for the host, and cumsum isn't deterministic.
    before = torch.ones(usage.shape[-1], usage.shape[-1], dtype=usage.dtype, device=usage.device).triu(1)
    taken = (rising.log() @ before).exp()
    return torch.zeros_like(usage).scatter(-1, free_list, (1 - rising) * taken)


def linked(link: Tensor, precedence: Tensor, w_write: Tensor) -> tuple[Tensor, Tensor]:
    """L_t [N, S, S] and p_t [N, S]."""
    w = w_write.squeeze(1)
    link = (1 - w[:, :, None] - w[:, None, :]) * link + w[:, :, None] * precedence[:, None, :]
    link = link * (1 - torch.eye(link.shape[-1], dtype=link.dtype, device=link.device))
    return link, (1 - w.sum(-1, keepdim=True)) * precedence + w


class DNC(nn.Module):
    """width: the controller's units.  ConfigError for sizes and words that can't be."""

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        slots: int = 64,
        word: int = 20,
        read_heads: int = 1,
        controller: str = "lstm",
        layers: int = 1,
        links: bool = True,
    ):
        super().__init__()
        check_word("links", links, (True, False))
        self.slots, self.least_slots, self.most_slots = slots, 2, 4096
        check_size("slots", slots, self.least_slots, self.most_slots)
        check_size("word", word, 1, 4096)
        check_size("read_heads", read_heads, 1, 64)
        self.word, self.reads, self.links = word, read_heads, bool(links)
        self.outputs = width + read_heads * word
        self.controller = Controller(controller, inputs + read_heads * word, width, layers)
        modes = 3 if links else 0
        self.sizes = [read_heads * word, read_heads, word, 1, word, word, read_heads, 1, 1, read_heads * modes]
        self.interface = nn.Linear(width, sum(self.sizes))
        nn.init.xavier_uniform_(self.interface.weight)
        nn.init.zeros_(self.interface.bias)
        self.first_reads = nn.Parameter(torch.zeros(read_heads, word))
        self.compiled = fast()

    @property
    def linear(self) -> nn.Module:
        """The layer behind the controller."""
        return self.interface

    def initial_state(self, n: int) -> DNCState:
        new = self.first_reads.new_zeros
        return DNCState(
            memory=new(n, self.slots, self.word),
            reads=self.first_reads.expand(n, -1, -1),
            w_read=new(n, self.reads, self.slots),
            w_write=new(n, 1, self.slots),
            usage=new(n, self.slots),
            link=new(n, self.slots, self.slots) if self.links else (),
            precedence=new(n, self.slots) if self.links else (),
            controller=self.controller.initial_state(n),
        )

    def _interface(self, h: Tensor) -> Interface:
        xi = self.interface(h).clamp(-CLIP, CLIP)
        r_keys, r_strengths, w_key, w_strength, erase_, add, free, allocate, write, modes = xi.split(self.sizes, -1)
        of_heads = (h.shape[0], self.reads, -1)
        return Interface(
            r_keys.view(of_heads),
            1 + F.softplus(r_strengths.view(of_heads)),
            w_key.unsqueeze(1),
            1 + F.softplus(w_strength.unsqueeze(1)),
            erase_.sigmoid().unsqueeze(1),
            add.unsqueeze(1),
            free.view(of_heads).sigmoid(),
            allocate.sigmoid(),
            write.sigmoid(),
            modes.view(h.shape[0], self.reads, 3 if self.links else 0).softmax(-1),
        )

    def _step(self, x: Tensor, state: DNCState) -> tuple[Tensor, DNCState, Interface, Tensor]:
        """One step; also returns the interface and the allocation [N, S]."""
        h, controller = self.controller(torch.cat([x, state.reads.flatten(1)], -1), state.controller)
        xi = self._interface(h)
        usage = used(state.usage, state.w_write, state.w_read, xi.free_gates)
        a = allocation(usage)
        c_write = content(xi.write_key, xi.write_strength, state.memory).squeeze(1)
        w_write = (xi.write_gate * (xi.allocation_gate * a + (1 - xi.allocation_gate) * c_write)).unsqueeze(1)
        memory = erase(state.memory, w_write.squeeze(1), xi.erase.squeeze(1)) + w_write.mT * xi.add
        link, precedence = state.link, state.precedence
        w_read = content(xi.read_keys, xi.read_strengths, memory)
        if self.links:
            link, precedence = linked(link, precedence, w_write)
            backward, by_content, forward = xi.read_modes.split(1, -1)
            w_read = backward * (state.w_read @ link) + by_content * w_read + forward * (state.w_read @ link.mT)
        reads = w_read @ memory
        after = DNCState(memory, reads, w_read, w_write, usage, link, precedence, controller)
        return torch.cat([h, reads.flatten(1)], -1), after, xi, a

    def forward(self, x: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
        """One step: x [N, inputs] -> y [N, outputs]."""
        y, state, *_ = self._step(x, state)
        return y, state

    def through_time(self, x: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
        """All steps of x [T, N, inputs] -> [T, N, outputs] and the state after them, by compiled loops: on the CPU only."""
        from arcturus.memory.unrolled import UnrolledDNC

        n = x.shape[1]
        link, precedence = (state.link, state.precedence) if self.links else (x.new_zeros(n, 0, 0), x.new_zeros(n, 0))
        start = state.memory, link, precedence, state.usage, state.w_read, state.w_write.squeeze(1), state.reads.flatten(1)
        weights = self.interface.weight, self.interface.bias, *self.controller.weights()
        y, memory, link, precedence, usage, w_read, w_write, reads, h, c = UnrolledDNC.apply(
            self.links, LEAST_USAGE, x, *start, *self.controller.stacked(x, state.controller), *weights
        )
        controller = tuple(zip(h.unbind(), c.unbind(), strict=True))
        if not self.links:
            link = precedence = ()
        return y, DNCState(memory, reads.view_as(state.reads), w_read, w_write.unsqueeze(1), usage, link, precedence, controller)

    def trace(self, x: Tensor, state: DNCState) -> tuple[Tensor, DNCState, dict[str, Tensor]]:
        """The same step, and what was done: memory [N, S, W], reads [N, R, W], w_read [N, R, S], w_write [N, 1, S], usage and
        allocation [N, S], allocation_gate and write_gate [N, 1], free_gates [N, R, 1], keys, strengths, erase and add; with
        links read_modes [N, R, 3] (backward, content, forward), link [N, S, S] and precedence [N, S]."""
        y, state, xi, a = self._step(x, state)
        done = {"allocation": a} | xi._asdict() | {name: value for name, value in state._asdict().items() if name != "controller"}
        if not self.links:
            done = {name: value for name, value in done.items() if name not in ("read_modes", "link", "precedence")}
        return y, state, done
