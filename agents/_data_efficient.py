"""Switches of the value agents for learning from few steps.

    (a) augmentation: s and s' of a minibatch are shifted at random, and brightened or darkened   (Yarats et al. 2021, arXiv:2004.13649)
    (b) periodic resets: every `reset_period` updates the fully connected layers get new weights, convolutions keep a share of
        theirs, the optimiser forgets, and the target network is a copy again  (Nikishin et al. 2022, arXiv:2205.07802; D'Oro et al. 2023)
    (c) annealing: over the first `anneal_updates` updates, and again behind each reset, n falls and gamma rises
                                                                                             (Schwarzer et al. 2023, arXiv:2305.19452)

        n = n_0 (n_1 / n_0)^x,   1 - gamma = (1 - gamma_0) ((1 - gamma_1) / (1 - gamma_0))^x,   x from 0 to 1

More than one update a step is `replay_ratio`; data-efficient Rainbow and DrQ are presets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from arcturus.api import EnvSpec
from arcturus.augmentation import random_intensity, random_shift
from arcturus.config import Bounds
from arcturus.errors import ConfigError
from arcturus.replay.learner import EpsilonConfig
from arcturus.replay.records import Sequence
from arcturus.speed import to_device


@dataclass(frozen=True)
class DataEfficientConfig(EpsilonConfig):
    """EpsilonConfig with these switches, all of them off."""

    random_shift: Annotated[int, Bounds(0, 1000)] = 0
    """Shift the images of a minibatch by up to this many pixels (Yarats et al. 2021: 4 of 84); 0: not."""
    random_intensity: Annotated[float, Bounds(0, 0.5)] = 0.0
    """Standard deviation of the images' random brightness (Schwarzer et al. 2021: 0.05); 0: not."""
    reset_period: Annotated[int, Bounds(0)] = 0
    """Updates between resets of the network (Schwarzer et al. 2023: 20,000); 0: no resets."""
    reset_keep: Annotated[float, Bounds(0, 1)] = 0.5
    """Share of their weights that convolutions keep in a reset; the rest is new (Schwarzer et al. 2023: 0.5)."""
    anneal_updates: Annotated[int, Bounds(0)] = 0
    """Updates after the start and after each reset over which n and gamma are annealed (Schwarzer et al. 2023: 10,000); 0: not."""
    initial_n_step: Annotated[int, Bounds(1, 100)] = 10
    """With anneal_updates: n at first; it falls to n_step."""
    initial_gamma: Annotated[float, Bounds(0, 1)] = 0.97
    """With anneal_updates: gamma at first; it rises to gamma."""

    @property
    def horizons(self) -> tuple[tuple[int, float], tuple[int, float]]:
        last = self.n_step, self.gamma
        return ((self.initial_n_step, self.initial_gamma) if self.anneal_updates else last), last

    def horizon(self, updates: int) -> tuple[int, float]:
        """(c): n and gamma of the update behind `updates` others since the start or the last reset."""
        if updates >= self.anneal_updates:
            return self.n_step, self.gamma
        x = updates / self.anneal_updates
        n = self.initial_n_step * (self.n_step / self.initial_n_step) ** x
        return round(n), 1 - (1 - self.initial_gamma) ** (1 - x) * (1 - self.gamma) ** x


