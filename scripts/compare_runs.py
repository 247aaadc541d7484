"""compare-runs: runs beside each other, over seeds: scores with intervals, human-normalised scores, minutes, and learning curves.

Runs that are alike but for the seed are one group.  A run's score is its newest evaluation by evaluate-agent at its last
checkpoint, or, without one, the newest during training; the lines below each table say which.  Intervals are 95% percentile
bootstrap intervals over seeds, of three seeds or more; over several games runs are drawn within each game (Agarwal et al.
2021, arXiv:2108.13264).

compare-runs runs/pong-*                                    a shell's pattern, or a folder that holds runs
compare-runs runs --plot curves.png --json numbers.json
"""

from __future__ import annotations

import argparse
import io
import json
import sys

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path
from arcturus.outputs import check_output, written_beside
from arcturus.telling import plain


def parser() -> argparse.ArgumentParser:
    how = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog="compare-runs", description=__doc__, formatter_class=how, allow_abbrev=False)
    p.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="run folders, and folders that hold them")
    p.add_argument("--plot", type=user_path, metavar="FILE.png", help="draw learning curves over agent steps and over minutes")
    p.add_argument("--json", type=user_path, metavar="FILE", help="write every number, curves included")
    p.add_argument("--trust", action="append", default=[], metavar="NAME", help="import this agent or environment of your own")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    from arcturus.runs.files import write_file
    from arcturus.scoring.comparison import aggregate, environments, find_runs, read_runs  # brings torch
    from arcturus.scoring.tables import numbers, over_games, table

    paths = find_runs(args.runs)
    for flag, file in (("--plot", args.plot), ("--json", args.json)):
        if file is not None:
            check_output(file, flag, (".png",) if flag == "--plot" else (), paths)
    runs, left = read_runs(paths, tuple(args.trust))
    tables = environments(runs)
    games = aggregate(tables)
    if args.json:
        text = json.dumps(numbers(tables, games, left), indent=2, allow_nan=False)
        written_beside(args.json, lambda beside: write_file(beside, text.encode()))
    if args.plot:
        from arcturus.pictures.comparison import comparison  # it loads matplotlib

        picture = io.BytesIO()
        comparison(tables).savefig(picture, format="png", dpi=150)
        written_beside(args.plot, lambda beside: write_file(beside, picture.getvalue()))
    told = [table(env, groups) for env, groups in tables.items()] + ([over_games(games)] if games else [])
    if left:
        told.append("\n".join(["left out", *(f"  {path}: {why}" for path, why in left)]))
    print(plain("\n\n".join(told)))
    return 0


def cli() -> None:
    sys.exit(guarded(main, sys.argv[1:]))


if __name__ == "__main__":
    cli()
