"""train-agent: trains an agent on an environment, resumes a run, lists agents, environments and presets, checks the machine.

  train-agent AGENT --env ID [--preset NAME] [--config FILE] [--steps N] [--seed S] [--device auto] [--run-dir DIR] ...
  train-agent AGENT --env ID --init-from RUN [--new-head] [--freeze torso]   starts from another run's network
  train-agent AGENT --help                every setting of that agent, its environments and the run
  train-agent resume RUN [--steps N] [--fork [DIR]]   continues from the newest checkpoint
  train-agent AGENT --env ID --run-dir DIR --start-or-resume   starts the run, goes on with it, or leaves it if it has finished
  train-agent AGENT --env ID --seeds 0,1,2            one run for each seed, as many at once as there are CPUs (sweep-agents)
  train-agent list agents|envs|presets
  train-agent doctor                      versions, devices, games, encoder, speed

Settings come from defaults < preset < --config FILE < flags, wherever on the line they stand.  Steps are agent steps
summed over environments; one is 4 emulator frames on Atari.
Exit codes: 0 done, 2 usage, 3 environment or device, 4 training failed, 5 disk or checkpoint, 129/130/143 stopped by a signal.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import signal
import time
from pathlib import Path
from typing import Annotated, Any, get_args

from arcturus.scripts.frontend import ERROR_LINES, command  # first: it sets what must be set before torch is imported

# isort: split
from arcturus import agents
from arcturus.config import Flag, expanded, hints, user_path
from arcturus.envs import EnvConfig
from arcturus.errors import ConfigError, nearest
from arcturus.runs.settings import RunConfig, RunOptions, resolve, validate
from arcturus.suggesting import check_flags, preset_called
from arcturus.telling import say, tell, typed


def short_flags() -> dict[str, str]:
    """--env for --env.id, and the like."""
    return {
        extra.name: f"--{prefix}{name.replace('_', '-')}"
        for prefix, cls in (("env.", EnvConfig), ("", RunOptions))
        for name, hint in hints(cls).items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Flag)
    }


def spell_out(argv: list[str]) -> list[str]:
    """Short flags as the long ones that tyro knows; --new-head and --profile may stand alone."""
    known = short_flags()
    out = []
    for arg, after in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = arg.partition("=")
        out.append(known.get(name, name) + equals + value)
        if arg in ("--new-head", "--profile") and after not in ("True", "False"):
            out.append("True")
    return out


def parse(agent: str, argv: list[str]) -> RunConfig:
    """Flags over file over preset over defaults; exits with 2 and a short message on anything unknown."""
    argv = spell_out(argv)
    given = vars(early(argv, "--preset", "--config", "--device", "--env.id")[0])
    file = user_path(given["config"]) if given["config"] else None
    run = {"device": given["device"]} if given["device"] else {}
    env = {"id": given["env.id"]} if given["env.id"] else {}
    base = resolve(agent, preset=given["preset"], file=file, env=env, run=run)
    sources = [
        ("preset", Annotated[str, "one of " + ", ".join(agents.presets(agent).named)], base.preset),
        ("config", Annotated[Path | None, "YAML file of settings"], file),
    ]
    return validate(settings_over(base, argv, f"train-agent {agent}", sources))


def known_flags(agent_config: Any, more: list[str]) -> set[str]:
    """Every flag there is, short ones included."""
    parts = (("env.", EnvConfig), ("agent.", agent_config), ("", RunOptions))
    long = {f"--{prefix}{name.replace('_', '-')}" for prefix, cls in parts for name in hints(cls)}
    return long | set(short_flags()) | {f"--{name}" for name in more} | {"--help"}


def settings_over(base: RunConfig, argv: list[str], prog: str, more: list[tuple[str, Any, Any]] | None = None) -> RunConfig:
    """A run's settings with flags on top; `more` are further flags (name, Annotated[type, help], default) for the help text."""
    import tyro

    module = agents.load(base.agent_name)
    fields: list[Any] = [
        ("env", EnvConfig, base.env),
        ("agent", module.Config, base.agent),
        ("run", Annotated[RunOptions, tyro.conf.arg(name="")], base.run),
    ]
    for name, hint, default in more or []:
        kind, text = get_args(hint)
        fields.append((name, Annotated[kind, tyro.conf.arg(help=text)], default))
    check_flags(argv, known_flags(module.Config, [name for name, _, _ in more or []]), base.agent_name)
    flags = dataclasses.make_dataclass("Flags", [(n, t, dataclasses.field(default=d)) for n, t, d in fields], frozen=True)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Any = tyro.cli(
                flags,
                prog=prog,
                args=argv,
                description=(module.__doc__ or "").split("\n\n")[0],
                config=(tyro.conf.FlagConversionOff,),
            )
    finally:
        if lines := said.getvalue().splitlines():
            say("\n".join(lines[:ERROR_LINES]))
    return RunConfig(base.agent_name, base.preset, parsed.agent, parsed.env, parsed.run)


