"""The user's own code by dotted path: agents, torsos, memory cores, listeners of the loop.  Its errors are reported as its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from arcturus.config import split_names
from arcturus.errors import ArcturusError, ConfigError, by_users_code

took_part: list[str] = []  # names of modules of a user's own that this process has imported


def told(e: BaseException) -> str:
    """'ValueError: its message', on one line."""
    return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}".rstrip(": ")


def module_of(name: str, where: str) -> ModuleType:
    """The module of a dotted name, imported; a ConfigError if it can't be found or its import fails."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{name!r} is not a module's name", where=where, fix="write package.module, as in an import")
    if name.partition(".")[0] != "arcturus":
        took_part.append(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"{name} can't be imported: {e}", where=where, fix="install it, or add its folder to PYTHONPATH"
        ) from e
    except ArcturusError:
        raise
    except (Exception, SystemExit) as e:
        raise ConfigError(f"importing {name} raised {told(e)}", where=where, fix="fix that module") from e


def attribute(path: str, where: str) -> Any:
    """What `package.module.Name` names; a ConfigError if it can't be found."""
    module, dot, name = path.rpartition(".")
    if not dot:
        raise ConfigError(f"{path!r} has no module before its name", where=where, fix="write package.module.Name")
    try:
        return getattr(module_of(module, where), name)
    except AttributeError as e:
        raise ConfigError(f"{module} has no {name}", where=where, fix="write package.module.Name") from e


def build(path: str, where: str, needs: tuple[str, ...], *args: Any, **options: Any) -> Any:
    """An instance of the class that a path names, made from args and options, which must have these attributes."""
    try:
        part = attribute(path, where)(*args, **options)
    except ArcturusError:
        raise
    except Exception as e:
        raise ConfigError(f"{path} can't be constructed: {told(e)}", where=where) from e
    missing = [name for name in needs if not hasattr(part, name)]
    if missing:
        raise ConfigError(f"{path} has no {', '.join(missing)}", where=where)
    return part


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
