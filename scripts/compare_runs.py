"""compare-runs: compares runs over seeds: scores with intervals, human-normalised scores, minutes, and learning curves.

Runs that differ only in their seed form one group.  A run's score is its newest evaluation by evaluate-agent at its last
checkpoint, or, without one, the newest during training; the lines below each table say which.  Intervals are 95% percentile
bootstrap intervals over seeds, of three seeds or more; over several games runs are drawn within each game (Agarwal et al.
2021, arXiv:2108.13264).

compare-runs runs/pong-*                                    a shell's pattern, or a folder that holds runs
compare-runs runs --plot curves.png --json numbers.json
compare-runs runs --html page.html                          tables, curves, profiles, settings and films on one page
compare-runs runs --games atari26 --beside mrq,cleanrl      a paper's set of games, and published scores of them
compare-runs RUN --plot curve.png                           one run: its curve and its average value on held-out states
compare-runs RUN... --bits FILE.png | --lengths FILE.png    runs on the same NTM/ task
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arcturus.scripts.frontend import command  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path
from arcturus.errors import ConfigError
from arcturus.outputs import PICTURES, check_output, written_beside
from arcturus.telling import plain

if TYPE_CHECKING:
    from arcturus.comparing.comparison import Scored
    from arcturus.comparing.published import Published

OVER_RUNS = {
    "--profile": "draw performance profiles: the share of runs above each human-normalised score, over games",
    "--iqm": "draw the interquartile mean over games against agent steps and minutes",
    "--percentiles": "draw every run, with those at the 5th, 50th and 95th percentile highlighted",
}
GAMES_NEEDED = "it is over two Atari games or more, whose human scores are published"
NEEDS = {"--profile": GAMES_NEEDED, "--iqm": GAMES_NEEDED, "--percentiles": "it takes three seeds of one group, with learning curves"}
PICTURED = ("--plot", *OVER_RUNS, "--bits", "--lengths")


def parser() -> argparse.ArgumentParser:
    how = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="compare-runs", description=__doc__, formatter_class=how, allow_abbrev=False)
    p.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="run folders, or folders that contain them")
    p.add_argument(
        "--games", metavar="SET", help="only the runs on these games, and which of them have none: atari57, atari26, atari5 or mnih2013"
    )
    p.add_argument(
        "--beside", metavar="SOURCE,...", help="published scores of the same games, with their protocols: mrq, slm-lab, dqn2013, nature, "
        "dopamine, cleanrl"
    )
    p.add_argument(
        "--plot", type=user_path, metavar="FILE.png", help="draw learning curves over agent steps and over minutes; for one run, "
        "its curve and its average value on held-out states"
    )
    for flag, text in OVER_RUNS.items():
        p.add_argument(flag, type=user_path, metavar="FILE.png", help=text)
    p.add_argument("--bits", type=user_path, metavar="FILE.png", help="NTM/ tasks: draw bits per sequence against sequences seen")
    p.add_argument("--lengths", type=user_path, metavar="FILE.png", help="NTM/ tasks: draw the newest scores by length")
    p.add_argument("--html", type=user_path, metavar="FILE.html", help="write all of it as one page: tables, curves, settings, films")
    p.add_argument("--json", type=user_path, metavar="FILE", help="write every number, curves included")
    p.add_argument("--trust", action="append", default=[], metavar="NAME", help="import this agent or environment from outside arcturus")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    from arcturus.comparing.comparison import aggregate, environments, find_runs, read_runs  # brings torch
    from arcturus.comparing.published import asked_for, game_set
    from arcturus.comparing.tables import numbers, told
    from arcturus.runs.files import write_file

    games, sources = game_set(args.games) if args.games else (), asked_for(args.beside) if args.beside is not None else []
    paths, trust = find_runs(args.runs), tuple(args.trust)
    pictures = checked_outputs(args, paths)
    unscored: ConfigError | None = None
    try:
        runs, left = read_runs(paths, trust)
    except ConfigError as e:
        if args.json or args.html or not pictures or set(pictures) & set(OVER_RUNS):
            raise
        unscored = e
        runs = read_runs(paths, trust, curves_alone=True)[0] if "--plot" in pictures and len(paths) > 1 else []
    if games and runs:
        runs = chosen(runs, games, args.games)
    for flag, file in pictures.items():
        draw(flag, file, paths, trust, runs)
    if unscored:
        print(plain(unscored.what))  # all that was asked for is drawn
        return 0
    tables = environments(runs)
    lines, published = aggregate(tables), beside_runs(sources, runs)
    if args.json:
        text = json.dumps(numbers(tables, lines, left, published, games), indent=2, allow_nan=False)
        written_beside(args.json, lambda beside: write_file(beside, text.encode()))
    if args.html:
        from arcturus.comparing.report import page

        html = page(tables, lines, left, published, games)
        written_beside(args.html, lambda beside: write_file(beside, html.encode()))
    print(plain(told(tables, lines, left, published, games)))
    return 0


def chosen(runs: list[Scored], games: Sequence[str], name: str) -> list[Scored]:
    """Those on these games."""
    kept = [run for run in runs if run.config.env.id in games]
    if not kept:
        raise ConfigError(f"none of these runs is on a game of {name}", where="--games", fix="leave --games out, or give other runs")
    return kept


def beside_runs(sources: Sequence[str], runs: Sequence[Scored]) -> list[Published]:
    """Published scores of the games that were played, at the number of steps nearest to the median of the runs'."""
    from statistics import median

    from arcturus.comparing.published import beside
    from arcturus.envs import is_atari

    if not sources:
        return []
    atari = [run for run in runs if is_atari(run.config.env.id)]
    found = beside(sources, {run.config.env.id for run in atari}, median(run.step for run in atari)) if atari else []
    if not found:
        fix = "leave --beside out: scores come along for Atari only"
        raise ConfigError("none of these sources has scores of these environments", where="--beside", fix=fix)
    return found


