"""What all heads of a Neural Turing Machine do to its memory in one step: Graves, Wayne & Danihelka 2014, arXiv:1410.5401.

parameters() and use_memory() are the definition.  UseMemory runs them, with a gradient written by hand: autograd's takes half as
long again, mostly in operations too small for their overhead, and keeps four memories per step where one is enough.

Sizes: N environments, R read and H write heads (K = R + H), S slots, words of width W.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from arcturus.memory import addressing
from arcturus.memory.addressing import TINY, content_weighting, convolve, cosine, interpolate, inverse_norm, sharpen, taps_of

CLIP = 20.0  # of the raw parameters


class Layout(NamedTuple):
    reads: int  # R
    writes: int  # H
    word: int  # W
    taps: int  # 2 radius + 1
    addressing: str  # both; content: (5)-(6) alone; location: (8)-(9) of the last weighting

    @property
    def groups(self) -> list[int]:
        """Raw parameters by activation: tanh, sigmoid, softplus, softmax."""
        k, h = self.reads + self.writes, self.writes
        return [(k + h) * self.word, k + h * self.word, 2 * k, k * self.taps]


class Parameters(NamedTuple):
    """Read heads come first in tensors with K heads."""

    key: Tensor  # [N, K, W] in (-1, 1)
    add: Tensor  # [N, H, W] in (-1, 1)
    g: Tensor  # [N, K, 1] in (0, 1), the gate between the last weighting and the content's
    erase: Tensor  # [N, H, W] in (0, 1)
    beta: Tensor  # [N, K, 1] > 0, the key's strength
    gamma: Tensor  # [N, K, 1] > 1, the sharpening
    s: Tensor  # [N, K, taps], the shift, a distribution


class Use(NamedTuple):
    """One step: its results, and how they came about.  Without content addressing, w_t-1 replaces the content's entries."""

    memory: Tensor  # [N, S, W], M_t
    read: Tensor  # [N, R, W], r_t
    w: Tensor  # [N, K, S], w_t
    per_key: Tensor  # [N, K, 1], 1 / |k_t|
    per_slot: Tensor  # [N, S, 1], 1 / |M_t-1(i)|
    similarity: Tensor  # [N, K, S], K[k_t, M_t-1(i)]
    w_content: Tensor  # [N, K, S], w^c
    wrapped: Tensor  # [N, K, S + taps - 1], wrap(w^g)
    w_shifted: Tensor  # [N, K, S], w~ + TINY


def activate(p: Tensor, layout: Layout) -> list[Tensor]:
    """p [N, sum of groups], what a linear layer gives -> the groups."""
    p_tanh, p_sigmoid, p_softplus, p_softmax = p.clamp(-CLIP, CLIP).split(layout.groups, -1)
    s = p_softmax.view(p.shape[0], -1, layout.taps).softmax(-1)
    return [p_tanh.tanh(), p_sigmoid.sigmoid(), F.softplus(p_softplus), s]


def named(groups: list[Tensor], layout: Layout) -> Parameters:
    words, gates, positive, s = groups
    n, k, h = s.shape[0], layout.reads + layout.writes, layout.writes
    key, add = words.view(n, k + h, layout.word).split([k, h], 1)
    beta, gamma = positive.view(n, 2 * k, 1).split(k, 1)
    return Parameters(key, add, gates[:, :k, None], gates[:, k:].view(n, h, layout.word), beta, 1 + gamma, s)


def parameters(p: Tensor, layout: Layout) -> Parameters:
    return named(activate(p, layout), layout)


def erase(memory: Tensor, w: Tensor, e: Tensor) -> Tensor:
    """One head's: memory [N, S, W], w [N, S], e [N, W]."""
    return torch.addcmul(memory, memory, w.unsqueeze(-1) * e.unsqueeze(-2), value=-1)  # (3)


def use_memory(q: Parameters, memory: Tensor, w_tm1: Tensor, layout: Layout) -> Use:
    """memory M_t-1 [N, S, W], w_tm1 [N, K, S].  All heads find their slots in M_t-1; then write heads write; then read heads read."""
    per_key = per_slot = similarity = w_content = w_gated = w_tm1
    if layout.addressing != "location":
        per_key, per_slot = inverse_norm(q.key), inverse_norm(memory)
        similarity = cosine(q.key, memory, per_key, per_slot)  # (6)
        w_content = content_weighting(q.beta, similarity)  # (5)
        w_gated = w_content if layout.addressing == "content" else interpolate(w_tm1, w_content, q.g)  # (7)
    w = wrapped = w_shifted = w_gated
    if layout.addressing != "content":
        wrapped = addressing.wrap(w_gated, layout.taps)
        w_shifted = convolve(wrapped, q.s).add_(TINY)  # (8)
        w = sharpen(w_shifted, q.gamma)  # (9)
    w_read, w_write = w.split([layout.reads, layout.writes], 1)
    for i in range(layout.writes):  # a product over heads, whose order is nothing to it
        memory = erase(memory, w_write[:, i], q.erase[:, i])  # (3)
    memory = memory.baddbmm_(w_write.mT, q.add)  # (4), a sum over heads
    return Use(memory, w_read @ memory, w, per_key, per_slot, similarity, w_content, wrapped, w_shifted)  # (2)


