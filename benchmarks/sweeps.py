"""What sweeps cost: sixteen short cells by sweep-agents beside the same command lines under `xargs -P 2`, a look at a thousand cells that
are done, and compare-runs over 57 games x 3 seeds."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from arcturus.sweeps.file import read_sweep
from benchmarks.measuring.timing import amount

CELLS, BESIDE, DONE, SEEDS, LINES = 16, 2, 1_000, 3, 200
SWEEP = "agents: [a2c]\nenvs: [CartPole-v1]\nseeds: 0-15\nsettings: {steps: 4000, heldout-states: 0, eval-every: 0}\n"
PYTHON = [sys.executable, "-m"]
NOTHING = "from arcturus.sweeps.engine import cluster\nwith cluster(None, 2, 0): pass"


def timed(argv: list[str], lines: str = "") -> float:
    """Seconds of a command that is given these lines."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run(argv, input=lines.encode(), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def benchmark_sweeps(args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        tables = [beside_xargs(Path(folder), args.rounds), many_cells(Path(folder)), many_runs(Path(folder))]
    for table in tables:
        print(f"\n{table['title']}")
        for row in table["rows"]:
            print(f"  {row['name']:46s} {amount(row['median'])} {table['unit']}, ratio {row['ratio']:.2f}  {row['note']}")
    return tables


def table(title: str, unit: str, seconds: float, rows: dict[str, tuple[list[float], str]]) -> dict[str, Any]:
    """rows: name -> its rates, and a note."""
    first = statistics.median(next(iter(rows.values()))[0])
    told = [
        {"name": name, "windows": rates, "median": statistics.median(rates), "ratio": statistics.median(rates) / first, "note": note}
        for name, (rates, note) in rows.items()
    ]
    return {"title": title, "unit": unit, "seconds": round(seconds), "besides": "", "rows": told}


def beside_xargs(folder: Path, rounds: int) -> dict[str, Any]:
    """In turns A B B A.  Ray's own start is timed by itself each time, and taken off."""
    file = folder / "s.yaml"
    file.write_text(SWEEP)
    walls: dict[str, list[float]] = {"xargs": [], "sweep": []}
    starts = []
    for turn in range(2 * rounds):
        for kind in ("xargs", "sweep") if turn % 2 == 0 else ("sweep", "xargs"):
            out = folder / f"{kind}{turn}"
            if kind == "sweep":
                starts.append(timed([sys.executable, "-c", NOTHING]))
                argv = [*PYTHON, "arcturus.scripts.sweep_agents", "run", str(file), "--out", str(out), "--cpus", str(BESIDE)]
                walls[kind].append(timed(argv) - starts[-1])
            else:
                cells = read_sweep(file, out).cells
                lines = [shlex.join([*PYTHON, "arcturus.scripts.train_agent", *cell.train(out)[1:]]) for cell in cells]
                walls[kind].append(timed(["xargs", "-P", str(BESIDE), "-I{}", "sh", "-c", "{} > /dev/null 2>&1"], "\n".join(lines)))
            shutil.rmtree(out, ignore_errors=True)
    note = f"without Ray's start, {statistics.median(starts):.1f} s"
    rates = {kind: [60 * CELLS / wall for wall in taken] for kind, taken in walls.items()}
    title = f"{CELLS} cells of A2C on CartPole, 4,000 steps each, {BESIDE} at once"
    seconds = statistics.mean([*walls["xargs"], *walls["sweep"]])
    return table(title, "cells/minute", seconds, {"xargs -P 2": (rates["xargs"], ""), "arcturus, sweep-agents run": (rates["sweep"], note)})


def many_cells(folder: Path) -> dict[str, Any]:
    """A look at cells that are done, as a sweep takes before it starts any."""
    from arcturus.sweeps.progress import look

    out = folder / "done"
    cells = {f"c{i}": [["train-agent", "a2c", "--steps", "1000"]] for i in range(DONE)}
    (out / ".sweep").mkdir(parents=True)
    for name in cells:
        (out / name).mkdir()
        (out / name / "run.json").write_text(json.dumps({"status": "finished", "steps": 1000}))
        (out / name / "metrics.jsonl").write_text("".join(map(metrics, range(LINES))))
        (out / ".sweep" / f"{name}.json").write_text('{"codes": [0]}')
        (out / ".sweep" / f"{name}.lock").touch()
    if {p.state for p in look(out, cells)} != {"done"}:
        raise AssertionError("these cells are not done")
    walls = []
    for _ in range(5):
        began = time.perf_counter()
        look(out, cells)
        walls.append(time.perf_counter() - began)
    note = f"{statistics.median(walls):.2f} s for all of them"
    rows = {"arcturus": ([DONE / wall for wall in walls], note)}
    return table(f"A look at {DONE:,} cells that are done", "cells/s", statistics.mean(walls), rows)


def metrics(i: int) -> str:
    row = {"step": 500 * (i + 1), "time": float(i), "charts/SPS": 500.0, "charts/episodic_return": float(i), "losses/td_loss": 0.1}
    return json.dumps(row | ({"eval/episodic_return_mean": float(i)} if i % 20 == 19 else {})) + "\n"


def many_runs(folder: Path) -> dict[str, Any]:
    """compare-runs with every statistic, on run folders that differ from a real one in game, seed, score and curve."""
    import arcturus
    from arcturus.comparing.published import game_set

    out, real = folder / "runs", folder / "real"
    arcturus.train("dqn", "ALE/Pong-v5", steps=200, run_dir=real, quiet=True, device="cpu", heldout_states=0, eval_every=0)
    config, about, rng = (real / "config.yaml").read_text(), json.loads((real / "run.json").read_text()), np.random.default_rng(0)
    for env in game_set("atari57"):
        for seed in range(SEEDS):
            run = out / f"{env[4:]}-{seed}"
            kept = run / "evaluations" / "step-000000000200-v5"
            kept.mkdir(parents=True)
            (run / "config.yaml").write_text(config.replace("ALE/Pong-v5", env).replace("seed: 0", f"seed: {seed}"))
            (run / "run.json").write_text(json.dumps(about | {"id": f"{run.name}"}))
            (run / "metrics.jsonl").write_text("".join(map(metrics, range(LINES))))
            score = {"mean": float(rng.normal(500, 100)), "episodes": 30}
            report = {"checkpoint": about["checkpoint"], "protocol": "v5", "policy": "greedy", "score": score}
            (kept / "evaluation.json").write_text(json.dumps(report))
    written = ["--json", str(folder / "numbers.json"), "--games", "atari57", "--beside", "mrq"]
    walls = [timed([*PYTHON, "arcturus.scripts.compare_runs", str(out), *written]) for _ in range(3)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # the largest of all that this process started
    count = SEEDS * len(game_set("atari57"))
    note = f"{statistics.median(walls):.1f} s, at most {peak:,.0f} MB"
    return table(f"compare-runs over {count} runs, 2,000 bootstrap draws", "runs/s", statistics.mean(walls),
                 {"arcturus": ([count / w for w in walls], note)})  # fmt: skip
