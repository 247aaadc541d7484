"""compare-runs: compares runs over seeds: scores with intervals, human-normalised scores, minutes, and learning curves.

Runs that differ only in their seed form one group.  A run's score is its newest evaluation by evaluate-agent at its last
checkpoint, or, without one, the newest during training; the lines below each table say which.  Intervals are 95% percentile
bootstrap intervals over seeds, of three seeds or more; over several games runs are drawn within each game (Agarwal et al.
2021, arXiv:2108.13264).

compare-runs runs/pong-*                                    a shell's pattern, or a folder that holds runs
compare-runs runs --plot curves.png --json numbers.json
compare-runs RUN --plot curve.png                           one run: its curve and its average value on held-out states
compare-runs RUN... --bits FILE.png | --lengths FILE.png    runs on the same NTM/ task
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from arcturus.scripts.frontend import command  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path
from arcturus.errors import ConfigError
from arcturus.outputs import PICTURES, check_output, written_beside
from arcturus.telling import plain

if TYPE_CHECKING:
    from arcturus.scoring.comparison import Scored


def parser() -> argparse.ArgumentParser:
    how = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="compare-runs", description=__doc__, formatter_class=how, allow_abbrev=False)
    p.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="run folders, or folders that contain them")
    p.add_argument(
        "--plot", type=user_path, metavar="FILE.png", help="draw learning curves over agent steps and over minutes; for one run, "
        "its curve and its average value on held-out states"
    )
    p.add_argument(
        "--profile", type=user_path, metavar="FILE.png", help="draw performance profiles: the share of runs above each human-normalised "
        "score, over games"
    )
    p.add_argument("--bits", type=user_path, metavar="FILE.png", help="NTM/ tasks: draw bits per sequence against sequences seen")
    p.add_argument("--lengths", type=user_path, metavar="FILE.png", help="NTM/ tasks: draw the newest scores by length")
    p.add_argument("--json", type=user_path, metavar="FILE", help="write every number, curves included")
    p.add_argument("--trust", action="append", default=[], metavar="NAME", help="import this agent or environment from outside arcturus")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    from arcturus.runs.files import write_file
    from arcturus.scoring.comparison import aggregate, environments, find_runs, read_runs  # brings torch
    from arcturus.scoring.tables import numbers, over_games, table

    paths, trust = find_runs(args.runs), tuple(args.trust)
    pictures = checked_outputs(args, paths)
    unscored: ConfigError | None = None
    try:
        runs, left = read_runs(paths, trust)
    except ConfigError as e:
        if args.json or not pictures:
            raise
        unscored = e
        if "--profile" in pictures:
            raise
        runs = read_runs(paths, trust, curves_alone=True)[0] if "--plot" in pictures and len(paths) > 1 else []
    for flag, file in pictures.items():
        draw(flag, file, paths, trust, runs)
    if unscored:
        print(plain(unscored.what))  # all that was asked for is drawn
        return 0
    tables = environments(runs)
    games = aggregate(tables)
    if args.json:
        text = json.dumps(numbers(tables, games, left), indent=2, allow_nan=False)
        written_beside(args.json, lambda beside: write_file(beside, text.encode()))
    told = [table(env, groups) for env, groups in tables.items()] + ([over_games(games)] if games else [])
    if left:
        told.append("\n".join(["left out", *(f"  {path}: {why}" for path, why in left)]))
    print(plain("\n\n".join(told)))
    return 0


def checked_outputs(args: argparse.Namespace, paths: list[Path]) -> dict[str, Path]:
    """Flag -> file of the pictures that are asked for; ConfigError for a file that can't be written, or is given twice."""
    pictures = {flag: file for flag in ("--plot", "--profile", "--bits", "--lengths") if (file := getattr(args, flag[2:])) is not None}
    for flag, file in pictures.items():
        check_output(file, flag, PICTURES, paths)
        if other := next((x for x in pictures if x != flag and pictures[x].resolve() == file.resolve()), ""):
            raise ConfigError(f"{file} is given for {other}, too", where=flag, fix="give each picture a file of its own")
    if args.json is not None:
        check_output(args.json, "--json", (), paths)
    return pictures


def draw(flag: str, file: Path, paths: list[Path], trust: tuple[str, ...], runs: list[Scored]) -> None:
    """One picture; none of them needs scores.  runs: those of the paths whose learning curves are drawn beside each other."""
    from arcturus.pictures.style import save  # it loads matplotlib

    if flag == "--profile":
        from arcturus.pictures.comparison import profiles
        from arcturus.scoring.comparison import aggregate, environments

        lines = aggregate(environments(runs))
        if not lines:
            fix = "give runs of one group on two games or more, whose human scores are published"
            raise ConfigError("a profile is over several games, and these runs have none", where=flag, fix=fix)
        figure = profiles(lines)
    elif flag != "--plot":
        from arcturus.pictures.curves import task_curves

        figure = task_curves(paths, flag, trust)
    elif len(paths) > 1:
        from arcturus.pictures.comparison import comparison
        from arcturus.scoring.comparison import environments

        figure = comparison(environments(runs))
    else:
        from arcturus.pictures.comparison import one_run
        from arcturus.runs.folder import Run, read_metrics

        run = Run(paths[0])
        figure = one_run(run.config(trust), read_metrics(run))
    save(figure, file)


cli = command(main)

if __name__ == "__main__":
    cli()
