"""Agents from their settings and from what was saved of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from arcturus import agents
from arcturus.api import Agent, EnvSpec, state_leaves
from arcturus.errors import CheckpointError, ConfigError, no_targets
from arcturus.memory import check_bytes
from arcturus.runs.depending import freeze
from arcturus.runs.settings import ALL_OF_THE_RUN, RunConfig
from arcturus.seeding import Seeds

# what an agent that only plays does without
LEARNING_STATE = ("optimizer", "replay_rng", "noise_rng", "priorities", "minibatch_rng", "rollout")


def agent_class(name: str) -> Any:
    """An agent's class; ConfigError for one of the user's own with another base class."""
    cls = agents.load(name).Agent
    if isinstance(cls, type) and issubclass(cls, Agent):
        return cls
    raise ConfigError(
        f"{name}.Agent is not a subclass of arcturus.api.Agent, which the trainer needs",
        where="train-agent AGENT",
        fix="write class Agent(arcturus.api.Agent): it has defaults for what you don't define",
    )


def build_agent(config: RunConfig, spec: EnvSpec, device: torch.device | str) -> Agent:
    settings = config.agent
    settings = replace(settings, **{k: config.run.steps for k in ALL_OF_THE_RUN if getattr(settings, k, 0) == -1})
    agent = agent_class(config.agent_name)(settings, spec, device, Seeds(config.run.seed))
    for name, value in (("spec", spec), ("config", settings)):  # an agent of one's own may not keep them
        if getattr(agent, name, None) is None:
            setattr(agent, name, value)
    freeze(agent, config.run.freeze)
    return agent


def check_training(agent: Agent, spec: EnvSpec, adaptive: bool) -> None:
    """Before anything runs: whether these environments can train this agent.  adaptive: their curriculum goes by how the episodes
    go."""
    agent.check_training()
    if agent.needs_targets and not spec.has_targets:
        raise no_targets(spec.env_id)
    if adaptive and not agent.plays:
        raise ConfigError(
            "this curriculum depends on the results of training episodes, but the agent doesn't play during training",
            where="--env.curriculum",
            fix="add --agent.play True, or use --env.curriculum uniform",
        )
    if agent.rollout is not None and agent.rollout.whole:
        numbers = sum(leaf.numel() for leaf in state_leaves(agent.initial_state(1)))
        check_bytes(numbers, spec.num_envs, spec.episode_rows, agent.rollout.ring.device)


def playing_state(state: dict[str, Any]) -> dict[str, Any]:
    """Enough of an agent's state to play."""
    return {k: v for k, v in state.items() if k not in LEARNING_STATE}


@contextmanager
def fitting(where: str) -> Iterator[None]:
    """For restoring a saved state: one kind of error reports whatever doesn't fit."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError, IndexError) as e:
        raise CheckpointError(
            f"the checkpoint doesn't fit this agent: {(str(e).splitlines() or [type(e).__name__])[0]}",
            where=where,
            fix="check whether config.yaml was changed, or whether another version made the run",
        ) from e
