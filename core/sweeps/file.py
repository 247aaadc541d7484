"""What a sweep consists of: its file, and the cells that follow from it."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from arcturus.config import expanded, read_yaml
from arcturus.envs import is_atari
from arcturus.errors import ConfigError, nearest
from arcturus.sweeps.space import Search, read_search
from arcturus.trusting import outside

KEYS = ("out", "agents", "envs", "seeds", "settings", "search", "evaluate", "cpus", "gpus", "tries")
OURS = ("env", "env.id", "seed", "run-dir", "start-or-resume")  # flags that a cell has from the sweep itself
FILES = ("config", "init-from")  # flags that name a file or a folder
MOST = 10_000  # cells


@dataclass(frozen=True)
class Cell:
    """One run: what train-agent is called with, and evaluate-agent after it."""

    name: str  # of its folder
    agent: str
    env: str
    seed: int
    flags: tuple[str, ...]  # --steps 1000 ...

    @property
    def trusted(self) -> tuple[str, ...]:
        """Code outside arcturus that the cell itself names, so that it may be imported again."""
        given = dict(zip(self.flags, self.flags[1:], strict=False))
        parts = {part: given.get(f"--agent.{part}", "") for part in ("torso", "core")}
        options, listeners = given.get("--env.options", ""), given.get("--listeners", "")
        return tuple(one.name for one in outside({"name": self.agent, **parts}, self.env, options, listeners))

    def train(self, out: Path) -> list[str]:
        """The command line that starts it, or goes on with it: the same one every time."""
        place = ["--env", self.env, "--seed", str(self.seed), "--run-dir", str(out / self.name)]
        return ["train-agent", self.agent, *place, *self.flags, "--start-or-resume"]


@dataclass(frozen=True)
class Sweep:
    """cpus, gpus: what a cell takes of its machine, fractions too.  tries: of a cell whose machine fails.  search: settings that are
    tried on each cell; the cells themselves have the preset's."""

    out: Path
    cells: tuple[Cell, ...]
    evaluate: tuple[str, ...] | None = None  # flags of evaluate-agent; None: cells are only trained
    cpus: float = 1.0
    gpus: float = 0.0
    tries: int = 3
    search: Search | None = None
    where: str = field(default="", compare=False)  # the file, for messages

    def commands(self, cell: Cell) -> list[list[str]]:
        """What makes a cell, one after the other."""
        if self.evaluate is None:
            return [cell.train(self.out)]
        trusted = [x for name in cell.trusted for x in ("--trust", name)]
        return [cell.train(self.out), ["evaluate-agent", str(self.out / cell.name), *self.evaluate, *trusted]]

    def search_record(self) -> dict[str, Any] | None:
        """What is searched, and on which runs: none of it may change between two calls."""
        return {"runs": {cell.name: self.commands(cell) for cell in self.cells}, **self.search.to_json()} if self.search else None

    def record(self) -> dict[str, list[list[str]]]:
        """Name of a cell -> its commands, as DIR/sweep.json keeps them; those of a search are not known before it runs."""
        return {} if self.search else {cell.name: self.commands(cell) for cell in self.cells}


def shipped() -> list[str]:
    """Sweeps that come along, by name."""
    return sorted(p.name.removesuffix(".yaml") for p in files("arcturus.sweeps").iterdir() if p.name.endswith(".yaml"))


def read_sweep(path: Path, out: Path | None = None) -> Sweep:
    """A sweep's file, or one that comes along, by its name.  out: the folder of its runs, before the file's own."""
    if not path.exists() and str(path) in shipped():
        path = Path(str(files("arcturus.sweeps") / f"{path}.yaml"))
    if not path.exists():
        raise ConfigError(f"{path} does not exist", where="SWEEP", fix="give a YAML file, or " + " or ".join(shipped()))
    values = read_yaml(path)
    for key in values:
        if key not in KEYS:
            raise ConfigError(f"{path} has {key!r}, which no sweep has", where=str(path), fix=nearest(str(key), KEYS, "keys"))
    folder = out or Path(expanded(_text(values.get("out", f"runs/{path.stem}"), "out", path)))
    settings = _mapping(values.get("settings", {}), "settings", path)
    evaluate, cells, every = values.get("evaluate"), list[Cell](), dict[str, None]()
    for agent, own in _agents(values.get("agents"), path).items():
        envs = [str(env) for env in _list(own.pop("envs", values.get("envs")), "envs", path)]
        seeds = _seeds(own.pop("seeds", values.get("seeds", [0])), path)
        cells += _grid(agent, {**settings, **own}, envs, seeds, path)
        every |= dict.fromkeys(envs)
    search = read_search(values["search"], list(every), path) if "search" in values else None
    if search:
        _check_search(search, cells, path)
    return make_sweep(
        folder,
        cells,
        evaluate=None if evaluate is None else flags_of(_mapping(evaluate, "evaluate", path), switches=True),
        cpus=_number(values.get("cpus", 1), "cpus", path, 0.01),
        gpus=_gpus(values.get("gpus", 0), path),
        tries=int(_number(values.get("tries", 3), "tries", path, 1)),
        search=search,
        where=str(path),
    )


