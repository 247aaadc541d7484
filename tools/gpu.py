"""What to do where a GPU is at hand for a while: the tests, then the benchmarks, then as much training as the time allows.

  python -m tools.gpu --minutes 28 --out gpu            # the same command later goes on with the training runs

Steps run one after the other, and none beyond the limit: one that is running then is asked to end (SIGTERM, on which a training run
saves), and is killed if it has not ended after GRACE seconds; those behind it are left out.  Every step's command, exit code, seconds
and log lie in --out: steps.json, logs/.  Benchmarks are written to OUT/performance, for `benchmark page`.
Exit codes: 0 every step that was begun ended well or was stopped by the limit, 1 one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from arcturus.config import user_path
from arcturus.runs.files import write_atomically
from arcturus.scripts.frontend import guarded
from arcturus.telling import tell

GRACE = 20.0  # seconds between asking a step to end and killing it; they are part of the limit
SCORING = 240.0  # seconds kept for scoring what was trained
BENCHMARKS = ("env", "replay", "dqn", "rainbow", "ppo", "a2c", "ntm", "checkpoint")
TRAINED = [("dqn", "nature"), ("ppo", "atari"), ("iqn", "btr")]  # agent, preset
GAMES = ["Breakout", "SpaceInvaders", "Qbert", "Seaquest", "BeamRider", "Pong", "Enduro"]


class Step(NamedTuple):
    """most: the share of the time that is left which it may take."""

    name: str
    argv: list[str]
    most: float = 1.0
    run: str = ""  # the run folder that it trains


def python(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def planned(device: str, out: Path, tests: Sequence[str]) -> Iterator[Step]:
    """Tests, benchmarks, training."""
    yield Step("tests", python("pytest", "-q", "-p", "no:cacheprovider", *tests), 0.3)
    for name in BENCHMARKS:
        kept = out / "performance" / f"{name}-{device}.json"
        yield Step(f"benchmark-{name}", python("benchmarks", name, "--device", device, "--json", str(kept)), 0.15)
    for k, game in enumerate(GAMES):
        agent, preset = TRAINED[k % len(TRAINED)]
        place = ["--env", f"ALE/{game}-v5", "--device", device, "--run-dir", str(out / "runs" / f"{game}-{agent}-{preset}")]
        argv = python("arcturus.scripts.train_agent", agent, "--preset", preset, *place, "--start-or-resume")
        yield Step(f"train-{game}-{agent}-{preset}", argv, 0.4, place[-1])


def perform(step: Step, log: Path, seconds: float) -> tuple[int, bool]:
    """Its exit code, and whether the limit ended it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as f, subprocess.Popen(step.argv, stdout=f, stderr=f, start_new_session=True) as process:
        try:
            return process.wait(max(seconds - GRACE, 0.1)), False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(GRACE), True
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL, True
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and the processes that it started


def work(steps: Iterator[Step], out: Path, seconds: float, scoring: float = SCORING) -> int:
    """All steps for which there is time; what was trained is scored at the end."""
    end, done, failed = time.monotonic() + seconds, list[dict[str, Any]](), False
    queue, trained = list(steps), list[str]()

    def go(step: Step, until: float) -> bool:
        left = (until - time.monotonic()) * step.most
        if left < 1.5 * GRACE:
            done.append({"name": step.name, "left out": "no time"})
            return False
        tell(f"{step.name}: at most {left / 60:.1f} of {(end - time.monotonic()) / 60:.1f} minutes")
        began = time.monotonic()
        code, stopped = perform(step, out / "logs" / f"{step.name}.log", left)
        done.append({"name": step.name, "argv": step.argv, "code": code, "stopped": stopped, "seconds": round(time.monotonic() - began, 1)})
        tell(f"{step.name}: {'stopped at its limit' if stopped else 'ended'}, exit code {code}")
        return code == 0 or stopped

    for step in queue:
        failed |= not go(step, end - scoring) and "code" in done[-1]
        if step.run and (Path(step.run) / "run.json").exists():
            trained.append(step.run)
        write_atomically(out / "steps.json", json.dumps(done, indent=1))
    for behind, run in zip(range(len(trained), 0, -1), trained, strict=True):
        argv = python("arcturus.scripts.evaluate_agent", run, "--episodes", "5")
        failed |= not go(Step(f"score-{Path(run).name}", argv, 1 / behind), end) and "code" in done[-1]
    write_atomically(out / "steps.json", json.dumps(done, indent=1))
    return int(failed)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=28.0, help="the limit for everything")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=user_path, default=Path("gpu"), metavar="DIR")
    parser.add_argument("--tests", nargs="*", default=["tests/runs/test_speed.py", "tests/replay", "tests/agents/test_dqn.py"])
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    return work(planned(args.device, args.out.absolute(), args.tests), args.out, 60 * args.minutes)


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
