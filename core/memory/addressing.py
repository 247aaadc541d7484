"""How the heads of an external memory find their slots.  Equations (5)-(9) are those of Graves, Wayne & Danihelka 2014,
"Neural Turing Machines", arXiv:1410.5401, section 3.3.

Every head of every environment is addressed in one batched computation: N environments, K heads, S slots, words of width W.

    memory [N, S, W]    keys [N, K, W]    weightings w [N, K, S], >= 0, a distribution for each head    beta, g, gamma [N, K, 1]
    s [N, K, 2 radius + 1]: how much of the focus moves by -radius ... +radius slots, in this order; a distribution

Two departures keep numbers and gradients finite, and elsewhere are below float32's precision.  The cosine has an epsilon under
its root: for a memory or key of zeros it is 0 instead of 0/0.  Sharpening is a softmax of gamma log w, as w^gamma
underflows: a uniform weighting over 128 slots to the 21st power is 2e-45, and the sum to divide by would be 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6  # under the cosine's root, the number of DeepMind's DNC: a slot that was never written is like no key
TINY = 1e-12  # added to weights before their logarithm


def inverse_norm(x: Tensor) -> Tensor:
    """1 / |x|, [..., W] -> [..., 1]; at most 1000."""
    return (x.square().sum(-1, keepdim=True) + EPSILON).rsqrt()


def cosine(keys: Tensor, memory: Tensor, per_key: Tensor, per_slot: Tensor) -> Tensor:
    """K[u, v] = u . v / (|u| |v|) of every key and every slot, [N, K, S] in (-1, 1).  per_key and per_slot: their inverse_norm."""
    return (keys * per_key) @ memory.mT * per_slot.mT  # (6)


def content_weighting(beta: Tensor, similarity: Tensor) -> Tensor:
    """The larger beta >= 0, the more weight on slots similar to the key.  The similarity is cosine()'s."""
    return (beta * similarity).softmax(-1)  # (5)


def interpolate(w_tm1: Tensor, w_content: Tensor, g: Tensor) -> Tensor:
    """g = 0: where the head was; g = 1: where the content is."""
    return w_tm1 + g * (w_content - w_tm1)  # (7), as a sum that can't be negative


def wrap(w: Tensor, taps: int) -> Tensor:
    """[N, K, S] -> [N, K, S + taps - 1]: the slots around the circle, with `radius` of them twice at either end."""
    radius = taps // 2
    return torch.cat([w[..., -radius:], w, w[..., :radius]], -1)


def taps_of(wrapped: Tensor, taps: int) -> list[Tensor]:
    """Views [N, K, S]: w moved by -radius, ..., +radius slots."""
    slots = wrapped.shape[-1] - taps + 1
    return [wrapped[..., i : i + slots] for i in reversed(range(taps))]


def convolve(wrapped: Tensor, s: Tensor) -> Tensor:
    """Circular convolution of w, given as wrap(w).  Of three taps the first moves weight from slot i to i - 1, the last to i + 1."""
    moved, by = taps_of(wrapped, s.shape[-1]), s.split(1, -1)
    w = moved[0] * by[0]
    for moved_j, s_j in zip(moved[1:], by[1:], strict=True):
        w = w.addcmul_(moved_j, s_j)  # (8): w~(i) = sum_j w(i - j) s(j)
    return w


def sharpen(w: Tensor, gamma: Tensor) -> Tensor:
    """w^gamma over its sum; w > 0, gamma >= 1."""
    return (gamma * w.log()).softmax(-1)  # (9)
