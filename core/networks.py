"""Torsos (observation -> features), and the networks made of torso, memory core and heads.  ReLUs are named modules, so that
they can be hooked.

| name           | layers                                                                                  | source                        |
|----------------|-----------------------------------------------------------------------------------------|-------------------------------|
| mnih2013       | 16 of 8x8 stride 4, 32 of 4x4 stride 2, 256 units                                       | Mnih et al. 2013, section 4.1 |
| nature         | 32 of 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3 stride 1, 512 units                   | Mnih et al. 2015, Methods     |
| impala         | 3 sections (16, 32, 32) of conv, max-pool, 2 residual blocks; 256 units                 | Espeholt et al. 2018, fig. 3  |
| data_efficient | 32 of 5x5 stride 5, 64 of 5x5 stride 5, 256 units                                       | van Hasselt et al. 2019, E.1  |
| small          | 16 of 4x4 stride 2, 32 of 3x3 stride 2, 32 of 3x3 stride 2, 128 units; for small frames | this project                  |
| grid           | 16 of 3x3 stride 1, 128 units; for small grids, whose numbers aren't scaled             | Young & Tian 2019, section 4  |
| mlp            | 2 x 128 units                                                                           | this project                  |
| none           | the observation, flattened: for a memory core that reads it itself                      |                               |
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from arcturus.api import EnvSpec, State, map_state
from arcturus.envs import is_atari
from arcturus.errors import ConfigError, nearest
from arcturus.extensions import build
from arcturus.impala import impala_layers
from arcturus.memory import NoMemory, check_room, make_core, unroll
from arcturus.speed import bf16, layout
from arcturus.value_heads import ValueHead

SMALLEST = 16  # pixels of a side that the small torso can read
TORSOS = ("auto", "mnih2013", "nature", "impala", "data_efficient", "small", "grid", "mlp", "none")


class TorsoOptions(NamedTuple):
    """What can be varied of a torso.  Where one of them means nothing to the torso that is chosen, that is an error."""

    torso_width: int = 1  # filters of an image torso, times this
    torso_hidden: int = 0  # units of an image torso's last layer; 0: its own number
    average_pool: bool = False  # impala: the last maps are averaged; other torsos ignore it, as they always did
    max_pool: int = 0  # impala: the last maps are max-pooled to this many places a side; 0: they aren't
    spectral_norm: bool = False  # impala: in the residual blocks
    layer_norm: bool = False  # layer normalisation before every ReLU (Ba et al. 2016); not impala

    def check(self, torso: str) -> None:
        """ConfigError for an option that this torso doesn't have."""
        images, residual = {"torso_width", "torso_hidden"}, {"max_pool", "spectral_norm"}
        own = {"impala": images | residual, "mlp": {"layer_norm"}, "none": set()}.get(torso, images | {"layer_norm"})
        known = {"layer_norm"} if "." in torso else own  # a user's torso is asked for nothing; pqn's default is on
        for name, value in self._asdict().items():
            default = self._field_defaults[name]
            if value != default and name not in known | {"average_pool"}:
                flag, other = f"--agent.{name.replace('_', '-')}", ", or --agent.torso impala" if name in residual else ""
                raise ConfigError(f"the {torso} torso has no {name}", where=flag, fix=f"use {flag} {default}{other}")


PLAIN = TorsoOptions()


def _conv_stack(channels: int, layers: list[tuple[int, int, int]], layer_norm: bool) -> OrderedDict[str, nn.Module]:
    """layers: (filters, kernel, stride)."""
    out: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (filters, kernel, stride) in enumerate(layers, 1):
        out[f"conv{i}"] = nn.Conv2d(channels, filters, kernel, stride)
        if layer_norm:
            out[f"norm{i}"] = nn.GroupNorm(1, filters)  # over all filters and places; scale and shift by filter
        out[f"relu{i}"] = nn.ReLU()
        channels = filters
    return out