def _check_search(search: Search, cells: Sequence[Cell], path: Path) -> None:
    """ConfigError unless these are one agent's cells that differ in environment and seed only."""
    if len({(cell.agent, cell.flags) for cell in cells}) > 1:
        fix = "name one agent, and write lists of settings under search.settings"
        raise ConfigError("a search is for the settings of one agent", where=str(path), fix=fix)
    known = {*(flag.removeprefix("--") for flag in cells[0].flags), *OURS}
    if twice := next((name for name in search.settings if name in known), ""):
        raise ConfigError(f"{twice} is searched, but it is set as well", where=str(path), fix="leave one of them out")
    if not search.scale and len({cell.env for cell in cells}) > 1 and not all(is_atari(cell.env) for cell in cells):
        fix = "write search.scale: {ENV: [0, 500]}: the scores that count as 0 and as 1"
        raise ConfigError("scores of several environments are averaged, and have no common scale", where=str(path), fix=fix)


def _grid(agent: str, settings: Mapping[str, Any], envs: list[str], seeds: list[int], path: Path) -> Iterator[Cell]:
    """An agent's cells.  settings: a list is an axis of the grid."""
    named = {str(k).replace("_", "-"): v for k, v in settings.items()}
    if taken := [k for k in named if k in OURS]:
        raise ConfigError(f"{taken[0]} is no setting of a sweep's cells", where=str(path), fix="write it under envs, seeds or out")
    if len(named) < len(settings):
        raise ConfigError("a setting is there twice, with - and with _ in its name", where=str(path), fix="leave one out")
    axes = {k: [_absolute(k, x) for x in (v if isinstance(v, list) else [v])] for k, v in named.items()}
    varied = [k for k, v in axes.items() if len(v) > 1]
    for env, values, seed in itertools.product(envs, itertools.product(*axes.values()), seeds):
        chosen = dict(zip(axes, values, strict=True))
        parts = [env.removeprefix("ALE/"), agent, *(f"{k.rsplit('.', 1)[-1]}={chosen[k]}" for k in varied), f"s{seed}"]
        yield Cell(re.sub(r"[^\w.=+-]+", "-", "-".join(parts)), agent, env, seed, flags_of(chosen))


def _absolute(name: str, value: Any) -> Any:
    """Files are named from where the sweep is started; its cells may run elsewhere."""
    return str(Path(expanded(str(value))).absolute()) if name in FILES else value


def make_sweep(out: Path, cells: Sequence[Cell], **more: Any) -> Sweep:
    """more: Sweep's further fields."""
    where = more.get("where", "the sweep")
    if not cells:
        raise ConfigError("this sweep has no cells", where=where, fix="name at least one agent, one of envs and one of seeds")
    if len(cells) > MOST:
        raise ConfigError(f"this sweep has {len(cells):,} cells, more than {MOST:,}", where=where, fix="make several of it")
    name, times = Counter(cell.name for cell in cells).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{times} cells of this sweep are called {name}", where=where, fix="leave out what stands there twice")
    return Sweep(out.absolute(), tuple(cells), **more)


def flags_of(settings: Mapping[str, Any], *, switches: bool = False) -> tuple[str, ...]:
    """{"agent.gamma": 0.9} -> --agent.gamma 0.9.  switches: flags that are true or false are given without a value, or not at all."""
    out: list[str] = []
    for key, value in settings.items():
        name = f"--{str(key).replace('_', '-')}"
        if switches and isinstance(value, bool):
            out += [name] * value
        else:
            out += [name, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return tuple(out)


def _agents(value: Any, path: Path) -> dict[str, dict[str, Any]]:
    if isinstance(value, dict):
        return {str(name): dict(_mapping(own or {}, f"agents.{name}", path)) for name, own in value.items()}
    names = [str(name) for name in _list(value, "agents", path)]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise ConfigError(f"agents has {twice} twice", where=str(path), fix="leave one out")
    return {name: {} for name in names}


def _list(value: Any, key: str, path: Path) -> list[Any]:
    if isinstance(value, list) and value:
        return value
    raise ConfigError(f"{key} must be a list that is not empty, not {json.dumps(value, default=str)[:60]}", where=str(path),
                      fix=f"write {key}: [one, two]")  # fmt: skip


def _seeds(value: Any, path: Path) -> list[int]:
    """A list, or "0-9"."""
    if isinstance(value, str) and (m := re.fullmatch(r"(\d+)-(\d+)", value)):
        if int(m[2]) < int(m[1]):
            raise ConfigError(f"seeds {value} end before they begin", where=str(path), fix=f"write {m[2]}-{m[1]}")
        return list(range(int(m[1]), int(m[2]) + 1))
    seeds = _list(value, "seeds", path)
    if wrong := [x for x in seeds if type(x) is not int or x < 0]:
        raise ConfigError(f"{wrong[0]!r} is not a seed", where=str(path), fix="write seeds: [0, 1, 2] or seeds: 0-9")
    return seeds


def _mapping(value: Any, key: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must hold names and values", where=str(path), fix=f"write {key}: {{steps: 10000}}")
    for name, each in value.items():
        if each is None or isinstance(each, dict) or (isinstance(each, list) and not each):
            raise ConfigError(f"{key}.{name} has no value", where=str(path), fix="write a value, or a list of values to try")
    return value


def _text(value: Any, key: str, path: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key} is {value!r}, but must be a folder", where=str(path), fix=f"write {key}: runs/mine, or leave it out")
    return value


def _gpus(value: Any, path: Path) -> float:
    gpus = _number(value, "gpus", path, 0)
    if gpus > 1 and gpus % 1:
        raise ConfigError(f"gpus is {gpus:g}, but a cell shares one GPU or has whole ones", where=str(path), fix="use 1, or 2")
    return gpus


def _number(value: Any, key: str, path: Path, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 1_024:
        raise ConfigError(f"{key} is {value!r}, but must be a number from {least:g} to 1,024", where=str(path))
    return float(value)
