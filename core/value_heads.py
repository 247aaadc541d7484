"""Heads of value networks: features -> `atoms` numbers for every action, from parts that can be combined.

dueling   z(s, a) = v(s) + u(s, a) - mean_a' u(s, a')                                             (9)
          Wang et al. 2016, arXiv:1511.06581; for distributions atom by atom, as in Hessel et al. 2018
noisy     y = (mu_w + sigma_w * (f(e_out) f(e_in)^T)) x + mu_b + sigma_b * f(e_out),   f(e) = sign(e) sqrt|e|     (9)-(11)
          Fortunato et al. 2018, arXiv:1706.10295, factorised Gaussian noise e; without a generator there is none
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoisyLinear(nn.Module):
    """x [..., inputs] -> [..., outputs].  Weights begin as in section 3.2: mu uniform within 1/sqrt(inputs), sigma = sigma_0/sqrt(inputs).

    Every row of x draws its own noise, while the paper's minibatch shares one draw: the gradient's expectation is the same and its
    variance smaller, and each of the N environments explores in its own way.
    """

    def __init__(self, inputs: int, outputs: int, sigma_0: float = 0.5):
        super().__init__()
        bound = inputs**-0.5
        self.mu_weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.mu_bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.sigma_weight = nn.Parameter(torch.full((outputs, inputs), sigma_0 * bound))
        self.sigma_bias = nn.Parameter(torch.full((outputs,), sigma_0 * bound))

    def forward(self, x: Tensor, noise: torch.Generator | None = None) -> Tensor:
        y = F.linear(x, self.mu_weight, self.mu_bias)
        if noise is None:
            return y
        inputs, outputs = self.mu_weight.shape[1], self.mu_weight.shape[0]
        e_in, e_out = scaled_noise((*x.shape[:-1], inputs + outputs), x, noise).split([inputs, outputs], -1)
        return y + e_out * F.linear(x * e_in, self.sigma_weight, self.sigma_bias)


def scaled_noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """f(e) of standard normal e."""
    e = torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)
    return e.sign() * e.abs().sqrt()


class Stream(nn.Module):
    """features [..., F] -> [..., outputs], by way of `hidden` units if there are any."""

    def __init__(self, features: int, outputs: int, hidden: int, noisy: float):
        super().__init__()

        def linear(inputs: int, units: int) -> nn.Module:
            return NoisyLinear(inputs, units, noisy) if noisy else nn.Linear(inputs, units)

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if hidden:
            layers["fc"], layers["relu"] = linear(features, hidden), nn.ReLU()
        layers["out"] = linear(hidden or features, outputs)
        self.layers = nn.ModuleDict(layers)

    def forward(self, x: Tensor, noise: torch.Generator | None = None) -> Tensor:
        for layer in self.layers.values():
            x = layer(x, noise) if isinstance(layer, NoisyLinear) else layer(x)
        return x


class ValueHead(nn.Module):
    """features [..., F] -> [..., A, atoms]."""

    def __init__(self, features: int, actions: int, atoms: int = 1, *, hidden: int, dueling: bool, noisy: float):
        super().__init__()
        self.shape = (actions, atoms)
        self.advantage = Stream(features, actions * atoms, hidden, noisy)
        self.value = Stream(features, atoms, hidden, noisy) if dueling else None

    def forward(self, x: Tensor, noise: torch.Generator | None = None) -> Tensor:
        z = self.advantage(x, noise).unflatten(-1, self.shape)
        if self.value is None:
            return z
        return self.value(x, noise).unsqueeze(-2) + z - z.mean(-2, keepdim=True)
