"""A ring of experience rows [T, N]: every frame is stored once, stacks are rebuilt when they are drawn.

Row numbers grow forever (absolute row t is in slot t mod T), so "is it overwritten?" is a comparison.  Besides its frame a
row keeps 7 bytes: action (uint8, where it fits), reward (float32, raw), flags (uint8), age (uint8).  A stack's frames are
found by the same rule (envs/vector.py) that built the stack the actor saw; frames before an episode's beginning are read
from an extra slot after the ring that is always blank, so nothing is masked afterwards and nothing waits for the host.
For agents with memory a row also keeps the memory before acting, float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arcturus.api import ActedStep, EnvSpec, Objective, State, map_state, state_leaves
from arcturus.device import available_bytes
from arcturus.envs.vector import reach
from arcturus.errors import ConfigError
from arcturus.replay import compiled
from arcturus.replay.records import Sequence, SequenceSpan, Transition
from arcturus.speed import fast

TERMINATED, TRUNCATED, INTERRUPTED, LIFE_LOST, VALID = 1, 2, 4, 8, 16
LAST = TERMINATED | TRUNCATED | INTERRUPTED
ROW_TENSORS = ("frame", "action", "reward", "flags", "age")

def uniform(batch: int, low: int, high: int, num_envs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows t in [low, high) and environments n, each [B] int64, drawn on the generator's device with replacement."""
    device = generator.device
    t = torch.randint(low, high, (batch,), device=device, generator=generator)
    n = torch.randint(num_envs, (batch,), device=device, generator=generator)
    return t, n


