"""Augmentation of observations that an agent learns from: pure functions of a generator.

random_shift      every image is moved by up to `pixels` each way, its edge pixels repeated where it left
                  (padding by replication and a random crop: Yarats et al. 2021, arXiv:2004.13649, section 3.1: 4 of 84 pixels)
random_intensity  every image's brightness is multiplied by 1 + scale e, e standard normal clipped to [-2, 2]
                  (Yarats et al. 2021, appendix; scale 0.05 in Laskin et al. 2020 and Schwarzer et al. 2021, arXiv:2007.05929)

All frames of one stack are moved, or brightened, together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arcturus.replay import compiled


def random_shift(images: Tensor, pixels: int, generator: torch.Generator, fast: bool = False) -> Tensor:
    """images [B, ..., H, W] of any dtype -> a new tensor of the same shape.  fast: by a compiled loop, where there is one."""
    move = torch.randint(-pixels, pixels + 1, (2, len(images)), device=images.device, generator=generator)
    return shifted(images, move[0], move[1], fast)


def shifted(images: Tensor, down: Tensor, right: Tensor, fast: bool = False) -> Tensor:
    """images [B, ..., H, W] moved by so many pixels [B] each, int64."""
    stacks = images.reshape(len(images), -1, *images.shape[-2:])
    height, width = stacks.shape[-2:]
    if fast and stacks.dtype == torch.uint8 and stacks.device.type == "cpu":
        moved = torch.from_numpy(compiled.shifted(stacks.numpy(), down.numpy(), right.numpy()))
    else:
        rows = (torch.arange(height, device=stacks.device) - down[:, None]).clamp(0, height - 1)  # [B, H]
        columns = (torch.arange(width, device=stacks.device) - right[:, None]).clamp(0, width - 1)  # [B, W]
        batch = torch.arange(len(stacks), device=stacks.device)[:, None, None]
        moved = stacks.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return moved.reshape(images.shape)


def random_intensity(images: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """images [B, ...] -> brighter or darker ones of the same dtype; bytes are rounded and end at 255."""
    e = torch.randn(len(images), device=images.device, generator=generator).clamp(-2.0, 2.0)
    factor = (1 + scale * e).view(-1, *[1] * (images.dim() - 1))
    if images.dtype != torch.uint8:
        return images * factor
    return (images * factor).round().clamp(0, 255).to(torch.uint8)
