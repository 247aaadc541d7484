"""What compare-runs prints of groups of runs, and what it writes as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arcturus.scoring.comparison import Group, aggregate_cautions, cautions, curves_of, improvements, summarise, tag_of

PAIRS = 10  # of groups that are printed

# -- what is printed -----------------------------------------------------------------------------------------------------------


def table(env: str, groups: Sequence[Group]) -> str:
    """The table of one environment: a line per group, cautions, and a line per run."""
    lines = [summarise(group) for group in groups]
    shown = any(line["human_normalised"] is not None for line in lines)
    head = ["group", "seeds", "steps", "mean [95%]", "IQM [95%]", *(["human-normalised"] if shown else []), "minutes"]
    body = []
    for line in lines:
        low, high = line["steps"]
        seeds, steps = len(line["seeds"]), f"{low:,}" if low == high else f"{low:,}-{high:,}"
        scores = [with_interval(line, what, seeds) for what in ("mean", "iqm")]
        human = [percent(line["human_normalised"])] if shown else []
        body.append([line["group"], str(seeds), steps, *scores, *human, f"{line['minutes']:.1f}"])
    runs = [
        [
            f"  {line['group']}, seed {run['seed']}",
            number(run["value"]),
            f"{run['by']} at step {run['step']:,}, {run['episodes']} episodes" + (f", {run['policy']}" if run["policy"] else ""),
            run["path"],
        ]
        for line in lines
        for run in line["runs"]
    ]
    notes = [f"! {line}" for line in cautions(groups)]
    return "\n".join([env, *columns([head, *body]), *notes, *columns(runs, left=(0, 2, 3))])


def over_games(lines: Sequence[Mapping[str, Any]]) -> str:
    """Human-normalised scores over games and seeds."""
    head = ["group", "games", "seeds of each", "mean [95%]", "median [95%]", "IQM [95%]", "optimality gap [95%]"]
    body = []
    for line in lines:
        least, most = min(line["seeds"]), max(line["seeds"])
        seeds = str(least) if least == most else f"{least}-{most}"
        shares = [with_interval(line, what, least, percent) for what in ("mean", "median", "iqm", "optimality_gap")]
        body.append([line["group"], str(len(line["games"])), seeds, *shares])
    notes = [f"! {line}" for line in aggregate_cautions(lines)]
    return "\n".join(["human-normalised, over games and seeds", *columns([head, *body]), *better(lines), *notes])


def better(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """How probably one group scores higher than another, a line for every two."""
    pairs = improvements(lines)
    told = []
    for pair in pairs[:PAIRS]:
        inside = "too few seeds" if pair["ci95"] is None else ", ".join(map(percent, pair["ci95"]))
        told.append(f"  {pair['first']} > {pair['second']}: {percent(pair['probability'])} [{inside}], {len(pair['games'])} games")
    more = [f"  and {len(pairs) - PAIRS} more pairs: --json has them"] if len(pairs) > PAIRS else []
    return ["probability that a run of the first scores higher", *told, *more] if told else []


def with_interval(line: Mapping[str, Any], what: str, seeds: int, told: Callable[[float], str] | None = None) -> str:
    """1,234 [1,100, 1,300]; or why there is no interval."""
    told = told or number
    interval = line[f"{what}_ci95"]
    inside = f"{seeds} seed{'s' * (seeds > 1)}: too few" if interval is None else ", ".join(map(told, interval))
    return f"{told(line[what])} [{inside}]"


def number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1_000 else f"{x:.2f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def columns(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Lines with aligned columns, to the right except those in `left`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# -- what is written -----------------------------------------------------------------------------------------------------------


def numbers(
    tables: Mapping[str, Sequence[Group]], games: Sequence[Mapping[str, Any]], left: Sequence[tuple[Path, str]] = ()
) -> dict[str, Any]:
    """All the numbers that are printed and drawn."""
    out = []
    for env, groups in tables.items():
        tag = tag_of(groups)
        lines = [
            summarise(group) | {"curves": {"steps": curves_of(group, tag, False), "minutes": curves_of(group, tag, True)}}
            for group in groups
        ]
        out.append({"environment": env, "groups": lines, "curves_of": tag, "cautions": cautions(groups)})
    over = {"over_games": list(games), "improvements": improvements(games), "over_games_cautions": aggregate_cautions(games)}
    return {"environments": out} | over | {
        "left_out": [{"path": str(path), "why": why} for path, why in left]
    }
