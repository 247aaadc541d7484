"""Uniform random play: the floor under every learning curve, and the smallest agent there can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from arcturus.api import Act, EnvSpec, Metrics, State, Step, TimeStep, random_actions
from arcturus.config import Preset
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config:
    """Nothing to set."""


PRESETS = {"default": Preset("none needed")}


class Agent:
    stochastic, on_policy, network, objective = True, False, None, None

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.space = spec.action_space

    def initial_state(self, n: int) -> State:
        return ()

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        return Act(random_actions(self.space, len(ts.reward), ts.reward.device, generator), (), {})

    def observe(self, step: Step) -> None: ...
    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