class Ring:
    """`capacity` agent steps of all environments together, on `device`.

    append() takes one row [N] a time; transitions() and sequences() read them.  Row t is the observation, the
    action taken there, and the reward and flags that came *with* the observation.

    n_step: rows a sample reaches beyond its first.  state: an agent's memory [N, ...], if ActedStep.state is to be kept.
    """

    def __init__(
        self,
        capacity: int,
        spec: EnvSpec,
        device: torch.device | str,
        n_step: int = 1,
        flag: str = "--agent.capacity",
        state: State = (),
    ):
        self.spec, self.rows, self.count = spec, capacity // spec.num_envs, 0
        device = torch.device(device)
        self.state = state  # as a pattern
        numbers = sum(leaf[0].numel() for leaf in state_leaves(state))
        self._check_memory(capacity, device, n_step, flag, numbers)
        T, N = self.rows, spec.num_envs
        self.device, self.compiled = device, device.type == "cpu" and fast()  # loops instead of tensors (replay/compiled.py)
        self.frame_shape = spec.frame_shape
        self.frame = torch.zeros((N * T + 1, *spec.frame_shape), dtype=spec.obs_dtype, device=device)  # the last slot stays blank
        self._frames = self.frame[:-1].view(N, T, *spec.frame_shape)  # an environment's are neighbours: a stack is read in one go
        self.action = torch.zeros((T, N, *(spec.action_space.shape or ())), dtype=spec.action_dtype, device=device)
        self.reward = torch.zeros((T, N), device=device)
        self.flags = torch.zeros((T, N), dtype=torch.uint8, device=device)
        self.age = torch.zeros((T, N), dtype=torch.uint8, device=device)
        self.memory = torch.zeros((T, N, numbers), device=device)
        self.names = ROW_TENSORS + (("memory",) if numbers else ())
        self._gathered = torch.empty((0, *spec.frame_shape), dtype=spec.obs_dtype, device=device)
        self._rows: Any = (
            (self.age.numpy(), self.flags.numpy(), self.reward.numpy()) if self.compiled else None
        )  # the same memory
        self._offsets: dict[int, Tensor] = {}  # by how far ahead
        self._weights = torch.tensor([TERMINATED, TRUNCATED, INTERRUPTED, LIFE_LOST, VALID], dtype=torch.uint8, device=device)

    def _check_memory(self, capacity: int, device: torch.device, n_step: int, flag: str, numbers: int) -> None:
        """One clear line before training starts, instead of a killed process hours later.  numbers: what an agent remembers."""
        spec, available = self.spec, available_bytes(device)
        rows = spec.frame_stack + n_step  # fewer could never hold a transition with its whole stack once they wrap
        if capacity < rows * spec.num_envs:
            raise ConfigError(
                f"a replay of {capacity:,} steps is too small: {spec.num_envs} environments, stacks of {spec.frame_stack} and "
                f"{n_step}-step returns need {rows} rows",
                where="--agent.capacity",
                fix=f"use at least {rows * spec.num_envs:,}",
            )
        each = math.prod(spec.frame_shape) * spec.obs_dtype.itemsize + spec.action_dtype.itemsize + 4 + 1 + 1 + 4 * numbers
        need = each * capacity
        if need > available:
            raise ConfigError(
                f"{capacity:,} steps need {need / 1e9:.2f} GB on {device}, where {available / 1e9:.2f} GB are free",
                where=flag,
                fix=f"use at most {int(available * 0.9) // each:,} steps, or keep the replay in host memory: --agent.replay-device cpu",
            )

    @property
    def oldest(self) -> int:
        """The oldest row whose whole stack is still stored."""
        return 0 if self.count <= self.rows else self.count - self.rows + self.spec.frame_stack - 1

    @property
    def size(self) -> int:
        """Agent steps stored."""
        return min(self.count, self.rows) * self.spec.num_envs

    @property
    def capacity(self) -> int:
        """Agent steps it can hold."""
        return self.rows * self.spec.num_envs

    def append(self, step: ActedStep) -> None:
        ts, slot = step.timestep, self.count % self.rows
        self._frames[:, slot].copy_(ts.obs[:, -1] if self.spec.frame_stack > 1 else ts.obs)
        self.action[slot].copy_(step.action)
        self.reward[slot].copy_(ts.reward)
        ends = (ts.terminated, ts.truncated, ts.interrupted, ts.life_lost, ts.valid)
        if self.compiled:
            self.flags[slot] = torch.from_numpy(np.packbits(torch.stack(ends).cpu().numpy(), 0, "little")[0])
        else:
            self.flags[slot].copy_((torch.stack(ends, -1).to(self.device) * self._weights).sum(-1))
        self.age[slot].copy_(ts.age)
        if self.memory.shape[-1]:
            self.memory[slot].copy_(torch.cat([leaf.reshape(len(leaf), -1).float() for leaf in state_leaves(step.state)], -1))
        self.count += 1

    def _window(self, t: Tensor, n: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
        """Places of rows t - K + 1 ... t + ahead of environments n in the rows' tensors, [B, K + ahead]; and those of their frames,
        with the blank one for rows before row t's episode."""
        if ahead not in self._offsets:
            self._offsets[ahead] = torch.arange(1 - self.spec.frame_stack, ahead + 1, device=self.device)
        offsets = self._offsets[ahead]
        rows, n = (t[:, None] + offsets) % self.rows, n[:, None]
        slots = rows * self.spec.num_envs + n
        age = self.age.view(-1)[slots[:, self.spec.frame_stack - 1]]
        return slots, torch.where(reach(age, offsets), n * self.rows + rows, len(self.frame) - 1)

    def obs(self, t: Tensor, n: Tensor) -> Tensor:
        """Observations [B, *obs_shape] at absolute rows t [B] of environments n [B], as the actor saw them."""
        return self.frame.index_select(0, self._window(t, n, 0)[1].flatten()).view(len(t), *self.spec.obs_shape)

    def _gather(self, slots: Tensor) -> Tensor:
        """Frames [*slots.shape, *frame_shape] in memory that is kept: new memory costs more than the copy."""
        if slots.numel() != len(self._gathered):
            self._gathered = torch.empty((slots.numel(), *self.frame_shape), dtype=self.spec.obs_dtype, device=self.device)
        torch.index_select(self.frame, 0, slots.flatten(), out=self._gathered)
        return self._gathered.view(*slots.shape, *self.frame_shape)

    def ready(self, n_step: int) -> bool:
        """Whether there is a transition to draw."""
        return self.count - n_step > self.oldest

    def transitions(self, t: Tensor, n: Tensor, n_step: int, goal: Objective) -> Transition:
        """The transitions over at most n_step steps that begin at rows t of environments n, [B] each; t + n_step must be stored.

        The n-step window stops where its episode does: gamma^k of the k steps it really spans; 0 after a termination, or after the loss
        of a life with `end_on_life_loss`.  Rewards are clipped one by one to [-reward_clip, reward_clip] (0: raw).
        Their observations are in the ring's own memory, which the next call overwrites.  Where weight is 0, the other
        fields have no meaning.
        """
        if self.compiled:
            ends = TERMINATED | LIFE_LOST if goal.end_on_life_loss else TERMINATED
            lengths = (self.rows, self.spec.frame_stack, n_step)
            numbers = (np.float32(goal.gamma), np.float32(goal.reward_clip), LAST, ends, VALID)
            out = compiled.transitions(t.numpy(), n.numpy(), *lengths, *numbers, *self._rows)
            framed, slot, r_t, discount_t, weight = [torch.from_numpy(x) for x in out]
            a_tm1 = self.action.flatten(0, 1).index_select(0, slot).long()
        else:
            slots, framed = self._window(t, n, n_step)
            a_tm1, r_t, discount_t, length, weight = self._returns(slots, n_step, goal)
            if n_step > 1:
                K = self.spec.frame_stack
                later = framed.gather(1, length[:, None] + torch.arange(K, device=self.device))
                framed = torch.cat([framed[:, :K], later])
        s_tm1, s_t = self._stacks(framed, n_step)
        return Transition(s_tm1, a_tm1, r_t, discount_t, s_t, weight)

    def _stacks(self, framed: Tensor, n_step: int) -> tuple[Tensor, Tensor]:
        """s_tm1 and s_t from the slots of their frames: [B, K + 1], as s_t is s_tm1 moved by one frame; or [2 B, K] one after the other."""
        K, frames = self.spec.frame_stack, self._gather(framed)
        s_tm1, s_t = (frames[:, :K], frames[:, 1:]) if n_step == 1 else frames.chunk(2)
        return (s_tm1[:, 0], s_t[:, 0]) if K == 1 else (s_tm1, s_t)

    def _returns(self, slots: Tensor, n_step: int, goal: Objective) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of the transitions in a window's slots [B, K + n_step]: action, reward, discount, the steps they span, weight; [B] each."""
        K = self.spec.frame_stack
        flags, rewards = self.flags.view(-1)[slots[:, K - 1 :]], self.reward.view(-1)[slots[:, K:]]  # [B, n + 1], [B, n]
        if goal.reward_clip:
            rewards = rewards.clamp(-goal.reward_clip, goal.reward_clip)
        zero_discount = TERMINATED | LIFE_LOST if goal.end_on_life_loss else TERMINATED
        goes_on = (flags & (LAST | zero_discount)).eq(0)
        discounts = goal.gamma * (flags & zero_discount).eq(0)
        r_t, discount_t, alive = rewards[:, 0], discounts[:, 1], goes_on[:, 1]
        length = torch.ones_like(slots[:, 0])
        for k in range(2, n_step + 1):
            r_t = torch.where(alive, r_t + discount_t * rewards[:, k - 1], r_t)
            discount_t = torch.where(alive, discount_t * discounts[:, k], discount_t)
            length = torch.where(alive, k, length)
            alive = alive & goes_on[:, k]
        slot = slots[:, K - 1]
        weight = (flags[:, 0] & VALID).ne(0).float()
        return self.action.flatten(0, 1)[slot].long(), r_t, discount_t, length, weight

    def sequences(self, batch: int, generator: torch.Generator, span: SequenceSpan, n_step: int, goal: Objective) -> Sequence:
        """`batch` sequences of burn_in + length + n_step rows, drawn uniformly, with the memory they began with (stored state and
        burn-in: Kapturowski et al. 2019).  They may run over the end of an episode: `first` says where the next begins.

        whole: each begins at the first row of the drawn row's episode, in environments whose episodes have at most spec.episode_rows
        rows; the memory is then reset at its first row.
        """
        burn_in, length, whole = span
        rows, back = burn_in + length + n_step, self.spec.episode_rows if whole else 0
        t, n = uniform(batch, self.oldest + back, self.count - rows + 1, self.spec.num_envs, generator)
        if whole:
            t = t - self.age[t % self.rows, n]
        every = t + torch.arange(rows, device=self.device)[:, None]  # [rows, B]
        n = n.expand_as(every)
        learnt, ns = every[burn_in : burn_in + length], n[:length]
        slots, _ = self._window(learnt.flatten(), ns.flatten(), n_step)
        numbers = (x.view(length, batch) for x in self._returns(slots, n_step, goal))
        slot = every[0] % self.rows
        parts = iter(self.memory[slot, n[0]].split([leaf[0].numel() for leaf in state_leaves(self.state)], -1))
        return Sequence(
            self.obs(every.flatten(), n.flatten()).view(rows, batch, *self.spec.obs_shape),
            self.age[every % self.rows, n].eq(0),
            map_state(lambda like: next(parts).reshape(batch, *like.shape[1:]).to(like), self.state),
            *numbers,
        )

    def frames_by_row(self) -> Tensor:
        """A copy [rows * N + 1, *frame_shape] of all frames, those of one row together, the blank one last."""
        return torch.cat([self._frames.transpose(0, 1).flatten(0, 1), self.frame[-1:]])

    def set_frames_by_row(self, frames: Tensor) -> None:
        """Puts back what frames_by_row gave."""
        self._frames.copy_(frames[:-1].view(self.rows, self.spec.num_envs, *self.spec.frame_shape).transpose(0, 1))

    # -- for checkpoints: whole rows by their absolute numbers ---------------------------------------------------------

    @property
    def row_shapes(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """dtype and shape [N, ...] of each tensor of one row."""
        frame = (self.frame.dtype, (self.spec.num_envs, *self.spec.frame_shape))
        return {"frame": frame} | {k: (getattr(self, k).dtype, tuple(getattr(self, k).shape[1:])) for k in self.names[1:]}

    def interrupt_last(self) -> None:
        """Marks the newest row as interrupted afterwards: another row will follow than the one that followed it before."""
        slot = (self.count - 1) % self.rows
        ended = (self.flags[slot] & (TERMINATED | TRUNCATED)).ne(0)
        self.flags[slot] = torch.where(ended, self.flags[slot], (self.flags[slot] | INTERRUPTED) & ~VALID)

    def read_rows(self, first: int, end: int) -> dict[str, Tensor]:
        """Rows [first, end) as contiguous host tensors [rows, N, ...], detached from the ring."""
        slots = torch.arange(first, end, device=self.device) % self.rows
        out = {"frame": self._frames[:, slots].transpose(0, 1)} | {k: getattr(self, k)[slots] for k in self.names[1:]}
        return {k: v.cpu().contiguous() for k, v in out.items()}

    def write_rows(self, first: int, rows: dict[str, Tensor]) -> None:
        """Puts back what read_rows gave; the ring must have the same shape."""
        slots = torch.arange(first, first + len(rows["age"]), device=self.device) % self.rows
        self._frames[:, slots] = rows["frame"].transpose(0, 1).to(self.device)
        for k in self.names[1:]:
            getattr(self, k)[slots] = rows[k].to(self.device)
