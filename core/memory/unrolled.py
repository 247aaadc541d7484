"""The Neural Turing Machine and the DNC through time as one operation of autograd each, by the loops of compiled.py, on the CPU.

What every step needs of the weights is one matrix product over all steps, before the loops (the inputs' share of the first layer) or behind
them (the weights' gradients).  The rest happens step by step without Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcturus.memory import compiled
from arcturus.memory.heads import Layout
from arcturus.telling import say


class Weights(NamedTuple):
    """Of a controller and of the linear layer behind it.  layers: (w_ih, w_hh, b_ih, b_hh) of every LSTM's, (weight, bias) of every
    feedforward one's."""

    heads: Tensor
    bias: Tensor
    layers: tuple[tuple[Tensor, ...], ...]

    @classmethod
    def of(cls, flat: Sequence[Tensor], recurrent: bool) -> Weights:
        size = 4 if recurrent else 2
        return cls(flat[0], flat[1], tuple(tuple(flat[i : i + size]) for i in range(2, len(flat), size)))

    def own(self, inputs: int) -> list[Tensor]:
        """Of every layer the weight [G, I] of what comes step by step: what was read or the layer below, and its own h."""
        below = [layer[0][:, inputs:] if number == 0 else layer[0] for number, layer in enumerate(self.layers)]
        return [torch.cat([one, layer[1]], 1) if len(layer) == 4 else one for one, layer in zip(below, self.layers, strict=True)]

    def biases(self) -> list[Tensor]:
        return [layer[2] + layer[3] if len(layer) == 4 else layer[1] for layer in self.layers]


