"""What a run is made from: agent, environments, options; put together in one order: defaults < preset < file < flags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from arcturus import agents
from arcturus.config import YAML_LIMIT, Bounds, Flag, check, expanded, from_mapping, parse_yaml, read_yaml, write_yaml
from arcturus.device import choose_device
from arcturus.envs import EnvConfig, is_atari, longest_episode, longest_scored, suited
from arcturus.errors import CheckpointError, ConfigError, nearest
from arcturus.runs.renamed import todays
from arcturus.trusting import check_trust, outside

ALL_OF_THE_RUN = ("anneal_steps", "importance_steps")  # an agent's settings in steps of which -1 means as many as the run has


@dataclass(frozen=True)
class RunOptions:
    """Everything about a run that is neither its agent nor its environments.  Steps are agent steps over all environments."""

    steps: Annotated[int, Bounds(1)] = 100_000
    """Agent steps to train for, summed over environments."""
    seed: Annotated[int, Bounds(0, 2**63 - 1)] = 0
    """Random seed; every random stream of the run derives from it."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 ..."""
    run_dir: str = ""
    """Folder of the run; empty: a new one under runs/."""
    eval_every: Annotated[int, Bounds(-1)] = -1
    """Steps between evaluations; -1: ten evaluations per run, 0: none."""
    eval_episodes: Annotated[int, Bounds(1)] = 10
    """Episodes per evaluation during training."""
    eval_max_steps: Annotated[int, Bounds(0)] = 0
    """Agent steps after which an evaluation cuts an episode; 0: the environment's own limit, or 10,000 if it has none."""
    checkpoint_every: Annotated[int, Bounds(-1)] = -1
    """Steps between checkpoints; -1: on Atari two full-length games of every environment, elsewhere 100,000 or 1,000 per environment,
    whichever is more; 0: only at the end."""
    checkpoint_replay: Annotated[Literal["all", "none"], Flag("--checkpoint.replay")] = "all"
    """none: checkpoints are saved without the replay; they are smaller, but a resumed run is not an exact continuation."""
    keep: Annotated[int, Bounds(1)] = 2
    """Number of checkpoints to keep, besides the best one."""
    log_every: Annotated[int, Bounds(-1)] = -1
    """Steps between points in TensorBoard; -1: 200 points per run."""
    heldout_states: Annotated[int, Bounds(0, 512)] = 512
    """Held-out states whose action-values are logged, at most one per 20 steps; 0: none.  This takes at most 5% of the run's time,
    except with --deterministic, where the schedule depends only on steps."""
    torch_threads: Annotated[int, Bounds(1, 256)] = 1
    """CPU threads of torch; more than one competes with the emulator's threads."""
    learner_threads: Annotated[int, Bounds(0, 256)] = 0
    """CPU threads of torch while an on-policy agent learns; 0: one per core, at most 4 (with --deterministic: torch_threads)."""
    deterministic: bool = False
    """Use only deterministic kernels, without TF32: a resumed run ends bit-identical to one that was never stopped."""
    init_from: str = ""
    """Run folder whose networks this run starts from (those of its last checkpoint)."""
    new_head: bool = False
    """With --init-from: the heads start from scratch, because another game's actions have other meanings."""
    freeze: str = ""
    """Parts of the network that are not trained: torso, core, or both as torso,core."""
    profile: bool = False
    """Measure the time of every phase of the loop, and write a trace of some rows to RUN/profile."""
    eager: bool = False
    """Turn off fused, compiled and captured code and fast memory layouts, to check that they change nothing but rounding."""
    bf16: bool = False
    """Compute torsos in bfloat16 during training: faster if the hardware supports it, but the results differ from float32."""
    listeners: str = ""
    """Your own code, called with every row: package.module.Name,package.module.Name."""
    track: str = ""
    """Experiment trackers that get all that TensorBoard gets: wandb, mlflow, trackio, or several: wandb,mlflow."""
    env_timeout: Annotated[float, Bounds(0, 86_400)] = 50.0
    """Seconds an environment may take for one step; after that it counts as hung and the run ends; 0: no limit."""


