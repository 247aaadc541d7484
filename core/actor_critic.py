"""Policies and their networks: distributions over actions, and an actor with a critic.

One categorical for a Discrete space, several independent ones for MultiDiscrete and MultiBinary.  A policy head gives one logit for every
choice of every component, side by side; for a bit, only the logit of it being 1.  Everything is a pure function of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcturus.api import Act, EnvSpec, State, TimeStep, map_state
from arcturus.errors import ConfigError
from arcturus.memory import check_room, make_core
from arcturus.networks import Torso, features, make_torso, orthogonal


class Categoricals:
    """components of choices [k]: the number of choices of each.

    | argument | shape              |                             |
    |----------|--------------------|-----------------------------|
    | logits   | [..., sum choices] | float; [..., k] for bits     |
    | action   | [..., *shape]      | int64, counted from 0       |
    | results  | [...]              | summed over the components  |
    """

    def __init__(self, space: gym.Space, env_id: str = "this environment"):
        if isinstance(space, gym.spaces.Discrete):
            self.choices = [int(space.n)]
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self.choices = [int(n) for n in space.nvec.ravel()]
        elif isinstance(space, gym.spaces.MultiBinary):
            self.choices = [2] * int(np.prod(space.shape))
        else:
            raise ConfigError(
                f"{env_id} has {type(space).__name__} actions",
                where="--env",
                fix="use an environment with Discrete, MultiDiscrete or MultiBinary actions",
            )
        self.shape = tuple(space.shape or ())
        self.binary = isinstance(space, gym.spaces.MultiBinary)
        self.logits, self.most = len(self.choices) if self.binary else sum(self.choices), max(self.choices)
        self.even = len(set(self.choices)) == 1
        places, start = [], 0
        for n in self.choices:  # index of each component's logits; one past the end: no such choice
            places.append([start + i if i < n else self.logits for i in range(self.most)])
            start += n
        self.places = torch.tensor(places)  # [k, most]; on the device of the newest logits

    @property
    def one_hot_shape(self) -> tuple[int, int]:
        """(k, most): the shape of one action given as probabilities."""
        return len(self.choices), self.most

    def one_hot(self, action: Tensor) -> Tensor:
        """action [N, *shape] int64 -> [N, k, most] float32."""
        return F.one_hot(action.reshape(len(action), -1), self.most).float()

    def log_probs(self, logits: Tensor) -> Tensor:
        """[..., k, most] normalised log-probabilities; -inf where a component has fewer choices."""
        if self.binary:
            return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1)
        if self.even:
            return logits.unflatten(-1, (len(self.choices), self.most)).log_softmax(-1)
        if self.places.device != logits.device:
            self.places = self.places.to(logits.device)
        padded = torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], -1)
        return padded[..., self.places].log_softmax(-1)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """log pi(action)."""
        each = self.log_probs(logits)
        chosen = action.reshape(*each.shape[:-1], 1)
        return each.gather(-1, chosen).squeeze(-1).sum(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """- sum pi log pi, in nats."""
        each = self.log_probs(logits)
        return -(each.exp() * each.clamp_min(torch.finfo(each.dtype).min)).sum((-2, -1))

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An action, int64.  The choice whose exponential clock of rate p rings first: what torch.multinomial does, without
        its check of the probabilities, which waits for a GPU."""
        probabilities = self.log_probs(logits).exp()
        clocks = torch.empty_like(probabilities).exponential_(generator=generator)
        return (probabilities / clocks).argmax(-1).view(*logits.shape[:-1], *self.shape)

    def mode(self, logits: Tensor) -> Tensor:
        """The most likely action, int64."""
        return self.log_probs(logits).argmax(-1).view(*logits.shape[:-1], *self.shape)


def random_actions(space: gym.Space, n: int, device: torch.device | str, generator: torch.Generator | None) -> Tensor:
    """[n, *action_shape] int64, uniform over a Discrete, MultiDiscrete or MultiBinary space counted from 0."""
    high: Any = space.n if isinstance(space, gym.spaces.Discrete) else getattr(space, "nvec", 2)
    coin = torch.rand((n, *(space.shape or ())), device=device, generator=generator)
    return (coin * torch.as_tensor(high, device=device)).long()


