"""Torsos (observation -> features) and the action-value network.  ReLUs are named modules, so that they can be hooked.

| name     | layers                                                                                  | source                        |
|----------|-----------------------------------------------------------------------------------------|-------------------------------|
| mnih2013 | 16 of 8x8 stride 4, 32 of 4x4 stride 2, 256 units                                       | Mnih et al. 2013, section 4.1 |
| nature   | 32 of 8x8 stride 4, 64 of 4x4 stride 2, 64 of 3x3 stride 1, 512 units                   | Mnih et al. 2015, Methods     |
| impala   | 3 sections (16, 32, 32) of conv, max-pool, 2 residual blocks; 256 units                 | Espeholt et al. 2018, fig. 3  |
| small    | 16 of 4x4 stride 2, 32 of 3x3 stride 2, 32 of 3x3 stride 2, 128 units; for small frames | this project                  |
| mlp      | 2 x 128 units                                                                           | this project                  |
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from arcturus.api import EnvSpec
from arcturus.errors import ConfigError, nearest

TORSOS = ("auto", "mnih2013", "nature", "impala", "small", "mlp")


def _conv_stack(channels: int, layers: list[tuple[int, int, int]]) -> OrderedDict[str, nn.Module]:
    """layers: (filters, kernel, stride)."""
    out: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (filters, kernel, stride) in enumerate(layers, 1):
        out[f"conv{i}"] = nn.Conv2d(channels, filters, kernel, stride)
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

    Bytes are scaled by 1/255.  Images may be [C, H, W] or stacks [K, C, H, W], whose channels are laid side by side.
    """

    def __init__(self, spec: EnvSpec, name: str = "auto", average_pool: bool = False):
        super().__init__()
        if name not in TORSOS:
            raise ConfigError(f"unknown torso {name!r}", where="--agent.torso", fix=nearest(name, TORSOS, "torsos"))
        image = len(spec.obs_shape) >= 3 or (len(spec.obs_shape) == 2 and spec.obs_dtype == torch.uint8)
        if name == "auto":
            name = "mlp" if not image else "nature" if min(spec.obs_shape[-2:]) >= 64 else "small"
        if name != "mlp" and not image:
            raise ConfigError(
                f"the {name} torso reads images; {spec.env_id} shows {spec.obs_shape}",
                where="--agent.torso",
                fix="use mlp, or auto",
            )
        self.scale = 1 / 255 if spec.obs_dtype == torch.uint8 else 1.0
        self.image = name != "mlp"
        if not self.image:
            size = int(torch.tensor(spec.obs_shape).prod())
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                fc1=nn.Linear(size, 128), relu1=nn.ReLU(), fc2=nn.Linear(128, 128), relu2=nn.ReLU()
            )
            self.width = 128
        else:
            height, width = spec.obs_shape[-2:]
            channels = int(torch.tensor(spec.obs_shape[:-2]).prod())
            layers, self.width = self._convolutions(name, channels, average_pool)
            try:
                flat = nn.Sequential(layers)(torch.zeros(1, channels, height, width)).numel()
            except RuntimeError as e:
                raise ConfigError(
                    f"frames of {height}x{width} are too small for the {name} torso",
                    where="--env.frame-size",
                    fix="use larger frames (84), or --agent.torso small",
                ) from e
            layers["flatten"] = nn.Flatten()
            layers["fc"], layers["relu_fc"] = nn.Linear(flat, self.width), nn.ReLU()
        self.layers = nn.Sequential(layers)

    @staticmethod
    def _convolutions(name: str, channels: int, average_pool: bool) -> tuple[OrderedDict[str, nn.Module], int]:
        if name == "impala":
            return _impala(channels, average_pool), 256
        layers, width = {
            "mnih2013": ([(16, 8, 4), (32, 4, 2)], 256),
            "nature": ([(32, 8, 4), (64, 4, 2), (64, 3, 1)], 512),
            "small": ([(16, 4, 2), (32, 3, 2), (32, 3, 2)], 128),
        }[name]
        return _conv_stack(channels, layers), width

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.reshape(len(obs), -1, *obs.shape[-2:]) if self.image else obs.flatten(1)
        if self.image:
            x = x.contiguous(memory_format=torch.channels_last)  # while it is still bytes
        return self.layers(x * self.scale if x.dtype == torch.uint8 else x)


class QNetwork(nn.Module):
    """obs [B, *obs_shape] -> action-values [B, A]."""

    def __init__(self, spec: EnvSpec, num_actions: int, torso: str = "auto", average_pool: bool = False):
        super().__init__()
        self.torso = Torso(spec, torso, average_pool)
        self.head = nn.Linear(self.torso.width, num_actions)

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.torso(obs))
