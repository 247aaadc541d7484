"""How far a sweep is, from its folders alone: no process is asked, so it can be seen from any machine that has them."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from arcturus.comparing.comparison import EVALUATED
from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.files import read_json, write_atomically
from arcturus.runs.monitor import duration
from arcturus.sweeps.cell import MACHINES, STATE, held, known
from arcturus.sweeps.file import Sweep

TAIL = 8_192  # bytes of metrics.jsonl that are read for its newest lines
QUIET = 60.0  # seconds after whose last line of metrics a run's speed isn't counted
SHOWN = 30  # cells of a table
ORDER = ("failed", "running", "stopped", "waiting", "pruned", "done")  # those first that need looking at
ENDED = ("done", "failed", "pruned")

Cells = dict[str, list[list[str]]]  # name -> command lines


class Progress(NamedTuple):
    name: str
    state: str  # done, running, stopped, failed, waiting, pruned (by a search)
    steps: int
    total: int
    speed: float  # agent steps/s, 0 if it isn't running
    evaluation: float | None  # the newest one's mean return
    note: str = ""


def record_file(out: Path) -> Path:
    return out / STATE / "sweep.json"


def claim(sweep: Sweep) -> None:
    """Makes a sweep's folder, or takes the one of the same sweep, to which cells may have been added; ConfigError for another's."""
    path, search = record_file(sweep.out), sweep.search_record()
    before: dict[str, Any] = {}
    if path.exists():
        before, now = read_json(path), sweep.record()
        changed = [name for name, commands in before.get("cells", {}).items() if now.get(name, [[]])[0] != commands[0]]
        told = f"its cell {changed[0]} is not one of these, or has other settings" if changed and not search else ""
        if before.get("search") != search:
            told = "its runs or what it searches are not the same"
        if told:  # how cells are scored may change
            raise ConfigError(
                f"{sweep.out} holds another sweep: {told}",
                where=sweep.where or "--out",
                fix="choose another folder with --out; or take the file back to what it was (cells may be added, not changed)",
            )
    elif sweep.out.is_dir() and any(place.name != STATE for place in sweep.out.iterdir()):
        raise ConfigError(f"{sweep.out} is not empty and holds no sweep", where=sweep.where or "--out", fix="choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    keep_record(sweep.out, before.get("cells", {}) | sweep.record(), before.get("pruned", []), search)


def keep_record(out: Path, cells: Cells, pruned: Iterable[str] = (), search: dict[str, Any] | None = None) -> None:
    record = {"cells": cells} | ({"pruned": sorted(pruned), "search": search} if search else {})
    write_atomically(record_file(out), json.dumps(record, indent=1))


def cells_of(out: Path) -> tuple[Cells, set[str]]:
    """Name -> commands of a sweep's folder, and the names of cells that a search has stopped."""
    if not record_file(out).is_file():
        raise ConfigError(f"{out} holds no sweep", where="DIR", fix="give a folder that sweep-agents run made")
    record = read_json(record_file(out))
    cells, pruned = record.get("cells"), record.get("pruned", [])
    if not isinstance(cells, dict) or not isinstance(pruned, list):
        raise CheckpointError(f"{record_file(out)} can't be read", where="DIR")
    return cells, set(pruned)


def look(out: Path, cells: Cells, pruned: Container[str] = ()) -> list[Progress]:
    found = [_look(out, name, commands) for name, commands in cells.items()]
    return [p._replace(state="pruned", note="") if p.name in pruned and p.state == "stopped" else p for p in found]


