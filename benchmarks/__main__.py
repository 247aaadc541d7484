"""benchmark env|tasks|replay|dqn|rainbow|ppo|a2c|ntm|checkpoint|sweeps: measured speed beside the peers', in one interleaved run on this
machine; benchmark variance|memory: what variance reduction and memory cores do, in numbers (docs/variance-and-memory.md);
benchmark ablation: what replay and the target network do for DQN (docs/results.md);
benchmark learning: DQN, A2C and PPO beside stable-baselines3's with the same hyper-parameters (docs/results.md);
benchmark page: tables of docs/performance.md from the JSON kept of these.

Contenders take turns in windows of a few seconds, forwards and backwards (A B C C B A ...), so that a noisy machine is noisy to
all of them.  Printed are the median rate over windows with the lowest and highest, and the median over rounds of the ratio to
the first contender of the table.  Steps are agent steps (on Atari 4 emulator frames each); resets are part of every window;
clocks start after a warm-up, in which everything is compiled and filled.  Peers that aren't installed are left out, with a
line: python -m pip install 'arcturus[peers]'.

  python -m benchmarks env --seconds 4 --rounds 3 --json docs/performance/env.json
  python -m benchmarks page docs/performance/*.json --out docs/performance.md
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
from typing import Any

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path
from benchmarks.measuring import page
from benchmarks.measuring.machine import about, load, said

BENCHMARKS = {
    "env": ("frames", "benchmark_env"),
    "tasks": ("tasks", "benchmark_tasks"),
    "replay": ("stores", "benchmark_replay"),
    "dqn": ("learners", "benchmark_dqn"),
    "rainbow": ("learners", "benchmark_rainbow"),
    "ppo": ("policies", "benchmark_ppo"),
    "a2c": ("policies", "benchmark_a2c"),
    "ntm": ("ntm", "benchmark_ntm"),
    "checkpoint": ("checkpoint", "benchmark_checkpoint"),
    "sweeps": ("sweeps", "benchmark_sweeps"),
    "variance": ("variance", "benchmark_variance"),
    "memory": ("memory", "benchmark_memory"),
    "ablation": ("ablation", "benchmark_ablation"),
    "learning": ("learning", "benchmark_learning"),
}  # name -> module of benchmarks, function of its arguments that returns tables


def main(argv: list[str]) -> int:
    if argv[:1] == ["page"]:
        return page.main(argv[1:])
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(BENCHMARKS))
    parser.add_argument("--game", help="default: ALE/Pong-v5; for variance ALE/KungFuMaster-v5, whose every game has rewards")
    parser.add_argument("--num-envs", type=int, help="default: 8; for ablation the preset's")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a measurement window")
    parser.add_argument("--rounds", type=int, default=3, help="rounds to measure, two windows each")
    parser.add_argument("--capacity", type=int, default=20_000)
    parser.add_argument("--prioritised", action="store_true", help="replay: sampling by priority, compared with cpprb and NumPy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--learner-threads", type=int, help="ppo, a2c: threads of torch while learning; default: one per core, at most 4")
    parser.add_argument("--env-threads", type=int, help="threads of the emulators; default: one per core, at most one per environment")
    parser.add_argument("--seeds", type=int, help="variance, memory: policies measured (5); ablation (3), learning: trainings of each cell")
    parser.add_argument("--env", help="ablation: the environment, default a small one made for it; learning: one of its tasks")
    parser.add_argument("--preset", help="ablation: preset of DQN; default: the environment's")
    parser.add_argument("--steps", type=int, help="ablation, learning: steps of one training; default: the preset's, the task's")
    parser.add_argument("--out", type=user_path, metavar="DIR", help="ablation: a PNG and the numbers go there; learning: its runs")
    parser.add_argument("--budget", type=int, default=60, help="memory: rollouts of one episode in each of 64 environments")
    parser.add_argument("--cores", default="none,rnn,lstm,gru", help="memory: cores to compare, by name or dotted path")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the numbers there, for `benchmark page`")
    parser.add_argument("--name", help="name of the table in the JSON and on the page; default: the benchmark's name, with -cuda on a GPU")
    parser.add_argument("--plot", type=user_path, metavar="FILE", help="variance, memory: draw a PNG")
    args = parser.parse_args(argv)
    args.game = args.game or ("ALE/KungFuMaster-v5" if args.what == "variance" else "ALE/Pong-v5")
    if args.what not in ("ablation", "learning"):
        args.num_envs = args.num_envs or 8
    if args.what != "learning":
        args.seeds = args.seeds or (3 if args.what == "ablation" else 5)
    import torch

    from arcturus.device import MOST_LEARNER_THREADS, choose_device

    args.learner_threads = args.learner_threads or min(os.cpu_count() or 1, MOST_LEARNER_THREADS)
    torch.set_num_threads(args.threads)

    args.device = choose_device(args.device)
    name = args.what + ("-prioritised" if args.prioritised else "") + ("-cuda" if args.device.startswith("cuda") else "")
    kept: dict[str, Any] = {"name": args.name or name, "command": command(argv), **about(args.device), "load": [load()]}
    print(said(kept) + f"; load {kept['load'][0]:.1f}")
    module, function = (
        ("prioritised", "benchmark_prioritised") if args.what == "replay" and args.prioritised else BENCHMARKS[args.what]
    )
    tables = getattr(importlib.import_module(f"benchmarks.{module}"), function)(args)
    kept["load"].append(load())
    if args.json:
        from arcturus.runs.files import write_atomically

        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, json.dumps(kept | {"tables": tables}, indent=1, default=str) + "\n")
    return 0


def command(argv: list[str]) -> str:
    """What to type for these numbers; where they are kept and what they are called there don't change them."""
    left, kept = iter(argv), ["python", "-m", "benchmarks"]
    for arg in left:
        if arg in ("--json", "--name"):
            next(left)
        elif not arg.startswith(("--json=", "--name=")):
            kept.append(arg)
    return shlex.join(kept)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