def check_data_efficient(c: DataEfficientConfig, spec: EnvSpec, sequences: bool) -> None:
    """ConfigError for switches that can't work here.  sequences: the agent learns from sequences, not transitions."""
    image = len(spec.obs_shape) >= 2 and spec.obs_dtype == torch.uint8
    for name in ("random_shift", "random_intensity"):
        if getattr(c, name) and not image:
            raise ConfigError(
                f"{name} is for images; observations of {spec.env_id} have shape {spec.obs_shape} and type {str(spec.obs_dtype)[6:]}",
                where=f"--agent.{name.replace('_', '-')}",
                fix="leave it out",
            )
    if c.random_shift and c.random_shift >= min(spec.obs_shape[-2:]):
        size = "x".join(map(str, spec.obs_shape[-2:]))
        raise ConfigError(
            f"a shift of up to {c.random_shift} pixels can move a whole image of {size} out of sight",
            where="--agent.random-shift",
            fix="use about a twentieth of the image's side",
        )
    if c.anneal_updates and sequences:
        raise ConfigError(
            "sequences are learnt from with one n and one gamma", where="--agent.anneal-updates", fix="use --agent.anneal-updates 0"
        )
    first = int(c.learning_starts * c.replay_ratio)
    for updates, what in (
        (c.anneal_updates, f"the {c.anneal_updates:,} over which n and gamma are annealed"),
        (first, f"the {first:,} that the {c.learning_starts:,} steps of warm-up are worth"),
    ):
        if 0 < c.reset_period <= updates:
            raise ConfigError(
                f"a reset every {c.reset_period:,} updates is too often: it must be more than {what}",
                where="--agent.reset-period",
                fix=f"use more than {updates:,}",
            )
    if c.replay_ratio > max(c.learning_starts, 1):
        raise ConfigError(
            f"{c.replay_ratio:g} updates a step would begin with {c.learning_starts:,} stored steps",
            where="--agent.learning-starts",
            fix=f"use at least {c.batch_size:,}, the size of a minibatch",
        )


def augmented(batch: Any, c: DataEfficientConfig, generator: torch.Generator, fast: bool) -> Any:
    """(a): of a Transition, s and s' each on their own; of a Sequence, all rows of one alike."""

    def augment(images: Tensor) -> Tensor:
        if c.random_shift:
            images = random_shift(images, c.random_shift, generator, fast)
        return random_intensity(images, c.random_intensity, generator) if c.random_intensity else images

    if isinstance(batch, Sequence):
        return batch._replace(obs=augment(batch.obs.transpose(0, 1)).transpose(0, 1))
    return batch._replace(s_tm1=augment(batch.s_tm1), s_t=augment(batch.s_t))


@contextmanager
def training_mode(network: nn.Module, yes: bool) -> Iterator[None]:
    """While it lasts, spectral normalisation makes its power iterations, if there is any; at other times it would let playing move it."""
    if not yes:
        yield
        return
    network.train()
    try:
        yield
    finally:
        network.eval()


def reset_if_due(agent: Any) -> None:
    """(b) of a ValueAgent, behind all updates of a row.  The new weights depend on the run's seed and on the updates made."""
    learner, period = agent.learner, agent.config.reset_period
    if not period or learner.updates - learner.new_at < period:
        return
    with agent.seeds.branch("reset", learner.updates).initialising():
        fresh = to_device(agent.make_network(), agent.device)
    renew(agent.network, fresh, agent.config.reset_keep)
    with training_mode(agent.network, agent.config.spectral_norm):
        settle(agent.network)
    agent.target.load_state_dict(agent.network.state_dict())
    agent.gradient_step.forget()
    learner.new_at = learner.updates


@torch.no_grad()
def renew(network: nn.Module, fresh: nn.Module, keep: float) -> None:
    """Gives a network the weights of `fresh`, a new one of the same layers; convolutions keep a share of theirs, frozen weights stay."""
    convolutions = {id(p) for layer in network.modules() if isinstance(layer, nn.Conv2d) for p in layer.parameters()}
    for p, new in zip(network.parameters(), fresh.parameters(), strict=True):
        if p.requires_grad:
            p.copy_(torch.lerp(new, p, keep) if id(p) in convolutions else new)


@torch.no_grad()
def settle(network: nn.Module, iterations: int = 15) -> None:
    """Power iterations for the largest singular values of new weights, as many as torch makes of a new layer.  One for each look at a
    weight, in training mode."""
    for layer in network.modules():
        if parametrize.is_parametrized(layer, "weight"):
            for _ in range(iterations):
                layer.weight  # noqa: B018
