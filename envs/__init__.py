"""Environments: make() opens every Atari game that ale-py ships and everything in Gymnasium's registry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from arcturus.config import Bounds, Flag, parse_options
from arcturus.envs.own import OWN
from arcturus.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from arcturus.envs.tasks.device import TaskEnvs
    from arcturus.envs.vector import Backend, DeviceEnvs


@dataclass(frozen=True)
class EnvConfig:
    """The environments a run trains on."""

    id: Annotated[str, Flag("--env")] = ""
    """Environment: an ALE/*-v5 game, one of arcturus's own (MDP/, Memory/, NTM/, Tape/), a Gymnasium id, or your own: module:Id-v0."""
    options: str = ""
    """Settings of the environment as name=value,name=value (delay=20,cues=4); not for Atari."""
    observation: str = ""
    """For Dict observations: the entry that the agent sees (image); not for Atari."""
    channels: Literal["auto", "first", "last", "none"] = "auto"
    """Position of a picture's channels; none: it is not a picture; auto: bytes of rank 2 to 4 are pictures, and their shape tells where
    the channels are; not for Atari."""
    reopen: bool = True
    """Open an environment again at every restart with a seed, so that an episode depends on nothing before it; False trusts
    reset(seed) instead, which saves time if opening is slow; not for Atari."""
    num_envs: Annotated[int, Flag("--num-envs"), Bounds(1, 4096)] = 8
    """Number of environments stepped in parallel."""
    protocol: str = "v5"
    """Atari: v5 (sticky actions), nature (no-op starts, 5 minutes) ...; envs/atari.py lists all of them with their sources."""
    frame_stack: Annotated[int, Bounds(0, 256)] = 0
    """Frames per observation; 0: 4 on Atari, 1 elsewhere."""
    frame_size: Annotated[int, Bounds(12, 210)] = 84
    """Atari: width and height of the scaled screen, in pixels."""
    full_action_space: bool = False
    """Atari: use all 18 actions instead of only the game's own."""
    threads: Annotated[int, Bounds(0, 256)] = 0
    """Atari: emulator threads; 0: one per core."""
    curriculum: Literal["uniform", "mixture", "lessons", "promotion"] = "uniform"
    """Tasks: how training chooses the next lengths from the results so far; evaluations never use it."""

    @property
    def stack(self) -> int:
        return self.frame_stack or (4 if is_atari(self.id) else 1)


ATARI_ONLY = ("protocol", "frame_size", "full_action_space", "threads")
LONGEST_SCORED = 10_000
NOT_ATARI = ("options", "observation", "channels", "reopen")


def is_atari(env_id: str) -> bool:
    return env_id.startswith("ALE/")


def family(env_id: str) -> str:
    """Which kind it is of: atari, mdp, memory, ntm, tape or classic."""
    families = {"ALE": "atari", "MDP": "mdp", "Memory": "memory", "NTM": "ntm", "Tape": "tape"}
    module, _, name = env_id.rpartition(":")
    namespace = name.partition("/")[0]
    return "classic" if module and namespace == "ALE" else families.get(namespace, "classic")


def is_own(env_id: str) -> bool:
    """Whether arcturus's code steps the environment, so that its restarts are known to repeat and its episodes to end: its own, and
    tasks that a user registered."""
    from arcturus.envs.tasks import registered_settings

    return env_id in OWN or registered_settings(env_id) is not None


def suited(env_id: str) -> str:
    """The family whose presets fit, or `grid` for MinAtar and MiniGrid, which show small grids of many channels.  Tasks that end at the
    first wrong answer are not whole sequences: they use those of `memory`."""
    if env_id.rpartition(":")[2].startswith(("MinAtar/", "MiniGrid-", "BabyAI-")):
        return "grid"
    return "memory" if family(env_id) == "ntm" and env_id.endswith("Stop-v0") else family(env_id)


def check_settings(config: EnvConfig) -> None:
    """A ConfigError for a setting that this environment would ignore."""
    defaults, atari = EnvConfig(), is_atari(config.id)
    for name in NOT_ATARI if atari else ATARI_ONLY:
        if getattr(config, name) != getattr(defaults, name):
            flag = f"--env.{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} {getattr(config, name)} {'is not for Atari games' if atari else f'is for Atari games, and {config.id} is not one'}",
                where=flag,
                fix="leave it out; Atari games have other settings: --env.protocol, --env.frame-size ..."
                if atari
                else "leave it out; if a preset brought it, choose one for this environment (train-agent list presets)",
            )


def single(config: EnvConfig) -> bool:
    """Whether no second instance may be opened beside the training one: true for one environment of a third party (a simulator on one
    port, a robot).  Several of Gymnasium's own environments, arcturus's and the emulator's may be open at once."""
    if config.num_envs > 1 or is_atari(config.id) or is_own(config.id):
        return False
    import gymnasium as gym

    spec = gym.registry.get(config.id)
    return spec is None or not str(spec.entry_point).startswith("gymnasium.envs.")


def longest_episode(config: EnvConfig) -> int:
    """Agent steps after which this environment ends every episode by itself; 0: it has no limit that is known."""
    if is_atari(config.id):
        from arcturus.envs.atari import FRAME_SKIP, protocol

        return protocol(config.protocol).max_frames // FRAME_SKIP
    import gymnasium as gym

    from arcturus.envs.opening import registered

    spec = gym.registry.get(registered(config.id))
    return int(getattr(spec, "max_episode_steps", None) or 0)


def longest_scored(config: EnvConfig) -> int:
    """Agent steps after which an evaluation cuts an episode by default; 0: never, as the environment ends it."""
    return 0 if is_own(config.id) or longest_episode(config) else LONGEST_SCORED


def open_backend(config: EnvConfig, **kwargs: Any) -> Backend:
    """The numpy part of an environment, for callers that need no tensors.  colour (Atari): pictures for films; drawn (others): it
    can render()."""
    if not config.id:
        raise ConfigError("no environment given", where="--env", fix="for example --env ALE/Pong-v5 (train-agent list envs)")
    if is_atari(config.id):
        from arcturus.envs.atari import AtariBackend, protocol

        return AtariBackend(config, protocol(config.protocol), **kwargs)
    from arcturus.envs.classic import ClassicBackend
    from arcturus.envs.opening import unknown

    if family(config.id) != "classic" and config.id not in OWN and ":" not in config.id:  # to Gymnasium NTM/Copy is NTM/Copy-v0
        raise unknown(config.id)
    return ClassicBackend(config, **kwargs)


def open_envs(config: EnvConfig, seed: int, device: torch.device | str, **kwargs: Any) -> DeviceEnvs:
    """Environments that can be restarted one by one: for playing and scoring.  kwargs: open_backend's."""
    from arcturus.envs.vector import DeviceEnvs

    return DeviceEnvs(open_backend(config, **kwargs), device, frame_stack=config.stack, seed=seed)


def open_training(config: EnvConfig, seed: int, device: torch.device | str) -> DeviceEnvs | TaskEnvs:
    """Environments for training, with the curriculum; the algorithmic tasks' begin and end together, on the device."""
    from arcturus.envs.schedules import Schedule
    from arcturus.envs.vector import DeviceEnvs

    remembered = 0
    if family(config.id) == "ntm" and is_own(config.id):
        from arcturus.envs.opening import refused
        from arcturus.envs.tasks import task_of
        from arcturus.envs.tasks.device import TaskEnvs

        options = parse_options(config.options)
        try:
            task, play = task_of(config.id, options)
        except (TypeError, ValueError) as e:
            raise refused(config.id, options, e) from e
        if play.actions == "probs":
            raise ConfigError("no agent supports actions=probs", where="--env.options", fix="use actions=quantised")
        if config.stack > 1:
            raise ConfigError("observations of a task can't be stacked", where="--env.frame-stack", fix="give the agent a memory core")
        if config.curriculum != "uniform" and hasattr(task, "optimal"):
            raise ConfigError(
                f"no agent can solve an episode of {config.id} exactly, so the curriculum would never advance",
                where="--env.curriculum",
                fix="use --env.curriculum uniform",
            )
        remembered = task.remembered(task.longest)
        if play.reward != "stop":
            schedule = Schedule(config.curriculum, task.ranges)
            return TaskEnvs(config.id, task, play, config.num_envs, device, seed=seed, schedule=schedule)
    backend = open_backend(config)
    ranges = getattr(backend, "ranges", ())
    if config.curriculum != "uniform" and not ranges:
        raise ConfigError(f"{config.id} has no lengths for a curriculum to choose", where="--env.curriculum", fix="leave it out")
    envs = DeviceEnvs(backend, device, frame_stack=config.stack, seed=seed)
    envs.spec = replace(envs.spec, remembered=remembered)
    if config.curriculum != "uniform":
        envs.follow(Schedule(config.curriculum, ranges, getattr(backend, "promotion", (10, -1.0))))
    return envs


def make(
    env_id: str, num_envs: int = 8, seed: int = 0, device: torch.device | str = "cpu", **options: Any
) -> DeviceEnvs | TaskEnvs:
    """`num_envs` environments whose observations, rewards and flags are tensors on `device`.

    options are EnvConfig's fields.  The result has Gymnasium's vector shape: spaces, reset(seed=) -> (obs, info),
    step(action) -> (obs, reward, terminated, truncated, info), close(); a finished environment resets itself on its next
    step (AutoresetMode.NEXT_STEP).  Rewards are always raw.  The first reset() without a seed uses `seed`.
    """
    from arcturus.config import from_mapping

    config = from_mapping(EnvConfig, {"id": env_id, "num_envs": num_envs, **options}, "make()")
    check_settings(config)
    return open_training(config, seed, device)
