"""What a run is made from: agent, environments, options; put together in one order: defaults < preset < file < flags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from arcturus import agents
from arcturus.config import (
    YAML_LIMIT,
    Bounds,
    Flag,
    check,
    expanded,
    from_mapping,
    parse_options,
    parse_yaml,
    read_yaml,
    to_plain,
    write_yaml,
)
from arcturus.device import choose_device
from arcturus.envs import EnvConfig, is_atari, longest_episode, longest_scored, suited
from arcturus.envs.own import OWN
from arcturus.errors import CheckpointError, ConfigError, by_users_code, nearest
from arcturus.extensions import attribute, told
from arcturus.runs.renamed import todays
from arcturus.trusting import Outside, check_trust

ALL_OF_THE_RUN = ("anneal_steps", "importance_steps")  # an agent's settings in steps of which -1 means as many as the run has


@dataclass(frozen=True)
class RunOptions:
    """Everything about a run that is neither its agent nor its environments.  Steps are agent steps over all environments."""

    steps: Annotated[int, Bounds(1)] = 100_000
    """Agent steps to train for, summed over environments."""
    seed: Annotated[int, Bounds(0, 2**63 - 1)] = 0
    """Root of every random stream of the run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    run_dir: str = ""
    """Folder of the run; empty: a new one under runs/."""
    eval_every: Annotated[int, Bounds(-1)] = -1
    """Steps between evaluations; -1: ten in a run, 0: none."""
    eval_episodes: Annotated[int, Bounds(1)] = 10
    """Episodes an evaluation during training plays."""
    eval_max_steps: Annotated[int, Bounds(0)] = 0
    """Agent steps after which an evaluation cuts an episode; 0: where the environment has a limit of its own, else 10,000."""
    checkpoint_every: Annotated[int, Bounds(-1)] = -1
    """Steps between checkpoints; -1: two full-length games of every environment (Atari), or 100,000 and 1,000 of every environment,
    whichever is more; 0: only at the end."""
    checkpoint_replay: Annotated[Literal["all", "none"], Flag("--checkpoint.replay")] = "all"
    """none: checkpoints without the replay; smaller, but resuming is then not exact."""
    keep: Annotated[int, Bounds(1)] = 2
    """Checkpoints kept, beside the best."""
    log_every: Annotated[int, Bounds(-1)] = -1
    """Steps between points in TensorBoard; -1: 200 in a run."""
    heldout_states: Annotated[int, Bounds(0, 512)] = 512
    """States held out to watch the action-values on, at most one for every 20 steps; 0: none.  Looking takes 5% of a run at most,
    but with --deterministic, where it goes by steps alone."""
    torch_threads: Annotated[int, Bounds(1, 256)] = 1
    """Threads of torch on the CPU; more than one fights with the emulator's."""
    learner_threads: Annotated[int, Bounds(0, 256)] = 0
    """Those while an on-policy agent learns, when the emulators are idle; 0: one a core, at most 4 (--deterministic: torch_threads)."""
    deterministic: bool = False
    """Only deterministic kernels, TF32 off: a resumed run ends bit-identical to one never stopped."""
    init_from: str = ""
    """A run whose networks this one begins with (its last checkpoint)."""
    new_head: bool = False
    """With --init-from: the heads begin anew, as another game's actions mean other things."""
    freeze: str = ""
    """Parts of the network that don't learn: torso, core, or both as torso,core."""
    profile: bool = False
    """Time every phase of the loop, and write a trace of some rows; RUN/profile."""
    eager: bool = False
    """Nothing fused, compiled, captured or laid out for speed: to check that speed changes nothing but rounding."""
    bf16: bool = False
    """Torsos compute in bfloat16 while training: faster where the processor or GPU has it, and no longer float32's learning."""
    listeners: str = ""
    """Code of your own that hears every row: package.module.Name,package.module.Name."""
    env_timeout: Annotated[float, Bounds(0, 86_400)] = 50.0
    """Seconds an environment may take for one step; then it is taken for hung and the run ends; 0: for ever."""


