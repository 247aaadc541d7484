"""How much of the machine's arithmetic an update of DQN reaches.

Two limits are measured in the same interleaved run, with as many threads: the matrix product (sgemm: torch.mm in float32), and a
convolution of 64 filters, which another library computes (on a CPU oneDNN, in AVX-512 where there is; on an AMD processor that was
twice as fast as MKL's sgemm).  The work of an update is counted from the shapes of its layers: the target network forward, the
network forward, and backward twice that (by weights and by inputs) but for the first layer's inputs, whose gradient nobody asks for.
Only products count; sampling, activations, the loss and Adam take time and count for nothing.
On a GPU torch's own defaults hold: convolutions may use TF32, sgemm doesn't.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measuring.timing import Contender, report, timed

SIDE, FILTERS = 1024, 64  # of the matrices; of the convolution
CONVOLUTION = "3x3 convolution"


def forward_products(network: nn.Module, obs: torch.Tensor) -> list[int]:
    """Multiply-adds of the convolutions and fully connected layers for obs [B, ...], in the order they run."""
    found: list[int] = []

    def count(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        found.append(output.numel() * layer.weight[0].numel())  # each output is a sum of as many products as it has weights

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.no_grad():
            network(obs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def update_products(network: nn.Module, obs: torch.Tensor) -> int:
    """Multiply-adds of an update of DQN (no double Q-learning) on a batch of observations like obs [B, ...]."""
    layers = forward_products(network, obs)
    return 4 * sum(layers) - layers[0]


def limits(products: int, device: Any) -> list[Contender]:
    """sgemm and a convolution, in updates of so many multiply-adds."""
    a, b = (torch.randn(SIDE, SIDE, device=device) for _ in range(2))
    out = torch.empty_like(a)
    x, w = torch.randn(32, FILTERS, 32, 32, device=device), torch.randn(FILTERS, FILTERS, 3, 3, device=device)
    x, w = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    filtered = x.numel() * w[0].numel()

    def product() -> float:
        torch.mm(a, b, out=out)
        return SIDE**3 / products

    def convolution() -> float:
        F.conv2d(x, w, padding=1)
        return filtered / products

    note = f"limit; an update is {products / 1e6:,.0f} million multiply-adds"
    return [
        Contender(f"sgemm of {SIDE}", timed(product, device), lambda: note),
        Contender(CONVOLUTION, timed(convolution, device), lambda: "limit"),
    ]


def benchmark_updates(updates: dict[str, Callable[[], int]], products: int, args: argparse.Namespace) -> dict[str, Any]:
    """updates: by name, a call that returns how many it made, each of `products` multiply-adds.  Ratios are shares of the limits."""
    contenders = limits(products, args.device)
    contenders += [Contender(name, timed(update, args.device)) for name, update in updates.items()]
    title = f"updates alone, Nature network, batch 32, {args.device}, {args.threads} torch thread(s)"
    return report(title, "updates/s", contenders, args.seconds, args.rounds, beside=CONVOLUTION)
