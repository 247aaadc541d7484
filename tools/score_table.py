"""score_table: trains agents on a list of games and prints a table of their scores beside the published ones.

  python -m tools.score_table --out DIR                          DQN and PPO on the seven games of Mnih et al. 2013
  python -m tools.score_table --out DIR --games Pong,Breakout --agents ppo --seeds 0,1 --steps 2000000
  python -m tools.score_table --out DIR --only-table             the table of the runs that exist

Flags that it doesn't know are train-agent's (--agent.learning-rate 1e-4).

One run after the other, in the order of games, agents and seeds; each in a folder of its own under DIR.  A run that was stopped is
resumed, one that is finished is only scored: the same command again continues the table.  Every run is scored by `evaluate-agent`
at its last checkpoint, 30 whole games under protocol v5.  DIR/table.md holds the table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path
from arcturus.errors import ConfigError, nearest

SEVEN = "Pong,Breakout,SpaceInvaders,Seaquest,BeamRider,Enduro,Qbert"  # Mnih et al. 2013, table 1 (as the games are called now)
EPISODES = 30


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="score_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=user_path, required=True, metavar="DIR")
    p.add_argument("--games", default=SEVEN, help=f"default: {SEVEN}")
    p.add_argument("--agents", default="dqn,ppo")
    p.add_argument("--seeds", default="0")
    p.add_argument("--preset", help="preset of every agent; default: the device's")
    p.add_argument("--steps", type=int, help="agent steps of every run; default: the preset's")
    p.add_argument("--device", default="auto")
    p.add_argument("--env-threads", type=int, default=0)
    p.add_argument("--only-table", action="store_true", help="train and score nothing, only write the table")
    args, settings = p.parse_known_args(argv)
    from arcturus.envs.atari import games

    known = {name.removeprefix("ALE/").removesuffix("-v5"): name for name in games()}
    for game in (chosen := args.games.split(",")):
        if game not in known:
            raise ConfigError(f"unknown game {game!r}", where="--games", fix=nearest(game, known, "games"))
    try:
        seeds = [int(x) for x in args.seeds.split(",")]
    except ValueError:
        raise ConfigError(f"{args.seeds!r} are not seeds", where="--seeds", fix="write 0,1,2") from None
    if not args.only_table:
        for game in chosen:
            for agent in args.agents.split(","):
                for seed in seeds:
                    if code := bring_forward(args, settings, known[game], agent, seed, args.out / f"{game}-{agent}-s{seed}"):
                        return code
                    write_table(args.out)
    print(write_table(args.out))
    return 0


def bring_forward(args: argparse.Namespace, more: list[str], env: str, agent: str, seed: int, folder: Path) -> int:
    """Trains and scores what is still to be trained and scored of one run; the exit code of what didn't go well."""
    from arcturus.runs.folder import Run
    from arcturus.scripts import evaluate_agent, train_agent

    if not (folder / "run.json").exists():
        settings = ["--env", env, "--seed", str(seed), "--run-dir", str(folder), "--device", args.device]
        settings += ["--env.threads", str(args.env_threads)]
        settings += ["--preset", args.preset] if args.preset else []
        settings += ["--steps", str(args.steps)] if args.steps else []
        code = train_agent.main([agent, *settings, *more])
    elif Run(folder).status != "finished":
        code = train_agent.main(["resume", str(folder)])
    else:
        code = 0
    if code or (scored := evaluation_of(folder)) and scored["checkpoint"] == Run(folder).about["steps"]:
        return code
    return evaluate_agent.main([str(folder), "--episodes", str(EPISODES), "--device", args.device])


def evaluation_of(folder: Path) -> dict[str, Any] | None:
    """The newest evaluation that was played to its end, without an attack."""
    from arcturus.scoring.keeping import whole

    return next((report for _, report in whole(folder)), None)


def write_table(out: Path) -> str:
    """Of every scored run under DIR, in Markdown.  Humans of 2013 that are passed are marked."""
    from arcturus.envs.atari import games
    from arcturus.runs.files import write_atomically
    from arcturus.runs.folder import Run, read_metrics
    from arcturus.scoring.comparison import running_minutes
    from arcturus.scoring.statistics import published

    lines = [
        "| game | agent | seed | steps | minutes | score [95%] | random | DQN 2013 | DQN 2015 | human 2013 | CleanRL, 10M steps |",
        "|" + "---|" * 11,
    ]
    rules = set()
    for folder in sorted(p.parent for p in out.glob("*/run.json")):
        report, run = evaluation_of(folder), Run(folder)
        if report is None:
            continue
        config = run.config()
        row = published().get(games()[config.env.id], {})
        s, human = report["score"], row.get("human_2013")
        passed = " (**passed**)" if human is not None and s["mean"] > human else ""
        cells = [
            config.env.id.removeprefix("ALE/").removesuffix("-v5"),
            f"{config.agent_name}, {config.preset}",
            str(config.run.seed),
            f"{report['checkpoint']:,}",
            f"{running_minutes(read_metrics(run))[1][-1]:.0f}",
            f"**{s['mean']:,.1f}** [{s['ci95_low']:,.1f}, {s['ci95_high']:,.1f}]",
            *(number(row.get(k)) for k in ("random", "dqn_2013", "dqn_nature")),
            number(human) + passed,
            number(row.get(f"cleanrl_{config.agent_name}")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
        rules.add(f"{report['protocol_rules']}; policy {report['policy']}; {s['episodes']} games")
    table = "\n".join([*lines, "", *sorted(rules)])
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "table.md", table + "\n")
    return table


def number(x: float | None) -> str:
    return "" if x is None else f"{x:,.1f}"


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