def checked_outputs(args: argparse.Namespace, paths: list[Path]) -> dict[str, Path]:
    """Flag -> file of the pictures that are asked for; ConfigError for a file that can't be written, or is given twice."""
    endings: dict[str, tuple[str, ...]] = dict.fromkeys(PICTURED, PICTURES) | {"--html": (".html", ".htm"), "--json": ()}
    written = {flag: file for flag in endings if (file := getattr(args, flag[2:])) is not None}
    for flag, file in written.items():
        check_output(file, flag, endings[flag], paths)
        if other := next((x for x in written if x != flag and written[x].resolve() == file.resolve()), ""):
            raise ConfigError(f"{file} is given for {other}, too", where=flag, fix="give each a file of its own")
    return {flag: file for flag, file in written.items() if flag in PICTURED}


def draw(flag: str, file: Path, paths: list[Path], trust: tuple[str, ...], runs: list[Scored]) -> None:
    """One picture; learning curves need no scores.  runs: those of the paths whose learning curves are drawn beside each other."""
    from arcturus.comparing.comparison import aggregate, environments
    from arcturus.pictures import comparison  # it loads matplotlib
    from arcturus.pictures.style import save

    if flag in OVER_RUNS:
        tables = environments(runs)
        if flag == "--profile":
            lines = aggregate(tables)
            figure = comparison.profiles(lines) if lines else None
        else:
            figure = comparison.percentiles(tables) if flag == "--percentiles" else comparison.sample_efficiency(tables)
        if figure is None:
            raise ConfigError("these runs have none: " + NEEDS[flag], where=flag, fix="give more runs, or leave it out")
    elif flag != "--plot":
        from arcturus.pictures.curves import task_curves

        figure = task_curves(paths, flag, trust)
    elif len(paths) > 1:
        figure = comparison.comparison(environments(runs))
    else:
        from arcturus.runs.folder import Run, read_metrics

        run = Run(paths[0])
        figure = comparison.one_run(run.config(trust), read_metrics(run))
    save(figure, file)


cli = command(main)

if __name__ == "__main__":
    cli()
