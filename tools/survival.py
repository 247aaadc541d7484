"""survival: kills training runs at random instants, resumes them, and compares how they end with one that was never stopped.

  python -m tools.survival --kills 50 --in-save 10 --interrupts 5 --env CartPole-v1
  python -m tools.survival --kills 50 --in-save 10 --env ALE/Pong-v5

Every run is a real `train-agent` process in --deterministic mode.  A run is killed (SIGKILL) several times on its way, each time
resumed with `train-agent resume`; some kills wait until a checkpoint is being written.  After every kill the newest checkpoint
must verify and none that was finished may be gone; at the end weights, optimiser, counters, replay, metrics.jsonl, TensorBoard's
scalars and a fresh evaluation must have the digests of the run that was never stopped.  Exit code 0 if all did.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
from arcturus.config import read_yaml, user_path
from arcturus.errors import ArcturusError
from arcturus.runs.folder import Run

COMMON = [
    *("--deterministic", "True", "--device", "cpu", "--num-envs", "4", "--eval-episodes", "2", "--eval-every", "2300"),
    *("--heldout-states", "16", "--log-every", "200", "--agent.learning-starts", "200", "--agent.batch-size", "16"),
]
SETTINGS = {
    "classic": [*("--steps", "12000", "--checkpoint-every", "1000", "--agent.capacity", "3000", "--agent.replay-ratio", "0.25")],
    "atari": [
        *("--steps", "4800", "--checkpoint-every", "800", "--agent.capacity", "2000", "--agent.replay-ratio", "0.125"),
        *("--preset", "cpu-small", "--env.frame-size", "36", "--env.threads", "1"),
    ],
}


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "arcturus.scripts.train_agent", *argv]


def new_run(env: str, path: Path) -> list[str]:
    from arcturus.envs import family

    return command(
        "dqn", "--env", env, "--run-dir", str(path), *COMMON, *SETTINGS["atari" if family(env) == "atari" else "classic"]
    )


# -- how a run ended ---------------------------------------------------------------------------------------------------------


def digests(path: Path) -> dict[str, str]:
    """What must be the same: everything but the clock, the folder's name and the sizes of event files."""
    import arcturus
    from arcturus.runs.checkpoint import Checkpoints
    from arcturus.runs.monitor import WALL_CLOCK

    checkpoints = Checkpoints(path)
    newest = checkpoints.resumable()[-1]
    values = {k: v for k, v in checkpoints.values(newest).items() if k not in ("config", "monitor/files", "owed")}
    metrics = [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in arcturus.read_metrics(path)]
    actor = arcturus.load(path, trust=ours(path))
    result = arcturus.evaluate(actor, actor.config.env, 2, seed=1)
    out = {
        "tensors": _digest((newest / "tensors.safetensors").read_bytes()),
        "values": _digest(values),
        "replay": _digest(replay_rows(path, newest)),
        "metrics": _digest(metrics),
        "tensorboard": _digest(board_scalars(path)),
        "evaluation": _digest([(e.score, e.length, e.actions.tolist()) for e in result.episodes]),
    }
    best = sorted((path / "checkpoints").glob("best-*"))
    return out | {"best": best[-1].name + _digest((best[-1] / "tensors.safetensors").read_bytes()) if best else "none"}


def ours(path: Path) -> tuple[str, ...]:
    """The environment of a run that was made here, if its code lies outside arcturus."""
    name = str(read_yaml(path / "config.yaml")["env"]["id"])
    return (name,) if ":" in name else ()


