"""Torsos (observation -> features), and the networks made of torso, memory core and heads.  ReLUs are named modules, so that
they can be hooked.

| name     | layers                                                                                  | source                        |
|----------|-----------------------------------------------------------------------------------------|-------------------------------|
| mnih2013 | 16 of 8x8 stride 4, 32 of 4x4 stride 2, 256 units                                       | Mnih et al. 2013, section 4.1 |
| nature   | 32 of 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3 stride 1, 512 units                   | Mnih et al. 2015, Methods     |
| impala   | 3 sections (16, 32, 32) of conv, max-pool, 2 residual blocks; 256 units                 | Espeholt et al. 2018, fig. 3  |
| small    | 16 of 4x4 stride 2, 32 of 3x3 stride 2, 32 of 3x3 stride 2, 128 units; for small frames | this project                  |
| mlp      | 2 x 128 units                                                                           | this project                  |
| none     | the observation, flattened: for a memory core that reads it itself                      |                               |
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from arcturus.api import EnvSpec, State, map_state
from arcturus.envs import is_atari
from arcturus.errors import ConfigError, nearest
from arcturus.extensions import build
from arcturus.memory import NoMemory, check_room, make_core, unroll
from arcturus.speed import bf16, layout
from arcturus.value_heads import ValueHead

SMALLEST = 16  # pixels of a side that the small torso can read
TORSOS = ("auto", "mnih2013", "nature", "impala", "small", "mlp", "none")


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


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3, as many filters out as in."""

    def __init__(self, channels: int):
        super().__init__()
        self.relu1, self.conv1 = nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        self.relu2, self.conv2 = nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu2(self.conv1(self.relu1(x))))


def _impala(channels: int, average_pool: bool) -> OrderedDict[str, nn.Module]:
    out: OrderedDict[str, nn.Module] = OrderedDict()
    for i, filters in enumerate((16, 32, 32), 1):
        out[f"conv{i}"] = nn.Conv2d(channels, filters, 3, padding=1)
        out[f"pool{i}"] = nn.MaxPool2d(3, 2, padding=1)
        out[f"block{i}a"], out[f"block{i}b"] = ResidualBlock(filters), ResidualBlock(filters)
        channels = filters
    out["relu"] = nn.ReLU()
    if average_pool:
        out["average_pool"] = nn.AdaptiveAvgPool2d(1)
    return out


class Torso(nn.Module):
    """obs [B, *obs_shape] uint8 or float32 -> features [B, width].

    Bytes are scaled by 1/255.  Images may be [C, H, W] or stacks [K, C, H, W], whose channels are concatenated.

    trunk: without the last fully connected layer, whose `hidden` units are the head's affair (value_heads.py).  layer_norm: layer
    normalisation before every ReLU (Ba et al. 2016).
    """

    def __init__(
        self, spec: EnvSpec, name: str = "auto", average_pool: bool = False, trunk: bool = False, layer_norm: bool = False
    ):
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
        self.scale = 1 / 255 if spec.obs_dtype == torch.uint8 else 1.0
        if layer_norm and name in ("impala", "none"):
            raise ConfigError(f"the {name} torso has no layer normalisation", where="--agent.torso", fix="use nature or small")
        self.layer_norm = layer_norm
        self.name, self.image = name, name not in ("mlp", "none")
        layers: OrderedDict[str, nn.Module] = OrderedDict()

        def connect(suffix: str, inputs: int, units: int) -> None:
            layers["fc" + suffix] = nn.Linear(inputs, units)
            if layer_norm:
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
            layers, self.hidden = self._convolutions(name, channels, average_pool, layer_norm)
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
    def _convolutions(name: str, channels: int, average_pool: bool, layer_norm: bool) -> tuple[OrderedDict[str, nn.Module], int]:
        if name == "impala":
            return _impala(channels, average_pool), 256
        layers, width = {
            "mnih2013": ([(16, 8, 4), (32, 4, 2)], 256),
            "nature": ([(32, 8, 4), (64, 4, 2), (64, 3, 1)], 512),
            "small": ([(16, 4, 2), (32, 3, 2), (32, 3, 2)], 128),
        }[name]
        return _conv_stack(channels, layers, layer_norm), width

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.reshape(obs.shape[0], -1, *obs.shape[-2:]) if self.image else obs.flatten(1)
        if self.image:
            x = x.contiguous(memory_format=self.layout)  # while it is still bytes
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            y = self.layers(x * self.scale if x.dtype == torch.uint8 else x)
        return y.float() if self.bf16 else y


def make_torso(spec: EnvSpec, name: str, average_pool: bool = False, trunk: bool = False, layer_norm: bool = False) -> nn.Module:
    """By name, or by dotted path for the user's own: a module made from the spec, obs [B, *obs_shape] -> [B, width]."""
    if "." in name:
        return build(name, "--agent.torso", ("width",), spec)
    return Torso(spec, name, average_pool, trunk, layer_norm)


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
        average_pool: bool = False,
        core: str = "none",
        core_width: int = 128,
        core_options: str = "",
        *,
        dueling: bool = False,
        noisy: float = 0.0,
        layer_norm: bool = False,
        atoms: int = 1,
        expectation: nn.Module | None = None,
    ):
        super().__init__()
        streams = dueling or noisy > 0
        trunk = streams and core == "none"
        self.torso = make_torso(spec, torso, average_pool, trunk, layer_norm)
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
