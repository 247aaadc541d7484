"""Code that a run folder names and opening the run would execute: imported only if its user trusts it, at this command or for good.

For good: ~/.config/arcturus/config.yaml (or $XDG_CONFIG_HOME/arcturus/config.yaml), a file of the user's own outside every run folder,
holds

    trust: [mine, signpost:Signpost-v0]

A name stands for itself and, if it is a module or package, for everything in it: mine.sarsa, mine.nets.Traces, mine:Maze-v0.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from arcturus.config import parse_options, read_yaml, split_names
from arcturus.envs.own import OWN
from arcturus.errors import ConfigError, nearest

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[\w./-]+)?")


class Outside(NamedTuple):
    kind: str  # agent, torso, core, environment, listener
    name: str
    for_good: bool = True  # whether the name covers all that would be executed: an environment's options may name more


def outside(agent: dict[str, Any], env_id: str, options: str, listeners: str) -> Iterator[Outside]:
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


def settings_file() -> Path:
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = given if given.is_absolute() else Path(os.path.expanduser("~")) / ".config"
    return home / "arcturus" / "config.yaml"


def trusted_for_good() -> tuple[str, ...]:
    """The names in the user's own configuration; none without it.  ConfigError for a file that others may write, or with other
    contents."""
    file = settings_file()
    try:
        about = file.stat()
    except OSError:
        return ()
    if os.name == "posix" and (about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or about.st_uid not in (os.getuid(), 0)):
        raise ConfigError(f"other users may write to {file}", where=str(file), fix=f"chmod 600 {file}, if it is yours")
    values = read_yaml(file) if about.st_size else {}
    for key in values:
        if key != "trust":
            raise ConfigError(f"{file} has {key!r}, which is unknown", where=str(file), fix=nearest(str(key), ["trust"]))
    names = values.get("trust", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        raise ConfigError(
            f"{file}: trust must be a list of names of code", where=str(file), fix="write trust: [mine, signpost:Signpost-v0]"
        )
    return tuple(names)


def check_trust(code: list[Outside], trust: tuple[str, ...], where: Path) -> None:
    """ConfigError for the first that the user trusts neither by `trust` nor for good."""
    lasting: tuple[str, ...] | None = None  # read only when needed
    for kind, name, for_good in code:
        if name in trust:
            continue
        more = "(at every command, as its options may name more code)"
        if for_good:
            lasting = trusted_for_good() if lasting is None else lasting
            if any(name == known or name.startswith((f"{known}.", f"{known}:")) for known in lasting):
                continue
            more = f"(or permanently: trust: [{name}] in {settings_file()})"
        raise ConfigError(
            f"opening this run would execute code outside arcturus: its {kind} {name}, or code that this names",
            where=str(where),
            fix=f"if you trust it, add --trust {name} {more}",
        )
