"""Every module here whose name has no underscore before it is an agent, and its file name is the agent's name.

A module has Config (a frozen dataclass) and Agent (a subclass of arcturus.api.Agent), called with (config, spec, device, seeds).  The
numbers it is trained with are data: presets/NAME.yaml.  Listing agents and presets imports none of them, hence no torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from arcturus.config import read_yaml
from arcturus.errors import ConfigError, nearest
from arcturus.extensions import module_of

SHAPE = "title: TEXT, default: {FAMILY: PRESET}, presets: {NAME: {source: TEXT, agent: {...}, env: {...}, run: {...}}}"
PARTS = ("agent", "env", "run")  # what a preset may change


class Presets(NamedTuple):
    """An agent's file of numbers.

    title: the algorithm and its paper.  default: family of environments -> the name of a preset, or kind of device (cuda, cpu) -> name.
    named: name -> {"source": where its numbers are from, "agent": {...}, "env": {...}, "run": {...}}, changes to the defaults.
    """

    title: str
    default: dict[str, Any]
    named: dict[str, dict[str, Any]]

    def suited(self, family: str, device: str) -> str:
        """The preset that a run begins with when none is named: the family's, else that of classic control, else the first."""
        found = self.default.get(family) or (self.default.get("classic", "") if family != "atari" else "")
        return (found.get(device, "") if isinstance(found, Mapping) else found) or next(iter(self.named))


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_") and not m.ispkg)


def load(name: str) -> ModuleType:
    """The module of an agent, by name, or by dotted path for an agent in a package of the user's own."""
    if "." not in name and name not in names():
        raise ConfigError(f"unknown agent {name!r}", where="train-agent AGENT", fix=nearest(name, names(), "agents"))
    module = module_of(name if "." in name else f"{__name__}.{name}", "train-agent AGENT")
    if missing := [x for x in ("Config", "Agent") if not hasattr(module, x)]:
        raise ConfigError(f"{name} is not an agent module: {' and '.join(missing)} missing", where="train-agent AGENT")
    return module


def presets(name: str) -> Presets:
    """An agent's presets, by its name.  An agent of the user's own has them in NAME.yaml beside its module, or sets `PRESETS = "ppo"` to
    use those of an agent with the same Config; otherwise it has one, `default`, that changes nothing."""
    if "." not in name:
        if name not in names():
            raise ConfigError(f"unknown agent {name!r}", where="train-agent AGENT", fix=nearest(name, names(), "agents"))
        return read_presets(Path(__file__).parent / "presets" / f"{name}.yaml")
    module = load(name)
    if isinstance(other := getattr(module, "PRESETS", None), str):
        return presets(other)
    file = Path(getattr(module, "__file__", None) or "").with_suffix(".yaml")
    if file.name and file.is_file():
        return read_presets(file)
    return Presets((module.__doc__ or name).splitlines()[0], {}, {"default": {"source": "none"}})


@cache
def read_presets(file: Path) -> Presets:
    """ConfigError for a file of another shape; the numbers are checked when a run is made from them."""
    values = read_yaml(file)

    def wrong(what: str) -> ConfigError:
        return ConfigError(f"{file.name}: {what}", where=str(file), fix=SHAPE)

    named, default = values.get("presets"), values.get("default", {})
    if not isinstance(named, dict) or not named or not isinstance(default, dict) or not isinstance(values.get("title"), str):
        raise wrong("title, default or presets is missing or has the wrong type")
    for name, preset in named.items():
        if not isinstance(preset, dict) or not isinstance(preset.get("source"), str) or set(preset) - {"source", *PARTS}:
            raise wrong(f"preset {name} must have a source, and besides it only agent, env and run")
        if not all(isinstance(preset.get(part, {}), dict) for part in PARTS):
            raise wrong(f"preset {name}: agent, env and run must each hold names and values")
    chosen = [x for found in default.values() for x in (found.values() if isinstance(found, dict) else [found])]
    if unknown := [x for x in chosen if x not in named]:
        raise wrong(f"default names {unknown[0]!r}, which is not one of its presets")
    return Presets(values["title"], default, named)
