"""The loop, the same for every family of agents: a generator of rows; its reader logs, evaluates and saves.

An on-policy agent learns before it acts, so it never acts with a policy older than its last update; a replay agent learns
while the emulator's threads run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch

from arcturus.api import ActedStep, Agent, Environments, LoopOutput, Metrics, State, TimeStep
from arcturus.device import torch_threads


def run(
    envs: Environments,
    agent: Agent,
    *,
    steps: int,
    seeds: Callable[[], np.ndarray],
    generator: torch.Generator,
    start: int = 0,
    at: tuple[TimeStep, State] | None = None,
    interrupt_due: Callable[[int], bool] = lambda steps: False,
    learner_threads: int = 0,
) -> Iterator[LoopOutput]:
    """Trains until `steps` agent steps (loop iterations x environments, including each episode's opening row).

    A row at which interrupt_due(steps so far) is true is interrupted: its episodes are broken off and bootstrapped, its action is void,
    and the environments restart from seeds() once its reader is done.  That is where a checkpoint is written: later rows don't
    depend on anything the environments did before.  The last row is interrupted too, so that a finished run can be continued.

    A resumed run begins at `start` steps with the next row and the agent's memory before it, `at`; without `at` the environments
    restart.

    learner_threads: torch's threads while an on-policy agent learns, when the emulators need no core; 0: no change.

    When this ends, however it ends, the environments are idle.
    """
    done = start
    try:
        ts, memory = at or (envs.restart(seeds()), agent.initial_state(envs.spec.num_envs))
        while done < steps:
            done += envs.spec.num_envs
            interrupted = done >= steps or interrupt_due(done)
            if interrupted:
                ts = ts.as_interrupted()
            metrics: Metrics = {}
            if agent.on_policy:
                with torch_threads(learner_threads) if learner_threads else nullcontext():
                    metrics = agent.learn_from_rollout(ts, memory)
            act = agent.act(ts, memory, explore=True, generator=generator)
            if not interrupted:
                envs.send(act.action)
            step = ActedStep(ts, memory, act.action, act.extras)
            agent.observe(step)
            if not agent.on_policy:
                metrics = agent.learn()
            memory = act.state
            yield LoopOutput(done, step, metrics, memory, interrupted)
            if done < steps:
                ts = envs.restart(seeds()) if interrupted else envs.recv()
    finally:
        envs.settle()
