"""The commands as calls: train, resume, load."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcturus import agents
from arcturus.api import Agent
from arcturus.config import from_mapping, hints, user_path
from arcturus.device import choose_device
from arcturus.envs import EnvConfig, open_training
from arcturus.errors import CheckpointError, ConfigError
from arcturus.memory import give_slots
from arcturus.runs.building import build_agent, fitting, playing_state
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run
from arcturus.runs.settings import RunConfig, RunOptions, resolve, validate
from arcturus.runs.starting import resume_run, start_run

RETRIES = 5


class LoadedActor:
    """A trained agent, ready to play: the Actor protocol, and what it was trained with.

    config: the run's RunConfig; step: the agent steps it had been trained for.
    """

    def __init__(self, agent: Agent, config: RunConfig, step: int):
        self.agent, self.config, self.step = agent, config, step
        self.stochastic, self.network, self.objective, self.spec = agent.stochastic, agent.network, agent.objective, agent.spec
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
    raise_signals: bool = True,
    **options: Any,
) -> Run:
    """Trains a new run, as `train-agent AGENT --env ENV` does, and returns it.

    agent_config and env_config change the agent's Config and EnvConfig; options are RunOptions' fields (eval_every=0 ...).

    A signal ends it once all is saved: Ctrl-C then raises KeyboardInterrupt, and SIGTERM, SIGHUP and SIGUSR1 do what they do without
    a run, so that a script's loop over seeds ends as well.  raise_signals=False returns the run instead, its status preempted.
    """
    _check_options(options, agent)
    options |= {"seed": seed, "device": device}
    options |= {k: v for k, v in (("steps", steps), ("run_dir", run_dir and str(run_dir))) if v is not None}
    env_options = {**(env_config or {}), "id": env}
    config = validate(resolve(agent, preset=preset, agent=agent_config, env=env_options, run=options))
    return _sent_on(start_run(config, ["arcturus.train", agent, env], quiet=quiet), raise_signals)


def _check_options(options: Mapping[str, Any], agent: str) -> None:
    """A ConfigError that names the keyword under which an agent's or environment's setting is given."""
    homes = {"env_config": EnvConfig, "agent_config": agents.load(agent).Config}
    for name, value in options.items():
        for keyword, cls in homes.items():
            if name not in hints(RunOptions) and name in hints(cls):
                raise ConfigError(
                    f"{name} is a setting of the {'environments' if cls is EnvConfig else 'agent'}, not of the run",
                    where=f"{name}={value!r}",
                    fix=f"pass {keyword}={{{name!r}: {value!r}}}",
                )


def _sent_on(run: Run, raise_signals: bool) -> Run:
    """Returns the run, or raises the signal that stopped it again, now that everything is saved."""
    if raise_signals and run.status == "preempted":
        name = run.known.get("signal", "SIGINT")
        if name == "SIGINT":
            raise KeyboardInterrupt(f"everything is saved; arcturus.resume({str(run.path)!r}) continues the run")
        signal.raise_signal(signal.Signals[name])
    return run


def resume(
    run: Run | Path | str,
    *,
    steps: int | None = None,
    fork: Path | str | None = None,
    agent_config: Mapping[str, Any] | None = None,
    env_config: Mapping[str, Any] | None = None,
    quiet: bool = False,
    trust: tuple[str, ...] = (),
    raise_signals: bool = True,
    **options: Any,
) -> Run:
    """Resumes a run from its newest checkpoint, as `train-agent resume RUN` does.

    steps: a new total.  fork: the folder of a copy that continues under other settings (agent_config, env_config, options).
    raise_signals: as in train().
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

    place = run.path if isinstance(run, Run) else run
    return _sent_on(resume_run(place, change=change, fork=fork and user_path(fork), quiet=quiet, trust=trust), raise_signals)


def load(
    run: Run | Path | str,
    checkpoint: str = "last",
    device: str = "cpu",
    trust: tuple[str, ...] = (),
    memory_slots: int | None = None,
) -> LoadedActor:
    """The agent of a run: its last checkpoint, its best (by evaluation during training), or the one of a step.

    memory_slots: an addressable memory (ntm, dnc) gets this many slots; no weight depends on how many there are.
    """
    run = run if isinstance(run, Run) else Run(run)
    config = run.config(trust)
    device = choose_device(device)
    with open_training(replace(config.env, num_envs=1), 0, device) as envs:
        spec = replace(envs.spec, num_envs=config.env.num_envs)
    playing = replace(config, agent=_for_playing(config.agent, spec.num_envs))
    agent = build_agent(playing, spec, device)
    state, step = _read_agent(Checkpoints(run.path), checkpoint, agent.state_dict())
    with fitting(str(run.path)):
        agent.load_state_dict(playing_state(state))
    if memory_slots is not None:
        give_slots(agent.network, memory_slots)
    return LoadedActor(agent, config, step)


def _read_agent(checkpoints: Checkpoints, which: str, template: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The run may be training, and remove a checkpoint for a newer one while it is being read: then that one is read."""
    for _ in range(RETRIES):
        path = checkpoints.find(which)
        try:
            return checkpoints.load_agent(path, template)
        except CheckpointError:
            if path.exists():
                raise
    raise CheckpointError(f"every checkpoint was removed while it was read, {RETRIES} times", where=str(checkpoints.folder))


def _for_playing(agent_config: Any, num_envs: int) -> Any:
    """A playing agent needs no teachers, and only the smallest replay: enough for any stack, n-step return and sequence."""
    if hasattr(agent_config, "teachers"):
        return replace(agent_config, teachers="")
    if not hasattr(agent_config, "capacity"):
        return agent_config
    reach = sum(getattr(agent_config, name, 0) for name in ("n_step", "bptt", "burn_in"))
    return replace(agent_config, capacity=(512 + reach) * num_envs, replay_device="auto")
