"""Code of your own by dotted path: agents, torsos, memory cores, listeners of the loop."""

from __future__ import annotations

import importlib
from typing import Any

from arcturus.errors import ConfigError


def attribute(path: str, where: str) -> Any:
    """What `package.module.Name` names; a ConfigError for every way not to find it."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"{path} can't be imported: {e}", where=where, fix="package.module.Name; is its package on PYTHONPATH?"
        ) from e
    except AttributeError as e:
        raise ConfigError(f"{module} has no {name}", where=where, fix="package.module.Name") from e


def build(path: str, where: str, needs: tuple[str, ...], *args: Any, **options: Any) -> Any:
    """An instance of the class that a path names, made from args and options, which must have these attributes."""
    try:
        part = attribute(path, where)(*args, **options)
    except TypeError as e:
        raise ConfigError(f"{path} can't be made: {e}", where=where) from e
    missing = [name for name in needs if not hasattr(part, name)]
    if missing:
        raise ConfigError(f"{path} has no {', '.join(missing)}", where=where)
    return part
