"""The records that cross every boundary, and what the loop asks of an agent.

Leading dimensions are law: [N] live environments, [T, N] rows, [B] sampled.  Everything lives on one device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from arcturus.errors import ConfigError

if TYPE_CHECKING:
    from arcturus.replay.ring import Ring
    from arcturus.replay.rollout import Rollout

Metrics = dict[str, Tensor]  # 0-dim tensors, left on the device
State = Any  # what an agent remembers: a nest of tensors, (named) tuples, dicts and None in any depth, leading dimension [n]; () if nothing


class TimeStep(NamedTuple):
    """What the environments return at time t.  Reward and flags belong to *arriving* at obs (Gymnasium's NEXT_STEP autoreset).

    The terminal frame of an episode is a row of its own, and the action taken there is void: the next row opens an episode.
    """

    obs: Tensor  # [N, *obs_shape] uint8 or float32
    reward: Tensor  # [N] float32, raw (never clipped); 0 where first
    age: Tensor  # [N] uint8: min(steps since the episode's reset, 255); how many older frames a stack may reach back to
    terminated: Tensor  # [N] bool: obs closes an episode and its value is 0
    truncated: Tensor  # [N] bool: obs closes an episode and its value is bootstrapped
    life_lost: Tensor  # [N] bool: a life was lost in this step while the game continues
    valid: Tensor  # [N] bool: the action taken here counts (false on last rows and in a task's input phase)
    interrupted: Tensor  # [N] bool: the episode is broken off here by a checkpoint's reset; bootstrapped, never counted as an episode
    target: Tensor | None = None  # [N, *action_shape] int64, a task's answer as an action, where valid; not for those who
    # learn by reward

    @property
    def first(self) -> Tensor:
        """[N] bool: obs opens an episode."""
        return self.age == 0

    @property
    def last(self) -> Tensor:
        """[N] bool: obs closes an episode, so the action taken here is void."""
        return self.terminated | self.truncated | self.interrupted

    def as_interrupted(self) -> TimeStep:
        """The same row as the last one before a reset that the environments didn't ask for.

        Rows that close an episode anyway stay what they are.
        """
        ended = self.terminated | self.truncated
        return self._replace(interrupted=~ended, valid=torch.zeros_like(self.valid))


class Act(NamedTuple):
    action: Tensor  # [N, *action_shape] int64
    state: State  # for time t + 1
    extras: dict[str, Tensor]  # [N, ...] float32: what learning will want back (log_prob), or what a film shows (q_values)


class ActedStep(NamedTuple):
    """One row of experience.  Where timestep.last, the action is void."""

    timestep: TimeStep
    state: State  # before acting
    action: Tensor  # [N, *action_shape] int64
    extras: dict[str, Tensor]


class Loss(NamedTuple):
    """What every agent's loss(batch) gives."""

    value: Tensor  # 0-dim: what the gradient step minimises
    metrics: Metrics
    priority: Tensor | None = None  # [B] of replay agents: the new priority of each transition


@dataclass(frozen=True)
class EnvSpec:
    """All that an agent knows of its environments."""

    env_id: str
    num_envs: int
    obs_shape: tuple[int, ...]  # with frame stacking [K, H, W] (or [K, D]), oldest frame first
    obs_dtype: torch.dtype  # uint8 (scaled by 1/255 in the torso) or float32
    action_space: gym.Space
    frame_stack: int = 1  # K > 1: only obs[:, -1] is new
    has_lives: bool = False  # life_lost can be true
    states: int = 0  # observations are one of this many states, one-hot; 0: they are something else
    episode_rows: int = 0  # if all episodes begin and end together: actions of the longest; 0: they don't
    has_targets: bool = False  # TimeStep.target has the right answer
    remembered: int = 0  # vectors a memory must hold at once for the longest task; 0: not known
    told: str = ""  # how observations of a third-party environment are read, in words

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of what is new in each observation, and of what replay stores."""
        return self.obs_shape[1:] if self.frame_stack > 1 else self.obs_shape

    @property
    def action_dtype(self) -> torch.dtype:
        """The dtype in which actions are stored."""
        space = self.action_space
        high = space.n if isinstance(space, gym.spaces.Discrete) else np.max(getattr(space, "nvec", 2))
        return torch.uint8 if high <= 256 else torch.int64

    def discrete_actions(self, agent: str) -> int:
        """The number of actions of a Discrete space; a ConfigError in the agent's name for any other."""
        if isinstance(self.action_space, gym.spaces.Discrete):
            return int(self.action_space.n)
        raise ConfigError(
            f"{agent} plays one discrete action at a time; the action space of {self.env_id} is {self.action_space}",
            where="--env",
            fix="choose an environment with a Discrete action space, or an agent that plays this one (train-agent list agents)",
        )


@dataclass(frozen=True)
class Objective:
    """The quantity that an agent's values predict: evaluation computes it from raw rewards to compare."""

    gamma: float
    reward_clip: float = 0.0  # rewards are clipped to [-reward_clip, reward_clip]; 0: raw
    end_on_life_loss: bool = False  # losing a life ends the return


class Actor(Protocol):
    """Enough to play: evaluation, films, floors, instruments."""

    stochastic: bool  # explore=True draws from a policy of its own (and so may be scored by sampling)
    network: Any  # what the instruments look into; None if there is none
    objective: Objective | None  # what its values are values of

    @property
    def spec(self) -> EnvSpec | None:
        """The environments it was made for."""

    def initial_state(self, n: int) -> State: ...
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act: ...


class Agent:
    """Everything that the loop, the trainer and the instruments need from an agent, with defaults for subclasses.

    A subclass has act(), and to learn either learn_from_rollout() (on_policy) or learn().  Both give {} when no update is due.

    state_dict() is a nest of dicts of tensors and plain values that holds everything later training depends on, except the replay.
    Its names, dtypes and shapes never change: a checkpoint is compared with those of a new agent before it is loaded.
    """

    stochastic: bool = False  # explore=True draws from a policy of its own (and so may be scored by sampling)
    on_policy: bool = False  # learns before it acts, with the row that follows its rollout; else while the emulators' threads run
    resumable: bool = True  # `train-agent resume` can continue its runs
    own_loop: bool = False  # fit() trains it, instead of core/loop.py
    plays: bool = True  # its actions in training come from its policy, so training episodes are scored
    needs_targets: bool = False  # learns from TimeStep.target
    network: Any = None  # what the instruments look into
    objective: Objective | None = None  # what its values are values of
    spec: EnvSpec  # the environments it was made for
    config: Any = None  # its settings
    replay: Ring | None = None  # an experience replay, which checkpoints save beside state_dict()
    rollout: Rollout | None = None  # the rows since the last update

    def initial_state(self, n: int) -> State:
        """The memory before the first episode of n environments, a nest of tensors [n, ...]."""
        return ()

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        raise NotImplementedError

    def observe(self, step: ActedStep) -> None:
        """Stores a row; never computes gradients."""

    def learn(self) -> Metrics:
        """For replay agents, called after observe(): makes all updates that are due; returns the newest one's metrics."""
        return {}

    def learn_from_rollout(self, ts: TimeStep, state: State) -> Metrics:
        """Of on-policy agents, called before acting on row ts with the memory before it: an update, if ts completes the rollout."""
        return {}

    def check_training(self) -> None:
        """Called before training begins: ConfigError if something is missing that training needs and playing doesn't."""

    def fit(self, envs: Any, steps: int, read: Callable[[LoopOutput], bool]) -> None:
        """With own_loop: trains for `steps` agent steps; read is called with every row, and returns whether to stop."""
        raise NotImplementedError

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside the metrics of learning; plain numbers the host knows."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class LoopOutput(NamedTuple):
    """One pass of the loop (core/loop.py)."""

    steps: int  # agent steps so far, summed over environments, this row's included
    step: ActedStep
    metrics: Metrics  # of learning; {} when no update was due
    state: State  # what the agent remembers after it
    interrupted: bool = False  # the environments restart after it


class Environments(Protocol):
    """What the loop asks of the environments (envs/vector.py, envs/tasks/device.py)."""

    spec: EnvSpec

    def restart(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> TimeStep: ...
    def send(self, action: Tensor) -> None: ...
    def recv(self) -> TimeStep: ...
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
    """f over the tensors of one nest, or of several of the same structure (dicts and None included), which the result has too."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return f(*states)
    if isinstance(first, dict):
        return {k: map_state(f, *(state[k] for state in states)) for k in first}
    parts = [map_state(f, *part) for part in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def where_first(first: Tensor, fresh: State, state: State) -> State:
    """`fresh` in the environments that open an episode (first [N] bool), `state` in the others: the only place where memory is
    reset."""
    return map_state(lambda new, old: torch.where(first.view(-1, *[1] * (old.dim() - 1)), new, old), fresh, state)
