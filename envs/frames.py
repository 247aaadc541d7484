"""Frame stacking: one rule, shared by the live stack and the replay ring.

A row carries its age, min(steps since the episode's reset, 255).  The frame k steps older belongs to the same episode
exactly if age >= k; what lies further back is blank (zero), as in ale-py and in Gymnasium's FrameStackObservation with
padding_type="zero".
"""

from __future__ import annotations

import torch
from torch import Tensor

OLDEST = 255  # ages saturate here, so a stack holds at most 256 frames
FILM = 28  # frames that a film has room for beside a stack


def reach(age: Tensor, offsets: Tensor) -> Tensor:
    """[B, M] bool: which of the rows at offsets [M] (0: the row itself, -1: the one before ...) from a row of this age [B]
    belong to its episode, as far as its age can tell; later rows are taken to."""
    return age[:, None] >= -offsets


class FrameStack:
    """The last K frames of every environment on the device: [N, K, *frame_shape], oldest first.

    Frames are written one behind the other into a film, and a stack is a view of it, so that a row costs one frame and not K.  No place
    of a film is written twice: what was handed out before never changes.
    """

    def __init__(self, n: int, stack: int, frame_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str):
        self.stack, self.offsets = stack, torch.arange(1 - stack, 1, device=device)
        self.replace(torch.zeros((n, stack, *frame_shape), dtype=dtype, device=device))

    def replace(self, frames: Tensor) -> None:
        """Goes on from these stacks [N, K, *frame_shape]."""
        n, k, *shape = frames.shape
        self._film = torch.empty((n, k + FILM, *shape), dtype=frames.dtype, device=frames.device)
        self._film[:, :k] = frames
        self._end = k

    def push(self, frame: Tensor, age: Tensor, *, grown: bool = False) -> Tensor:
        """frame [N, *frame_shape], age [N] -> [N, K, *frame_shape].  grown: the caller knows that every age is at least K - 1, so
        nothing is to be blanked."""
        if self._end == self._film.shape[1]:
            self.replace(self._film[:, self._end - self.stack :])
        self._film[:, self._end] = frame
        self._end += 1
        frames = self._film[:, self._end - self.stack : self._end]
        if grown:
            return frames
        keep = reach(age, self.offsets).view(*frames.shape[:2], *[1] * (frames.dim() - 2))
        return torch.where(keep, frames, torch.zeros((), dtype=frames.dtype, device=frames.device))
