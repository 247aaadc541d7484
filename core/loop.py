"""The loop, one for every family of agents: a generator of rows, whose readers log, score and save.

An on-policy agent learns before it acts, so it never acts with a policy older than its last update; a replay agent learns
while the emulator's threads run.  Where environments come in groups (envs/lockstep.py), each is acted for as its part of the row
arrives and is sent on its way at once, while the others' emulators run; only an agent that may learn from a row waits for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from arcturus.api import Act, Agent, Environments, Group, Metrics, State, Step, TimeStep, joined, parted
from arcturus.device import torch_threads


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
    learner_threads: int = 0,
) -> Iterator[Row]:
    """Trains until `steps` agent steps (rows times environments, the one row that opens each episode counted as well).

    A row at which cut_due(steps so far) says so is cut: its episodes are broken off and bootstrapped, its action is void, and
    the environments restart from seeds() once its reader is done.  That is where a checkpoint is written: what comes after
    depends on nothing the environments did before.  The last row is cut too, so a finished run can be taken further.

    A run that goes on from the middle begins at `start` steps with the row and the agent's memory that come next, `at`; without
    them the environments restart.

    learner_threads: torch's while an on-policy agent learns, as the emulators need no core meanwhile; 0: as many as otherwise.

    Environments are idle again whenever this ends, however it ends.
    """
    n, groups = envs.spec.num_envs, envs.groups
    may_learn = getattr(agent, "due", lambda: True)
    done = start

    try:
        ts, memory = at or (envs.restart(seeds()), agent.initial_state(n))
        rows: Iterable[TimeStep] = parted(ts, len(groups))
        memories = parted(memory, len(groups))
        while done < steps:
            done += n
            cut = done >= steps or cut_due(done)
            metrics: Metrics = {}
            if agent.on_policy and may_learn():
                rows = list(rows)
                ts = joined(rows)
                with torch_threads(learner_threads):
                    metrics = agent.learn(ts.as_cut() if cut else ts, joined(memories))
            step, memories = play(agent, groups, rows, memories, generator, cut)
            agent.observe(step)
            if not agent.on_policy:
                metrics = agent.learn()
            yield Row(done, step, metrics, joined(memories))
            if done < steps:
                rows = parted(envs.restart(seeds()), len(groups)) if cut else (group.recv() for group in groups)
    finally:
        envs.settle()


def play(
    agent: Agent, groups: Sequence[Group], rows: Iterable[TimeStep], memories: list[State], generator: torch.Generator, cut: bool
) -> tuple[Step, list[State]]:
    """Acts for every group, and sends it on its way if the row isn't cut; the memories after it."""
    steps: list[Step] = []
    after: list[State] = []
    for group, ts, memory in zip(groups, rows, memories, strict=True):
        ts = ts.as_cut() if cut else ts
        act: Act = agent.act(ts, memory, explore=True, generator=generator)
        if not cut:
            group.send(act.action)
        steps.append(Step(ts, memory, act.action, act.extras))
        after.append(act.state)
    return joined(steps), after
