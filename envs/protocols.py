"""How Atari games are played and scored: the protocols of the literature, by name."""

from __future__ import annotations

from dataclasses import dataclass

from arcturus.errors import ConfigError, nearest


@dataclass(frozen=True)
class EvalProtocol:
    """How a game is played and scored; printed with every score."""

    name: str
    repeat_action_probability: float  # sticky actions
    noop_max: int  # random no-op actions after a reset
    fire_on_reset: bool  # FIRE is pressed once where the game waits for it
    max_frames: int  # emulator frames per episode
    epsilon: float  # of value agents at evaluation
    noisy_epsilon: float  # of those with noisy layers
    source: str

    def __str__(self) -> str:
        return (
            f"{self.name} (sticky {self.repeat_action_probability:g}, up to {self.noop_max} no-ops, "
            f"{'FIRE on reset, ' if self.fire_on_reset else ''}{self.max_frames:,} frames a game, raw rewards, whole games)"
        )


PROTOCOLS = {
    "v5": EvalProtocol(
        "v5",
        0.25,
        30,
        True,
        108_000,
        0.001,
        0.001,
        "Machado et al. 2018, section 5 (sticky actions, whole games), with the resets of ale-py's v5 vector environments",
    ),
    "nature": EvalProtocol(
        "nature",
        0.0,
        30,
        False,
        18_000,
        0.05,
        0.05,
        "Mnih et al. 2015, Methods, Evaluation procedure (no-op starts, 5 minutes, epsilon 0.05)",
    ),
    "noop": EvalProtocol(
        "noop",
        0.0,
        30,
        False,
        108_000,
        0.001,
        0.0,
        "no-op starts and 30 minutes: van Hasselt et al. 2016 to Dabney et al. 2018 and Hessel et al. 2018, as in DQN Zoo",
    ),
    "noop-fire": EvalProtocol(
        "noop-fire",
        0.0,
        30,
        True,
        108_000,
        0.0,
        0.0,
        "the same with FIRE pressed once after a reset: OpenAI Baselines' and CleanRL's wrappers, EnvPool's games",
    ),
}


def protocol(name: str) -> EvalProtocol:
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}", where="--protocol", fix=nearest(name, PROTOCOLS, "protocols"))
    return PROTOCOLS[name]
