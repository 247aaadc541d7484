"""What compare-runs prints of groups of runs, and what it writes as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arcturus.comparing.comparison import (
    Group,
    aggregate_cautions,
    cautions,
    curves_of,
    few,
    improvements,
    iqm_curves,
    summarise,
    tag_of,
)
from arcturus.comparing.published import ALL_GAMES, FAR_OFF, Published, protocol_notes
from arcturus.comparing.published import over_games as published_over_games

PAIRS = 10  # of groups that are printed

# -- what is printed -----------------------------------------------------------------------------------------------------------


def told(
    tables: Mapping[str, Sequence[Group]],
    lines: Sequence[Mapping[str, Any]],
    left: Sequence[tuple[Path, str]] = (),
    published: Sequence[Published] = (),
    games: Sequence[str] = (),
) -> str:
    """All that is printed.  lines: of aggregate().  games: the set that was asked for, if any."""
    absent = [f"! {name} has no score on {len(left)} of {len(games)} games: {few(left)}" for name, left in missing(tables, games).items()]
    parts = ["\n".join(absent)]
    parts += [table(env, groups, [one for one in published if env in one.scores]) for env, groups in tables.items()]
    if lines:
        parts.append(over_games(lines, published))
    if published:
        parts.append("\n".join(["published scores", *(f"  {line}" for line in notes_on(published, tables))]))
    if left:
        parts.append("\n".join(["left out", *(f"  {path}: {why.replace(str(path), 'RUN')}" for path, why in left)]))
    return "\n\n".join(filter(None, parts))


def notes_on(published: Sequence[Published], tables: Mapping[str, Sequence[Group]]) -> list[str]:
    """A line for each source; ours are the runs on games that it has scores of."""
    games = {env for one in published for env in one.scores}
    runs = [run for env, groups in tables.items() if env in games for group in groups for run in group.runs]
    return protocol_notes(published, {run.score.protocol for run in runs})


def missing(tables: Mapping[str, Sequence[Group]], games: Sequence[str]) -> dict[str, list[str]]:
    """Group -> the games of a set that none of its runs is on; only groups that lack some."""
    by_group: dict[str, set[str]] = {}
    for groups in tables.values():
        for group in groups:
            by_group.setdefault(group.name, set()).update(run.config.env.id for run in group.runs)
    return {name: left for name, envs in by_group.items() if (left := [env for env in games if env not in envs])}


def table(env: str, groups: Sequence[Group], published: Sequence[Published] = ()) -> str:
    """The table of one environment: a line per group and per published score of it, cautions, and a line per run."""
    lines = [summarise(group) for group in groups]
    shown = any(line["human_normalised"] is not None for line in lines)
    spread = any(line["percentiles_5_95"] for line in lines)
    more = [*(["runs 5-95%"] if spread else []), *(["human-normalised"] if shown else [])]
    head = ["group", "seeds", "steps", "mean [95%]", "IQM [95%]", *more, "minutes"]
    body = []
    for line in lines:
        low, high = line["steps"]
        seeds, steps = len(line["seeds"]), f"{low:,}" if low == high else f"{low:,}-{high:,}"
        scores = [with_interval(line, what, seeds) for what in ("mean", "iqm")]
        runs = [" to ".join(map(number, line["percentiles_5_95"])) if line["percentiles_5_95"] else "-"] if spread else []
        human = [percent(line["human_normalised"])] if shown else []
        body.append([line["group"], str(seeds), steps, *scores, *runs, *human, f"{line['minutes']:.1f}"])
    for one in published:
        human = [percent(one.human_normalised(env))] if shown else []
        steps = f"{one.steps:,}" if one.steps else ""
        body.append([f"{one.source}: {one.agent}", "", steps, number(one.scores[env]), "", *[""] * spread, *human, ""])
    each = [
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
    return "\n".join([env, *columns([head, *body]), *notes, *columns(each, left=(0, 2, 3))])


def played(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The games of all groups, each once."""
    return list(dict.fromkeys(env for line in lines for env in line["games"]))


def over_games(lines: Sequence[Mapping[str, Any]], published: Sequence[Published] = ()) -> str:
    """Human-normalised scores over games and seeds, and beside them published ones on the same games."""
    head = ["group", "games", "seeds of each", "mean [95%]", "median [95%]", "IQM [95%]", "optimality gap [95%]", "IPR-90"]
    body, notes = [], [f"! {line}" for line in aggregate_cautions(lines)]
    for line in lines:
        least, most = min(line["seeds"]), max(line["seeds"])
        seeds = str(least) if least == most else f"{least}-{most}"
        shares = [with_interval(line, what, least, percent) for what in ("mean", "median", "iqm", "optimality_gap")]
        body.append([line["group"], str(len(line["games"])), seeds, *shares, percent(line["ipr90"])])
        if line["atari5"] is not None and len(line["games"]) < ALL_GAMES:
            told = f"{line['group']}: Atari-5 predicts a median of {percent(line['atari5'])} over 57 games (Aitchison et al. 2023)"
            notes.append(f"! {told}; {FAR_OFF}")
    for one in published:
        if told_over := published_over_games(one, played(lines)):
            shares = [percent(told_over[what]) for what in ("mean", "median", "iqm", "optimality_gap")]
            body.append([f"{one.source}: {one.name}", str(len(told_over["games"])), "", *shares, ""])
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
    tables: Mapping[str, Sequence[Group]],
    games: Sequence[Mapping[str, Any]],
    left: Sequence[tuple[Path, str]] = (),
    published: Sequence[Published] = (),
    wanted: Sequence[str] = (),
) -> dict[str, Any]:
    """All the numbers that are printed and drawn.  wanted: the set of games that was asked for, if any."""
    out = []
    for env, groups in tables.items():
        tag = tag_of(groups)
        lines = [
            summarise(group) | {"curves": {"steps": curves_of(group, tag, False), "minutes": curves_of(group, tag, True)}}
            for group in groups
        ]
        out.append({"environment": env, "groups": lines, "curves_of": tag, "cautions": cautions(groups)})
    return {
        "environments": out,
        "over_games": list(games),
        "improvements": improvements(games),
        "over_games_cautions": aggregate_cautions(games),
        "iqm_curves": {"steps": iqm_curves(tables, False), "minutes": iqm_curves(tables, True)} if games else {},
        "missing": missing(tables, wanted),
        "published_notes": notes_on(published, tables),
        "published": [one._asdict() | {"over_games": published_over_games(one, played(games))} for one in published],
        "left_out": [{"path": str(path), "why": why} for path, why in left],
    }
