"""The commands as calls: train, resume, load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcturus.building import build_agent, playing_state, restore
from arcturus.config import from_mapping
from arcturus.device import choose_device
from arcturus.envs import open_training
from arcturus.memory import give_slots
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run
from arcturus.runs.settings import RunConfig, resolve, validate
from arcturus.runs.starting import resume_run, start_run


class LoadedActor:
    """A trained agent, ready to play: the Actor protocol, and what it was trained with.

    config: the run's RunConfig; step: the agent steps it had been trained for.
    """

    def __init__(self, agent: Any, config: RunConfig, step: int):
        self.agent, self.config, self.step = agent, config, step
        self.stochastic, self.network, self.objective = agent.stochastic, agent.network, agent.objective
        self.initial_state, self.act = agent.initial_state, agent.act


def train(
    agent: str,
    env: str,
    *,
    preset: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    run_dir: Path | str | None = None,
    agent_config: Mapping[str, Any] | None = None,
    env_config: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Trains a new run, as `train-agent AGENT --env ENV` does, and returns it.

    agent_config and env_config change the agent's Config and EnvConfig; options are RunOptions' fields (eval_every=0 ...).
    """
    options |= {"seed": seed, "device": device}
    options |= {k: v for k, v in (("steps", steps), ("run_dir", run_dir and str(run_dir))) if v is not None}
    env_options = {**(env_config or {}), "id": env}
    config = validate(resolve(agent, preset=preset, agent=agent_config, env=env_options, run=options))
    return start_run(config, ["arcturus.train", agent, env], quiet=quiet)


def resume(
    run: Run | Path | str,
    *,
    steps: int | None = None,
    fork: Path | str | None = None,
    agent_config: Mapping[str, Any] | None = None,
    env_config: Mapping[str, Any] | None = None,
    quiet: bool = False,
    trust: tuple[str, ...] = (),
    **options: Any,
) -> Run:
    """Goes on with a run from its newest checkpoint, as `train-agent resume RUN` does.

    steps: a new total.  fork: the folder of a copy to go on with under other settings (agent_config, env_config, options).
    """
    if steps is not None:
        options["steps"] = steps

    def change(config: RunConfig) -> RunConfig:
        return replace(
            config,
            agent=from_mapping(type(config.agent), agent_config or {}, "agent", config.agent),
            env=from_mapping(type(config.env), env_config or {}, "env", config.env),
            run=from_mapping(type(config.run), options, "run", config.run),
        )

    return resume_run(run.path if isinstance(run, Run) else run, change=change, fork=fork, quiet=quiet, trust=trust)


def load(
    run: Run | Path | str,
    checkpoint: str = "last",
    device: str = "cpu",
    trust: tuple[str, ...] = (),
    memory_slots: int | None = None,
) -> LoadedActor:
    """The agent of a run: its last checkpoint, its best (by evaluation during training), or the one of a step.

    memory_slots: an addressable memory (ntm, dnc) gets so many slots; no weight depends on how many there are.
    """
    run = run if isinstance(run, Run) else Run(run)
    config = run.config(trust)
    device = choose_device(device)
    checkpoints = Checkpoints(run.path)
    path = checkpoints.find(checkpoint)
    with open_training(replace(config.env, num_envs=1), 0, device) as envs:
        spec = replace(envs.spec, num_envs=config.env.num_envs)
    playing = replace(config, agent=_for_playing(config.agent, spec.num_envs))
    agent = build_agent(playing, spec, device)
    state, step = checkpoints.load_agent(path, agent.state_dict())
    restore(agent, playing_state(state), str(run.path))
    if memory_slots is not None:
        give_slots(agent.network, memory_slots)
    return LoadedActor(agent, config, step)


def _for_playing(agent_config: Any, num_envs: int) -> Any:
    """A playing agent needs no teachers, and no replay to speak of: only as much as any stack, n-step return and sequence ask for."""
    if hasattr(agent_config, "teachers"):
        return replace(agent_config, teachers="")
    if not hasattr(agent_config, "capacity"):
        return agent_config
    reach = sum(getattr(agent_config, name, 0) for name in ("n_step", "bptt", "burn_in"))
    return replace(agent_config, capacity=(512 + reach) * num_envs, replay_device="auto")