def _digest(thing: Any) -> str:
    data = thing if isinstance(thing, bytes) else json.dumps(thing, sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def replay_rows(path: Path, checkpoint: Path) -> dict[str, str]:
    """A digest of every tensor of the rows the replay holds, wherever segments part."""
    from safetensors.torch import load

    replay = json.loads((checkpoint / "manifest.json").read_text())["replay"]
    if not replay:
        return {}
    capacity = json.loads(json.loads((checkpoint / "state.json").read_text())["config"])["agent"]["capacity"]
    out: dict[str, Any] = {}
    for name in replay["segments"]:
        start = int(name.split("-")[1])
        for key, rows in load(zlib.decompress((path / "replay" / name).read_bytes())).items():
            oldest = max(0, replay["count"] - capacity // rows.shape[1])
            out.setdefault(key, hashlib.blake2b()).update(rows[max(0, oldest - start) :].numpy().tobytes())
    return {key: value.hexdigest() for key, value in out.items()} | {"count": replay["count"]}


def board_scalars(path: Path) -> list[Any]:
    """(tag, step, value) as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(path / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    tags = [t for t in sorted(board.Tags()["scalars"]) if t != "charts/SPS"]
    return [(tag, e.step, e.value) for tag in tags for e in board.Scalars(tag)]


# -- stopping it ---------------------------------------------------------------------------------------------------------------


def saving(path: Path) -> bool:
    """Whether a checkpoint or a piece of replay is half written."""
    return any(name.startswith((".tmp-", ".del-")) for part in ("checkpoints", "replay") for name in _names(path / part))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def finished_checkpoints(path: Path) -> dict[str, str]:
    """Every checkpoint that is there, all of which must verify."""
    from arcturus.runs.checkpoint import Checkpoints

    checkpoints = Checkpoints(path)
    there = sorted(p for kind in ("step-*", "best-*") for p in checkpoints.folder.glob(kind))
    for p in there:
        if not checkpoints.intact(p):
            raise AssertionError(f"{p} is damaged")
    return {p.name.split("-")[0]: p.name for p in there}


def stop_once(argv: list[str], path: Path, number: int, delay: float, in_save: bool) -> tuple[int, bool, float]:
    """Starts a process, stops it; its return code, whether something was half written then, and the seconds it took to end."""
    before = finished_checkpoints(path)
    lines = (path / "metrics.jsonl").stat().st_size if (path / "metrics.jsonl").exists() else 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(argv, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None and not _moved(path, lines):  # until it trains
            time.sleep(0.002)
        end = time.monotonic() + delay
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        while in_save and process.poll() is None and not saving(path):
            pass
        if in_save:
            time.sleep(random.uniform(0, 0.001))
        began = time.monotonic()
        process.send_signal(number)
        code = process.wait()
        took = time.monotonic() - began
        said.seek(0)
        text = said.read().decode(errors="replace")
    if code not in (0, -number, 128 + number):
        raise AssertionError(f"{' '.join(argv[2:])} ended with {code}:\n{text[-3000:]}")
    after = finished_checkpoints(path)
    lost = {kind for kind, name in before.items() if after.get(kind, "") < name}
    if lost:
        raise AssertionError(f"finished checkpoints were lost: {before} became {after}")
    if " is skipped: " in text:
        raise AssertionError(f"a finished checkpoint was skipped:\n{text[-3000:]}")
    return code, saving(path), took


def _moved(path: Path, lines: int) -> bool:
    """Whether metrics.jsonl is another than before the start: a resumed run cuts it back, then it grows."""
    try:
        return (path / "metrics.jsonl").stat().st_size != lines
    except FileNotFoundError:
        return False


def torture(env: str, folder: Path, kills: int, in_save: int, interrupts: int, each: int, whole: dict[str, str],
            seconds: float) -> dict[str, Any]:  # fmt: skip
    """Runs that are stopped `each` times on their way, until all the kills and interrupts are spent."""
    left = [(signal.SIGKILL, i < in_save) for i in range(kills)] + [(signal.SIGINT, False)] * interrupts
    random.shuffle(left)
    done: dict[str, Any] = {"kills": 0, "inside a save": 0, "interrupts": 0, "slowest end s": 0.0, "runs": 0, "different": []}
    while left:
        path = folder / f"victim-{done['runs']}"
        argv = new_run(env, path)
        for _ in range(min(each, len(left))):
            number, wait_for_save = left.pop()
            code, half, took = stop_once(argv, path, number, random.uniform(0, seconds / each), wait_for_save)
            argv = command("resume", str(path), *(f"--trust={env}" for _ in range(":" in env)))
            if code == 0:  # it had ended before the signal came
                left.insert(0, (number, wait_for_save))
                break
            done["kills" if number == signal.SIGKILL else "interrupts"] += 1
            done["inside a save"] += half and number == signal.SIGKILL
            if number == signal.SIGINT:
                done["slowest end s"] = max(done["slowest end s"], round(took, 2))
            if Run(path).status == "finished":  # the kill came between its last word and its end
                code = 0
                break
        if code != 0:
            out = subprocess.run(argv, capture_output=True, text=True)
            if out.returncode != 0:
                raise AssertionError(out.stderr[-3000:])
        done["runs"] += 1
        ended = digests(path)
        if ended != whole:
            done["different"].append({k: (v, ended.get(k)) for k, v in whole.items() if ended.get(k) != v} | {"run": str(path)})
        print(f"{env}: {done}", flush=True)
    return done


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="survival", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--in-save", type=int, default=1, help="how many kills wait until a checkpoint is being written")
    parser.add_argument("--interrupts", type=int, default=1, help="SIGINTs in addition to the kills")
    parser.add_argument("--each", type=int, default=5, help="stops per run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random instants")
    parser.add_argument("--folder", type=user_path, help="folder that keeps the runs; default: a temporary folder")
    args = parser.parse_args(argv)
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        subprocess.run(new_run(args.env, folder / "whole"), check=True, capture_output=True)
        seconds, whole = time.monotonic() - began, digests(folder / "whole")
        print(f"{args.env}: the run that was never stopped, {seconds:.0f} s: {whole}", flush=True)
        try:
            done = torture(args.env, folder, args.kills, args.in_save, args.interrupts, args.each, whole, seconds)
        except (AssertionError, ArcturusError) as e:
            print(f"FAILED: {e}")
            return 1
    print(f"{args.env}: {'every run ended like the one that was never stopped' if not done['different'] else 'DIFFERENCES'}")
    return 1 if done["different"] else 0


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