def _look(out: Path, name: str, commands: list[list[str]]) -> Progress:
    run, record = out / name, known(out / STATE / f"{name}.json")
    codes = record.get("codes", [])
    scored = len(commands) == 1 or record.get("scored") == commands[-1]
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        about = {}
    rows = _newest(run / "metrics.jsonl") if about else []
    steps = max(int(about.get("steps") or 0), int(rows[-1]["step"]) if rows else 0)
    speed = next((float(row["charts/SPS"]) for row in reversed(rows) if row.get("charts/SPS")), 0.0)
    fresh = bool(rows) and time.time() - float(rows[-1].get("time", 0)) < QUIET
    evaluation = next((float(row[EVALUATED]) for row in reversed(rows) if EVALUATED in row), None)
    alive = held(out / STATE / f"{name}.lock")
    if alive:
        state = "running"
    elif codes and codes[-1] == 0 and scored and about.get("status") == "finished":
        state = "done"
    elif codes and codes[-1] not in (0, *MACHINES):
        state = "failed"
    else:
        state = "stopped" if about else "waiting"
    note = ""
    if state not in ("done", "running") and codes and codes[-1]:
        note = ": ".join(filter(None, [f"exit code {codes[-1]}", _last_words(out, name)]))
    return Progress(name, state, steps, _total(commands[0], run, steps), speed if alive and fresh else 0.0, evaluation, note)


def _total(argv: list[str], run: Path, steps: int) -> int:
    """Steps of the whole run, by its command or its settings; 0: not known before it begins."""
    if "--steps" in argv:
        return int(argv[argv.index("--steps") + 1])
    try:
        text = (run / "config.yaml").read_text(encoding="utf-8")
    except OSError:
        return steps
    return next((int(line.split(":")[1].split("#")[0]) for line in text.splitlines() if line.strip().startswith("steps:")), steps)


def _newest(path: Path) -> list[dict[str, Any]]:
    """The last lines of a log, however long it is."""
    try:
        with open(path, "rb") as file:
            file.seek(max(path.stat().st_size - TAIL, 0))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def _last_words(out: Path, name: str) -> str:
    """The newest line of the cell's log that names an error."""
    try:
        text = (out / STATE / f"{name}.log").read_bytes()[-TAIL:].decode(errors="replace")
    except OSError:
        return ""
    return next((line for line in reversed(text.splitlines()) if line.startswith("error:")), "")[:100]


def summary(found: list[Progress]) -> str:
    """One line of the whole."""
    counts = Counter(p.state for p in found)
    speed = sum(p.speed for p in found)
    left = sum(max(p.total - p.steps, 0) for p in found if p.state not in ENDED)
    told = ", ".join(f"{counts[state]} {state}" for state in reversed(ORDER) if counts[state])
    steps = f"{sum(p.steps for p in found):,}/{sum(p.total for p in found):,} steps"
    ahead = f", left {duration(left / speed)}" if speed and left else ""
    return f"{len(found)} cells: {told}; {steps}" + (f", {speed:,.0f} steps/s{ahead}" if speed else "")


def table(found: list[Progress], most: int = SHOWN) -> str:
    """The cells, those that need looking at first, and the summary."""
    shown = sorted(found, key=lambda p: ORDER.index(p.state))[:most]
    width = max((len(p.name) for p in shown), default=4)
    lines = [f"{'cell':{width}s}  {'state':8s} {'steps':>23s} {'steps/s':>8s} {'evaluation':>11s}"]
    for p in shown:
        evaluation = "" if p.evaluation is None else f"{p.evaluation:,.2f}"
        steps = f"{p.steps:,}/{p.total:,}" if p.total else "-"
        lines.append(f"{p.name:{width}s}  {p.state:8s} {steps:>23s} {p.speed or 0:>8,.0f} {evaluation:>11s}  {p.note}".rstrip())
    if len(found) > len(shown):
        lines.append(f"... and {len(found) - len(shown)} more, {shown[-1].state if shown else ''}")
    return "\n".join([*lines, summary(found)])


class Watch:
    """What is seen while it runs: a live table on a terminal, a plain line now and then elsewhere."""

    EVERY = 15.0  # seconds between plain lines

    def __init__(self, stream: Any, say: Callable[[str], None]):
        self.say, self.spoke, self.every, self.live = say, 0.0, self.EVERY, None
        if stream is not None and stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()
            self.every = 1.0

    def due(self) -> bool:
        """Whether to look again: the folders of a large sweep are many files."""
        return time.monotonic() - self.spoke >= self.every

    def show(self, found: list[Progress], more: str = "") -> None:
        """more: a line below."""
        self.spoke = time.monotonic()
        if self.live is None:
            self.say("; ".join(filter(None, [summary(found), more])))
        else:
            from rich.text import Text

            self.live.update(Text("\n".join(filter(None, [table(found), more]))), refresh=True)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
