"""The highest mean return that an agent can have, where the environment is known exactly: what a score there is of."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from arcturus.config import parse_options
from arcturus.envs import EnvConfig, family, is_own

MOST_LENGTHS = 10_000  # of a task, over which a mean is taken


def highest_return(config: EnvConfig) -> float | None:
    """Of the best policy, on average over what the environment draws; None where it isn't known.

    Of the algorithmic tasks and of Memory/ it is had by answering everything right, of MDP/ it is the optimum over the episode's
    steps (undiscounted, as scores are).
    """
    if not is_own(config.id):
        return None
    options, kind = parse_options(config.options), family(config.id)
    if kind != "mdp" and "max_episode_steps" in options:
        return None  # the question may come after the end
    if kind == "memory":
        return 1.0
    if kind == "mdp":
        return _of_a_process(config.id, options)
    return _of_a_task(config.id, options) if kind == "ntm" else None


def _of_a_task(env_id: str, options: dict[str, Any]) -> float | None:
    from arcturus.envs.tasks import task_of

    task, play = task_of(env_id, options)
    if play.reward == "logscore" or hasattr(task, "optimal"):
        return None  # the answers can't be known
    if play.reward == "sparse":
        return 1.0
    if np.prod([high - low + 1 for low, high in task.ranges]) > MOST_LENGTHS:
        return None
    answers = [task.answers(lengths) for lengths in product(*(range(low, high + 1) for low, high in task.ranges))]
    return float(np.mean(answers)) * (task.outputs if play.actions == "serial" else 1)


def _of_a_process(env_id: str, options: dict[str, Any]) -> float:
    import gymnasium as gym

    env = gym.make(env_id, **options)
    mdp, steps = env.unwrapped.mdp, env.spec.max_episode_steps  # type: ignore[attr-defined, union-attr]
    v = np.zeros(len(mdp.start))
    for _ in range(steps or 0):
        v = (mdp.expected_reward + mdp.onward @ v).max(-1)
    return float(mdp.start @ v)
