"""Configuration: frozen dataclasses, strictly read.  defaults < preset < file < flags.

A field is `name: Annotated[type, Bounds(...)] = default` with a docstring under it.  Everything that comes from outside (YAML,
keyword options) is decoded by the field's type; an unknown name, a wrong type or a number out of bounds is one ConfigError.
Imports neither torch nor anything slow.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import stat
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from arcturus.errors import ConfigError, nearest

C = TypeVar("C")
YAML_LIMIT = 100_000  # bytes of a file of settings
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
OPTIONS_LIMIT = 2_000  # characters


@dataclass(frozen=True)
class Bounds:
    """low <= value <= high."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low:,g}"
        return f"from {self.low:,g} to {self.high:,g}"


@dataclass(frozen=True)
class Flag:
    """A second, shorter flag for a nested field."""

    name: str


def expanded(path: str) -> str:
    """A path with ~, ~name, $HOME or ${HOME} at its beginning replaced by the home folder, which no shell does after a flag's = or in
    a file; everything else in it is taken literally."""
    home = re.match(r"\$(HOME|\{HOME\})(?=/|$)", path)
    return os.path.expanduser("~" + path[home.end() :] if home else path)


def user_path(path: Path | str) -> Path:
    """For argparse's type=: a Path of what a user wrote."""
    return Path(expanded(os.fspath(path)))


def hints(cls: type) -> dict[str, Any]:
    """Field name -> type, Annotated kept."""
    known = typing.get_type_hints(cls, include_extras=True)
    return {f.name: known[f.name] for f in dataclasses.fields(cls)}


def _decode(value: Any, hint: Any, where: str) -> Any:
    """value as the hint's type.  YAML reads 1e-4 as a string and 1 as an int: both are floats where a float is wanted."""
    extra = getattr(hint, "__metadata__", ())  # of an Annotated
    hint = hint.__origin__ if extra else hint
    wrong = ConfigError(f"{where} is {value!r}, but must be {KINDS.get(hint, hint)}", where=where)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):  # of a Config of the user's own: X | None
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return None if value is None else _decode(value, kinds[0], where)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{where} can't be {value!r}", where=where, fix=nearest(str(value), map(str, choices), "choices"))
        return value
    if hint is float and not isinstance(value, bool):
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise wrong from None
    elif hint is int and isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise wrong from None
    if hint in (int, float, bool, str) and type(value) is not hint:
        raise wrong
    _check_bounds(value, extra, where)
    return value


def _check_bounds(value: Any, extra: tuple[Any, ...], where: str) -> None:
    for bound in extra:
        if isinstance(bound, Bounds) and value is not None and not bound.low <= value <= bound.high:
            raise ConfigError(f"{where} is {value}, but must be {bound}", where=where)


def from_mapping(cls: type[C], values: Any, where: str, base: C | None = None) -> C:
    """An instance of cls: `base` (or its defaults) with `values` on top, decoded and checked."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must hold names and values, not {type(values).__name__}", where=where)
    types_ = hints(cls)
    changes = {}
    for key, value in values.items():
        if key not in types_:
            raise ConfigError(f"{where} has no setting {key!r}", where=where, fix=nearest(str(key), types_, "settings"))
        changes[key] = _decode(value, types_[key], f"{where}.{key}")
    return dataclasses.replace(base, **changes) if base is not None else cls(**changes)  # type: ignore[type-var]


def check(config: Any, where: str) -> None:
    """Checks every field of a config that was made without decoding (by flags) against its bounds."""
    for name, hint in hints(type(config)).items():
        value = getattr(config, name)
        _check_bounds(value, getattr(hint, "__metadata__", ()), f"{where}.{name}")
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{where}.{name} is not a number", where=where)


SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    """safe_load that refuses a key written twice, and aliases (a small file could unfold to gigabytes), and takes 1:30 for the text
    that it is: YAML 1.1 makes 90 of it."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.nodes.ScalarNode and implicit[0] and SEXAGESIMAL.fullmatch(value or ""):
            return "tag:yaml.org,2002:str"
        return super().resolve(kind, value, implicit)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.YAMLError(f"line {node.value[i][0].start_mark.line + 1}: {key!r} is written twice")
        return super().construct_mapping(node, deep)


def parse_value(text: str) -> Any:
    """One value as YAML, without aliases; yaml.YAMLError, ValueError, TypeError or RecursionError if it is none."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_options(text: str, where: str = "--env.options") -> dict[str, Any]:
    """name=value,name=value with values as in YAML: numbers, true, [lists], words."""
    if len(text) > OPTIONS_LIMIT:
        raise ConfigError(f"the options are too long: {len(text):,} characters, at most {OPTIONS_LIMIT:,}", where=where)
    out: dict[str, Any] = {}
    for part in re.split(r",(?=\s*\w+=)", text) if text.strip() else []:
        name, equals, value = part.strip().partition("=")
        try:
            read = parse_value(value)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            equals = ""
        if name in out:
            raise ConfigError(f"{name} is given twice", where=where, fix="leave one of them out")
        if not equals or not name.isidentifier():
            raise ConfigError(f"{part.strip()[:80]!r} is not a setting", where=where, fix="write name=value,name=value")
        out[name] = read
    return out


def with_options(text: str, more: str) -> str:
    """Options with others on top."""
    new = parse_options(more)
    kept = [part for part in re.split(r",(?=\s*\w+=)", text) if part.strip() and part.partition("=")[0].strip() not in new]
    return ",".join([*kept, *([more] if more.strip() else [])])


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError for anything else."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as f:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ConfigError(f"{path} is not a regular file", where=str(path), fix="write the settings into a file")
            data = f.read(YAML_LIMIT + 1)
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path} can't be read: {getattr(e, 'strerror', None) or e}", where=str(path)) from e
    return parse_yaml(data, path)


def parse_yaml(data: bytes, path: Path) -> dict[str, Any]:
    if len(data) > YAML_LIMIT:
        raise ConfigError(f"{path} is too long for a file of settings: more than {YAML_LIMIT:,} bytes", where=str(path))
    try:
        values = parse_value(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as e:
        lines = [line for line in str(e).splitlines() if line.strip()]
        raise ConfigError(f"{path} is not readable YAML: {' '.join(lines[:3])[:300]}", where=str(path)) from e
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings", where=str(path), fix="write `name: value` lines")
    return values


def write_yaml(values: dict[str, Any], remarks: Mapping[tuple[str, str], str]) -> str:
    """remarks: (part, field) of a setting -> the comment written after it."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    lines, part = text.splitlines(), ""
    for number, line in enumerate(lines):
        name = line.strip().partition(":")[0]
        part = part if line.startswith(" ") else name
        if line.startswith("  ") and (part, name) in remarks:
            lines[number] = f"{line}  # {remarks[part, name]}"
    return "\n".join(lines) + "\n"
