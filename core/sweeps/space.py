"""What a search is for: the settings that are tried, and between which values.  Read from `search:` of a sweep's file; needs no Optuna."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arcturus.errors import ConfigError, nearest

KEYS = ("trials", "settings", "confirm", "prune", "scale")
RANGE = ("low", "high", "log")
MOST = 1_000  # trials
Value = bool | int | float | str


@dataclass(frozen=True)
class Range:
    """From low to high, both included; whole numbers if both are.  log: every order of magnitude is as likely."""

    low: float
    high: float
    log: bool = False

    def samples(self) -> list[Value]:
        return [self.low, self.high]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "")


@dataclass(frozen=True)
class Choice:
    values: tuple[Value, ...]

    def samples(self) -> list[Value]:
        return list(self.values)

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.values))


@dataclass(frozen=True)
class Search:
    """settings: flag of train-agent, without its --, -> what is tried.  confirm: seeds on which the best settings are compared with the
    preset's.  prune: trials whose evaluations stay below the median of the others' are stopped.  scale: environment -> the scores that
    count as 0 and 1, where the scores of several are averaged."""

    trials: int
    settings: Mapping[str, Range | Choice]
    confirm: int = 5
    prune: bool = True
    scale: Mapping[str, tuple[float, float]] | None = None

    def to_json(self) -> dict[str, Any]:
        """What must stay the same when a search goes on; as JSON reads it back."""
        spaces = {name: {type(space).__name__: asdict(space)} for name, space in self.settings.items()}
        return json.loads(json.dumps({"settings": spaces, "prune": self.prune, "scale": self.scale}))


def read_search(value: Any, envs: list[str], path: Path) -> Search:
    """`search:` of a sweep's file; ConfigError for anything that can't be searched."""
    if not isinstance(value, dict):
        raise ConfigError("search must hold trials and settings", where=str(path), fix="write search: {trials: 24, settings: {...}}")
    for key in value:
        if key not in KEYS:
            raise ConfigError(f"search has {key!r}, which no search has", where=str(path), fix=nearest(str(key), KEYS, "keys"))
    settings = value.get("settings")
    if not isinstance(settings, dict) or not settings:
        fix = "write settings: {agent.learning-rate: {low: 0.0001, high: 0.01, log: true}}"
        raise ConfigError("search has no settings to try", where=str(path), fix=fix)
    names = [str(name).replace("_", "-") for name in settings]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"search.settings has {twice} twice", where=str(path), fix="leave one out")
    prune = value.get("prune", True)
    if not isinstance(prune, bool):
        raise ConfigError(f"search.prune is {prune!r}, but must be true or false", where=str(path))
    return Search(
        _count(value.get("trials"), "trials", path, 1),
        {str(name).replace("_", "-"): _space(str(name), space, path) for name, space in settings.items()},
        _count(value.get("confirm", 5), "confirm", path, 0),
        prune,
        _scale(value.get("scale"), envs, path),
    )


def _count(value: Any, key: str, path: Path, least: int) -> int:
    if type(value) is not int or not least <= value <= MOST:
        raise ConfigError(f"search.{key} is {value!r}, but must be a whole number from {least} to {MOST:,}", where=str(path))
    return value


def _space(name: str, value: Any, path: Path) -> Range | Choice:
    where = str(path)
    if isinstance(value, list) and len(value) > 1 and len(set(map(str, value))) == len(value):
        if all(isinstance(x, (bool, int, float, str)) for x in value):
            return Choice(tuple(x if isinstance(x, bool) or (n := _number(x)) is None else n for x in value))
    elif isinstance(value, dict):
        for key in value:
            if key not in RANGE:
                raise ConfigError(f"{name} has {key!r}, which no range has", where=where, fix=nearest(str(key), RANGE, "keys"))
        low, high, log = _number(value.get("low")), _number(value.get("high")), value.get("log", False)
        if low is not None and high is not None and isinstance(log, bool):
            if not low < high:
                raise ConfigError(f"the range of {name} ends at {high:g}, before it begins at {low:g}", where=where, fix="swap them")
            if log and low <= 0:
                raise ConfigError(f"the range of {name} is logarithmic, but begins at {low:g}", where=where, fix="begin above 0")
            return Range(low, high, log)
    fix = f"write {name}: {{low: 1, high: 5}}, with log: true if orders of magnitude count, or {name}: [one, two]"
    raise ConfigError(f"{name} is neither a range nor a list of different choices", where=where, fix=fix)


def _number(value: Any) -> int | float | None:
    """1e-4 is text in YAML 1.1, which wants a point in it."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _scale(value: Any, envs: list[str], path: Path) -> dict[str, tuple[float, float]] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != set(envs):
        fix = "write scale: {" + ", ".join(f"{env}: [0, 500]" for env in envs[:3]) + "}"
        raise ConfigError("search.scale must name each of envs and no others", where=str(path), fix=fix)
    out = {}
    for env, pair in value.items():
        ends = [_number(x) for x in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
        if None in ends or ends[0] == ends[-1]:
            raise ConfigError(f"search.scale.{env} is not two different scores", where=str(path), fix=f"write {env}: [0, 500]")
        out[str(env)] = (float(ends[0] or 0), float(ends[1] or 0))
    return out
