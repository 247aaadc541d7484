"""Code from outside arcturus that a run names: its names, and making the listeners among it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from arcturus.config import parse_options
from arcturus.envs.own import OWN
from arcturus.errors import ConfigError, by_users_code
from arcturus.extensions import attribute, told
from arcturus.trusting import Outside


def split_names(listeners: str) -> list[str]:
    return [name.strip() for name in listeners.split(",") if name.strip()]


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


def find_listeners(config: Any) -> list[Callable[[Path], Any]]:
    """A function for each listener, called with the run's folder: it calls the named class with the settings and the folder.  The
    listener is then called with every row (api.LoopOutput), and closed if it has close()."""
    return [partial(_listener, name, attribute(name, "--listeners"), config) for name in split_names(config.run.listeners)]


def _listener(name: str, make: Any, config: Any, folder: Path) -> Any:
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
