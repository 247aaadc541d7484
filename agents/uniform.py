"""Uniform random play: the floor under every learning curve, and the smallest agent there can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch

from arcturus.api import Act, EnvSpec, Metrics, State, Step, TimeStep
from arcturus.config import Preset
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


PRESETS = {"default": Preset("none needed")}


class Agent:
    stochastic, on_policy, network, objective = True, False, None, None

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        space = spec.action_space
        if isinstance(space, gym.spaces.Discrete):
            high = torch.tensor(int(space.n))
        elif isinstance(space, gym.spaces.MultiDiscrete):
            high = torch.as_tensor(space.nvec)
        else:
            high = torch.full(space.shape or (), 2)
        self.high = high.to(device)

    def initial_state(self, n: int) -> State:
        return ()

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        coin = torch.rand((len(ts.reward), *self.high.shape), device=ts.reward.device, generator=generator)
        return Act((coin * self.high).long(), (), {})

    def observe(self, step: Step) -> None: ...
    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
