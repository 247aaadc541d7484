"""What an action depends on: heat maps of the network's score of it (its value, or its log-probability) over the observation.

| map       | what it shows                                         | source                                    |
|-----------|-------------------------------------------------------|-------------------------------------------|
| saliency  | abs(d score / d pixel)                                | Simonyan et al. 2014, arXiv:1312.6034     |
| guided    | the same; no ReLU passes a negative gradient back     | Springenberg et al. 2015, arXiv:1412.6806 |
| occlusion | abs(change of the score) when a patch is painted over | Zeiler & Fergus 2014, arXiv:1311.2901     |

Each is a function of (network, obs [1, *obs_shape] uint8, first [1] bool, state, action [1, *action_shape]) and gives [H, W]
float32 >= 0 on the observation's device.  The network has score(obs [N, ...], first, state, action) -> [N], as those in
networks.py have.  A recurrent state counts as given: only the present observation's part in the score is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from arcturus.api import Actor, EnvSpec, State, map_state
from arcturus.errors import ConfigError, nearest

PATCHES = 7  # patches along the shorter side: 6 of 42 pixels, 12 of 84; about a sprite
OVERLAP = 2  # strides to a patch
CHUNK = 64  # painted-over observations a forward pass takes at once


def saliency(network: Any, obs: Tensor, first: Tensor, state: State, action: Tensor) -> Tensor:
    """The maximum over frames and channels (Simonyan et al., section 3.1): one strong frame is not averaged away."""
    with torch.enable_grad():
        x = as_float(obs).requires_grad_()
        (gradient,) = torch.autograd.grad(network.score(x, first, state, action).sum(), x)  # leaves the parameters' .grad alone
    return _frames(gradient).abs().amax(0)


def guided(network: nn.Module, obs: Tensor, first: Tensor, state: State, action: Tensor) -> Tensor:
    """Saliency of what speaks for the action in every layer."""
    with guided_relus(network):
        return saliency(network, obs, first, state, action)


def occlusion(network: Any, obs: Tensor, first: Tensor, state: State, action: Tensor) -> Tensor:
    """Each patch is painted over, in every frame, with its own mean in that frame; a pixel gets the mean over its patches.

    The patch's own mean rather than the paper's grey, which would be the brightest thing on a black screen; and rather than a
    blur (Greydanus et al. 2018), whose width would have to be chosen.  Both signs count: the action also depends on what
    speaks against it.
    """
    frames = _frames(obs)
    masks = patches(*frames.shape[-2:]).to(obs.device)  # [P, H, W]
    weights = masks.flatten(1).float()
    means = (weights @ frames.flatten(1).float().T / weights.sum(1, keepdim=True)).round().to(obs.dtype)  # [P, C]
    painted = torch.where(masks[:, None], means[:, :, None, None], frames).view(-1, *obs.shape[1:])
    with torch.no_grad():
        whole = network.score(obs, first, state, action)
        parts = [network.score(part, *_repeated(len(part), first, state, action)) for part in painted.split(CHUNK)]
    change = (torch.cat(parts) - whole).abs().float()
    return (change @ weights / weights.sum(0)).view(frames.shape[-2:])


EXPLANATIONS: dict[str, Callable[..., Tensor]] = {"saliency": saliency, "guided": guided, "occlusion": occlusion}


def as_float(obs: Tensor) -> Tensor:
    """A float32 copy of bytes that a Torso, which scales only bytes, reads as the same picture."""
    return obs.float() * (1 / 255)


@contextmanager
def watched_relus(network: nn.Module, watch: Callable[[str, Tensor], None]) -> Iterator[None]:
    """While it lasts, watch(its name, its output) is called after every nn.ReLU of the network."""
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if isinstance(module, nn.ReLU):
                hooks.enter_context(module.register_forward_hook(lambda m, x, output, name=name: watch(name, output)))
        yield


def guided_relus(network: nn.Module) -> AbstractContextManager[None]:
    """While it lasts, no nn.ReLU of the network passes a negative gradient back."""

    def guide(name: str, output: Tensor) -> None:
        if output.requires_grad:  # on the tensor: right for in-place ReLUs, and reused ones
            output.register_hook(lambda gradient: gradient.clamp_min(0))

    return watched_relus(network, guide)


def patches(height: int, width: int) -> Tensor:
    """[P, H, W] bool: square patches that overlap and cover the picture to its edges."""
    size = max(min(height, width) // PATCHES, 1)
    rows, columns = (_spans(length, size) for length in (height, width))
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _spans(length: int, size: int) -> Tensor:
    """[S, length] bool."""
    starts = torch.arange(0, length - size, max(size // OVERLAP, 1)).tolist() + [length - size]
    at = torch.arange(length)
    return torch.stack([(at >= start) & (at < start + size) for start in starts])


def _frames(obs: Tensor) -> Tensor:
    """[1, ..., H, W] -> [C, H, W]: every frame and channel."""
    return obs[0].reshape(-1, *obs.shape[-2:])


def _repeated(n: int, *nests: State) -> list[State]:
    return [map_state(lambda x: x.expand(n, *x.shape[1:]), nest) for nest in nests]


@torch.no_grad()
def check_explanation(name: str, actor: Actor, spec: EnvSpec, device: torch.device | str = "cpu") -> None:
    """ConfigError if there is no such map for this actor in this environment; called before an evaluation is played for it."""
    if name not in EXPLANATIONS:
        raise ConfigError(f"unknown explanation {name!r}", where="--explain", fix=nearest(name, EXPLANATIONS, "explanations"))
    network = actor.network
    if not callable(getattr(network, "score", None)):
        fix = "film it without --explain; dqn, reinforce, a2c and ppo can be explained"
        raise ConfigError("this agent has no network with a score() to explain", where="--explain", fix=fix)
    if spec.obs_dtype != torch.uint8:
        fix = "film it without --explain, or use an environment whose observations are pictures"
        raise ConfigError(f"observations of {spec.env_id} are {spec.obs_shape} numbers, not a picture", where="--explain", fix=fix)
    if name == "occlusion":
        return
    obs = torch.arange(torch.Size(spec.obs_shape).numel(), device=device).to(torch.uint8).view(1, *spec.obs_shape)
    first = torch.ones(1, dtype=torch.bool, device=device)
    action = torch.zeros(1, *(spec.action_space.shape or ()), dtype=torch.int64, device=device)
    rest = first, actor.initial_state(1), action
    bytes_, floats = (network.score(x, *rest) for x in (obs, as_float(obs)))
    if not torch.allclose(bytes_, floats, rtol=1e-3, atol=1e-4):
        fix = "scale only uint8 in your torso; or use --explain occlusion, which needs no gradient"
        raise ConfigError("this network reads a float picture from 0 to 1 differently from its bytes", where="--explain", fix=fix)
