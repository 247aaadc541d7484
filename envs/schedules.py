"""Curricula: which lengths the environments of a run play next.  They are outside the environments, are saved in checkpoints, and
never affect an evaluation.

The level runs from 0 (every length at its smallest) to the largest range; at level c a length is low + c, at most high.

| name      | draws                                                                    | c grows by 1 when                              |
|-----------|--------------------------------------------------------------------------|------------------------------------------------|
| uniform   | every length by itself over its whole range                              | -                                              |
| mixture   | 10%: a level from 0 to the top; 25%: from 0 to c + e; 65%: c + e;        | 80% of the last 100 episodes were solved       |
|           | e geometric, 1 or more (Zaremba & Sutskever 2015)                        |                                                |
| lessons   | 90%: c; 10%: one of the lessons before (Graves et al. 2016)              | 90% of the last 100 episodes were solved       |
| promotion | c, c + 1 or c + 2 (Gym's algorithmic environments)                       | each of the last episodes fell short by so     |
|           |                                                                          | little, as the environment says (`promotion`)  |

After a step up, counting starts again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

SCHEDULES = ("uniform", "mixture", "lessons", "promotion")
WINDOW = 100  # episodes that decide


class Schedule:
    """ranges: smallest and largest of every length; promotion: (n, s), the level rises after n episodes whose shortfall (return minus
    the highest possible return) was s or more."""

    def __init__(self, name: str, ranges: Sequence[tuple[int, int]], promotion: tuple[int, float] = (10, -1.0)):
        self.name, self.ranges, self.promotion = name, tuple(ranges), promotion
        self.reach = max(high - low for low, high in self.ranges)
        self.top = max(self.reach - 2, 0) if name == "promotion" else self.reach
        self.level = 0
        self.outcomes: deque[float] = deque(maxlen=promotion[0] if name == "promotion" else WINDOW)

    @property
    def adaptive(self) -> bool:
        """Whether it depends on how the episodes go."""
        return self.name != "uniform"

    def draw(self, rng: np.random.Generator) -> tuple[int, ...]:
        """The lengths of the next episode, or of the next batch of episodes that begin and end together."""
        if self.name == "uniform":
            return tuple(int(rng.integers(low, high + 1)) for low, high in self.ranges)
        level = min(self._level(rng), self.reach)
        return tuple(min(low + level, high) for low, high in self.ranges)

    def _level(self, rng: np.random.Generator) -> int:
        coin = rng.random()
        if self.name == "promotion":
            return self.level + int(rng.integers(3))
        if self.name == "lessons":
            return int(rng.integers(self.level)) if coin < 0.1 and self.level else self.level
        ahead = self.level + int(rng.geometric(0.5))
        if coin < 0.1:
            return int(rng.integers(self.reach + 1))
        return int(rng.integers(min(ahead, self.reach) + 1)) if coin < 0.35 else ahead

    def note(self, solved: bool, shortfall: float) -> None:
        """Takes the result of an episode."""
        if not self.adaptive or self.level >= self.top:
            return
        self.outcomes.append(shortfall if self.name == "promotion" else float(solved))
        if len(self.outcomes) < (self.outcomes.maxlen or 0):
            return
        if self.name == "promotion":
            up = min(self.outcomes) >= self.promotion[1]
        else:
            up = float(np.mean(self.outcomes)) >= (0.8 if self.name == "mixture" else 0.9)
        if up:
            self.level += 1
            self.outcomes.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"of": f"{self.name} {self.reach}", "level": self.level, "outcomes": list(self.outcomes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From another curriculum, as when a run is forked, only the level is taken, at most this one's top level."""
        known = state["of"] == f"{self.name} {self.reach}"
        if known and not 0 <= state["level"] <= self.top:
            raise ValueError(f"its curriculum is at level {state['level']}, but the last level is {self.top}")
        self.level = min(max(int(state["level"]), 0), self.top)
        self.outcomes.clear()
        self.outcomes.extend(float(x) for x in state["outcomes"] if known)
