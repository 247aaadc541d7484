"""Tape tasks: one symbol is seen at a time, one may be written at a time, and what to read next is the agent's choice.

    Tape/Copy-v0               ABC -> ABC
    Tape/DuplicatedInput-v0    AABBCC -> ABC
    Tape/RepeatCopy-v0         ABC -> ABCCBAABC
    Tape/Reverse-v0            ABB -> BBA
    Tape/ReversedAddition-v0   two numbers, one in each row, least significant digit first -> their sum, likewise
    Tape/ReversedAddition3-v0  three numbers; the time suffices for four digits at most, as it did in Gym
    Tape/ReversedAddition3-v1  three numbers, with enough time

From Zaremba, Mikolov, Joulin & Fergus, "Learning Simple Algorithms from Examples" (arXiv 1511.07275), by the rules of the
environments that OpenAI Gym had under these names.

A head stands on the first cell (of the first row).  The observation is the symbol under it, 0 ... base - 1, or the blank, base,
off the tape.  An action is (move, write, symbol): if `write` is 1 the symbol is appended to the output, then the head moves one
cell (0 left, 1 right, and on several rows 2 up, 3 down), without any boundary.  Rewards: 1 for a right symbol, -0.5 for a
wrong one, which ends the episode, else 0.  The episode also ends with the target's last symbol; and with -1, whatever was
written, on the step after step number

    cells of the tape + symbols of the target + 4      on one row
    2 n + 4                                            on rows of n digits (ReversedAddition3-v1: rows * n + n + 4)

All these are terminations: the limits belong to the tasks, and no other is set on them.

Gym's environments made their tapes longer as the agent improved.  These keep only their random generator from one episode to
the next: lengths are drawn from low ... high, by default those where Gym's ended and which its reward thresholds were meant
for.  A curriculum is set from outside, as `schedule`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # rows and columns: left, right, up, down
LONGEST = 10_000  # cells of a row
LARGEST_BASE = 26


class Tape(gym.Env):
    """What the tasks share; a task says what its tape holds and what the target is.

    base: how many symbols there are.  low, high: the shortest and the longest tape.  actions, all with the same meaning:

        multi   MultiDiscrete([moves, 2, base])
        flat    Discrete(moves * 2 * base), number (2 move + write) base + symbol, for agents of one discrete action
        tuple   Tuple of three Discrete, as in Gym

    render_mode: ansi, a text; rgb_array, a picture of 640 x 420 pixels.  Raises ValueError for impossible settings.

    schedule: None, or an object that the trainer sets, with draw(generator) -> (length,), called at a reset instead of using
    low ... high; and note(solved, shortfall), called at the end of every episode of a length that it drew: whether the whole
    target was written, and return - symbols of the target.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}
    rows = 1
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # how symbols are drawn
    shortest = 2  # length with which a curriculum begins, as Gym's did
    promotion = (10, -1.0)  # Gym's rule: longer tapes once each of the last 10 episodes fell short by at most 1

    def __init__(self, base: int = 5, low: int = 30, high: int = 32, actions: str = "multi", render_mode: str | None = None):
        whole = all(type(x) is int for x in (base, low, high))
        if not (whole and 2 <= base <= LARGEST_BASE and 1 <= low <= high <= LONGEST):
            raise ValueError(
                f"base {base}, low {low}, high {high}: base must be a whole number from 2 to {LARGEST_BASE}; low and high from 1 to "
                f"{LONGEST:,}, and low at most high"
            )
        if actions not in ("multi", "flat", "tuple"):
            raise ValueError(f"actions {actions}: must be multi, flat or tuple")
        self.base, self.low, self.high, self.actions, self.render_mode = base, low, high, actions, render_mode
        self.moves = 2 if self.rows == 1 else 4
        self.observation_space = gym.spaces.Discrete(base + 1)
        parts = [self.moves, 2, base]
        self.action_space: gym.Space
        if actions == "flat":
            self.action_space = gym.spaces.Discrete(int(np.prod(parts)))
        elif actions == "tuple":
            self.action_space = gym.spaces.Tuple([gym.spaces.Discrete(n) for n in parts])
        else:
            self.action_space = gym.spaces.MultiDiscrete(parts)
        self.schedule: Any = None
        self.playing = False  # an episode has begun and not ended

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What a curriculum runs through."""
        return ((min(self.shortest, self.low), self.high),)

    # -- the task ----------------------------------------------------------------------------------------------------------

    def _draw(self, length: int) -> list[list[int]]:
        """A tape of `length` cells: its rows."""
        return self.np_random.integers(self.base, size=(self.rows, length)).tolist()

    def _answer(self, tape: list[list[int]]) -> list[int]:
        """The target for a tape."""
        raise NotImplementedError

    def _limit(self) -> int:
        """The number of the last step within the time limit."""
        return len(self.tape[0]) + len(self.target) + 4

    # -- an episode --------------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """options: length, this episode's."""
        super().reset(seed=seed)
        self._listener = None
        if options and "length" in options:
            length = options["length"]
        elif self.schedule is not None:
            (length,) = self.schedule.draw(self.np_random)
            self._listener = self.schedule
        else:
            length = int(self.np_random.integers(self.low, self.high + 1))
        if not (isinstance(length, (int, np.integer)) and 1 <= length <= LONGEST):
            raise ValueError(f"length {length}: must be a whole number from 1 to {LONGEST:,}")
        self.tape = self._draw(int(length))
        self.target = self._answer(self.tape)
        self.time_limit = self._limit()
        self.row = self.column = self.t = 0
        self.written: list[int] = []
        self.score = 0.0
        self.last: tuple[int, int, int, float] | None = None  # move, write, symbol, reward
        self.playing = True
        return self._read(), {}

    def _read(self) -> int:
        if 0 <= self.row < self.rows and 0 <= self.column < len(self.tape[0]):
            return self.tape[self.row][self.column]
        return self.base

    def _decode(self, action: Any) -> tuple[int, int, int]:
        """move, write, symbol."""
        if self.actions == "flat":
            rest, symbol = divmod(int(action), self.base)
            move, write = divmod(rest, 2)
        else:
            move, write, symbol = np.asarray(action).tolist()
        if not (0 <= move < self.moves and 0 <= write <= 1 and 0 <= symbol < self.base):
            raise ValueError(f"action {action} is not in {self.action_space}")
        return move, write, symbol

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if not self.playing:
            raise gym.error.ResetNeeded("no episode is being played: call reset()")
        move, write, symbol = self._decode(action)
        self.t += 1
        reward, ended = 0.0, False
        if self.t > self.time_limit:  # the time limit has passed
            reward, ended = -1.0, True
        elif write:
            right = symbol == self.target[len(self.written)]
            self.written.append(symbol)
            reward = 1.0 if right else -0.5
            ended = not right or len(self.written) == len(self.target)
        down, along = MOVES[move]
        self.row += down
        self.column += along
        self.score += reward
        self.last = move, write, symbol, reward
        if ended:
            self.playing = False
            if self._listener is not None:
                self._listener.note(self.solved, self.score - len(self.target))
        return self._read(), reward, ended, False, {}

    @property
    def solved(self) -> bool:
        """The whole target has been written."""
        return self.written == self.target

    def render(self) -> Any:
        """A text, or [420, 640, 3] uint8; None without a render mode."""
        from arcturus.pictures import tape  # Pillow is loaded for those who want pictures

        return {"ansi": tape.text, "rgb_array": tape.picture}.get(self.render_mode or "", lambda _: None)(self)


