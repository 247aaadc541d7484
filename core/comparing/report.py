"""Everything that compare-runs knows of some runs as one page that needs no network: tables, curves, profiles, what differs between the
settings, and films.  Its looks are in report.html, a Jinja template; it follows the reader's light or dark setting.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure

import arcturus
from arcturus.comparing.comparison import Group, aggregate_cautions, cautions, improvements, summarise
from arcturus.comparing.published import ALL_GAMES, FAR_OFF, Published, over_games
from arcturus.comparing.tables import missing, notes_on, number, percent, played, with_interval
from arcturus.pictures.comparison import comparison, percentiles, profiles, sample_efficiency
from arcturus.runs.groups import settings_of

DPI = 110
FILM_LIMIT = 30 * 2**20  # bytes of one film


class Film(NamedTuple):
    title: str
    data: str  # base64


def page(
    tables: Mapping[str, Sequence[Group]],
    lines: Sequence[Mapping[str, Any]],
    left: Sequence[tuple[Path, str]] = (),
    published: Sequence[Published] = (),
    games: Sequence[str] = (),
) -> str:
    """HTML.  lines: of aggregate().  games: the set that was asked for, if any."""
    runs = [run for groups in tables.values() for group in groups for run in group.runs]
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (files("arcturus.comparing") / "report.html").read_text(encoding="utf-8")
    )
    return template.render(
        version=arcturus.__version__,
        runs=runs,
        environments=[_environment(env, groups, published) for env, groups in tables.items()],
        games=_games(lines, published) if lines else None,
        missing=missing(tables, games),
        wanted=len(games),
        pictures=_pictures(tables, lines),
        settings=_settings(tables),
        sources=notes_on(published, tables),
        left=left,
        number=number,
        percent=percent,
    )


def _environment(env: str, groups: Sequence[Group], published: Sequence[Published]) -> dict[str, Any]:
    lines = [summarise(group) for group in groups]
    for line in lines:
        line["shown"] = {what: with_interval(line, what, len(line["seeds"])) for what in ("mean", "iqm")}
    return {
        "name": env,
        "lines": lines,
        "human": any(line["human_normalised"] is not None for line in lines),
        "published": [(one, one.scores[env], one.human_normalised(env)) for one in published if env in one.scores],
        "cautions": cautions(groups),
        "curves": _embedded(comparison({env: groups})),
        "films": [film for group in groups if (film := _film(group)) is not None],
    }


def _games(lines: Sequence[Mapping[str, Any]], published: Sequence[Published]) -> dict[str, Any]:
    told = []
    for line in lines:
        shown = {what: with_interval(line, what, min(line["seeds"]), percent) for what in ("mean", "median", "iqm", "optimality_gap")}
        told.append({**line, "shown": shown, "atari5": line["atari5"] if len(line["games"]) < ALL_GAMES else None})
    beside = [(one, told_over) for one in published if (told_over := over_games(one, played(lines)))]
    return {"lines": told, "beside": beside, "pairs": improvements(lines), "cautions": aggregate_cautions(lines), "far_off": FAR_OFF}


def _pictures(tables: Mapping[str, Sequence[Group]], lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Title -> picture."""
    drawn = {
        "Sample efficiency": sample_efficiency(tables) if lines else None,
        "Performance profiles": profiles(lines) if lines else None,
        "Every run": percentiles(tables),
    }
    return {title: _embedded(figure) for title, figure in drawn.items() if figure is not None}


def _embedded(figure: Figure) -> str:
    """A picture without a background, as text."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, transparent=True)
    return base64.b64encode(file.getvalue()).decode()


def _settings(tables: Mapping[str, Sequence[Group]]) -> dict[str, Any]:
    """Groups, the settings in which they differ, and those that all share."""
    groups: dict[str, dict[str, Any]] = {}
    for of_one in tables.values():
        for group in of_one:
            groups.setdefault(group.name, settings_of(group.runs[0].config))
    names = list(dict.fromkeys(name for settings in groups.values() for name in settings))
    values = {name: [settings.get(name, "-") for settings in groups.values()] for name in names}
    differing = {name: each for name, each in values.items() if any(value != each[0] for value in each)}
    return {"groups": list(groups), "differ": differing, "same": {k: v[0] for k, v in values.items() if k not in differing}}


def _film(group: Group) -> Film | None:
    """The newest film of the run nearest to the group's median that has one."""
    middle = sorted(group.scores)[len(group.runs) // 2]
    for run in sorted(group.runs, key=lambda run: abs(run.score.value - middle)):
        films = sorted((run.path / "videos").glob("*.mp4"), key=lambda film: film.stat().st_mtime)
        if films and films[-1].stat().st_size <= FILM_LIMIT:
            title = f"{group.name}, seed {run.config.run.seed}: {films[-1].name} (score of the run {number(run.score.value)})"
            return Film(title, base64.b64encode(films[-1].read_bytes()).decode())
    return None
