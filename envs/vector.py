"""Many environments seen as one batch of TimeSteps on a device.

A backend (atari.py, classic.py) uses numpy; this file adds what all of them share: the age of every row, frame stacks on
the device, the record of finished episodes, and the rule that environments are either idle or sent:

    restart() / recv()  ->  idle  ->  send()  ->  sent  ->  recv()  ->  idle

Resetting between send() and recv() would corrupt an emulator that is stepping in its threads, so it raises here.

Frame stacks have one rule, shared with the replay ring: a row carries its age, min(steps since the episode's reset, 255), and the frame
k steps older belongs to the same episode exactly if age >= k; what lies further back is blank (zero), as in ale-py and in Gymnasium's
FrameStackObservation with padding_type="zero".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from arcturus.api import EnvSpec, TimeStep, where_first
from arcturus.seeding import ResetSeeds

OLDEST = 255  # ages saturate here, so a stack holds at most 256 frames
FILM = 28  # frames that a film (FrameStack's buffer) holds besides a stack


class HostTimeStep(NamedTuple):
    """What a backend returns at time t, as numpy arrays [N, ...]; reward and flags belong to arriving at obs."""

    obs: np.ndarray  # [N, *frame_shape]
    reward: np.ndarray  # [N] raw
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    life_lost: np.ndarray  # [N] bool
    valid: np.ndarray | None = None  # [N] bool: the next action counts; None: it does unless the row closes an episode


class Backend(Protocol):
    """N environments with NEXT_STEP autoreset.  recv() after an episode's last row returns the next episode's first."""

    num_envs: int
    env_id: str
    frame_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    action_space: gym.Space
    has_lives: bool

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None) -> HostTimeStep:
        """Seeds int64 [N].  With a mask, the other rows must be returned unchanged (only obs of masked rows is read)."""
        ...

    def send(self, action: np.ndarray) -> None: ...
    def recv(self) -> HostTimeStep: ...
    def close(self) -> None: ...


class Episode(NamedTuple):
    """A finished episode, from raw rewards."""

    env: int
    score: float  # undiscounted sum of raw rewards
    length: int  # agent steps


class BadRow(NamedTuple):
    """A row with numbers that are not finite."""

    env: int
    what: str  # reward or observation


def reach(age: Tensor, offsets: Tensor) -> Tensor:
    """[B, M] bool: which of the rows at offsets [M] (0: the row itself, -1: the one before ...) from a row of this age [B]
    belong to its episode, by its age; later rows are assumed to."""
    return age[:, None] >= -offsets


class FrameStack:
    """The last K frames of every environment on the device: [N, K, *frame_shape], oldest first.

    Frames are written one after another into a film (a buffer), and a stack is a view of it, so a row costs one frame, not K.  No place
    of a film is written twice: stacks returned earlier never change.
    """

    def __init__(self, n: int, stack: int, frame_shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str):
        self.stack, self.offsets = stack, torch.arange(1 - stack, 1, device=device)
        self.replace(torch.zeros((n, stack, *frame_shape), dtype=dtype, device=device))

    def replace(self, frames: Tensor) -> None:
        """Continues from these stacks [N, K, *frame_shape]."""
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


@dataclass(eq=False)
class Call:
    """One step, reset or close that has begun and not ended; it is under way while its context lasts."""

    backend: Any
    what: str  # step, reset or close
    action: Any  # the actions [N, ...] that were sent; None but for a step

    def __str__(self) -> str:
        """The game, the environment and its last action, as well as they are known."""
        at = getattr(self.backend, "busy", None)
        name, n = self.backend.env_id, self.backend.num_envs
        if at is not None:
            which, action = f"environment {at}", None if self.action is None else self.action[at].tolist()
        else:
            which = f"one of environments 0 to {n - 1}" if n > 1 else "environment 0"
            action = None if self.action is None else self.action.tolist()
        names = getattr(self.backend, "action_names", ())
        told = f"last action{'' if at is not None or n == 1 else 's'} {action}" if action is not None else f"in its {self.what}"
        return f"{name}: {which}, {told}{' of ' + ' '.join(names) if names and action is not None else ''}"

    def __enter__(self) -> None:
        under_way.append(self)

    def __exit__(self, *exc: object) -> None:
        under_way.remove(self)


under_way: list[Call] = []  # the calls waited for, so that another thread can name a hung environment


class DeviceEnvs:
    """N environments as TimeSteps on a device.

    Two interfaces to one state.  restart(), send(), recv() return whole TimeSteps and are what the loop uses.  reset() and
    step() are Gymnasium's vector interface (observation tensors instead of arrays), for agents that use only that.
    """

    def __init__(self, backend: Backend, device: torch.device | str, *, frame_stack: int = 1, seed: int = 0):
        self.backend, self.device, n = backend, torch.device(device), backend.num_envs
        self._reset_seeds = ResetSeeds(seed)
        self._stack = FrameStack(n, frame_stack, backend.frame_shape, backend.obs_dtype, device) if frame_stack > 1 else None
        shape = (frame_stack, *backend.frame_shape) if frame_stack > 1 else backend.frame_shape
        states = getattr(backend, "states", 0) if frame_stack == 1 else 0
        space = backend.action_space
        self.spec = EnvSpec(
            backend.env_id, n, shape, backend.obs_dtype, space, frame_stack, backend.has_lives, states, told=getattr(backend, "told", "")
        )
        self.single_action_space, self.action_space = space, gym.vector.utils.batch_space(space, n)
        self._actions = (n, *(space.shape or ()))
        self._high: Any = getattr(space, "nvec", getattr(space, "n", 2)) if not isinstance(space, gym.spaces.MultiBinary) else 2
        byte = backend.obs_dtype == torch.uint8
        self.single_observation_space = gym.spaces.Box(
            0 if byte else -np.inf, 255 if byte else np.inf, shape, np.uint8 if byte else np.float32
        )
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, n)
        self.num_envs = n
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}
        self.finished: list[Episode] = []  # since the last take_finished()
        self._age = np.zeros(n, np.uint8)
        self._ended = np.zeros(n, bool)
        self._score, self._length = np.zeros(n), np.zeros(n, np.int64)
        self._bad: list[BadRow] = []
        self._spoilt = np.zeros(n, bool)  # a bad row in this episode: its score doesn't count
        self.sent: np.ndarray | None = None  # the newest actions [N, *action_shape], on the host
        self._state = "new"  # new, idle, sent, receiving, closed
        self._pinned: dict[str, list[tuple[Tensor, torch.cuda.Event]]] = {}  # two buffers each, in turn
        self._uninterrupted = torch.zeros(n, dtype=torch.bool, device=device)  # only the loop interrupts, with a new tensor
        self._timestep_now: TimeStep
        self.schedule: Any = None  # a curriculum, if one chooses what is played
        self.host: HostTimeStep  # the newest row as the backend gave it, for those who read on the host anyway

    def follow(self, schedule: Any) -> None:
        """A curriculum (schedules.Schedule) chooses the lengths of the episodes from now on."""
        self.schedule = schedule
        self.backend.follow(schedule)  # type: ignore[attr-defined]

    # -- the records' face -------------------------------------------------------------------------------------------

    def restart(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> TimeStep:
        """Resets all environments (or those in mask [N] bool) with seeds int64 [N]; what they were doing is forgotten.

        The other rows are returned unchanged.
        """
        if self._state in ("sent", "receiving", "closed") or (self._state == "new" and mask is not None):
            raise RuntimeError(
                f"environments can't be reset while {self._state}: call recv() before reset, and reset all environments first"
            )
        everyone = mask is None
        mask = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask, bool)
        with Call(self.backend, "reset", None):
            row = self.backend.reset(np.asarray(seeds, np.int64), None if everyone else mask)
        self._state = "idle"
        self._age[mask] = 0
        self._ended[mask] = False
        self._score[mask], self._length[mask], self._spoilt[mask] = 0.0, 0, False
        row = self._mend(row, mask)
        if everyone:
            return self._timestep(row)
        self.host, before = row, self._timestep_now
        obs, chosen = self._upload("obs", row.obs), torch.as_tensor(mask, device=self.device)
        if self._stack is not None:
            newest, obs = obs, torch.zeros_like(before.obs)
            obs[:, -1] = newest
        no = self._uninterrupted
        fresh = TimeStep(obs, torch.zeros_like(before.reward), torch.zeros_like(before.age), no, no, no, self._valid(row), no)
        self._timestep_now = where_first(chosen, fresh, before)
        if self._stack is not None:
            self._stack.replace(self._timestep_now.obs)
        return self._timestep_now

    def send(self, action: Tensor) -> None:
        """Starts one step of every environment; action [N, *action_shape] int64 on any device."""
        if self._state != "idle":
            raise RuntimeError(f"environments can't be sent an action while {self._state}")
        host = action.detach().cpu().numpy()
        self._check(host)
        self.sent = host
        self.backend.send(host)
        self._state = "sent"

    def recv(self) -> TimeStep:
        """Waits for the step to end."""
        if self._state != "sent":
            raise RuntimeError(f"nothing to receive while {self._state}: send() first")
        self._state = "receiving"  # an exception here may have taken the row already: then only close() is left
        with Call(self.backend, "step", self.sent):
            row = self.backend.recv()
        self._state = "idle"
        opens = self._ended
        if begins := bool(opens.any()):
            self._spoilt[opens] = False
        row = self._mend(row, opens)
        self._age += self._age < OLDEST
        self._score += row.reward
        self._length += 1
        if begins:
            self._age[opens], self._score[opens], self._length[opens] = 0, 0.0, 0
        self._ended = row.terminated | row.truncated
        if self._ended.any():
            for i in np.flatnonzero(self._ended & ~self._spoilt):
                self.finished.append(Episode(int(i), float(self._score[i]), int(self._length[i])))
        return self._timestep(row)

    def settle(self) -> None:
        """Makes the environments idle again after an exception: receives a step that is under way."""
        if self._state == "sent":
            self._state = "receiving"
            with Call(self.backend, "step", self.sent):
                self.backend.recv()
            self._state = "idle"

    def release(self) -> None:
        """Closes the instances of an idle environment until the next restart of all, so that one may be opened elsewhere; an emulator's
        stay open, as there may be others beside them."""
        if self._state in ("new", "idle") and hasattr(self.backend, "release"):
            self.backend.release()
            self._state = "new"

    @property
    def playing(self) -> np.ndarray:
        """[N] the agent steps that the episodes under way have taken; 0 where none is, or none yet."""
        return np.where(self._ended, 0, self._length)

    def take_finished(self) -> list[Episode]:
        """The episodes that ended since the last call.  Broken-off ones (restart) never appear."""
        done, self.finished = self.finished, []
        return done

    def take_bad(self) -> list[BadRow]:
        """The rows with numbers that were not finite since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def close(self) -> None:
        """Waits for a step that is under way, then closes; twice does nothing."""
        if self._state != "closed":
            try:
                self.settle()
            finally:
                self._state = "closed"
                with Call(self.backend, "close", None):
                    self.backend.close()

    def __enter__(self) -> DeviceEnvs:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- Gymnasium's face --------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict | None = None) -> tuple[Tensor, dict]:
        """obs tensor [N, *obs_shape] and an empty info.  Without a seed, the next branch of the seed given to make()."""
        seeds = self._reset_seeds(seed, self.num_envs)
        return self.restart(seeds, (options or {}).get("reset_mask")).obs, {}

    def step(self, action: Tensor | np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """obs, raw reward, terminated, truncated as tensors on the device; info holds age and life_lost, and for episodes that
        were ended although the environment would continue them the reason ({environment: reason})."""
        self.finished = []  # whoever steps them so keeps the account
        self.send(torch.as_tensor(action))
        ts = self.recv()
        over = getattr(self.backend, "over", {})
        return ts.obs, ts.reward, ts.terminated, ts.truncated, {"age": ts.age, "life_lost": ts.life_lost, "over": over}

    # ----------------------------------------------------------------------------------------------------------------

    def _check(self, action: np.ndarray) -> None:
        """Refuses actions out of range, which would hang ale-py's emulator threads forever."""
        space = self.single_action_space
        if action.shape != self._actions:
            raise ValueError(f"actions must be [{self.num_envs}, *{space.shape}], not {action.shape}")
        if action.min() < 0 or (action >= self._high).any():
            raise ValueError(f"action {action.tolist()} is out of range for {space} (actions are counted from 0)")

    def _mend(self, row: HostTimeStep, opens: np.ndarray) -> HostTimeStep:
        """Replaces numbers that are not finite: such a reward becomes 0, such an observation the one before it (zeros at
        the beginning), and the episode's score is not counted."""
        if not np.isfinite(row.reward).all():
            bad_reward = ~np.isfinite(row.reward)
            row = row._replace(reward=np.where(bad_reward, 0, row.reward))
            self._note(bad_reward, "reward")
        if row.obs.dtype.kind == "f" and not np.isfinite(row.obs).all():
            bad_obs = ~np.isfinite(row.obs).reshape(self.num_envs, -1).all(1)
            wide = (-1, *[1] * (row.obs.ndim - 1))
            before = np.where(opens.reshape(wide), 0, self.host.obs if hasattr(self, "host") else 0)
            row = row._replace(obs=np.where(bad_obs.reshape(wide), before, row.obs).astype(row.obs.dtype))
            self._note(bad_obs, "observation")
        return row

    def _note(self, bad: np.ndarray, what: str) -> None:
        self._bad += [BadRow(int(i), what) for i in np.flatnonzero(bad)]
        self._spoilt |= bad

    def _timestep(self, row: HostTimeStep) -> TimeStep:
        self.host = row
        age, obs = self._upload("age", self._age.copy()), self._upload("obs", row.obs)
        if self._stack is not None:
            obs = self._stack.push(obs, age, grown=bool(self._age.min() >= self.spec.frame_stack - 1))
        self._timestep_now = TimeStep(
            obs=obs,
            reward=self._upload("reward", row.reward.astype(np.float32, copy=False)),
            age=age,
            terminated=self._upload("terminated", row.terminated),
            truncated=self._upload("truncated", row.truncated),
            life_lost=self._upload("life_lost", row.life_lost),
            valid=self._valid(row),
            interrupted=self._uninterrupted,
        )
        return self._timestep_now

    def _valid(self, row: HostTimeStep) -> Tensor:
        goes_on = ~(row.terminated | row.truncated)
        return self._upload("valid", goes_on if row.valid is None else goes_on & row.valid)

    def _upload(self, name: str, array: np.ndarray) -> Tensor:
        """To the device, once.  On CUDA through one of two pinned buffers that are kept, and written again only when the copy from it has
        ended: that of the row before may still be under way."""
        host = torch.from_numpy(array if array.flags.c_contiguous else np.ascontiguousarray(array))
        if self.device.type != "cuda":
            return host
        if name not in self._pinned:
            self._pinned[name] = [(torch.empty_like(host, pin_memory=True), torch.cuda.Event()) for _ in range(2)]
        self._pinned[name].reverse()
        pinned, copied = self._pinned[name][0]
        copied.synchronize()
        out = pinned.copy_(host).to(self.device, non_blocking=True)
        copied.record(torch.cuda.current_stream(self.device))
        return out
