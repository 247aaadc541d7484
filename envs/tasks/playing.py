"""Answering a task by actions, and the answers' rewards: pure functions of tensors, used by every view of a task.

| actions   | space                    | an answer is                                                     |
|-----------|--------------------------|------------------------------------------------------------------|
| bits      | MultiBinary(outputs)     | all bits of a row at once                                        |
| symbol    | Discrete(2^outputs)      | the same as one number, first output lowest                      |
| serial    | Discrete(2)              | one bit a row: a row that asks becomes `outputs` rows            |
| probs     | Box(0, 1, (outputs,))    | the probability of each bit being 1                              |
| quantised | (Multi)Discrete(levels)  | the same in steps: level k is the probability (k + 1/2) / levels |

| rewards  | for each row that asks                                                        |
|----------|-------------------------------------------------------------------------------|
| bits     | share of right bits less share of wrong ones, -1 to 1: guessing is worth 0    |
| exact    | 1 if all bits of the row are right, else 0                                    |
| sparse   | 0, but 1 at the end if every bit of the tape was right                        |
| logscore | log2 of the probability given to what came, summed over bits                  |
| stop     | 1 if all bits of the row are right; -1/2 and the end at the first wrong row   |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from arcturus.envs.tasks.sequences import Tapes

FORECASTS = ("probs", "quantised")  # actions that are probabilities
ACTIONS = ("bits", "symbol", "serial", *FORECASTS)
REWARDS = ("bits", "exact", "sparse", "logscore", "stop")
WIDEST_SYMBOL = 8  # bits


@dataclass(frozen=True)
class Play:
    """How a task with this many outputs is answered and rewarded."""

    outputs: int
    actions: str = "bits"
    reward: str = "bits"
    levels: int = 16
    space: gym.Space = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.actions not in ACTIONS or self.reward not in REWARDS:
            raise ValueError(
                f"actions {self.actions!r} must be one of {', '.join(ACTIONS)}; reward {self.reward!r} one of {', '.join(REWARDS)}"
            )
        forecast = self.actions in FORECASTS
        if forecast != (self.reward == "logscore"):
            raise ValueError(
                f"actions={self.actions} can't have reward={self.reward}: probs and quantised need logscore, other actions can't have it"
            )
        if self.actions == "symbol" and self.outputs > WIDEST_SYMBOL:
            raise ValueError(
                f"{self.outputs} bits are 2^{self.outputs} symbols: at most {WIDEST_SYMBOL} bits fit; use actions=bits or serial"
            )
        if type(self.levels) is not int or not 2 <= self.levels <= 1_000:
            raise ValueError(f"levels is {self.levels!r}, but must be a whole number from 2 to 1,000")
        object.__setattr__(self, "space", self._space())

    def _space(self) -> gym.Space:
        if self.actions == "bits":
            return gym.spaces.MultiBinary(self.outputs)
        if self.actions == "symbol":
            return gym.spaces.Discrete(2**self.outputs)
        if self.actions == "serial":
            return gym.spaces.Discrete(2)
        if self.actions == "probs":
            return gym.spaces.Box(0, 1, (self.outputs,), np.float32)
        return gym.spaces.Discrete(self.levels) if self.outputs == 1 else gym.spaces.MultiDiscrete([self.levels] * self.outputs)

    @property
    def has_targets(self) -> bool:
        """Whether the right answer is an action."""
        return self.actions in ("bits", "symbol", "serial")

    def check(self, action: np.ndarray, batch: tuple[int, ...] = ()) -> None:
        """ValueError for an invalid answer [*batch, *space.shape]: it would be scored as another one."""
        highest = {"symbol": 2**self.outputs - 1, "quantised": self.levels - 1}.get(self.actions, 1)
        if action.shape != (*batch, *(self.space.shape or ())) or not ((action >= 0) & (action <= highest)).all():
            raise ValueError(f"action {str(action.tolist())[:200]} is not in {self.space}")

    def lay_out(self, tapes: Tapes) -> Tapes:
        """The tapes as they are played: for serial answers every row that asks stands for `outputs` rows of one bit."""
        if self.actions != "serial":
            return tapes
        x, y, mask = tapes
        counts = torch.where(mask, self.outputs, 1)
        row = torch.repeat_interleave(torch.arange(len(mask)), counts)
        bit = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
        row, bit = row.to(x.device), bit.to(x.device)
        return Tapes(x[row], y[row, :, bit][..., None], mask[row.cpu()])

    def rows(self, rows: int, answers: int) -> int:
        """Rows as they are played."""
        return rows + (self.outputs - 1) * answers if self.actions == "serial" else rows

    def encode(self, targets: Tensor) -> Tensor:
        """Laid-out targets [..., bits] uint8 -> the actions [..., *space.shape] int64 that say them."""
        if self.actions == "bits":
            return targets.long()
        weights = 2 ** torch.arange(targets.shape[-1], device=targets.device)
        return (targets.long() * weights).sum(-1)

    def decode(self, action: Tensor) -> Tensor:
        """Actions [..., *space.shape] -> bits [..., bits] int64; of probabilities, which is the likelier."""
        if self.actions == "symbol":
            return action[..., None] >> torch.arange(self.outputs, device=action.device) & 1
        if self.actions in FORECASTS:
            return (self.probabilities(action) > 0.5).long()
        return action[..., None] if self.actions == "serial" else action

    def probabilities(self, action: Tensor) -> Tensor:
        """Of probs and quantised actions [..., *space.shape]: [..., outputs], kept from 0 and 1 by 1e-6."""
        p = action.float() if self.actions == "probs" else (action.float() + 0.5) / self.levels
        return (p if self.space.shape else p[..., None]).clamp(1e-6, 1 - 1e-6)

    def chances(self, pi: Tensor) -> Tensor:
        """A policy's probabilities [..., k, choices] of the choices of each component -> [..., bits] that each bit is 1."""
        if self.actions == "symbol":
            symbols = torch.arange(pi.shape[-1], device=pi.device)
            return pi[..., 0, :] @ self.decode(symbols).to(pi.dtype)
        if self.actions == "quantised":
            return pi @ ((torch.arange(self.levels, device=pi.device) + 0.5) / self.levels)
        return pi[..., 1]

    def score(self, action: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Reward [...] of answers [..., *space.shape] to the laid-out targets [..., bits] of rows that ask (for sparse: 0), and
        whether all of each was right [...] bool."""
        wrong = self.decode(action) != targets
        right = ~wrong.any(-1)
        if self.reward == "bits":
            return 1 - 2 * wrong.float().mean(-1), right
        if self.reward == "logscore":
            p = self.probabilities(action)
            return torch.where(targets.bool(), p, 1 - p).log2().sum(-1), right
        if self.reward == "stop":
            return torch.where(right, 1.0, -0.5), right
        return (right.float() if self.reward == "exact" else torch.zeros_like(right, dtype=torch.float32)), right

    def shortfall(self, total: float, rows: int) -> float:
        """An episode's return minus the highest possible for `rows` rows that ask; the single reward of sparse stands for all of them."""
        if self.reward == "sparse":
            return (total - 1) * rows
        return total if self.reward == "logscore" else total - rows
