"""Every module here is an agent, and its file name is the agent's name.

A module exports Config (a frozen dataclass), PRESETS (name -> Preset), DEFAULT_PRESETS ((family, device type) -> name) and
Agent, called with (config, spec, device, seeds).  Listing them reads the files without importing them, hence without torch.
"""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from arcturus.errors import ConfigError, nearest
from arcturus.extensions import module_of


class Card(NamedTuple):
    """What an agent's file says of itself."""

    name: str
    title: str  # the first line of its docstring
    presets: dict[str, str]  # name -> source of its numbers


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def card(name: str) -> Card:
    """Reads an agent's file; imports nothing."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    presets: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PRESETS" and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                source = value.args[0] if isinstance(value, ast.Call) and value.args else None
                presets[ast.literal_eval(key)] = ast.literal_eval(source) if source else ""  # type: ignore[arg-type]
    return Card(name, (ast.get_docstring(tree) or name).splitlines()[0], presets)


def load(name: str) -> ModuleType:
    """By name, or by dotted path for an agent that lives in a package of your own."""
    if "." not in name and name not in names():
        raise ConfigError(f"unknown agent {name!r}", where="train-agent AGENT", fix=nearest(name, names(), "agents"))
    module = module_of(name if "." in name else f"{__name__}.{name}", "train-agent AGENT")
    missing = [x for x in ("Config", "PRESETS", "Agent") if not hasattr(module, x)]
    if missing:
        raise ConfigError(f"{name} is no agent: it has no {', '.join(missing)}", where="train-agent AGENT")
    return module
