"""The records that cross every boundary, and what the loop asks of an agent.

Leading dimensions are law: [N] live environments, [T, N] rows, [B] sampled.  Everything lives on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from arcturus.errors import ConfigError

State = Any  # what an agent remembers: a nest of (named) tuples of tensors [N, ...]; () if nothing
Metrics = dict[str, Tensor]  # 0-dim tensors, left on the device


class TimeStep(NamedTuple):
    """What the environments say at time t.  Reward and flags belong to *arriving* at obs (Gymnasium's NEXT_STEP autoreset).

    The terminal frame of an episode is a row of its own, and the action taken there is void: the next row opens an episode.
    """

    obs: Tensor  # [N, *obs_shape] uint8 or float32
    reward: Tensor  # [N] float32, raw (never clipped); 0 where first
    age: Tensor  # [N] uint8: min(steps since the episode's reset, 255); how many older frames a stack may reach back to
    terminated: Tensor  # [N] bool: obs closes an episode and its value is 0
    truncated: Tensor  # [N] bool: obs closes an episode and its value is bootstrapped
    life_lost: Tensor  # [N] bool: a life was lost on the way here while the game goes on
    decides: Tensor  # [N] bool: the action taken here counts (false on last rows and in a task's input phase)
    cut: Tensor  # [N] bool: the episode is broken off here by a checkpoint's reset; bootstrapped, never counted as an episode
    target: Tensor | None = None  # [N, *action_shape] int64, a task's answer as an action, where it decides; not for those who
    # learn by reward

    @property
    def first(self) -> Tensor:
        """[N] bool: obs opens an episode."""
        return self.age == 0

    @property
    def last(self) -> Tensor:
        """[N] bool: obs closes an episode, so the action taken here is void."""
        return self.terminated | self.truncated | self.cut

    def as_cut(self) -> TimeStep:
        """The same row as the last one before a reset that the environments didn't ask for.

        Rows that close an episode anyway stay what they are.
        """
        ended = self.terminated | self.truncated
        return self._replace(cut=~ended, decides=torch.zeros_like(self.decides))


class Act(NamedTuple):
    action: Tensor  # [N, *action_shape] int64
    state: State  # for time t + 1
    extras: dict[str, Tensor]  # [N, ...] float32: what learn() will want back (log_prob), or what a film shows (q_values)


class Step(NamedTuple):
    """One row of experience.  Where timestep.last, the action is void."""

    timestep: TimeStep
    state: State  # before acting
    action: Tensor  # [N, *action_shape] int64
    extras: dict[str, Tensor]


@dataclass(frozen=True)
class EnvSpec:
    """All that an agent knows of its world."""

    env_id: str
    num_envs: int
    obs_shape: tuple[int, ...]  # with frame stacking [K, H, W] (or [K, D]), oldest frame first
    obs_dtype: torch.dtype  # uint8 (scaled by 1/255 in the torso) or float32
    action_space: gym.Space
    frame_stack: int = 1  # K > 1: only obs[:, -1] is new
    has_lives: bool = False  # life_lost can be true
    states: int = 0  # observations are one of so many states, one-hot; 0: they are something else
    episode_rows: int = 0  # of environments whose episodes begin and end together: actions of the longest; 0: they don't
    has_targets: bool = False  # TimeStep.target says the right answer
    remembered: int = 0  # vectors a memory must hold at once for the longest task; 0: nobody knows
    told: str = ""  # how observations of somebody else's environment are read, in words

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of what is new in each observation, and of what replay stores."""
        return self.obs_shape[1:] if self.frame_stack > 1 else self.obs_shape

    @property
    def action_dtype(self) -> torch.dtype:
        """What actions are stored as."""
        space = self.action_space
        high = space.n if isinstance(space, gym.spaces.Discrete) else np.max(getattr(space, "nvec", 2))
        return torch.uint8 if high <= 256 else torch.int64

    def discrete_actions(self, agent: str) -> int:
        """The number of actions of a Discrete space; a ConfigError in the agent's name for any other."""
        if isinstance(self.action_space, gym.spaces.Discrete):
            return int(self.action_space.n)
        raise ConfigError(
            f"{agent} plays one discrete action at a time; {self.env_id} has {self.action_space}",
            where="--env",
            fix="choose an environment with a Discrete action space, or an agent that plays this one (train-agent list agents)",
        )


@dataclass(frozen=True)
class Objective:
    """What an agent's values are values of: evaluation computes the same quantity from raw rewards to set beside them."""

    gamma: float
    reward_clip: float = 0.0  # rewards are clipped to [-reward_clip, reward_clip]; 0: raw
    life_loss: bool = False  # losing a life ends the return


class Actor(Protocol):
    """Enough to play: evaluation, films, floors."""

    stochastic: bool  # explore=True draws from a policy of its own (and so may be scored by sampling)

    def initial_state(self, n: int) -> State: ...
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act: ...


class Agent(Actor, Protocol):
    """Enough to train.

    observe() stores and never computes gradients.  learn() returns {} when it is not due.  An on-policy agent is called
    before it acts, with the row that bootstraps its rollout; a replay agent while the emulator's threads run.  An on-policy agent
    may have due(): False when it won't learn from the row that comes next, whatever is in it, so that nobody need wait for all of it.

    state_dict() is a nest of dicts of tensors and plain values that holds everything the rest of the training depends on, but
    for an experience replay, which is the attribute `replay` (a Ring).  Its names, dtypes and shapes never change: a
    checkpoint is compared with those of a new agent before it is loaded.
    """

    on_policy: bool

    @property
    def network(self) -> torch.nn.Module | None:
        """What the instruments look into."""

    @property
    def objective(self) -> Objective | None:
        """What its values are values of."""

    def observe(self, step: Step) -> None: ...
    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Group(Protocol):
    """Environments that are sent on their way together."""

    def send(self, action: Tensor) -> None: ...
    def recv(self) -> TimeStep: ...


class Environments(Protocol):
    """What the loop asks of the environments (envs/vector.py, envs/lockstep.py)."""

    spec: EnvSpec

    @property
    def groups(self) -> Sequence[Group]:
        """Of equal size, together all of the environments in their order."""

    def restart(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> TimeStep: ...
    def settle(self) -> None: ...


def state_leaves(state: State) -> list[Tensor]:
    """The tensors of an agent's memory, in a fixed order."""
    if state is None:
        return []
    parts = state.values() if isinstance(state, dict) else state
    return [state] if isinstance(state, Tensor) else [leaf for part in parts for leaf in state_leaves(part)]


def state_like(like: State, leaves: list[Tensor]) -> State:
    """Undoes state_leaves: the leaves in the nest of `like`, on its devices."""
    rest = iter(leaves)

    def build(part: State) -> State:
        if isinstance(part, Tensor):
            return next(rest).to(part.device)
        parts = [build(p) for p in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)

    return build(like)


def map_state(f: Callable[..., Tensor], *states: State) -> State:
    """f over the tensors of one nest, or over those of several of one shape, in the same nest.  Dicts and None may be in it."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return f(*states)
    if isinstance(first, dict):
        return {k: map_state(f, *(state[k] for state in states)) for k in first}
    parts = [map_state(f, *part) for part in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def joined(parts: Sequence[State]) -> State:
    """What groups of environments say or remember, [n, ...] each, as that of all of them, [N, ...]."""
    return parts[0] if len(parts) == 1 else map_state(lambda *x: torch.cat(x), *parts)


def parted(whole: State, count: int) -> list[State]:
    """Undoes joined: `count` equal parts."""
    return [whole] if count == 1 else [map_state(lambda x, i=i: x.chunk(count)[i], whole) for i in range(count)]


def where_first(first: Tensor, fresh: State, state: State) -> State:
    """`fresh` in the environments that open an episode (first [N] bool), `state` in the others: the one place where memory is
    wiped."""
    return map_state(lambda new, old: torch.where(first.view(-1, *[1] * (old.dim() - 1)), new, old), fresh, state)


def random_actions(space: gym.Space, n: int, device: torch.device | str, generator: torch.Generator | None) -> Tensor:
    """[n, *action_shape] int64, uniform over a Discrete, MultiDiscrete or MultiBinary space counted from 0."""
    if isinstance(space, gym.spaces.MultiBinary):
        high: Any = 2
    else:
        high = getattr(space, "nvec", getattr(space, "n", None))
    coin = torch.rand((n, *(space.shape or ())), device=device, generator=generator)
    return (coin * torch.as_tensor(high, device=device)).long()
