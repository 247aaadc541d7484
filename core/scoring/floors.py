"""The two floors (baselines) shown beside every score: random play, and the best constant action."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import gymnasium as gym

from arcturus import agents
from arcturus.envs import EnvConfig, open_envs
from arcturus.scoring.evaluation import Evaluation, evaluate
from arcturus.seeding import Seeds

MOST_ACTIONS = 100  # with more, the best constant action is not searched for
TRIALS = 4  # episodes that each constant action plays to be chosen; the chosen one is scored on fresh ones


class Floors(NamedTuple):
    random: Evaluation
    constant: Evaluation | None  # None where actions are not Discrete, or too many
    action: int  # the best constant action


def floors(config: EnvConfig, episodes: int, seed: int = 0, device: str = "cpu") -> Floors:
    """Both floors under the same protocol, on `episodes` whole episodes each."""
    seeds = Seeds(seed)
    with open_envs(replace(config, num_envs=1), 0, device) as envs:
        spec = envs.spec

    def play(name: str, count: int, branch: Seeds, **settings: int) -> Evaluation:
        module = agents.load(name)
        return evaluate(module.Agent(module.Config(**settings), spec, device, seeds), config, count, seed=branch, device=device)

    random = play("uniform", episodes, seeds.branch("score"))
    if not isinstance(spec.action_space, gym.spaces.Discrete) or spec.action_space.n > MOST_ACTIONS:
        return Floors(random, None, -1)
    trials = [play("constant", TRIALS, seeds.branch("trial"), action=a).mean for a in range(int(spec.action_space.n))]
    best = trials.index(max(trials))
    return Floors(random, play("constant", episodes, seeds.branch("score"), action=best), best)
