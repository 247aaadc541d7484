"""Small Markov decision processes that are known exactly: the ground truth under every agent.

    MDP/Chain-v0   walk right along a chain to a reward of 1, past a small one for staying at its left end
    MDP/Grid-v0    the 4 x 3 world of Russell & Norvig (Artificial Intelligence, section 17.1)

Each environment has its `mdp`: transition probabilities, rewards, starts and ends, in float64.  benchmarks/exact.py solves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np


@dataclass(frozen=True)
class MDP:
    """S states, A actions."""

    p: np.ndarray  # [S, A, S] p[s, a, s']: the probability of arriving at s' by action a in state s
    r: np.ndarray  # [S, A, S] the reward of doing so
    start: np.ndarray  # [S] probabilities of the first state
    terminal: np.ndarray  # [S] bool: an episode ends on arriving there
    cells: tuple[tuple[int, int], ...]  # where each state is drawn: row, column

    @property
    def expected_reward(self) -> np.ndarray:
        """[S, A]; 0 in terminal states."""
        return (self.p * self.r).sum(-1) * ~self.terminal[:, None]

    @property
    def onward(self) -> np.ndarray:
        """[S, A, S] p, but for what follows an end."""
        return self.p * ~self.terminal[:, None, None] * ~self.terminal


def chain(length: int = 6, slip: float = 0.1, distraction: float = 0.02) -> MDP:
    """States 0 ... length - 1; actions 0 left, 1 right, turned round with probability `slip`.  Arriving at the right end ends the
    episode with 1; bumping into the left end gives `distraction`."""
    p, r = np.zeros((length, 2, length)), np.zeros((length, 2, length))
    for s in range(length):
        for a, towards in enumerate((-1, 1)):
            for step, chance in ((towards, 1 - slip), (-towards, slip)):
                p[s, a, min(max(s + step, 0), length - 1)] += chance
    r[0, :, 0], r[:, :, -1] = distraction, 1.0
    return MDP(p, r, np.eye(length)[0], np.arange(length) == length - 1, tuple((0, s) for s in range(length)))


GRID = ("...+", ".#.-", "S...")  # the top row first
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def grid(slip: float = 0.2, step_reward: float = -0.04, rows: tuple[str, ...] = GRID) -> MDP:
    """Cells in reading order, without walls (#).  Actions up, right, down, left; with probability `slip` the step goes to one
    side instead (half each); a step into a wall or over the edge stays.  Each costs step_reward; + and - end with 1 and -1."""
    cells = [(i, j) for i, row in enumerate(rows) for j, c in enumerate(row) if c != "#"]
    number = {cell: s for s, cell in enumerate(cells)}
    gain = np.array([{"+": 1.0, "-": -1.0}.get(rows[i][j], 0.0) for i, j in cells])
    p = np.zeros((len(cells), 4, len(cells)))
    for s, (i, j) in enumerate(cells):
        for a in range(4):
            for turn, chance in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
                di, dj = MOVES[(a + turn) % 4]
                p[s, a, number.get((i + di, j + dj), s)] += chance
    start = np.array([rows[i][j] == "S" for i, j in cells], float)
    return MDP(p, np.broadcast_to(step_reward + gain, p.shape).copy(), start / start.sum(), gain != 0, tuple(cells))


class TabularEnv(gym.Env):
    """Plays an MDP.  Observations and actions are Discrete."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, mdp: MDP, render_mode: str | None = None):
        self.mdp, self.render_mode = mdp, render_mode
        self.observation_space = gym.spaces.Discrete(len(mdp.start))
        self.action_space = gym.spaces.Discrete(mdp.p.shape[1])
        self._arrive, self._begin = mdp.p.cumsum(-1), mdp.start.cumsum()
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self._draw(self._begin)
        return self.state, {}

    def _draw(self, cumulative: np.ndarray) -> int:
        return int(np.searchsorted(cumulative, self.np_random.random() * cumulative[-1], side="right"))

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        before, self.state = self.state, self._draw(self._arrive[self.state, action])
        return self.state, float(self.mdp.r[before, action, self.state]), bool(self.mdp.terminal[self.state]), False, {}

    def render(self) -> Any:
        """[H, W, 3] uint8: a tile for each state, green or red where it ends well or badly, the agent as a blue square."""
        if self.render_mode != "rgb_array":
            return None
        tile, (height, width) = 48, np.max(self.mdp.cells, 0) + 1
        picture = np.full((height * tile, width * tile, 3), 40, np.uint8)
        for s, (i, j) in enumerate(self.mdp.cells):
            gain = self.mdp.r[:, :, s].max()
            colour = (225, 225, 225) if not self.mdp.terminal[s] else (120, 190, 120) if gain > 0 else (210, 110, 110)
            picture[i * tile + 1 : (i + 1) * tile - 1, j * tile + 1 : (j + 1) * tile - 1] = colour
        i, j = self.mdp.cells[self.state]
        picture[i * tile + 14 : (i + 1) * tile - 14, j * tile + 14 : (j + 1) * tile - 14] = (40, 90, 200)
        return picture


def make_chain(length: int = 6, slip: float = 0.1, distraction: float = 0.02, render_mode: str | None = None) -> TabularEnv:
    return TabularEnv(chain(length, slip, distraction), render_mode)


def make_grid(slip: float = 0.2, step_reward: float = -0.04, render_mode: str | None = None) -> TabularEnv:
    return TabularEnv(grid(slip, step_reward), render_mode)


for _make in (make_chain, make_grid):
    vars(_make)["metadata"] = TabularEnv.metadata  # as a class has it, for code that reads it from an entry point
