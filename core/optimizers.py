"""Gradient steps that skip gradients which are not finite, the optimiser of Mnih et al. 2015, and any optimiser's state as
plain tensors and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from arcturus.api import Metrics
from arcturus.speed import fast, remembered


class RMSProp(torch.optim.Optimizer):
    """Centred as in Mnih et al. 2015 (extended data table 1; Graves 2013, equations 38-45); without the centring (g = 0) as in
    Mnih et al. 2016 (section 4, equation 1).

        g2 <- rho g2 + (1 - rho) grad^2,   g <- rho g + (1 - rho) grad
        delta <- momentum delta - lr grad / sqrt(g2 - g^2 + eps),   theta <- theta + delta

    eps ("min squared gradient" in the table) is inside the root, which torch.optim.RMSprop can't do.  Its size depends on the scale of
    the loss: the authors' code of 2015 sums over a batch of 32, so for a mean their 0.01 becomes 0.01 / 32^2.

    mean_square: what g2 begins with; 0, or 1 as TensorFlow's RMSProp (and so OpenAI Baselines'), whose first steps are the smaller.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 2.5e-4,
        rho: float = 0.95,
        eps: float = 0.01,
        momentum: float = 0.0,
        centred: bool = True,
        mean_square: float = 0.0,
    ):
        parameters = list(parameters)
        lr = torch.tensor(lr, device=parameters[0].device) if parameters[0].is_cuda else lr  # type: ignore[assignment]  # for graphs
        super().__init__(parameters, {"lr": lr, "rho": rho, "eps": eps, "momentum": momentum, "centred": centred})
        for p in _parameters(self):
            self.state[p] = {k: torch.zeros_like(p, requires_grad=False) for k in ("mean", "mean_square", "delta")}
            self.state[p]["mean_square"].fill_(mean_square)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rho = group["rho"]
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            mean, square, delta = ([self.state[p][k] for p in params] for k in ("mean", "mean_square", "delta"))
            if (found := getattr(self, "found_inf", None)) is not None:  # then step with a gradient of zeros
                grads = [torch.where(found.bool(), 0.0, g) for g in grads]
                for d in delta if group["momentum"] else ():
                    d.mul_(~found.bool())
            torch._foreach_mul_(square, rho)
            torch._foreach_addcmul_(square, grads, grads, 1 - rho)
            deviation = torch._foreach_add(square, group["eps"])
            if group["centred"]:
                torch._foreach_lerp_(mean, grads, 1 - rho)
                torch._foreach_addcmul_(deviation, mean, mean, -1.0)
            torch._foreach_sqrt_(deviation)
            if not group["momentum"]:  # delta is not needed: a pass over the weights less
                self._descend(params, grads, deviation, group["lr"])
                continue
            torch._foreach_mul_(delta, group["momentum"])
            self._descend(delta, grads, deviation, group["lr"])
            torch._foreach_add_(params, delta)

    @staticmethod
    def _descend(tensors: list[Tensor], grads: Any, deviation: Any, lr: float | Tensor) -> None:
        """tensors -= lr grads / deviation"""
        if isinstance(lr, Tensor):
            torch._foreach_sub_(tensors, torch._foreach_mul(torch._foreach_div(grads, deviation), lr))
        else:
            torch._foreach_addcdiv_(tensors, grads, deviation, -lr)


