"""Uniform random play: a baseline under every learning curve, and the smallest agent there can be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arcturus import api
from arcturus.actor_critic import random_actions
from arcturus.api import Act, EnvSpec, State, TimeStep
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


class Agent(api.Agent):
    stochastic = True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.spec, self.space = spec, spec.action_space

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        return Act(random_actions(self.space, len(ts.reward), ts.reward.device, generator), (), {})