class Copy(Tape):
    """The tape as it is."""

    def _answer(self, tape: list[list[int]]) -> list[int]:
        return list(tape[0])


class DuplicatedInput(Tape):
    """Every symbol stands `duplication` times on the tape, and is to be written once.  Lengths are of the tape: rounded down to
    a multiple of `duplication`, of which there is at least one."""

    def __init__(self, base: int = 5, low: int = 30, high: int = 32, duplication: int = 2, **settings: Any):
        super().__init__(base, low, high, **settings)
        if not (type(duplication) is int and 1 <= duplication <= LONGEST):
            raise ValueError(f"duplication {duplication}: must be a whole number from 1 to {LONGEST:,}")
        self.duplication = duplication

    def _draw(self, length: int) -> list[list[int]]:
        once = self.np_random.integers(self.base, size=max(1, length // self.duplication))
        return [once.repeat(self.duplication).tolist()]

    def _answer(self, tape: list[list[int]]) -> list[int]:
        return tape[0][:: self.duplication]


class RepeatCopy(Tape):
    """The tape forwards, backwards, and forwards again."""

    promotion = (50, -0.1)

    def _answer(self, tape: list[list[int]]) -> list[int]:
        return tape[0] + tape[0][::-1] + tape[0]


class Reverse(Tape):
    """The tape backwards."""

    shortest, promotion = 1, (50, -0.1)

    def __init__(self, base: int = 2, low: int = 30, high: int = 32, **settings: Any):
        super().__init__(base, low, high, **settings)

    def _answer(self, tape: list[list[int]]) -> list[int]:
        return tape[0][::-1]


class ReversedAddition(Tape):
    """The sum of the rows, as many digits as they have and what is carried over, least significant first."""

    rows = 2
    letters = "0123456789ABCDEFGHIJKLMNOP"

    def __init__(self, base: int = 3, low: int = 30, high: int = 32, **settings: Any):
        super().__init__(base, low, high, **settings)

    def _answer(self, tape: list[list[int]]) -> list[int]:
        digits, carry = [], 0
        for column in zip(*tape, strict=True):
            carry, digit = divmod(sum(column) + carry, self.base)
            digits.append(digit)
        while carry:  # two digits of three numbers in base 2
            carry, digit = divmod(carry, self.base)
            digits.append(digit)
        return digits

    def _limit(self) -> int:
        return 2 * len(self.tape[0]) + 4


class ReversedAddition3(ReversedAddition):
    """Three rows of n digits are 3 n cells to read, and the time is that of two rows: longer sums than of four digits can't be
    written out."""

    rows = 3


class ReversedAddition3InTime(ReversedAddition3):
    """With enough time: a step for every cell and for every digit of the sum."""

    def _limit(self) -> int:
        return self.rows * len(self.tape[0]) + len(self.tape[0]) + 4