class UseMemory(torch.autograd.Function):
    """p, memory, w_read [N, R, S], w_write [N, H, S] at t - 1 -> memory, read, w_read, w_write at t."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, memory: Tensor, w_read: Tensor, w_write: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        groups, w_tm1 = activate(p, layout), torch.cat([w_read, w_write], 1)
        use = use_memory(named(groups, layout), memory, w_tm1, layout)
        ctx.layout = layout
        ctx.save_for_backward(p, *groups, memory, w_tm1, *use)
        return use.memory, use.read, *use.w.split([layout.reads, layout.writes], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d: Tensor) -> tuple[Tensor | None, ...]:
        """d_x is the gradient of x; the equations' in the opposite order."""
        layout, (d_memory, d_read, d_w_read, d_w_write) = ctx.layout, d
        p, *groups, memory, w_tm1 = ctx.saved_tensors[:7]
        q, use, split = named(groups, layout), Use(*ctx.saved_tensors[7:]), [layout.reads, layout.writes]
        w_read, w_write = use.w.split(split, 1)

        d_memory = torch.baddbmm(d_memory, w_read.mT, d_read)  # (2)
        d_w_read = torch.baddbmm(d_w_read, d_read, use.memory.mT)
        d_add = w_write @ d_memory  # (4)
        d_w_write = torch.baddbmm(d_w_write, q.add, d_memory.mT)
        before, d_erase = [memory], torch.empty_like(q.erase)
        for i in range(layout.writes - 1):
            before.append(erase(before[i], w_write[:, i], q.erase[:, i]))
        for i in reversed(range(layout.writes)):  # (3)
            head, d_gone = slice(i, i + 1), d_memory * before[i]
            d_erase[:, head] = w_write[:, head] @ d_gone
            d_w_write[:, head].baddbmm_(q.erase[:, head], d_gone.mT, alpha=-1)
            d_memory.addcmul_(d_memory, w_write[:, i, :, None] * q.erase[:, i, None], value=-1)
        d_w = torch.cat([d_w_read, d_w_write], 1)

        if layout.addressing == "content":
            d_gamma, d_s = torch.zeros_like(q.gamma), torch.zeros_like(q.s)
        else:
            d_power = softmax_gradient(use.w, d_w)  # (9)
            d_gamma = dot(d_power, use.w_shifted.log())
            d_w = q.gamma * d_power / use.w_shifted
            d_s = torch.cat([dot(d_w, moved) for moved in taps_of(use.wrapped, layout.taps)], -1)  # (8)
            d_w = convolve(addressing.wrap(d_w, layout.taps), q.s.flip(-1))

        if layout.addressing == "location":
            d_key, d_beta, d_g, d_w_tm1 = torch.zeros_like(q.key), torch.zeros_like(q.beta), torch.zeros_like(q.g), d_w
        else:
            if layout.addressing == "content":
                d_g, d_w_tm1 = torch.zeros_like(q.g), torch.zeros_like(w_tm1)
            else:
                d_g = dot(d_w, use.w_content - w_tm1)  # (7)
                d_w, d_w_tm1 = q.g * d_w, (1 - q.g) * d_w
            d_scaled = softmax_gradient(use.w_content, d_w)  # (5)
            d_beta = dot(d_scaled, use.similarity)
            d_product, unit = q.beta * d_scaled * use.per_slot.mT, q.key * use.per_key  # (6)
            d_unit = d_product @ memory
            d_key = use.per_key * (d_unit - unit * dot(unit, d_unit))
            d_memory.baddbmm_(d_product.mT, unit)
            d_memory.addcmul_(memory, (d_product * use.similarity).sum(1).unsqueeze(-1) * use.per_slot, value=-1)

        words, gates, positive, s = groups
        d_p = [
            torch.cat([d_key, d_add], 1).flatten(1) * (1 - words.square()),
            torch.cat([d_g.flatten(1), -d_erase.flatten(1)], 1) * gates * (1 - gates),
            torch.cat([d_beta, d_gamma], 1).flatten(1) * -(-positive).expm1(),
            softmax_gradient(s, d_s).flatten(1),
        ]
        return torch.cat(d_p, -1) * (p.abs() <= CLIP), d_memory, *d_w_tm1.split(split, 1), None


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[..., n], [..., n] -> [..., 1]"""
    return torch.linalg.vecdot(a, b).unsqueeze(-1)


def softmax_gradient(y: Tensor, d_y: Tensor) -> Tensor:
    """That of x, where y = softmax(x) over the last dimension."""
    return y * (d_y - dot(y, d_y))
