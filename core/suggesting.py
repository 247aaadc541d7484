"""What somebody meant who knows another library's names: stable-baselines3's, CleanRL's and Dopamine's, and an algorithm's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from arcturus import agents
from arcturus.errors import ConfigError

# what others call a setting -> its flag here
FLAGS = {
    "lr": "--agent.learning-rate",
    "learning-rate": "--agent.learning-rate",
    "step-size": "--agent.learning-rate",
    "total-timesteps": "--steps",
    "total-steps": "--steps",
    "timesteps": "--steps",
    "n-timesteps": "--steps",
    "max-steps": "--steps",
    "env-id": "--env",
    "game": "--env",
    "n-envs": "--num-envs",
    "num-envs": "--num-envs",
    "num-workers": "--num-envs",
    "ent-coef": "--agent.entropy-cost",
    "entropy-coef": "--agent.entropy-cost",
    "vf-coef": "--agent.value-cost",
    "value-loss-coef": "--agent.value-cost",
    "clip-coef": "--agent.clip",
    "clip-range": "--agent.clip",
    "gamma": "--agent.gamma",
    "discount": "--agent.gamma",
    "gae-lambda": "--agent.gae-lambda",
    "batch-size": "--agent.batch-size",
    "buffer-size": "--agent.capacity",
    "replay-capacity": "--agent.capacity",
    "learning-starts": "--agent.learning-starts",
    "min-replay-history": "--agent.learning-starts",
    "target-network-frequency": "--agent.target-period",
    "target-update-interval": "--agent.target-period",
    "target-update-period": "--agent.target-period",
    "n-steps": "--agent.horizon",
    "num-steps": "--agent.horizon",
    "max-grad-norm": "--agent.max-grad-norm",
    "exp-name": "--run-dir",
    "log-dir": "--run-dir",
    "cuda": "--device",
    "torch-deterministic": "--deterministic",
}


def check_flags(argv: Sequence[str], known: Iterable[str]) -> None:
    """A ConfigError for the first flag that nothing here is called by, and something elsewhere is.  known: every flag there is."""
    flags = set(known)
    for arg in argv:
        name = arg.partition("=")[0].replace("_", "-")
        bare = name.removeprefix("--").rsplit(".", 1)[-1]
        meant = FLAGS.get(bare)
        if name.startswith("--") and name not in flags and meant in flags:
            raise ConfigError(f"there is no flag {arg.partition('=')[0]}", where="the command line", fix=f"use {meant}")


def preset_called(name: str) -> str:
    """'train-agent c51 --preset rainbow' for the name of an algorithm that is a preset of some agent; "" for others."""
    plain = name.lower().replace("-", "").replace("_", "")
    for agent in agents.names():
        for preset in agents.presets(agent).named:
            if plain and preset.replace("-", "").replace("_", "") == plain:
                return f"train-agent {agent} --preset {preset}"
    return ""
