"""Which of the finished episodes a mean return may count, though environments restart at checkpoints and long episodes end later.

Of episodes played side by side, the short ones end first, and a restart breaks off the long ones: counting all that have ended by now
would bias the mean towards short episodes.  So an episode counts once every other that began at the same time or earlier is over.  One
that lasts more than twice as long as any before it delays no others (it may be stuck).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arcturus.envs.vector import Episode

MOST_WAITING = 10_000  # finished episodes that wait to be counted, all of which a checkpoint keeps
LONGEST_STRETCH = 50_000  # rows after which environments restart at a checkpoint in any case


class Account:
    """The account of one run's episodes.  Rows are counted over the whole run."""

    def __init__(self) -> None:
        self.row = 0
        self.longest = 0  # agent steps of the longest episode that ended
        self.finished = self.broken_off = 0
        self.waiting: list[list[float]] = []  # [row it began at, environment, score, length] of those that don't count yet

    def take(self, finished: list[Episode], playing: np.ndarray) -> list[Episode]:
        """Takes a row's finished episodes and the steps [N] taken by those under way (0: none is); returns the episodes that count from
        now on, in the order in which they began."""
        self.row += 1
        for e in finished:
            self.waiting.append([self.row - e.length, e.env, e.score, e.length])
            self.longest = max(self.longest, e.length)
        self.finished += len(finished)
        if not self.waiting:
            return []
        open_ = playing[(playing > 0) & (playing <= 2 * self.longest)]
        oldest = self.row - int(open_.max()) if len(open_) else self.row + 1
        self.waiting.sort()
        count = max(sum(entry[0] < oldest for entry in self.waiting), len(self.waiting) - MOST_WAITING)
        out, self.waiting = self.waiting[:count], self.waiting[count:]
        return [Episode(int(env), score, int(length)) for _, env, score, length in out]

    def may_restart(self, rows: int, playing: np.ndarray) -> bool:
        """Whether `rows` since the last restart were enough for two episodes as long as the longest so far."""
        return rows >= min(2 * max(self.longest, int(playing.max(initial=0))), LONGEST_STRETCH)

    def restart(self, playing: np.ndarray) -> None:
        """Every environment restarts: open episodes are broken off, and finished ones that still wait never count."""
        self.broken_off += int((playing > 0).sum())
        self.waiting.clear()

    def scalars(self) -> dict[str, float]:
        return {"charts/episodes": self.finished, "charts/episodes_broken_off": self.broken_off}

    def state_dict(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "longest": self.longest,
            "finished": self.finished,
            "broken_off": self.broken_off,
            "waiting": [list(entry) for entry in self.waiting],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError for what state_dict() can't have given."""
        if not all(isinstance(e, list) and len(e) == 4 and all(type(x) in (int, float) for x in e) for e in state["waiting"]):
            raise ValueError("its record of episodes is invalid")
        for name in ("row", "longest", "finished", "broken_off"):
            setattr(self, name, state[name])
        self.waiting = [list(entry) for entry in state["waiting"]]
