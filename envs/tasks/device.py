"""A task as many environments on a device, which begin and end together: what training steps.

All tapes of a batch have the same lengths, so the host knows their present row, and no step waits for the
device.  Rows follow the other environments' rules (NEXT_STEP): the row after the last answer closes the episodes, its action is
void, and the next row opens new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from arcturus.api import EnvSpec, TimeStep
from arcturus.envs.schedules import Schedule
from arcturus.envs.tasks.playing import Play
from arcturus.envs.tasks.scalar import observation_space
from arcturus.envs.tasks.sequences import Tapes, check_tapes
from arcturus.envs.vector import OLDEST, BadRow, Episode
from arcturus.errors import EnvironmentProblem
from arcturus.seeding import ResetSeeds


class TaskEnvs:
    """The face of DeviceEnvs (envs/vector.py), but that all environments are reset at once or not at all.

    TimeStep.target is the answer as an action [N, *action_shape] (None if no action can give it); valid is true where it is asked for.
    """

    def __init__(
        self,
        env_id: str,
        task: Any,
        play: Play,
        num_envs: int,
        device: torch.device | str,
        *,
        seed: int = 0,
        schedule: Schedule | None = None,
    ):
        if play.reward == "stop" or play.actions == "probs":
            raise ValueError(f"{play.reward} rewards and {play.actions} answers work only with one environment at a time")
        self.task, self.play, self.num_envs, self.device = task, play, num_envs, torch.device(device)
        self.schedule = schedule or Schedule("uniform", task.ranges)
        self.single_observation_space, self.single_action_space = observation_space(task), play.space
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(play.space, num_envs)
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
        longest = play.rows(task.rows(task.longest), task.answers(task.longest))
        self.spec = EnvSpec(
            env_id,
            num_envs,
            (task.inputs,),
            torch.float32,
            play.space,
            episode_rows=longest,
            has_targets=play.has_targets,
            remembered=task.remembered(task.longest),
        )
        self._reset_seeds = ResetSeeds(seed)
        self._tapes = torch.Generator(self.device)
        self._yes, self._no = (torch.full((num_envs,), x, device=self.device) for x in (True, False))
        self._zero = torch.zeros(num_envs, device=self.device)
        self._ages = torch.arange(OLDEST + 1, device=self.device).to(torch.uint8)[:, None].expand(-1, num_envs)
        self._finished: list[tuple[Tensor, Tensor, int]] = []
        self._checked: set[tuple[int, ...]] = set()
        self._state = "new"  # new, idle, sent, closed
        self.t = 0  # rows of the episode so far
        self._mask: list[bool] = []  # of each row whether it asks for an answer
        self._action: Tensor | None = None

    @property
    def sent(self) -> np.ndarray | None:
        """The newest actions [N, *action_shape], on the host."""
        return None if self._action is None else self._action.cpu().numpy()

    # -- the records' face -------------------------------------------------------------------------------------------

    def restart(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> TimeStep:
        """New tapes for all, from seeds int64 [N]."""
        if self._state in ("sent", "closed"):
            raise RuntimeError(f"environments can't be reset while {self._state}: call recv() before reset")
        if mask is not None and not np.all(mask):
            raise RuntimeError("these environments begin and end together, so they can only be reset together")
        self._lengths = np.random.default_rng([int(s) for s in seeds])
        self._tapes.manual_seed(int(self._lengths.integers(2**62)))
        return self.open()

    def open(self, tapes: Tapes | None = None) -> TimeStep:
        """The first row of these tapes, or of new ones."""
        self._state = "idle"
        if tapes is None:
            lengths = self.schedule.draw(self._lengths)
            tapes = self.task.sample(self._tapes, self.num_envs, lengths)
            if lengths not in self._checked:
                self._check(tapes, lengths)
        self.tapes = self.play.lay_out(tapes)
        self._mask = self.tapes.mask.tolist()
        self._target = self.play.encode(self.tapes.targets) if self.play.has_targets else None
        self.t, self._score, self._all_right = 0, self._zero, self._yes
        return self._timestep(self._zero)

    def _check(self, tapes: Tapes, lengths: tuple[int, ...]) -> None:
        """A user's own task may make tapes that don't match its description at some lengths; each length is checked once."""
        self._checked.add(lengths)
        if type(self.task).__module__.partition(".")[0] != "arcturus":
            try:
                check_tapes(self.task, tapes, self.num_envs, lengths)
            except ValueError as e:
                raise EnvironmentProblem(f"{self.spec.env_id}: {e}", where="--env", fix="fix that task's sample()") from e

    def _timestep(self, reward: Tensor) -> TimeStep:
        over = self.t == len(self._mask)
        t = min(self.t, len(self._mask) - 1)
        valid = not over and self._mask[t]
        return TimeStep(
            obs=torch.zeros_like(self.tapes.inputs[0]) if over else self.tapes.inputs[t],
            reward=reward,
            age=self._ages[min(self.t, OLDEST)],
            terminated=self._yes if over else self._no,
            truncated=self._no,
            life_lost=self._no,
            valid=self._yes if valid else self._no,
            interrupted=self._no,
            target=None if self._target is None else self._target[t],
        )

    def send(self, action: Tensor) -> None:
        """One step of every environment; action [N, *action_shape] int64, in the space: checking it would wait for the device."""
        if self._state != "idle":
            raise RuntimeError(f"environments can't be sent an action while {self._state}")
        wanted = [self.num_envs, *(self.single_action_space.shape or ())]
        if list(action.shape) != wanted:
            raise ValueError(f"actions must be {wanted}, not {list(action.shape)}")
        self._action, self._state = action, "sent"

    def recv(self) -> TimeStep:
        if self._state != "sent":
            raise RuntimeError(f"nothing to receive while {self._state}: send() first")
        assert self._action is not None
        self._state = "idle"
        if self.t == len(self._mask):
            return self.open()
        reward = self._zero
        if self._mask[self.t]:
            reward, right = self.play.score(self._action.to(self.device), self.tapes.targets[self.t])
            self._all_right = self._all_right & right
        self.t += 1
        if self.t == len(self._mask) and self.play.reward == "sparse":
            reward = self._all_right.float()
        self._score = self._score + reward
        if self.t == len(self._mask):
            self._finished.append((self._score, self._all_right, self.t))
            if self.schedule.adaptive:
                self._tell()
        return self._timestep(reward)

    def _tell(self) -> None:
        """Reports the batch's results to the schedule; once its level changes, the other episodes, of the old level, are left out."""
        score, right, _ = self._finished[-1]
        rows, level = sum(self._mask), self.schedule.level
        for solved, total in zip(right.tolist(), score.tolist(), strict=True):
            self.schedule.note(solved, self.play.shortfall(total, rows))
            if self.schedule.level != level:
                return

    def settle(self) -> None:
        if self._state == "sent":
            self.recv()

    @property
    def playing(self) -> np.ndarray:
        """[N] the rows that the episodes under way have taken; 0 where none is."""
        return np.full(self.num_envs, 0 if self.t == len(self._mask) else self.t)

    def take_finished(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        done, self._finished = self._finished, []
        return [Episode(i, s, rows) for score, _, rows in done for i, s in enumerate(score.tolist())]

    def take_bad(self) -> list[BadRow]:
        """None: what is made here is finite."""
        return []

    def close(self) -> None:
        self._state = "closed"

    def __enter__(self) -> TaskEnvs:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- Gymnasium's face --------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """obs [N, inputs], and an info with the rows that ask ("valid" [N]).  options {"lengths": (5,)} or {"tapes": Tapes of N}
        say what the first episodes are."""
        ts, options = self.restart(self._reset_seeds(seed, self.num_envs)), options or {}
        if "lengths" in options:
            self.task.check(tuple(options["lengths"]))
            ts = self.open(self.task.sample(self._tapes, self.num_envs, tuple(options["lengths"])))
        elif "tapes" in options:
            ts = self.open(Tapes(*options["tapes"]))
        return ts.obs, {"valid": ts.valid}

    def step(self, action: Tensor | np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """obs, reward, terminated, truncated as tensors on the device; info holds age, valid and target."""
        self._finished = []  # whoever steps them so keeps the account
        self.send(torch.as_tensor(action))
        ts = self.recv()
        return ts.obs, ts.reward, ts.terminated, ts.truncated, {"age": ts.age, "valid": ts.valid, "target": ts.target}