@dataclass(frozen=True)
class RunConfig:
    agent_name: str
    preset: str
    agent: Any  # the agent's own Config
    env: EnvConfig
    run: RunOptions

    @property
    def eval_every(self) -> int:
        return max(self.run.steps // 10, 1) if self.run.eval_every < 0 else self.run.eval_every

    @property
    def checkpoint_every(self) -> int:
        if self.run.checkpoint_every >= 0:
            return self.run.checkpoint_every
        return 54_000 * self.env.num_envs if is_atari(self.env.id) else max(100_000, 1_000 * self.env.num_envs)

    @property
    def log_every(self) -> int:
        return max(self.run.steps // 200, self.env.num_envs) if self.run.log_every < 0 else max(self.run.log_every, 1)

    def to_mapping(self) -> dict[str, Any]:
        """What config.yaml holds, and from_run reads."""
        return {
            "agent": {"name": self.agent_name, **asdict(self.agent)},
            "preset": self.preset,
            "env": asdict(self.env),
            "run": asdict(self.run),
        }

    def text(self) -> str:
        """config.yaml: the mapping as YAML, and after every setting whose number is chosen automatically the number used.
        It is only a comment, as a longer resumed run uses the setting itself."""
        return write_yaml(self.to_mapping(), {where: f"here {number:,}" for where, number in self._used()})

    def _used(self) -> Iterator[tuple[tuple[str, str], int]]:
        for field in ("eval_every", "checkpoint_every", "log_every"):
            if getattr(self.run, field) < 0:
                yield ("run", field), getattr(self, field)
        for field in ALL_OF_THE_RUN:
            if getattr(self.agent, field, 0) == -1:
                yield ("agent", field), self.run.steps
        if not self.env.frame_stack:
            yield ("env", "frame_stack"), self.env.stack
        if not self.run.eval_max_steps and (cut := longest_episode(self.env) or longest_scored(self.env)):
            yield ("run", "eval_max_steps"), cut


def resolve(
    agent_name: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    agent: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    complete: bool = False,
) -> RunConfig:
    """Defaults, the preset's changes, the file's, then the given ones.

    complete: every setting is given, as in a run's folder, so a preset that has since been renamed is only a name.
    """
    module = agents.load(agent_name)
    values = todays(read_yaml(file), agent_name) if file else {}
    parts: dict[str, dict[str, Any]] = {"agent": {}, "env": {}, "run": {}}
    for key, value in values.items():
        if key == "env" and isinstance(value, str):
            value = {"id": value}
        if key == "preset" and isinstance(value, str):
            preset = preset or value
        elif key == "agent" and value == agent_name:
            continue
        elif key in parts and isinstance(value, dict):
            parts[key] = dict(value)
        else:
            raise ConfigError(
                f"{file} has {key!r}, which is unknown or holds no settings",
                where=str(file),
                fix=nearest(str(key), [*parts, "preset"]),
            )
    named = parts["agent"].pop("name", agent_name)
    if named != agent_name:
        raise ConfigError(f"{file} is for agent {named}, not {agent_name}", where=str(file))
    for key, given in (("agent", agent), ("env", env), ("run", run)):
        parts[key] |= dict(given or {})
    device = choose_device(str(parts["run"].get("device", "auto")))
    env_id = str(parts["env"].get("id", ""))
    known = agents.presets(agent_name)
    if preset is None:
        preset = known.suited(suited(env_id), device.split(":")[0])
    if preset not in known.named and not complete:
        raise ConfigError(f"{agent_name} has no preset {preset!r}", where="--preset", fix=nearest(preset, known.named, "presets"))
    base = known.named.get(preset, {})
    agent_settings, env_settings, run_settings = ({**base.get(part, {}), **parts[part]} for part in agents.PARTS)
    config = RunConfig(
        agent_name,
        preset,
        from_mapping(module.Config, agent_settings, "agent"),
        from_mapping(EnvConfig, env_settings, "env"),
        from_mapping(RunOptions, run_settings, "run"),
    )
    return replace(config, run=replace(config.run, device=device))


def validate(config: RunConfig) -> RunConfig:
    """A config made from flags, checked as a file would be."""
    check(config.agent, "agent")
    check(config.env, "env")
    check(config.run, "run")
    if config.run.steps < config.env.num_envs:
        raise ConfigError(
            f"{config.run.steps} steps are too few: at least {config.env.num_envs} are needed, one per environment", where="--steps"
        )
    places: dict[str, Any] = {name: expanded(getattr(config.run, name)) for name in ("run_dir", "init_from")}
    config = replace(config, run=replace(config.run, device=choose_device(config.run.device), **places))
    anneal, steps = getattr(config.agent, "anneal_steps", 0), config.run.steps
    if 0 < anneal < steps:
        raise ConfigError(
            f"the learning rate reaches 0 at step {anneal:,}, before the run ends at step {steps:,}",
            where="--agent.anneal-steps",
            fix="use -1 for the whole run (in an existing run: train-agent resume RUN --fork --agent.anneal-steps -1), or 0 for none",
        )
    return config


def from_run(path: Path, trust: tuple[str, ...] = ()) -> RunConfig:
    """The settings of a run folder.  Code named there by dotted path or module:Id is imported only if the user trusts it."""
    from arcturus.runs.files import read_file  # brings torch, which listing presets does without

    try:
        values = parse_yaml(read_file(path / "config.yaml", YAML_LIMIT), path / "config.yaml")
    except ConfigError as e:
        raise CheckpointError(e.what, where=e.where, fix=e.fix) from e
    agent, env, run = values.get("agent"), values.get("env"), values.get("run")
    if not (isinstance(agent, dict) and isinstance(env, dict) and isinstance(run, dict) and isinstance(agent.get("name"), str)):
        raise CheckpointError(f"{path / 'config.yaml'} does not belong to a run", where=str(path))
    env_id = str(env.get("id", ""))
    check_trust(list(outside(agent, env_id, str(env.get("options", "")), str(run.get("listeners", "")))), trust, path)
    try:
        values = todays(values)
        settings, env = dict(values["agent"]), values["env"]
        config = resolve(
            settings.pop("name"), preset=str(values.get("preset")), agent=settings, env=env, run=run | {"device": "cpu"}, complete=True
        )
    except ConfigError as e:
        raise CheckpointError(f"{path / 'config.yaml'}: {e.what}", where=str(path), fix=e.fix) from e
    return replace(config, run=replace(config.run, device=str(run.get("device", "auto"))))