class Control(NamedTuple):
    """A controller through T steps, as compiled.forward() takes it."""

    gates: tuple[Tensor, ...]
    taken: tuple[Tensor, ...]
    h: Tensor
    c: Tensor
    p: Tensor  # what the linear layer behind it gives

    @classmethod
    def before(cls, x: Tensor, h: Tensor, c: Tensor, weights: Weights) -> Control:
        steps, n, inputs = x.shape
        gates = tuple(over_rows(bias, steps, n) for bias in weights.biases())
        gates[0].view(steps * n, -1).addmm_(x.reshape(steps * n, inputs), weights.layers[0][0][:, :inputs].T)
        taken = tuple(x.new_empty(steps, n, own.shape[1]) for own in weights.own(inputs))
        h = h if len(h) else x.new_zeros(len(gates), n, weights.heads.shape[1])
        return cls(gates, taken, through_time(h, steps), through_time(c, steps), over_rows(weights.bias, steps, n))

    def loop_arguments(self, weights: Weights, inputs: int) -> tuple[Any, ...]:
        transposed = [own.T.contiguous() for own in weights.own(inputs)]
        return arrays(self.gates), arrays(self.taken), arrays(transposed), *arrays((self.h, self.c, weights.heads.T.contiguous(), self.p))

    def gradient_arguments(self, weights: Weights, inputs: int) -> tuple[Any, ...]:
        own = [one.contiguous() for one in weights.own(inputs)]
        return arrays(self.gates), arrays(own), *arrays((self.h, self.c, weights.heads.contiguous(), self.p))

    def gradients(self, x: Tensor, weights: Weights, d_gates: Sequence[Tensor], d_p: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of x, and of the weights in the order of Weights.of()."""
        flat_x, flat_p = x.flatten(0, 1), d_p.flatten(0, 1)
        out = [flat_p.T @ self.h[-1, 1:].flatten(0, 1), flat_p.sum(0)]
        for number, (d, taken, layer) in enumerate(zip(d_gates, self.taken, weights.layers, strict=True)):
            d_flat, width = d.flatten(0, 1), layer[0].shape[1]
            d_all = d_flat.T @ (torch.cat([flat_x, taken.flatten(0, 1)], 1) if number == 0 else taken.flatten(0, 1))
            d_bias = d_flat.sum(0)
            out += [d_all[:, :width], d_all[:, width:], d_bias, d_bias] if len(layer) == 4 else [d_all, d_bias]
        d_x = d_gates[0].flatten(0, 1) @ weights.layers[0][0][:, : x.shape[-1]]
        return d_x.view_as(x), out

    def last(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return (self.h[:, -1].clone(), self.c[:, -1].clone()) if len(h) else (h.clone(), h.clone())

    def given(self, recurrent: bool, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of h and c behind the last step, for the loops to change."""
        return (d_h.clone(), d_c.clone()) if recurrent else (torch.zeros_like(self.h[:, -1]), self.c[:, -1].clone())


class UnrolledNTM(torch.autograd.Function):
    """x [T, N, inputs]; the state at its first row: memory [N, S, W], reads [N, R, W], w_read [N, R, S], w_write [N, H, S], and of an LSTM
    h and c [L, N, width], of a feedforward controller two empty ones, [0, N, width]; and the weights, flat.

    Returns y [T, N, width + R W], and the state after the last row.
    """

    @staticmethod
    def forward(ctx: Any, layout: Layout, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        tell_of_compiling()
        memory, reads, w_read, w_write, h, c, *flat = given
        weights, (steps, n, inputs), slots = Weights.of(flat, bool(len(h))), x.shape, memory.shape[1]
        control, w_tm1 = Control.before(x, h, c, weights), torch.cat([w_read, w_write], 1)
        rows = [through_time(one[None], steps)[0] for one in (memory.mT, reads.flatten(1), w_tm1)]
        q = torch.empty_like(control.p)
        kept = [x.new_empty(steps, n, slots), *(x.new_empty(steps, n, w_tm1.shape[1], slots) for _ in range(4))]
        ctx.kinds = layout.taps, layout.addressing != "location", layout.addressing != "content"
        compiled.forward(*control.loop_arguments(weights, inputs), *arrays(rows), ctx.kinds, q.numpy(), arrays(kept))
        ctx.layout, ctx.recurrent, ctx.layers = layout, bool(len(h)), len(weights.layers)
        ctx.save_for_backward(x, *control.gates, *control.taken, *control[2:], *rows, q, *kept, *flat)
        memory, read, w = (one[-1].clone() for one in rows)  # of their own, so that nobody keeps all rows by keeping the last
        after = memory.mT, read.view_as(reads), *w.split([layout.reads, layout.writes], 1)
        return torch.cat([control.h[-1, 1:], rows[1][1:]], -1), *after, *control.last(h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, control, (*rows, q, s, a, b, c, d), weights = unpacked(ctx, 9)
        d_memory, d_reads, d_w_read, d_w_write, d_h, d_c = d_last
        d_gates, d_p = [torch.empty_like(one) for one in control.gates], torch.empty_like(q)
        given = [*control.given(ctx.recurrent, d_h, d_c), d_memory.mT.clone(memory_format=torch.contiguous_format)]
        given += [d_reads.flatten(1).clone(), torch.cat([d_w_read, d_w_write], 1)]
        compiled.backward(*control.gradient_arguments(weights, x.shape[-1]), *arrays(rows), ctx.kinds, q.numpy(), arrays((s, a, b, c, d)),
                          d_y.contiguous().numpy(), *arrays(given), arrays(d_gates), d_p.numpy())  # fmt: skip
        d_h, d_c, d_memory, d_read, d_w = given
        d_x, d_weights = control.gradients(x, weights, d_gates, d_p)
        state = d_memory.mT, d_read.view_as(d_reads), *d_w.split([ctx.layout.reads, ctx.layout.writes], 1)
        return None, d_x, *state, *((d_h, d_c) if ctx.recurrent else (None, None)), *d_weights


class UnrolledDNC(torch.autograd.Function):
    """x [T, N, inputs]; the state at its first row: memory [N, S, W], link [N, S, S], precedence [N, S], usage [N, S], w_read [N, R, S],
    w_write [N, S], reads [N, R W] (link and precedence [N, 0, 0] and [N, 0] without links), h and c as UnrolledNTM's; and the weights, flat.

    Returns y [T, N, width + R W], and the state after the last row.
    """

    @staticmethod
    def forward(ctx: Any, links: bool, least: float, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        tell_of_compiling()
        *state, h, c = given[:9]
        weights, (steps, n, inputs) = Weights.of(given[9:], bool(len(h))), x.shape
        control, (reads, slots) = Control.before(x, h, c, weights), state[4].shape[1:]
        state[0] = state[0].mT
        rows = [through_time(one[None], steps)[0] for one in state]
        new, head, heads = x.new_empty, (steps, n, slots), (steps, n, reads, slots)
        free_list = torch.empty(head, dtype=torch.int64)
        kept = [torch.empty_like(control.p), free_list, new(head), new(head), new(head), new(steps, n, 1, slots), new(steps, n, 1, slots)]
        kept += [new(head), *(new(heads) for _ in range(4))]
        ctx.links, ctx.least = links, torch.tensor(least, dtype=x.dtype).numpy()[()]
        compiled.dnc_forward(*control.loop_arguments(weights, inputs), arrays(rows), links, ctx.least, arrays(kept))
        ctx.recurrent, ctx.layers = bool(len(h)), len(weights.layers)
        ctx.save_for_backward(x, *control.gates, *control.taken, *control[2:], *rows, *kept, *given[9:])
        memory, *others = (one[-1].clone() for one in rows)
        return torch.cat([control.h[-1, 1:], rows[6][1:]], -1), memory.mT, *others, *control.last(h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, *d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, control, kept, weights = unpacked(ctx, 19)
        rows, kept = kept[:7], kept[7:]
        *d_state, d_h, d_c = d_last
        d_gates, d_p = [torch.empty_like(one) for one in control.gates], torch.empty_like(control.p)
        d_state[0] = d_state[0].mT
        d_rows = [one[None].clone(memory_format=torch.contiguous_format) for one in d_state]
        d_h, d_c = control.given(ctx.recurrent, d_h, d_c)
        compiled.dnc_backward(*control.gradient_arguments(weights, x.shape[-1]), arrays(rows), ctx.links, ctx.least, arrays(kept),
                              d_y.contiguous().numpy(), d_h.numpy(), d_c.numpy(), arrays(d_rows), arrays(d_gates), d_p.numpy())  # fmt: skip
        d_x, d_weights = control.gradients(x, weights, d_gates, d_p)
        d_memory, *d_others = (one[0] for one in d_rows)
        return None, None, d_x, d_memory.mT, *d_others, *((d_h, d_c) if ctx.recurrent else (None, None)), *d_weights


def unpacked(ctx: Any, count: int) -> tuple[Tensor, Control, tuple[Tensor, ...], Weights]:
    """What was saved: x, the controller, `count` tensors of the memory, the weights."""
    x, *rest = ctx.saved_tensors
    gates, taken, rest = rest[: ctx.layers], rest[ctx.layers : 2 * ctx.layers], rest[2 * ctx.layers :]
    return x, Control(tuple(gates), tuple(taken), *rest[:3]), tuple(rest[3 : 3 + count]), Weights.of(rest[3 + count :], ctx.recurrent)


def arrays(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple(one.numpy() for one in tensors)


def over_rows(bias: Tensor, steps: int, n: int) -> Tensor:
    """[G] -> [steps, n, G] of its own, also where that is one row: the loops add to it."""
    return bias.expand(steps, n, -1).clone(memory_format=torch.contiguous_format)


def through_time(first: Tensor, steps: int) -> Tensor:
    """[L, N, ...] -> [L, steps + 1, N, ...], the first row given."""
    out = first.new_empty(len(first), steps + 1, *first.shape[1:])
    out[:, 0] = first
    return out


@cache
def tell_of_compiling() -> None:
    """Says why the first step on a machine takes so long; once a process."""
    kept = getattr(getattr(compiled.forward, "stats", None), "cache_path", None)
    if kept is None or not any(Path(kept).glob("compiled.*forward-*.nbi")):
        say("compiling the loops of the memory, which takes about half a minute, once on a machine")