def train(agent: str, argv: list[str]) -> int:
    if agent not in agents.names() and "." not in agent:
        raise ConfigError(
            f"unknown agent {agent!r}",
            where="train-agent AGENT",
            fix=preset_called(agent)
            or nearest(agent, [*agents.names(), "resume", "list", "doctor"], "agents") + "; or your own agent: package.module",
        )
    going_on = "--start-or-resume" in argv
    known, flags = early([arg for arg in argv if arg != "--start-or-resume"], "--seeds")
    if known.seeds is not None:
        return train_seeds(agent, flags, known.seeds)
    config = parse(agent, flags)
    from arcturus.runs.starting import start_or_resume, start_run

    command = ["train-agent", agent, *argv]
    if going_on and not config.run.run_dir:
        raise ConfigError("--start-or-resume needs the run's folder", where="--start-or-resume", fix="add --run-dir DIR")
    start = start_or_resume if going_on else start_run
    return finish(start(config, command, announce=lambda run: announce(config, run)))


def early(argv: list[str], *names: str) -> tuple[argparse.Namespace, list[str]]:
    """The values of a few flags, read before all others, and the rest of the command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        parser.add_argument(name)
    try:
        known, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as e:
        raise ConfigError(str(e), where="the command line") from e
    for name, value in vars(known).items():
        if isinstance(value, list):  # argparse removes "--" anywhere, and "--preset=--" is left with nothing
            raise ConfigError(f"--{name} has no value", where="the command line")
    return known, rest


def train_seeds(agent: str, argv: list[str], seeds: str) -> int:
    """The same run with several seeds: a sweep, as sweep-agents runs it."""
    from arcturus.sweeps.engine import run_sweep
    from arcturus.sweeps.file import Cell, make_sweep

    try:
        numbers = [int(x) for x in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"{seeds!r} are not seeds", where="--seeds", fix="write 0,1,2") from None
    config = parse(agent, argv)
    _, flags = early(spell_out(argv), "--env.id", "--run-dir", "--seed")
    name = f"{config.env.id.replace('/', '-').replace(':', '-')}-{agent}"
    out = Path(config.run.run_dir or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    cells = [Cell(f"{name}-s{seed}", agent, config.env.id, seed, tuple(flags)) for seed in numbers]
    sweep = make_sweep(out, cells, gpus=float(config.run.device.startswith("cuda")), where="--seeds")
    if not config.run.run_dir:
        tell(f"runs go to {typed(sweep.out)}; to go on after a stop, add --run-dir {typed(sweep.out)}")
    code = run_sweep(sweep)
    tell(f"compare them:  compare-runs {typed(sweep.out)}")
    return code


def announce(config: RunConfig, run: Any) -> None:
    from arcturus.envs import is_atari

    unit = f" ({4 * config.run.steps:,} frames)" if is_atari(config.env.id) else ""
    tell(
        f"{config.agent_name} on {config.env.id}, preset {config.preset}, {config.run.steps:,} steps{unit}, "
        f"{config.env.num_envs} environments, {config.run.device}, seed {config.run.seed}\n"
        f"run folder {run.path}\nwatch it:  tensorboard --logdir {typed(run.path)}"
    )


def finish(run: Any) -> int:
    path, about = typed(run.path), run.about
    if about["status"] == "preempted":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is saved: a late second Ctrl-C changes nothing
        tell(f"stopped at step {about['steps']:,}; continue with:  train-agent resume {path}")
        ended = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGTERM, "SIGHUP": signal.SIGHUP}
        return 128 + ended.get(about.get("signal", ""), signal.SIGINT)
    tell(f"done: {about['steps']:,} steps\nscore it:  evaluate-agent {path} --video {typed(run.path / 'videos' / 'film.mp4')}")
    return 0


def resume(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="train-agent resume",
        allow_abbrev=False,
        description="Continues a run from its newest checkpoint.  --steps N sets a new total; device and logging may change too; "
        "any other setting (--agent.learning-rate 1e-4 ...) needs --fork.",
    )
    parser.add_argument("run", type=user_path, help="the run folder")
    parser.add_argument(
        "--fork",
        nargs="?",
        const="",
        metavar="DIR",
        help="leave the run as it is and continue with a copy, in DIR or in a new folder beside it",
    )
    parser.add_argument(
        "--trust", action="append", default=[], metavar="NAME", help="import this agent or environment from outside arcturus"
    )
    args, settings = parser.parse_known_args(argv)
    from arcturus.runs.starting import resume_run

    def change(config: RunConfig) -> RunConfig:
        return settings_over(config, spell_out(settings), "train-agent resume RUN")

    fork = expanded(args.fork) if args.fork else args.fork
    return finish(resume_run(args.run, change=change, fork=fork, trust=tuple(args.trust), argv=["train-agent", "resume", *argv]))


def list_things(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="train-agent list")
    parser.add_argument("what", choices=["agents", "envs", "presets"])
    what = parser.parse_args(argv).what
    if what == "envs":
        from arcturus.envs.atari import games
        from arcturus.envs.own import OWN

        print("\n".join([*sorted(games()), *OWN]))
        print("and every Gymnasium id with Box, Discrete, MultiDiscrete or MultiBinary observations, or your own as module:Id-v0")
        return 0
    for name in agents.names():
        known = agents.presets(name)
        print(f"{name:12s} {known.title}")
        if what == "presets":
            for preset, settings in known.named.items():
                print(f"  {preset:12s} {settings['source']}")
    return 0


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] == "--version":
        import arcturus

        print(f"arcturus {arcturus.__version__}")
        return 0
    if argv[0] == "doctor":
        from arcturus.scripts.doctor import doctor

        return doctor(argv[1:])
    command = {"resume": resume, "list": list_things}.get(argv[0])
    return command(argv[1:]) if command else train(argv[0], argv[1:])


cli = command(main)

if __name__ == "__main__":
    cli()
