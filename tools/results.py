"""results: scores kept under docs/results as JSON, and the tables of docs/results.md made from them.

  python -m tools.results keep RUNS... --into FILE.json     adds the scores of runs; the same agent, environment and seed is replaced
  python -m tools.results learning FILE.json... --into FILE.json      the rows of several `benchmark learning --json`
  python -m tools.results page                              writes the tables again, between <!-- table: NAME --> and <!-- end -->

A run's score is its newest whole evaluation by evaluate-agent.  NAME is the name of the file under docs/results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arcturus.comparing.comparison import find_runs, read_run
from arcturus.comparing.published import beside, game_set
from arcturus.config import user_path
from arcturus.envs.atari import games
from arcturus.errors import ConfigError
from arcturus.runs.files import write_atomically
from arcturus.runs.folder import Run
from arcturus.scoring.keeping import whole
from arcturus.scoring.statistics import human_normalised, iqm, optimality_gap, published
from arcturus.scripts.frontend import guarded
from arcturus.telling import tell

ROOT = Path(__file__).parents[1]
PAGE, KEPT = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Kept = dict[str, Any]
THRESHOLDS = {
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
    "LunarLander-v3": 200.0,
    "FrozenLake-v1": 0.7,
    "Taxi-v4": 8.0,
    "CliffWalking-v1": -13.0,
    "minatar.gym:MinAtar/Breakout-v1": 5.0,
    "minatar.gym:MinAtar/Freeway-v1": 20.0,
    "minigrid:MiniGrid-Empty-5x5-v0": 0.9,
}  # of first-tasks: Gymnasium's own where it has one


def entry(path: Path, trust: tuple[str, ...]) -> Kept:
    """What is kept of one run; ConfigError if its last checkpoint was not scored, or if the code that made it is in no commit."""
    run, about = read_run(path, trust), Run(path).known
    report = next((r for _, r in whole(path) if r["checkpoint"] == run.step and "memory_slots" not in r), None)
    if report is None or run.score.by != "evaluate-agent":
        raise ConfigError(f"the last checkpoint of {path} was not scored", where="RUNS", fix=f"run evaluate-agent {path}")
    commits = {start.get("commit") for start in about.get("starts", [])} or {None}
    made_at = ", ".join(sorted(str(one) for one in commits))
    if any(one is None or one.endswith("-changed") for one in commits):
        raise ConfigError(f"{path} was made by code that is in no commit ({made_at})", where="RUNS", fix="train it from a clean clone")
    score = report["score"]
    return {
        "agent": run.config.agent_name,
        "env": run.config.env.id,
        "preset": run.config.preset,
        "seed": run.config.run.seed,
        "steps": run.step,
        "mean": score["mean"],
        "ci95": [score["ci95_low"], score["ci95_high"]],
        "episodes": score["episodes"],
        "protocol": report["protocol"],
        "policy": report["policy"],
        "minutes": round(run.minutes, 2),
        "core_seconds": run.core_seconds,
        "machine": run.machine,
        "versions": about.get("versions", {}),
        "commit": made_at,
    }


def merged(old: Sequence[Kept], new: Sequence[Kept]) -> list[Kept]:
    found = {(one["env"], one["agent"], one["seed"]): one for one in [*old, *new]}
    presets = {(one["env"], one["agent"]): one["preset"] for one in old}
    for one in new:
        if (there := presets.get((one["env"], one["agent"]), one["preset"])) != one["preset"]:
            problem = f"{one['agent']} on {one['env']} is kept with preset {there}, not {one['preset']}"
            raise ConfigError(problem, where="--into", fix="keep it in another file")
    return [found[key] for key in sorted(found)]


def read(name: str) -> Kept:
    return json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))


# -- tables ---------------------------------------------------------------------------------------------------------------


def learning(kept: Kept) -> str:
    from benchmarks.learning import HEADER, told

    return "\n".join([HEADER, *map(told, kept["rows"])])


def first_tasks(kept: Kept) -> str:
    """Agents over tasks; the lowest seed's score decides whether a cell is at its threshold (bold)."""
    tasks: Mapping[str, float] = kept.get("thresholds", THRESHOLDS)
    heads = [env.rpartition(":")[2].removesuffix("-v0") for env in tasks]
    lines = ["| agent | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    lines.append("| *threshold* | " + " | ".join(f"{x:g}" for x in tasks.values()) + " |")
    for agent in dict.fromkeys(one["agent"] for one in kept["runs"]):
        cells = []
        for env, threshold in tasks.items():
            scores = [one["mean"] for one in kept["runs"] if (one["agent"], one["env"]) == (agent, env)]
            shown = ", ".join(f"{x:.4g}" for x in scores)
            cells.append(f"**{shown}**" if scores and min(scores) >= threshold else shown or "-")
        lines.append(f"| {agent} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def atari57(kept: Kept) -> str:
    """Games over scores, with MR.Q's at equal steps beside them, and what both come to over the games that are there."""
    (mrq,) = beside(["mrq"], game_set("atari57"), 100_000)
    lines = ["| game | seed | score | random | human-normalised | MR.Q | minutes | core-seconds |", "|---|" + "---:|" * 7]
    shares: dict[str, list[float]] = {}
    for one in kept["runs"]:
        game = games()[one["env"]]
        share = human_normalised(game, one["mean"])
        assert share is not None
        shares.setdefault(one["env"], []).append(share)
        theirs = mrq.human_normalised(one["env"])
        name, spent = one["env"].removeprefix("ALE/").removesuffix("-v5"), one["core_seconds"]
        low, high = one["ci95"]
        parts = [name, str(one["seed"]), f"{one['mean']:.1f} [{low:.1f}, {high:.1f}]", f"{published()[game]['random']:g}"]
        parts += [f"{share:.3f}", f"{mrq.scores[one['env']]:.1f} ({theirs:.3f})", f"{one['minutes']:.1f}", f"{spent:.0f}" if spent else "-"]
        lines.append("| " + " | ".join(parts) + " |")
    return "\n".join([*lines, "", *over_games(shares, mrq)])


def over_games(shares: Mapping[str, list[float]], mrq: Any) -> list[str]:
    """A game of several seeds counts once, by their mean."""
    ours = [float(np.mean(x)) for x in shares.values()]
    theirs = [mrq.human_normalised(env) for env in shares]
    lines = [f"| over {len(ours)} of 57 games | IQM | median | mean | optimality gap |", "|---|---:|---:|---:|---:|"]
    for name, x in (("c51, `atari100k-cpu`", ours), ("MR.Q, 10 seeds", theirs)):
        lines.append(f"| {name} | {float(iqm(x)):.3f} | {np.median(x):.3f} | {np.mean(x):.3f} | {float(optimality_gap(x)):.3f} |")
    return lines


TABLES: dict[str, Callable[[Kept], str]] = {"learning-parity": learning, "first-tasks": first_tasks, "atari57-100k": atari57}


def page(text: str) -> str:
    """A page with its tables as the JSON says."""

    def table(m: re.Match[str]) -> str:
        if m[2] not in TABLES:
            raise ConfigError(f"there is no table {m[2]!r}", where=str(PAGE), fix="choose " + ", ".join(TABLES))
        return f"{m[1]}{TABLES[m[2]](read(m[2]))}\n{m[3]}"

    return BLOCK.sub(table, text)


# -- commands ---------------------------------------------------------------------------------------------------------------


def keep(args: argparse.Namespace) -> None:
    old: Kept = json.loads(args.into.read_text(encoding="utf-8")) if args.into.exists() else {"runs": []}
    new = [entry(path, tuple(args.trust)) for path in find_runs(args.files)]
    args.into.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.into, json.dumps(old | {"runs": merged(old["runs"], new)}, indent=1) + "\n")
    tell(f"{args.into}: {len(new)} runs kept, {len(merged(old['runs'], new))} in all")


def join_learning(args: argparse.Namespace) -> None:
    rows = []
    for path in args.files:
        part = json.loads(path.read_text(encoding="utf-8"))
        about = {name: part[name] for name in ("command", "commit", "hardware", "versions")}
        rows += [row | about for table in part["tables"] for row in table["rows"]]
    write_atomically(args.into, json.dumps({"rows": rows}, indent=1) + "\n")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    doing = parser.add_subparsers(dest="doing", required=True)
    for name in ("keep", "learning"):
        one = doing.add_parser(name)
        one.add_argument("files", type=user_path, nargs="+")
        one.add_argument("--into", type=user_path, required=True, metavar="FILE")
        one.add_argument("--trust", action="append", default=[], metavar="NAME")
    doing.add_parser("page")
    args = parser.parse_args(argv)
    if args.doing == "page":
        write_atomically(PAGE, page(PAGE.read_text(encoding="utf-8")))
    else:
        {"keep": keep, "learning": join_learning}[args.doing](args)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
