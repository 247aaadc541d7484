"""What the benchmark of DQN needs of every contender's training loop, and the numbers they share."""

from __future__ import annotations

import torch

from benchmarks.measuring.timing import timed

WARM = 400  # steps before the first update
BATCH, LEARNING_RATE = 32, 1e-4


class Training:
    """A loop that has begun to learn, and its optimiser."""

    optimizer: torch.optim.Optimizer

    def window(self, seconds: float, device: str) -> tuple[float, float]:
        """Trains; agent steps, and the seconds they took."""
        return timed(self.step, device)(seconds)

    def step(self) -> int:
        """Trains for one row of the environments, or a few; agent steps."""
        raise NotImplementedError

    def update(self) -> int:
        """Updates alone, minibatches drawn as in training; how many."""
        raise NotImplementedError

    def steps(self) -> int:
        """Agent steps so far, those before the first update included."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the environments."""
        raise NotImplementedError

    def note(self) -> str:
        updates = int(next(iter(self.optimizer.state.values()))["step"])  # counted by the optimiser itself
        return f"{updates / (self.steps() - WARM):.3f} updates a step"