class Torso(nn.Module):
    """obs [B, *obs_shape] uint8 or float32 -> features [B, width].

    Bytes are scaled by 1/255, but by the grid torso.  Floats in the place of bytes are bytes / 255.  Images may be [C, H, W] or stacks
    [K, C, H, W], whose channels are concatenated.
    trunk: without the last fully connected layer, whose `hidden` units are the head's affair (value_heads.py).
    """

    def __init__(self, spec: EnvSpec, name: str = "auto", options: TorsoOptions = PLAIN, trunk: bool = False):
        super().__init__()
        if name not in TORSOS:
            fix = nearest(name, TORSOS, "torsos")
            raise ConfigError(f"unknown torso {name!r}", where="--agent.torso", fix=fix)
        image = len(spec.obs_shape) >= 3 or (len(spec.obs_shape) == 2 and spec.obs_dtype == torch.uint8)
        if name == "auto":
            side = min(spec.obs_shape[-2:]) if image else 0
            name = "nature" if side >= 64 else "small" if side >= SMALLEST else "mlp"
        if name not in ("mlp", "none") and not image:
            raise ConfigError(
                f"the {name} torso reads images; observations of {spec.env_id} have shape {spec.obs_shape}",
                where="--agent.torso",
                fix="use mlp, none, or auto",
            )
        self.layout, self.bf16 = layout(), bf16()
        byte, raw = spec.obs_dtype == torch.uint8, name == "grid"
        self.scale, self.float_scale = (1 / 255 if byte and not raw else 1.0), (255.0 if byte and raw else 1.0)
        options.check(name)
        self.options, self.layer_norm = options, options.layer_norm
        self.name, self.image = name, name not in ("mlp", "none")
        layers: OrderedDict[str, nn.Module] = OrderedDict()

        def connect(suffix: str, inputs: int, units: int) -> None:
            layers["fc" + suffix] = nn.Linear(inputs, units)
            if self.layer_norm:
                layers["norm_fc" + suffix] = nn.LayerNorm(units)

        if not self.image:
            self.width, self.hidden = int(torch.tensor(spec.obs_shape).prod()), 0
            if name == "mlp":
                connect("1", self.width, 128)
                layers["relu1"] = nn.ReLU()
                self.width = self.hidden = 128
                if not trunk:
                    connect("2", 128, 128)
                    layers["relu2"] = nn.ReLU()
        else:
            height, width = spec.obs_shape[-2:]
            channels = int(torch.tensor(spec.obs_shape[:-2]).prod())
            layers, hidden = self._convolutions(name, channels, options)
            self.hidden = options.torso_hidden or hidden
            try:
                flat = nn.Sequential(layers)(torch.zeros(1, channels, height, width)).numel()
            except RuntimeError as e:
                raise ConfigError(
                    f"frames of {height}x{width} are too small for the {name} torso",
                    where="--agent.torso",
                    fix="use larger frames (--env.frame-size 84), or --agent.torso small"
                    if is_atari(spec.env_id)
                    else "use --agent.torso mlp, or auto",
                ) from e
            layers["flatten"] = nn.Flatten()
            self.width = flat if trunk else self.hidden
            if not trunk:
                connect("", flat, self.hidden)
                layers["relu_fc"] = nn.ReLU()
        self.layers = nn.Sequential(layers)

    @staticmethod
    def _convolutions(name: str, channels: int, o: TorsoOptions) -> tuple[OrderedDict[str, nn.Module], int]:
        """The layers, and the units of the layer behind them."""
        if name == "impala":
            return impala_layers(channels, o.torso_width, o.spectral_norm, o.average_pool, o.max_pool), 256
        convolutions, hidden = {
            "mnih2013": ([(16, 8, 4), (32, 4, 2)], 256),
            "nature": ([(32, 8, 4), (64, 4, 2), (64, 3, 1)], 512),
            "data_efficient": ([(32, 5, 5), (64, 5, 5)], 256),
            "small": ([(16, 4, 2), (32, 3, 2), (32, 3, 2)], 128),
            "grid": ([(16, 3, 1)], 128),
        }[name]
        return _conv_stack(channels, [(o.torso_width * n, kernel, step) for n, kernel, step in convolutions], o.layer_norm), hidden

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.reshape(obs.shape[0], -1, *obs.shape[-2:]) if self.image else obs.flatten(1)
        if self.image:
            x = x.contiguous(memory_format=self.layout)  # while it is still bytes
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            y = self.layers(x * self.scale if x.dtype == torch.uint8 else x * self.float_scale if self.float_scale > 1 else x)
        return y.float() if self.bf16 else y


def make_torso(spec: EnvSpec, name: str, options: TorsoOptions = PLAIN, trunk: bool = False) -> nn.Module:
    """By name, or by dotted path for the user's own: a module made from the spec, obs [B, *obs_shape] -> [B, width]."""
    if "." in name:
        options.check(name)
        return build(name, "--agent.torso", ("width",), spec)
    return Torso(spec, name, options, trunk)


