"""Frame stacking: one rule, shared by the live stack and the replay ring.

A row carries its age, min(steps since the episode's reset, 255).  The frame k steps older belongs to the same episode
exactly if age >= k; what lies further back is blank (zero), as in ale-py and in Gymnasium's FrameStackObservation with
padding_type="zero".
"""

from __future__ import annotations

import torch
from torch import Tensor

OLDEST = 255  # ages saturate here, so a stack holds at most 256 frames


def reach(age: Tensor, stack: int) -> Tensor:
    """[B, K] bool, oldest first: which of the K frames that end at a row of this age [B] belong to its episode."""
    return age[:, None] >= torch.arange(stack - 1, -1, -1, device=age.device)


class FrameStack:
    """The last K frames of every environment on the device: [N, K, *frame_shape], oldest first."""

    def __init__(self, n: int, stack: int, frame_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str):
        self.stack = stack
        self.frames = torch.zeros((n, stack, *frame_shape), dtype=dtype, device=device)

    def push(self, frame: Tensor, age: Tensor) -> Tensor:
        """frame [N, *frame_shape], age [N] -> [N, K, *frame_shape]: a new tensor each time, so that what was handed out
        before never changes."""
        frames = torch.cat([self.frames[:, 1:], frame[:, None]], 1)
        keep = reach(age, self.stack)
        if frames.device.type != "cpu" or not keep.all():  # the host may look for free; a GPU must not be waited for
            keep = keep.view(*frames.shape[:2], *[1] * (frames.dim() - 2))
            frames = torch.where(keep, frames, torch.zeros((), dtype=frames.dtype, device=frames.device))
        self.frames = frames
        return frames
