"""One constant action: a baseline. Holding a button earns hundreds of points in many games, so an agent must beat it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from arcturus import api
from arcturus.api import Act, EnvSpec, State, TimeStep
from arcturus.config import Bounds
from arcturus.errors import ConfigError
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config:
    action: Annotated[int, Bounds(0)] = 0
    """Number of the action to play, counted from 0."""


class Agent(api.Agent):
    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.spec, self.action = spec, config.action
        if self.action >= (n := spec.discrete_actions("constant")):
            raise ConfigError(f"{spec.env_id} has no action {self.action}, only 0 to {n - 1}", where="--agent.action")

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        return Act(torch.full_like(ts.age, self.action, dtype=torch.int64), (), {})