@dataclass(frozen=True)
class RunConfig:
    agent_name: str
    preset: str
    agent: Any  # the agent's own Config
    env: EnvConfig
    run: RunOptions

    @property
    def device(self) -> str:
        return self.run.device

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
            "agent": {"name": self.agent_name, **to_plain(self.agent)},
            "preset": self.preset,
            "env": to_plain(self.env),
            "run": to_plain(self.run),
        }

    def text(self) -> str:
        """config.yaml: the mapping as YAML, and behind every setting that stands for a number of its own making the number used.
        A longer resumed run takes the setting, so the number is a comment."""
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

    complete: every setting is given, as in a run's folder, so that a preset which is called otherwise by now is only a name.
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
                f"{file} has {key!r}: it is unknown, or holds no settings",
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
    """What flags put together, checked as a file would be."""
    check(config.agent, "agent")
    check(config.env, "env")
    check(config.run, "run")
    if config.run.steps < config.env.num_envs:
        raise ConfigError(
            f"{config.run.steps} steps are less than one for each of {config.env.num_envs} environments", where="--steps"
        )
    places: dict[str, Any] = {name: expanded(getattr(config.run, name)) for name in ("run_dir", "init_from")}
    config = replace(config, run=replace(config.run, device=choose_device(config.run.device), **places))
    anneal, steps = getattr(config.agent, "anneal_steps", 0), config.run.steps
    if 0 < anneal < steps:
        raise ConfigError(
            f"the learning rate reaches 0 at step {anneal:,}, before the run ends at step {steps:,}",
            where="--agent.anneal-steps",
            fix="use -1, the whole run (on a run that exists: train-agent resume RUN --fork --agent.anneal-steps -1), or 0 for none",
        )
    return config


def _outside(agent: dict[str, Any], env_id: str, options: str, listeners: str) -> Iterator[Outside]:
    """The names of code outside arcturus in a run's settings; an environment's options may name some, or a file, unless
    they are numbers."""
    if "." in agent["name"]:
        yield Outside("agent", agent["name"])
    for part in ("torso", "core"):
        if "." in str(agent.get(part, "")):
            yield Outside(part, str(agent[part]))
    numbers = all(map(_numbers, parse_options(options).values()))
    if ":" in env_id or not (numbers or env_id in OWN):
        yield Outside("environment", env_id, for_good=numbers)
    for name in split_names(listeners):
        yield Outside("listener", name)


def _numbers(value: Any) -> bool:
    """Whether a setting is a number, true, false, nothing, or a list of these."""
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, list) and all(map(_numbers, value)))


def split_names(listeners: str) -> list[str]:
    return [name.strip() for name in listeners.split(",") if name.strip()]


def find_listeners(config: RunConfig) -> list[Callable[[Path], Any]]:
    """What makes each: called with the run's folder, and by it with the settings and the folder, it gives what is called with every
    row (loop.Row), and closed if it has close()."""
    return [partial(_listener, name, attribute(name, "--listeners"), config) for name in split_names(config.run.listeners)]


def _listener(name: str, make: Any, config: RunConfig, folder: Path) -> Any:
    try:
        listener = make(config, folder)
    except TypeError as e:
        if by_users_code(e):
            raise
        raise ConfigError(
            f"{name} can't be called with a run's settings and folder: {told(e)}", where="--listeners", fix="name a class of your own"
        ) from e
    if not callable(listener):
        raise ConfigError(
            f"{name} makes {type(listener).__name__}, which can't be called with a row", where="--listeners", fix="give it __call__"
        )
    return listener


def from_run(path: Path, trust: tuple[str, ...] = ()) -> RunConfig:
    """The settings of a run folder.  Code named there by dotted path or module:Id is imported only if the user trusts it."""
    from arcturus.runs.files import read_file  # brings torch, which listing presets does without

    try:
        values = parse_yaml(read_file(path / "config.yaml", YAML_LIMIT), path / "config.yaml")
    except ConfigError as e:
        raise CheckpointError(e.what, where=e.where, fix=e.fix) from e
    values = todays(values)
    agent, env, run = values.get("agent"), values.get("env"), values.get("run")
    if not (isinstance(agent, dict) and isinstance(env, dict) and isinstance(run, dict) and isinstance(agent.get("name"), str)):
        raise CheckpointError(f"{path / 'config.yaml'} is no run's", where=str(path))
    name, env_id = agent["name"], str(env.get("id", ""))
    check_trust(list(_outside(agent, env_id, str(env.get("options", "")), str(run.get("listeners", "")))), trust, path)
    settings = {k: v for k, v in agent.items() if k != "name"}
    try:
        config = resolve(
            name, preset=str(values.get("preset")), agent=settings, env=env, run=run | {"device": "cpu"}, complete=True
        )
    except ConfigError as e:
        raise CheckpointError(f"{path / 'config.yaml'}: {e.what}", where=str(path), fix=e.fix) from e
    return replace(config, run=replace(config.run, device=str(run.get("device", "auto"))))