class ActorCritic(nn.Module):
    """A policy and a state-value function, on one torso and memory (shared) or on their own.

    Initial weights are orthogonal: gain sqrt(2) in the torsos, 0.01 in the policy's head, 1 in the value's (Huang et al. 2022).
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        torso: str = "auto",
        core: str = "none",
        core_width: int = 128,
        core_options: str = "",
        shared: bool = True,
        value: bool = True,
    ):
        super().__init__()
        self.actions = Categoricals(spec.action_space, spec.env_id)
        self.torso = make_torso(spec, torso)
        self.core = make_core(core, self.torso.width, core_width, core_options)  # type: ignore[arg-type]
        check_room(self.core, spec)
        self.policy = nn.Linear(self.core.outputs, self.actions.logits)  # type: ignore[arg-type]
        self.value: nn.Module | None = None
        self.value_torso: nn.Module | None = None
        if value:
            if not shared:
                self.value_torso = make_torso(spec, torso)
                self.value_core = make_core(core, self.torso.width, core_width, core_options)  # type: ignore[arg-type]
            self.value = nn.Linear(self.core.outputs, 1)  # type: ignore[arg-type]
        for torso_ in (self.torso, self.value_torso):
            if isinstance(torso_, Torso):  # a torso of the user's own keeps its initial weights
                orthogonal(torso_, 2**0.5)
        self.act_fn: Callable[..., tuple[Tensor, Tensor, State]] = self.unroll  # for acting: to_device() may record it
        orthogonal(self.policy, 0.01)
        if self.value is not None:
            orthogonal(self.value, 1.0)

    def initial_state(self, n: int) -> State:
        """(policy's memory,), or (policy's, value's) where they have their own."""
        cores = [self.core] if self.value_torso is None else [self.core, self.value_core]
        return tuple(map_state(Tensor.detach, core.initial_state(n)) for core in cores)  # type: ignore[operator]

    def unroll(self, obs: Tensor, first: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """obs [T, N, *obs_shape], first [T, N] bool, state at the first row -> logits [T, N, L], v [T, N] (0 without a value
        head), state after the last row.  Acting is T = 1."""
        y, memory = features(self.torso, self.core, obs, first, state[0])
        after: tuple[State, ...] = (memory,)
        logits = self.policy(y)
        if self.value is None:
            return logits, torch.zeros_like(logits[..., 0]), after
        if self.value_torso is not None:
            y, memory = features(self.value_torso, self.value_core, obs, first, state[1])
            after = (*after, memory)
        return logits, self.value(y).squeeze(-1), after

    @torch.no_grad()
    def next_values(self, v: Tensor, ts: TimeStep, state: State) -> Tensor:
        """v [T, N] of a rollout's rows -> v of the rows after them; ts is the row after the last one, state the memory before ts."""
        return torch.cat([v[1:], self.unroll(ts.obs[None], ts.first[None], state)[1]])

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, explore: bool, generator: torch.Generator | None = None) -> Act:
        """A sampled action (explore) or the most likely one.  extras: log_prob [N], logits [N, L], and value [N] with a value head."""
        logits, v, state = self.act_fn(ts.obs[None], ts.first[None], state)
        logits = logits[0]
        action = self.actions.sample(logits, generator) if explore else self.actions.mode(logits)
        extras = {"log_prob": self.actions.log_prob(logits, action), "logits": logits}
        if self.value is not None:
            extras["value"] = v[0]
        return Act(action, state, extras)

    def score(self, obs: Tensor, first: Tensor, state: State, action: Tensor) -> Tensor:
        """[N] the log-probability of an action [N, *action_shape]: what --explain explains.  obs [N, *obs_shape], first [N]."""
        logits, _, _ = self.unroll(obs[None], first[None], state)
        return self.actions.log_prob(logits[0], action)