class RAdam(torch.optim.RAdam):
    """torch's rectified Adam (Liu et al. 2020, arXiv:1908.03265), that heeds found_inf: then nothing changes at all."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if (found := getattr(self, "found_inf", None)) is None:
            super().step()
            return
        tensors = [x for p in _parameters(self) for x in (p, *self.state[p].values())]
        before = [x.clone() for x in tensors]
        super().step()
        for now, then in zip(tensors, before, strict=True):
            now.copy_(torch.where(found.bool(), then, now))


def adam(parameters: Iterable[nn.Parameter], lr: float, eps: float) -> torch.optim.Optimizer:
    """Adam (fused, unless eager), ready to be saved; on CUDA its learning rate is on the device, so that its steps can be recorded
    as a graph (speed.Captured)."""
    parameters = list(parameters)
    if not fast():
        return _with_moments(torch.optim.Adam(parameters, lr, eps=eps, foreach=False))
    graph = parameters[0].is_cuda
    rate = torch.tensor(lr, device=parameters[0].device) if graph else lr
    return _with_moments(torch.optim.Adam(parameters, rate, eps=eps, fused=True, capturable=graph))


def radam(parameters: Iterable[nn.Parameter], lr: float, eps: float) -> torch.optim.Optimizer:
    """Rectified Adam, ready to be saved; on CUDA its counters and learning rate stay on the device."""
    parameters = list(parameters)
    graph = parameters[0].is_cuda
    rate = torch.tensor(lr, device=parameters[0].device) if graph else lr
    return _with_moments(RAdam(parameters, rate, eps=eps, capturable=graph))


def _with_moments(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Creates its moments at the start, so that a checkpoint's names and shapes never change."""
    for p in _parameters(optimizer):
        moments = {k: torch.zeros_like(p, requires_grad=False) for k in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return optimizer


def by_name(name: str, parameters: list[nn.Parameter], learning_rate: float, eps: float, **rmsprop: Any) -> torch.optim.Optimizer:
    """adam, radam, or rmsprop with these settings of its own."""
    if name == "rmsprop":
        return RMSProp(parameters, learning_rate, eps=eps, **rmsprop)
    return {"adam": adam, "radam": radam}[name](parameters, learning_rate, eps)


class GradientStep:
    """Gradient steps: backward, every number of the gradient clipped to [-max_grad_value, max_grad_value] and then its norm to
    max_grad_norm (0: not), the optimiser's step.

    Several losses are one step along the gradient of their sum: each is made when the one before has been backpropagated and its
    graph is gone.  A step whose gradient is not finite is skipped and counted; on CUDA without waiting for the device.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_grad_norm: float = 0.0, max_grad_value: float = 0.0):
        self.optimizer, self.max_grad_norm, self.max_grad_value = optimizer, max_grad_norm, max_grad_value
        self.parameters = _parameters(optimizer)
        self.heeds = self.parameters[0].is_cuda and not (type(optimizer) is torch.optim.Adam and not optimizer.defaults["fused"])
        self.skipped = torch.zeros((), device=self.parameters[0].device)  # steps skipped one after another, up to now

    def __call__(self, loss: Tensor | Iterable[Tensor]) -> Metrics:
        self.optimizer.zero_grad(set_to_none=True)
        for part in [loss] if isinstance(loss, Tensor) else loss:
            part.backward()
        norm = self._norm()
        if self.max_grad_value:
            nn.utils.clip_grad_value_(self.parameters, self.max_grad_value)
        if self.max_grad_norm:
            now = self._norm() if self.max_grad_value else norm
            nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, now)
        bad = ~norm.isfinite()
        self.skipped.add_(1).mul_(bad)
        if self.heeds:
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # fused Adam, RMSProp and RAdam do
            self.optimizer.step()
        elif not bad:
            self.optimizer.step()
        return {"health/grad_norm": norm, "health/skipped_updates": self.skipped.clone()}

    def _norm(self) -> Tensor:
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def set_learning_rate(self, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"the learning rate is {value}, but must be a number of at least 0")
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    @torch.no_grad()
    def forget(self) -> None:
        """Sets the optimiser's moments and counters to 0, as they are at the start (but for an RMSProp whose mean square begins at 1)."""
        for moments in self.optimizer.state.values():
            for x in moments.values():
                x.zero_()

    def remember(self, *networks: nn.Module) -> Callable[[], None]:
        """Returns a function that undoes all steps made from here on, and all changes to the networks' buffers."""
        tensors = [self.skipped, *(x for p in self.parameters for x in (p, *self.optimizer.state.get(p, {}).values()))]
        return remembered([*tensors, *(buffer for network in networks for buffer in network.buffers())])

    def state_dict(self) -> dict[str, Tensor]:
        return optimizer_tensors(self.optimizer) | {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.skipped.copy_(state["skipped"])
        load_optimizer_tensors(self.optimizer, {k: v for k, v in state.items() if k != "skipped"})


class GradientSteps(dict[str, GradientStep]):
    """Several by name, of networks that learn by losses of their own."""

    def remember(self, *networks: nn.Module) -> Callable[[], None]:
        undo = [step.remember(*networks) for step in self.values()]

        def undo_all() -> None:
            for each in undo:
                each()

        return undo_all

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {name: step.state_dict() for name, step in self.items()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        for name, step in self.items():
            step.load_state_dict(state[name])


def joint_health(parts: list[Metrics]) -> Metrics:
    """For several gradient steps: the norm of all gradients together, and the most consecutive steps skipped."""
    return {
        "health/grad_norm": torch.stack([part["health/grad_norm"] for part in parts]).norm(),
        "health/skipped_updates": torch.stack([part["health/skipped_updates"] for part in parts]).amax(),
    }


def culprit(network: nn.Module) -> str:
    """The first parameter with numbers that are not finite, or the first gradient."""
    for name, p in network.named_parameters():
        if not torch.isfinite(p).all():
            return f"weight {name}"
    bad = [name for name, p in network.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    return f"the gradient of {bad[0]}" if bad else "the gradient"


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments and counters as contiguous tensors named 'parameter number:name'."""
    return {
        f"{i}:{k}": torch.as_tensor(v).detach().clone(memory_format=torch.contiguous_format)
        for i, p in enumerate(_parameters(optimizer))
        for k, v in optimizer.state.get(p, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undoes optimizer_tensors.  Moments take their parameter's memory layout: fused Adam with contiguous moments on
    channels_last parameters is silently wrong."""
    params = _parameters(optimizer)
    optimizer.state.clear()
    for name, value in tensors.items():
        number, key = name.split(":")
        p = params[int(number)]
        state: dict[str, Any] = optimizer.state.setdefault(p, {})
        if value.shape == p.shape and key != "step":
            state[key] = torch.empty_like(p, requires_grad=False).copy_(value)
        else:
            state[key] = value.to(p.device, copy=True)  # fused Adam wants its counter there too