def orthogonal(module: nn.Module, gain: float) -> None:
    """Orthogonal weights, biases 0, in every layer of a module (Huang et al. 2022, detail 2)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def features(torso: nn.Module, core: nn.Module, obs: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
    """obs [T, N, *obs_shape], first [T, N] -> [T, N, width] and the memory after them."""
    x = torso(obs.flatten(0, 1)).view(*first.shape, -1)
    return (x, state) if isinstance(core, NoMemory) else unroll(core, x, first, state)


def epsilon_greedy(q: Tensor, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
    """[N] int64: the best of action-values [N, A], or with probability epsilon a random action, drawn for each environment."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}, but must be from 0 to 1")
    random = torch.randint(q.shape[-1], q.shape[:-1], device=q.device, generator=generator)
    coin = torch.rand(q.shape[:-1], device=q.device, generator=generator) < epsilon
    return torch.where(coin, random, q.argmax(-1))


class QNetwork(nn.Module):
    """obs [B, *obs_shape] -> action-values [B, A]; with a memory core by unroll().

    dueling, noisy (sigma_0; 0: not noisy): the head's (value_heads.py).  Each stream then has a last torso layer of its own, as in Wang
    et al. 2016, figure 1; after a memory core the streams are one layer deep instead.
    expectation: for heads that describe an action's return distribution by `atoms` numbers: the module that computes its mean
    [..., A] from them [..., A, atoms].
    """

    def __init__(
        self,
        spec: EnvSpec,
        num_actions: int,
        torso: str = "auto",
        options: TorsoOptions = PLAIN,
        core: str = "none",
        core_width: int = 128,
        core_options: str = "",
        *,
        dueling: bool = False,
        noisy: float = 0.0,
        atoms: int = 1,
        expectation: nn.Module | None = None,
    ):
        super().__init__()
        streams = dueling or noisy > 0
        trunk = streams and core == "none"
        self.torso = make_torso(spec, torso, options, trunk)
        self.core = make_core(core, self.torso.width, core_width, core_options)  # type: ignore[arg-type]
        check_room(self.core, spec)
        features_: int = self.core.outputs  # type: ignore[assignment]
        hidden = getattr(self.torso, "hidden", 0) if trunk else 0
        self.head: nn.Module = nn.Linear(features_, num_actions)
        if streams or atoms > 1:
            self.head = ValueHead(features_, num_actions, atoms, hidden=hidden, dueling=dueling, noisy=noisy)
        self.expectation = expectation or (nn.Flatten(-2) if isinstance(self.head, ValueHead) else nn.Identity())
        self.act_fn: Callable[..., tuple[Tensor, State]] = self.unroll  # for acting: to_device() may record it

    def forward(self, obs: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return self.expectation(self.atoms(obs, noise))

    def atoms(self, obs: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """The head's output: [B, A, atoms].  noise: the generator noisy layers draw from; None: no noise."""
        return self._read(self.torso(obs), noise)

    def _read(self, features: Tensor, noise: torch.Generator | None) -> Tensor:
        return self.head(features, noise) if isinstance(self.head, ValueHead) else self.head(features)

    def initial_state(self, n: int) -> State:
        return map_state(Tensor.detach, self.core.initial_state(n))  # type: ignore[operator]

    def unroll(self, obs: Tensor, first: Tensor, state: State, noise: torch.Generator | None = None) -> tuple[Tensor, State]:
        """obs [T, N, *obs_shape], first [T, N] bool, state at the first row -> action-values [T, N, A], state after the last."""
        y, state = features(self.torso, self.core, obs, first, state)
        return self.expectation(self._read(y, noise)), state

    def score(self, obs: Tensor, first: Tensor, state: State, action: Tensor) -> Tensor:
        """[N] the value of an action [N]: what --explain explains.  obs [N, *obs_shape], first [N]."""
        q, _ = self.unroll(obs[None], first[None], state)
        return q[0].gather(-1, action[:, None]).squeeze(-1)


class TwinQNetwork(nn.Module):
    """obs [B, *obs_shape] -> action-values of two networks, [2, B, A] (Fujimoto et al. 2018, arXiv:1802.09477)."""

    def __init__(self, spec: EnvSpec, num_actions: int, torso: str):
        super().__init__()
        self.both = nn.ModuleList([QNetwork(spec, num_actions, torso) for _ in range(2)])

    def forward(self, obs: Tensor) -> Tensor:
        return torch.stack([q(obs) for q in self.both])
