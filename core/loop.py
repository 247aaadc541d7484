"""The loop, one for every family of agents: a generator of rows, whose readers log, score and save.

An on-policy agent learns before it acts, so it never acts with a policy older than its last update; a replay agent learns
while the emulator's threads run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from arcturus.api import Agent, Environments, Metrics, State, Step, TimeStep


class Row(NamedTuple):
    """One pass of the loop."""

    steps: int  # agent steps so far, summed over environments, this row's included
    step: Step
    metrics: Metrics  # of learn(); {} when it was not due
    state: State  # what the agent remembers after it


def run(
    envs: Environments,
    agent: Agent,
    *,
    steps: int,
    seeds: Callable[[], np.ndarray],
    generator: torch.Generator,
    start: int = 0,
    at: tuple[TimeStep, State] | None = None,
    cut_due: Callable[[int], bool] = lambda steps: False,
) -> Iterator[Row]:
    """Trains until `steps` agent steps (rows times environments, the one row that opens each episode counted as well).

    A row at which cut_due(steps so far) says so is cut: its episodes are broken off and bootstrapped, its action is void, and
    the environments restart from seeds() once its reader is done.  That is where a checkpoint is written: what comes after
    depends on nothing the environments did before.  The last row is cut too, so a finished run can be taken further.

    A run that goes on from the middle begins at `start` steps with the row and the agent's memory that come next, `at`; without
    them the environments restart.

    Environments are idle again whenever this ends, however it ends.
    """
    n = envs.spec.num_envs
    done, sent = start, False
    ts, state = at or (envs.restart(seeds()), agent.initial_state(n))
    try:
        while done < steps:
            done += n
            cut = done >= steps or cut_due(done)
            if cut:
                ts = ts.as_cut()
            metrics = agent.learn(ts, state) if agent.on_policy else {}
            act = agent.act(ts, state, explore=True, generator=generator)
            if not cut:
                envs.send(act.action)
                sent = True
            step = Step(ts, state, act.action, act.extras)
            agent.observe(step)
            if not agent.on_policy:
                metrics = agent.learn()
            yield Row(done, step, metrics, act.state)
            if done >= steps:
                return
            if cut:
                ts = envs.restart(seeds())
            else:
                ts, sent = envs.recv(), False
            state = act.state
    finally:
        if sent:
            envs.settle()
