"""Distributions over actions: one categorical for a Discrete space, several independent ones for MultiDiscrete and MultiBinary.

A policy head gives one logit for every choice of every component, side by side; for a bit, the logit of its being 1 alone.  Everything
is a pure function of them.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arcturus.errors import ConfigError


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
                fix="policies here are over Discrete, MultiDiscrete and MultiBinary spaces",
            )
        self.shape = tuple(space.shape or ())
        self.binary = isinstance(space, gym.spaces.MultiBinary)
        self.logits, self.most = len(self.choices) if self.binary else sum(self.choices), max(self.choices)
        self.even = len(set(self.choices)) == 1
        places, start = [], 0
        for n in self.choices:  # where the logits of each component stand; one past the end: nowhere
            places.append([start + i if i < n else self.logits for i in range(self.most)])
            start += n
        self.places = torch.tensor(places)  # [k, most]; on the device of the newest logits

    @property
    def one_hot_shape(self) -> tuple[int, int]:
        """(k, most): of one action told by probabilities."""
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
        """The likeliest action, int64."""
        return self.log_probs(logits).argmax(-1).view(*logits.shape[:-1], *self.shape)


def epsilon_greedy(q: Tensor, epsilon: float, generator: torch.Generator | None = None) -> Tensor:
    """[N] int64: of action-values [N, A] the best, or with probability epsilon any; each environment throws a coin of its own."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}, and no probability")
    random = torch.randint(q.shape[-1], q.shape[:-1], device=q.device, generator=generator)
    coin = torch.rand(q.shape[:-1], device=q.device, generator=generator) < epsilon
    return torch.where(coin, random, q.argmax(-1))
