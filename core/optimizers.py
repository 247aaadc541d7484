"""The optimiser of Mnih et al. 2015, and moving any optimiser's state in and out of plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class CentredRMSProp(torch.optim.Optimizer):
    """RMSProp as in Mnih et al. 2015 (extended data table 1; Graves 2013, equations 38-45).

        g2 <- rho g2 + (1 - rho) grad^2,   g <- rho g + (1 - rho) grad
        delta <- momentum delta - lr grad / sqrt(g2 - g^2 + eps),   theta <- theta + delta

    eps ("min squared gradient" in the table) stands inside the root, which torch.optim.RMSprop can't do.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 2.5e-4, rho: float = 0.95, eps: float = 0.01, momentum: float = 0.0
    ):
        super().__init__(parameters, {"lr": lr, "rho": rho, "eps": eps, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rho = group["rho"]
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {k: torch.zeros_like(p) for k in ("mean", "mean_square", "delta")}
            grads = [p.grad for p in params]
            mean, square, delta = ([self.state[p][k] for p in params] for k in ("mean", "mean_square", "delta"))
            torch._foreach_lerp_(mean, grads, 1 - rho)
            torch._foreach_mul_(square, rho)
            torch._foreach_addcmul_(square, grads, grads, 1 - rho)
            deviation = torch._foreach_sub(square, torch._foreach_mul(mean, mean))
            torch._foreach_add_(deviation, group["eps"])
            torch._foreach_sqrt_(deviation)
            torch._foreach_mul_(delta, group["momentum"])
            torch._foreach_addcdiv_(delta, grads, deviation, -group["lr"])
            torch._foreach_add_(params, delta)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments and counters as contiguous tensors named 'parameter number:name'."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{i}:{k}": torch.as_tensor(v).detach().clone(memory_format=torch.contiguous_format)
        for i, p in enumerate(params)
        for k, v in optimizer.state.get(p, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undoes optimizer_tensors.  Moments take their parameter's memory layout: fused Adam with contiguous moments on
    channels_last parameters is silently wrong."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.state.clear()
    for name, value in tensors.items():
        number, key = name.split(":")
        p = params[int(number)]
        state: dict[str, Any] = optimizer.state.setdefault(p, {})
        if value.shape == p.shape and key != "step":
            state[key] = torch.empty_like(p, requires_grad=False).copy_(value)
        else:
            state[key] = value.to(p.device, copy=True)  # fused Adam wants its counter there too
