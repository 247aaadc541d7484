"""third_party: trains, kills, resumes, scores and films agents on other packages' environments; a table of how each went.

  python -m pip install minigrid==3.2.0 popgym==1.0.7 minatar==1.0.15
  python -m tools.third_party --page docs/environments.md
  python -m tools.third_party --only Taxi-v4

Every cell comes from real commands.  resume: the run was killed (SIGKILL) at a random instant and resumed; "identical" if it ended as
one that was never stopped, by the digests that `survival` compares.  The page's text before the table stays.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from signal import SIGKILL
from typing import NamedTuple

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import user_path
from arcturus.errors import ConfigError, nearest
from arcturus.runs.files import write_atomically
from arcturus.runs.folder import Run
from tools.survival import command, digests, ours, stop_once

HEADS = "| environment | package | agent and flags | observation | actions | trains | score | film | resumed after a kill |"
COMMON = ["--preset", "classic", "--steps", "6000", "--deterministic", "True", "--device", "cpu", "--num-envs", "4"]
COMMON += ["--eval-every", "2000", "--eval-episodes", "2", "--checkpoint-every", "1500", "--heldout-states", "16"]
TINY = ("--agent.capacity", "3000", "--agent.learning-starts", "500")
IMAGE = ("--env.observation", "image")


class Trial(NamedTuple):
    env: str
    package: str
    agent: str
    flags: tuple[str, ...] = ()


TRIALS = [
    Trial("MountainCar-v0", "gymnasium", "dqn", TINY),
    Trial("Taxi-v4", "gymnasium", "q_learning"),
    Trial("FrozenLake-v1", "gymnasium", "dqn", TINY),
    Trial("CliffWalking-v1", "gymnasium", "q_learning"),
    Trial("Acrobot-v1", "gymnasium", "pqn"),
    Trial("minigrid:MiniGrid-Empty-5x5-v0", "minigrid", "ppo", IMAGE),
    Trial("minigrid:MiniGrid-DoorKey-5x5-v0", "minigrid", "dqn", (*IMAGE, *TINY)),
    Trial("minigrid:MiniGrid-MemoryS7-v0", "minigrid", "a2c", (*IMAGE, "--agent.core", "lstm")),
    Trial("popgym:popgym-RepeatPreviousEasy-v0", "popgym", "ppo", ("--agent.core", "gru")),
    Trial("popgym:popgym-PositionOnlyCartPoleEasy-v0", "popgym", "ppo", ("--agent.core", "lstm")),
    Trial("popgym:popgym-CountRecallEasy-v0", "popgym", "ppo", ("--agent.core", "lstm")),
    Trial("popgym:popgym-MineSweeperEasy-v0", "popgym", "a2c"),
    Trial("popgym:popgym-RepeatFirstEasy-v0", "popgym", "reinforce", ("--agent.core", "lstm")),
    Trial("minatar.gym:MinAtar/Breakout-v1", "minatar", "dqn", TINY),
    Trial("minatar.gym:MinAtar/Asterix-v1", "minatar", "c51", TINY),
    Trial("minatar.gym:MinAtar/Freeway-v1", "minatar", "qr_dqn", TINY),
    Trial("minatar.gym:MinAtar/Seaquest-v1", "minatar", "iqn", TINY),
    Trial("minatar.gym:MinAtar/SpaceInvaders-v1", "minatar", "sac", TINY),
]


def tried(trial: Trial, folder: Path) -> str:
    """A row of the table."""
    name = trial.env.split(":")[-1]
    flags = " ".join([trial.agent, *trial.flags])
    cells = [f"`{trial.env}`", f"{trial.package} {version(trial.package)}", flags]
    whole = folder / "whole"
    trained = subprocess.run(training(trial, whole), capture_output=True, text=True)
    if trained.returncode:
        return row([*cells, "", "", f"exit {trained.returncode}: {said(trained.stderr)}", "", "", ""])
    about = spaces(whole)
    cells += [*about, f"{Run(whole).about['steps']:,} steps"]
    cells += scored(trial, whole, folder / "film.mp4")
    cells.append(resumed(trial, folder, whole))
    print(f"{name}: {cells[5:]}", flush=True)
    return row(cells)


def row(cells: list[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def said(text: str) -> str:
    """A command's error, or else its last line."""
    lines = text.strip().splitlines() or ["no message"]
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[-1])


