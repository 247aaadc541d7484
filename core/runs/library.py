"""The commands as calls: train, resume, load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from arcturus.device import choose_device
from arcturus.envs import open_envs
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run
from arcturus.runs.settings import RunConfig, resolve, validate
from arcturus.training import build_agent, restore, resume_run, start_run


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


def resume(run: Run | Path | str, *, steps: int | None = None, quiet: bool = False, trust: tuple[str, ...] = ()) -> Run:
    """Goes on with a run from its newest checkpoint, as `train-agent resume RUN` does."""
    return resume_run(run.path if isinstance(run, Run) else run, steps=steps, quiet=quiet, trust=trust)


def load(run: Run | Path | str, checkpoint: str = "last", device: str = "cpu", trust: tuple[str, ...] = ()) -> LoadedActor:
    """The agent of a run: its last checkpoint, its best (by evaluation during training), or the one of a step."""
    run = run if isinstance(run, Run) else Run(run)
    config = run.config(trust)
    device = choose_device(device)
    checkpoints = Checkpoints(run.path)
    state, manifest = checkpoints.load(checkpoints.find(checkpoint))
    with open_envs(replace(config.env, num_envs=1), 0, device) as envs:
        spec = envs.spec
    playing = replace(config, agent=_small_replay(config.agent))
    agent = build_agent(playing, spec, device)
    weights = {k: v for k, v in state["agent"].items() if k not in ("optimizer", "replay_rng")}
    restore(agent, weights, str(run.path))
    return LoadedActor(agent, config, manifest["step"])


def _small_replay(agent_config: Any) -> Any:
    """A playing agent needs no replay to speak of: only as much as any stack and any n-step return ask for."""
    return replace(agent_config, capacity=512, replay_device="auto") if hasattr(agent_config, "capacity") else agent_config
