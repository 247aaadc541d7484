"""What a user of another library's names meant: stable-baselines3's, CleanRL's and Dopamine's, and an algorithm's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from arcturus import agents
from arcturus.errors import ConfigError

OF_MEMORY = ("core", "core-width", "core-options", "bptt", "burn-in")
OF_OTHER_AGENTS = {  # what version 0.1's agents did, and another agent does now
    "teachers": "train-agent distill learns from other agents",
    "munchausen": "train-agent dqn has Munchausen's reward",
}
# what others call a setting, and version 0.1 did -> its flags here
FLAGS = {
    "lr": ("--agent.learning-rate",),
    "learning-rate": ("--agent.learning-rate",),
    "step-size": ("--agent.learning-rate",),
    "total-timesteps": ("--steps",),
    "total-steps": ("--steps",),
    "timesteps": ("--steps",),
    "n-timesteps": ("--steps",),
    "max-steps": ("--steps",),
    "env-id": ("--env",),
    "game": ("--env",),
    "n-envs": ("--num-envs",),
    "num-envs": ("--num-envs",),
    "num-workers": ("--num-envs",),
    "ent-coef": ("--agent.entropy-cost",),
    "entropy-coef": ("--agent.entropy-cost",),
    "vf-coef": ("--agent.value-cost",),
    "value-loss-coef": ("--agent.value-cost",),
    "clip-coef": ("--agent.clip",),
    "clip-range": ("--agent.clip",),
    "gamma": ("--agent.gamma",),
    "discount": ("--agent.gamma",),
    "gae-lambda": ("--agent.gae-lambda", "--agent.q-lambda"),
    "batch-size": ("--agent.batch-size", "--agent.minibatches"),
    "buffer-size": ("--agent.capacity",),
    "replay-capacity": ("--agent.capacity",),
    "learning-starts": ("--agent.learning-starts",),
    "min-replay-history": ("--agent.learning-starts",),
    "target-network-frequency": ("--agent.target-period",),
    "target-update-interval": ("--agent.target-period",),
    "target-update-period": ("--agent.target-period",),
    "n-steps": ("--agent.horizon",),
    "num-steps": ("--agent.horizon",),
    "max-grad-norm": ("--agent.max-grad-norm",),
    "update-epochs": ("--agent.epochs",),
    "n-epochs": ("--agent.epochs",),
    "num-minibatches": ("--agent.minibatches",),
    "anneal-lr": ("--agent.anneal-steps",),
    "train-frequency": ("--agent.replay-ratio",),
    "train-freq": ("--agent.replay-ratio",),
    "gradient-steps": ("--agent.replay-ratio",),
    "exploration-fraction": ("--agent.epsilon-steps",),
    "start-e": ("--agent.epsilon-initial",),
    "exploration-initial-eps": ("--agent.epsilon-initial",),
    "end-e": ("--agent.epsilon-final",),
    "exploration-final-eps": ("--agent.epsilon-final",),
    "exp-name": ("--run-dir",),
    "log-dir": ("--run-dir",),
    "cuda": ("--device",),
    "torch-deterministic": ("--deterministic",),
    "lam": ("--agent.gae-lambda", "--agent.q-lambda"),
    "lambda": ("--agent.gae-lambda", "--agent.q-lambda"),
    "batch": ("--agent.batch-size",),
    "minibatch-size": ("--agent.batch-size",),
    "learn-start": ("--agent.learning-starts",),
    "life-loss": ("--agent.end-on-life-loss",),
    "terminal-on-life-loss": ("--agent.end-on-life-loss",),
}

MEASURED_OTHERWISE = {
    "--agent.minibatches": "the number of minibatches, not their size",
    "--agent.replay-ratio": "updates per agent step: 0.25 is one every 4",
    "--agent.epsilon-steps": "in agent steps",
    "--agent.anneal-steps": "-1: over the whole run, 0: the learning rate stays constant",
}


def check_flags(argv: Sequence[str], known: Iterable[str], agent: str = "") -> None:
    """A ConfigError for the first flag that is unknown here but known elsewhere, or in version 0.1.  known: every flag there is;
    agent: the agent they belong to."""
    flags = set(known)
    if argv and not argv[0].startswith("-"):
        raise ConfigError(f"{argv[0]} stands without a flag", where="the command line", fix=f"if it is the environment: --env {argv[0]}")
    for arg in argv:
        name = arg.partition("=")[0].replace("_", "-")
        if not name.startswith("--") or name in flags:
            continue
        bare = name.removeprefix("--").rsplit(".", 1)[-1]
        given = arg.partition("=")[0]
        for meant in FLAGS.get(bare, ()):
            if meant in flags:
                note = f" ({MEASURED_OTHERWISE[meant]})" if meant in MEASURED_OTHERWISE else ""
                raise ConfigError(f"there is no {given}", where="the command line", fix=f"it is called {meant} here{note}")
        if bare in OF_MEMORY and f"--agent.{bare}" not in flags:
            fix = "train-agent drqn learns action-values with memory; pqn, reinforce, a2c and ppo have memory cores, too"
            raise ConfigError(f"there is no {given}: {agent} has no memory", where="the command line", fix=fix)
        if bare in OF_OTHER_AGENTS and name.startswith("--agent."):
            raise ConfigError(f"{agent} has no {given}", where="the command line", fix=OF_OTHER_AGENTS[bare])
        if name == "--env.groups":
            raise ConfigError("--env.groups no longer exists", where="the command line", fix="leave it out")


def preset_called(name: str) -> str:
    """'train-agent c51 --preset rainbow' for the name of an algorithm that is a preset of some agent; "" for others."""
    if name == "teacher":  # of version 0.1
        return "train-agent supervised (learns from right answers), or distill (from other agents)"
    plain = name.lower().replace("-", "").replace("_", "")
    for agent in agents.names():
        for preset in agents.presets(agent).named:
            if plain and preset.replace("-", "").replace("_", "") == plain:
                return f"train-agent {agent} --preset {preset}"
    return ""