def training(trial: Trial, path: Path) -> list[str]:
    return command(trial.agent, "--env", trial.env, "--run-dir", str(path), *COMMON, *trial.flags)


def spaces(path: Path) -> list[str]:
    """What the agent sees and does."""
    from arcturus.envs import open_envs

    with open_envs(replace(Run(path).config(ours(path)).env, num_envs=1), 0, "cpu") as envs:
        spec = envs.spec
    shape, dtype = "x".join(map(str, spec.obs_shape)), str(spec.obs_dtype).removeprefix("torch.")
    seen = f"{spec.states} states" if spec.states else f"{shape} {dtype}"
    return [seen, str(spec.action_space)]


def scored(trial: Trial, path: Path, film: Path) -> list[str]:
    """Three greedy episodes, and the film of the median one."""
    trust = [f"--trust={trial.env}"] if ":" in trial.env else []
    argv = [sys.executable, "-m", "arcturus.scripts.evaluate_agent", str(path), "--episodes", "3", *trust]
    out = subprocess.run([*argv, "--json"], capture_output=True, text=True)
    if out.returncode:
        return [f"exit {out.returncode}: {said(out.stderr)}", ""]
    report = json.loads(out.stdout)
    score = f"{report['score']['mean']:.3g}" + (f" ({report['cut']} cut)" if report["cut"] else "")
    filmed = subprocess.run([*argv, "--video", str(film)], capture_output=True, text=True)
    if filmed.returncode:
        return [score, f"exit {filmed.returncode}: {said(filmed.stderr)}"]
    return [score, pictures(film)]


def pictures(film: Path) -> str:
    """Of a film: how many frames of which size, and how many different ones."""
    import av

    with av.open(str(film)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    different = len({f.tobytes() for f in frames})
    height, width = frames[0].shape[:2]
    return f"{len(frames)} frames of {width}x{height}, {different} different"


def resumed(trial: Trial, folder: Path, whole: Path) -> str:
    """Kills a second run half-way, resumes it and compares its end with the first's."""
    path, longest = folder, 2.0
    while longest > 0.01:  # a run that was over before its kill came isn't one that was stopped
        path = folder / f"victim-{longest:g}"
        stop_once(training(trial, path), path, SIGKILL, random.uniform(0, longest), in_save=False)
        if Run(path).status != "finished":
            break
        longest /= 2
    trust = [f"--trust={trial.env}"] if ":" in trial.env else []
    out = subprocess.run(command("resume", str(path), *trust), capture_output=True, text=True)
    if out.returncode:
        return f"exit {out.returncode}: {said(out.stderr)}"
    a, b = digests(whole), digests(path)
    if a == b:
        return "identical"
    told = "says that it can't be exact" if re.search("not an exact continuation", out.stderr + out.stdout) else "NOT SAID"
    return f"differs in {', '.join(k for k in a if a[k] != b[k])}; {told}"


def write_page(page: Path, rows: list[str]) -> None:
    """The table in place of the one that is there."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# Other packages' environments\n\n"
    write_atomically(page, text.split(HEADS)[0] + "\n".join([HEADS, "|" + "---|" * 9, *rows]) + "\n")


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="third_party", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="", help="only these environments, separated by commas")
    p.add_argument("--page", type=user_path, help="write the table there; default: print it")
    p.add_argument("--seed", type=int, default=0, help="seed of the random instants")
    args = p.parse_args(argv)
    random.seed(args.seed)
    chosen = args.only.split(",") if args.only else [t.env for t in TRIALS]
    for name in chosen:
        if name not in (known := [t.env for t in TRIALS]):
            raise ConfigError(f"unknown trial {name!r}", where="--only", fix=nearest(name, known, "trials"))
    rows, began = [], time.monotonic()
    for trial in (t for t in TRIALS if t.env in chosen):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(tried(trial, Path(folder)))
        if args.page:
            write_page(args.page, rows)
    print("\n".join(rows) if not args.page else f"{len(rows)} environments in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
