"""How the heads of an external memory find their slots.  Equations (5)-(9) are those of Graves, Wayne & Danihelka 2014,
"Neural Turing Machines", arXiv:1410.5401, section 3.3.

Every head of every environment is addressed in one batched computation: N environments, K heads, S slots, words of width W.

    memory [N, S, W]    keys [N, K, W]    weightings [N, K, S], >= 0, each head's sum is 1    beta, g, gamma [N, K, 1]
    s [N, K, 2 radius + 1]: how much of the focus moves by -radius ... +radius slots, in this order; a distribution

Two departures keep numbers and gradients finite, and are beyond float32's precision elsewhere.  The cosine has an epsilon under
its root (a memory or key of zeros gives 0, where 0/0 was).  Sharpening is a softmax of gamma log w: w^gamma underflows at the
largest gamma (a uniform weighting over 128 slots to the 21st power is 2e-45), and its sum would be 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6  # under the cosine's root, the DNC's number: a slot that was never written is like no key
TINY = 1e-12  # the least weight that sharpening tells from 0


def cosine(keys: Tensor, memory: Tensor) -> Tensor:
    """K[u, v] = u . v / (|u| |v|) of every key and slot, [N, K, S] in (-1, 1)."""
    keys = keys * (keys.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
    return keys @ memory.mT * (memory.square().sum(-1) + EPSILON).rsqrt().unsqueeze(-2)  # (6)


def content_weighting(keys: Tensor, beta: Tensor, memory: Tensor) -> Tensor:
    """Where memory is like the key, the more so the larger beta >= 0."""
    return (beta * cosine(keys, memory)).softmax(-1)  # (5)


def interpolate(w_tm1: Tensor, w_content: Tensor, g: Tensor) -> Tensor:
    return w_tm1 + g * (w_content - w_tm1)  # (7)


def convolve(w: Tensor, s: Tensor) -> Tensor:
    """Circular convolution: what is at slot i moves to slot i + 1 by the last of three taps, to i - 1 by the first."""
    radius = s.shape[-1] // 2
    windows = F.pad(w, (radius, radius), mode="circular").unfold(
        -1, s.shape[-1], 1
    )  # [N, K, S, taps]: w(i - radius ... i + radius)
    return (windows @ s.flip(-1).unsqueeze(-1)).squeeze(-1)  # (8): w~(i) = sum_j w(i - j) s(j)


def sharpen(w: Tensor, gamma: Tensor) -> Tensor:
    """w^gamma / sum of w^gamma, gamma >= 1."""
    return (gamma * w.clamp_min(TINY).log()).softmax(-1)  # (9)
