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
# our flags -> what others call them, and version 0.1 did
NAMES = {
    "--agent.learning-rate": "lr learning-rate step-size",
    "--steps": "total-timesteps total-steps timesteps n-timesteps max-steps",
    "--env": "env-id game",
    "--num-envs": "n-envs num-envs num-workers",
    "--agent.entropy-cost": "ent-coef entropy-coef",
    "--agent.value-cost": "vf-coef value-loss-coef",
    "--agent.clip": "clip-coef clip-range",
    "--agent.gamma": "gamma discount",
    "--agent.gae-lambda": "gae-lambda lam lambda",
    "--agent.q-lambda": "gae-lambda lam lambda",
    "--agent.batch-size": "batch-size batch minibatch-size",
    "--agent.capacity": "buffer-size replay-capacity",
    "--agent.learning-starts": "learning-starts min-replay-history learn-start",
    "--agent.target-period": "target-network-frequency target-update-interval target-update-period",
    "--agent.horizon": "n-steps num-steps",
    "--agent.max-grad-norm": "max-grad-norm",
    "--agent.epochs": "update-epochs n-epochs",
    "--agent.minibatches": "num-minibatches batch-size",
    "--agent.anneal-steps": "anneal-lr",
    "--agent.replay-ratio": "train-frequency train-freq gradient-steps",
    "--agent.epsilon-steps": "exploration-fraction",
    "--agent.epsilon-initial": "start-e exploration-initial-eps",
    "--agent.epsilon-final": "end-e exploration-final-eps",
    "--run-dir": "exp-name log-dir",
    "--device": "cuda",
    "--deterministic": "torch-deterministic",
    "--agent.end-on-life-loss": "life-loss terminal-on-life-loss",
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
        for meant, names in NAMES.items():
            if bare in names.split() and meant in flags:
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
