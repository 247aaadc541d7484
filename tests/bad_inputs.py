"""Bad inputs for every command: flags, names, settings files, outputs and damaged run folders.

    python tests/bad_inputs.py                 all of them, about twenty minutes; exit code 1 if any of them is answered badly
    python tests/bad_inputs.py --every 7       every seventh
    python tests/bad_inputs.py --only folder   those whose name holds this

An answer is bad if the command exits 1 (a fault of arcturus) or dies of a signal, hangs, prints a traceback, more than 20 lines on an
error or a line of more than 200 characters (tables that were asked for may be wider), or if anything that was saved is not there byte
by byte after it was refused.  Each command runs in a process of its own, forked from one that has imported what all of them need.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from arcturus.scripts.frontend import guarded  # first: it sets what must be set before torch is imported

# isort: split
import torch

from arcturus import agents
from arcturus.config import hints
from arcturus.envs import EnvConfig
from arcturus.runs.settings import RunOptions
from arcturus.scripts import compare_runs, evaluate_agent, export_agent, train_agent

COMMANDS = {"train": train_agent, "evaluate": evaluate_agent, "compare": compare_runs, "export": export_agent}
SECONDS = 60  # for any command
LINES, WIDTH = 20, 200
QUICK = ["--env", "CartPole-v1", "--steps", "16", "--eval-every", "0", "--heldout-states", "0"]


class Case(NamedTuple):
    name: str
    command: str
    argv: list[str]  # {run}: a finished run, {file}: what `prepare` has written
    prepare: Callable[[Path, Path], None] = lambda run, file: None
    copied: bool = False  # it gets a run folder of its own to damage


# -- flags -----------------------------------------------------------------------------------------------------------------------

WRONG = ["", " ", "abc", "nan", "inf", "-inf", "1e999", "-1e9", "0x10", "1_0_0", "1:30", "true", "None", "[1, 2]", "{a: 1}", "9" * 5_000,
         "\x1b[31mred\x1b[0m", "a\nb", "ü" * 300, "--", "-0.0", "1e-400", "٣",
        "1,2", "'", "\\", "../..", "/dev/null", "%s{}", "$HOME"]  # fmt: skip


def flags() -> Iterator[Case]:
    """Every setting of every agent, of the environments and of the run, with a value in turn that few of them take."""
    number, seen = 0, set()
    for agent in agents.names():
        fields = [f"--agent.{name}" for name in hints(agents.load(agent).Config)]
        fields += [f"--env.{name}" for name in hints(EnvConfig) if name not in ("id", "num_envs")] if agent == "dqn" else []
        fields += (
            [f"--{name}" for name in hints(RunOptions) if name not in ("run_dir", "checkpoint_replay")] if agent == "dqn" else []
        )
        for flag in fields:
            for _ in range(1 if flag in seen else 3):
                value = WRONG[number % len(WRONG)]
                number += 1
                yield Case(f"flag {agent} {flag} {value[:12]!r}", "train", [agent, *QUICK, f"{flag.replace('_', '-')}={value}"])
            seen.add(flag)


NAMES = ["", ".", "..", "...", "/", "a" * 100_000, "nope", "DQN", "dqn ", "os.system", "os", "arcturus", "a.b.c", ".dqn", "dqn.", "a..b",
         "-x", "--", "dqn;ls", "dqn\x1b[2J", "ünï.cödé", "ALE/Pong-v5", "Pong", "pong", "ALE/Pong", "ALE/", "ALE/Nope-v5",
         "PongNoFrameskip-v4", "CartPole", "CartPole-v99", "NTM/Copy", "NTM/Nope-v0", "x:NTM/Copy-v0", "os:NTM/Copy-v0",
         "nope:CartPole-v1", ":", "a:b:c", "Blackjack-v1", "Pendulum-v1", "HalfCheetah-v5", "FrozenLake8x8",
         "MiniGrid-Empty-5x5-v0", "BreakoutDeterministic-v4", "/etc/passwd", "%", "null"]  # fmt: skip


def names() -> Iterator[Case]:
    for name in NAMES:
        short = repr(name[:20])
        yield Case(f"agent {short}", "train", [name, *QUICK])
        yield Case(f"env {short}", "train", ["ppo", "--env", name, "--steps", "16", "--eval-every", "0"])
    for name in NAMES[::3]:
        for flag in (
            "--preset",
            "--device",
            "--listeners",
            "--agent.torso",
            "--agent.core",
            "--init-from",
            "--env.protocol",
            "--env.options",
        ):
            yield Case(f"{flag} {name[:20]!r}", "train", ["a2c", *QUICK, f"{flag}={name}"])
    for name in NAMES[::4]:
        for command in ("evaluate", "export", "compare"):
            more = {"export": ["--to", "onnx", "{file}"]}.get(command, [])
            yield Case(f"{command} {name[:20]!r}", command, [name, *more])
        yield Case(f"resume {name[:20]!r}", "train", ["resume", name])
    for argv in ([], ["dqn"], ["resume"], ["list"], ["list", "x"], ["doctor", "x"], ["dqn", "dqn"], ["dqn", "--seed"], ["--nope"],
                 ["dqn", *QUICK, "--seed", "1", "--seed", "2"], ["dqn", *QUICK, "--agent.nope", "1"], ["dqn", *QUICK, "extra"],
                 ["dqn", *QUICK, "--lr", "1"], ["dqn", *QUICK, "--total-timesteps", "9"], ["dqn", *QUICK, "--agent.lr=1"],
                 ["rainbow", *QUICK], ["dqn", *QUICK, "--resume"], ["dqn", *QUICK, "--n-steps", "5"], ["dqn", *QUICK,
                 "--env.n-envs", "4"], ["dqn", "-h", "x"]):  # fmt: skip
        yield Case(f"line {' '.join(argv)[-30:]!r}", "train", argv)


def outputs() -> Iterator[Case]:
    """Where results are to go, and how much is asked for."""
    places = ["", ".", "/", "/dev/full", "/proc/x.mp4", "{run}", "{run}/config.yaml/x.mp4", "no/such/folder/x.mp4", "x.avi", "x",
    "x.mp4/", "\x1b.mp4", "a" * 300 + ".mp4", "/dev/null", "~nobody9/x.mp4", "x.png"]  # fmt: skip
    for place in places:
        for flag in ("--video", "--value-figure", "--rollouts", "--pictures"):
            yield Case(f"output {flag} {place[:20]!r}", "evaluate", ["{run}", "--episodes", "1", f"{flag}={place}"])
        yield Case(f"output --plot {place[:20]!r}", "compare", ["{run}", f"--plot={place}"])
        yield Case(f"output run-dir {place[:20]!r}", "train", ["ppo", *QUICK, f"--run-dir={place}"])
        yield Case(f"output fork {place[:20]!r}", "train", ["resume", "{run}", f"--fork={place}"])
        for kind in ("onnx", "sb3", "policy"):
            yield Case(f"output {kind} {place[:20]!r}", "export", ["--to", kind, "{run}", place])
    for value in ("0", "-1", "1e9", "abc", "99999999999", "", "nan"):
        for flag in ("--episodes", "--num-envs", "--seed", "--max-steps", "--sequences", "--episode", "--memory-slots"):
            yield Case(f"count {flag} {value}", "evaluate", ["{run}", f"{flag}={value}"])
    for more in (["--policy", "x"], ["--policy", "epsilon=2"], ["--policy", "epsilon=nan"], ["--policy", "epsilon="],
    ["--lengths", "3"], ["--attack", "x"], ["--protocol", "x"], ["--checkpoint", "x"], ["--checkpoint", "-5"], ["--checkpoint",
    "9" * 400], ["--env", "Acrobot-v1"], ["--env", "x"], ["--attack", "fgsm", "--strength", "x"], ["--floors", "--lengths", "3"],
    ["--device", "cuda:9"], ["--explain", "x"]):  # fmt: skip
        yield Case(f"evaluate {' '.join(more)[:30]}", "evaluate", ["{run}", "--episodes", "1", *more])


# -- settings files ----------------------------------------------------------------------------------------------------------------

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "nul": b"\0",
    "list": b"[1, 2]",
    "number": b"3",
    "word": b"dqn",
    "null": b"null",
    "tab": b"\tenv: CartPole-v1",
    "bom": b"\xef\xbb\xbfenv: CartPole-v1",
    "utf16": "env: CartPole-v1".encode("utf-16"),
    "latin": b"preset: \xff\xfe",
    "surrogate": b"env: \xed\xa0\x80",
    "deep": b"a: " + b"[" * 5_000,
    "deep map": b"{a: " * 3_000,
    "digits": b"run: {seed: " + b"9" * 5_000 + b"}",
    "long key": b"a" * 90_000 + b": 1",
    "long": b"#" * 3_000_000,
    "aliases": b"a: &a [1, *a]",
    "merge": b"agent: {<<: 3}",
    "object": b"agent: !!python/object:os.system {}",
    "tag": b"env: !x y",
    "date": b"run: {seed: 2020-01-01}",
    "set": b"run: !!set {a}",
    "binary": b"env: !!binary aGk=",
    "sixty": b"run: {seed: 1:30}",
    "octal": b"run: {steps: 0o17}",
    "yes": b"run: {seed: yes}",
    "float": b"run: {steps: 1.5}",
    "exponent": b"run: {steps: 1e4}",
    "inf": b"agent: {gamma: .inf}",
    "nan": b"agent: {gamma: .nan}",
    "twice": b"env: CartPole-v1\nenv: ALE/Pong-v5",
    "unknown": b"agnet: {gamma: 0.9}",
    "unknown setting": b"agent: {gama: 0.9}",
    "two": b"a: 1\n---\nb: 2",
    "null agent": b"agent:",
    "null preset": b"preset:",
    "list agent": b"agent: [dqn]",
    "other agent": b"agent: {name: ppo}",
    "number name": b"agent: {name: 3}",
    "map env": b"env: {id: {a: 1}}",
    "list env": b"env: [CartPole-v1]",
    "number env": b"env: 3",
    "number key": b"1: 2",
    "null key": b"? : 3",
    "list key": b"? [1]\n: 2",
    "escape": b'preset: "\\e[31mred"',
    "quote": b"preset: 'x",
    "colon": b"a: b: c",
    "percent": b"%YAML 9.9\n---\na: 1",
    "run string": b"run: fast",
    "steps string": b"run: {steps: '100'}",
    "big float": b"agent: {gamma: 1e999}",
    "negative": b"run: {steps: -5}",
    "device": b"run: {device: cuda:77}",
    "options": b"env: {id: CartPole-v1, options: {a: 1}}",
    "frame": b"env: {id: CartPole-v1, frame_size: 84}",
}


def settings_files() -> Iterator[Case]:
    for name, text in TEXTS.items():
        yield Case(
            f"file {name}", "train", ["dqn", *QUICK, "--config", "{file}"], lambda run, file, text=text: file.write_bytes(text)
        )
    for name, damage in DAMAGES.items():
        if name != "half":
            yield Case(f"file as {name}", "train", ["dqn", *QUICK, "--config", "{file}"], lambda run, file, d=damage: d(file))


# -- run folders -------------------------------------------------------------------------------------------------------------------


def written(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        remove(path)
        path.write_bytes(data)

    return write


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replaced(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        remove(path)
        make(path)

    return replace


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def bit(path: Path) -> None:
    """One bit of a file, if there is any."""
    if path.is_file() and (data := bytearray(path.read_bytes())):
        data[len(data) // 2] ^= 4
        path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "gone": remove,
    "empty": written(b""),
    "half": half,
    "bit": bit,
    "zeros": written(b"\0" * 500),
    "text": written(b"not what it was\n"),
    "null": written(b"null"),
    "list": written(b"[]"),
    "map": written(b"{}"),
    "deep": written(b"[" * 100_000),
    "digits": written(b"9" * 5_000),
    "escape": written(b'{"a": "\x1b[31m\xff"}'),
    "surrogate": written(b'{"status": "\\ud800", "steps": "\\ud800"}'),
    "folder": replaced(Path.mkdir),
    "fifo": replaced(os.mkfifo),
    "link": replaced(lambda p: p.symlink_to("/nowhere/at/all")),
    "loop": replaced(lambda p: p.symlink_to(p.name)),
    "device": replaced(lambda p: p.symlink_to("/dev/zero")),
}
PARTS: dict[str, Callable[[Path], Path]] = {
    "config.yaml": lambda run: run / "config.yaml",
    "run.json": lambda run: run / "run.json",
    "metrics.jsonl": lambda run: run / "metrics.jsonl",
    "manifest": lambda run: newest(run) / "manifest.json",
    "state": lambda run: newest(run) / "state.json",
    "tensors": lambda run: newest(run) / "tensors.safetensors",
    "segment": lambda run: sorted((run / "replay").iterdir())[-1],
    "checkpoints": lambda run: run / "checkpoints",
    "replay": lambda run: run / "replay",
    "tensorboard": lambda run: run / "tensorboard",
    "lock": lambda run: run / ".lock",
    "event file": lambda run: next((run / "tensorboard").glob("events*")),
}
WHOLE = ("checkpoints", "replay", "tensorboard")  # folders, which half and bit don't apply to


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def folders() -> Iterator[Case]:
    uses = {
        "resume": ("train", ["resume", "{run}", "--steps", "700"]),
        "evaluate": ("evaluate", ["{run}", "--episodes", "1"]),
        "compare": ("compare", ["{run}"]),
        "export": ("export", ["--to", "policy", "{run}", "{file}"]),
        "fork": ("train", ["resume", "{run}", "--steps", "700", "--fork", "{file}"]),
    }
    for i, part in enumerate(PARTS):
        for j, name in enumerate(DAMAGES):
            if part in WHOLE and name in ("half", "bit"):
                continue
            for k, (use, (command, argv)) in enumerate(uses.items()):
                if use == "resume" or (i + j + k) % 3 == 0:
                    yield Case(
                        f"folder {part} {name}, {use}", command, argv,
                        lambda run, file, part=part, name=name: DAMAGES[name](PARTS[part](run)), copied=True,
                    )  # fmt: skip


# -- running them ------------------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file of a run but its lock, and the newest checkpoint's numbers."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != ".lock":
            out[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return out


def answer(case: Case, argv: list[str], folder: Path) -> tuple[int | None, str, str]:
    """Exit code (None: it hung; negative: a signal), stdout, stderr."""
    outs = [folder / name for name in ("stdout", "stderr")]
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        for number, file in enumerate(outs, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(n, "wb"), errors="backslashreplace", line_buffering=True) for n in (1, 2)
        )
        os.chdir(folder)
        try:
            code = guarded(COMMANDS[case.command].main, argv)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    for _ in range(SECONDS * 20):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), *(f.read_text(errors="replace") for f in outs)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, *(f.read_text(errors="replace") for f in outs)


def faults(code: int | None, out: str, err: str) -> Iterator[str]:
    if code is None:
        yield f"hung for {SECONDS} s"
    elif code == 1 or code < 0 or code > 5:
        yield f"exit code {code}"
    if "Traceback" in err + out:
        yield "a traceback"
    lines = [line for text in (out, err) for line in text.splitlines()]
    if code and len(lines) > LINES:
        yield f"{len(lines)} lines"
    told = lines if code else err.splitlines()  # a table that was asked for is as wide as the names and paths in it
    if (longest := max(map(len, told), default=0)) > WIDTH:
        yield f"a line of {longest} characters"
    if any("\x1b" in line for line in lines):
        yield "a raw escape code"


def run_case(case: Case, kept: Path, folder: Path) -> list[str]:
    """What is bad about the answer."""
    run, file = kept, folder / "file"
    if case.copied:
        run = folder / "run"
        shutil.copytree(kept, run, symlinks=True)
    case.prepare(run, file)
    before = contents(run)
    argv = [word.replace("{run}", str(run)).replace("{file}", str(file)) for word in case.argv]
    code, out, err = answer(case, argv, folder)
    bad = list(faults(code, out, err))
    after = contents(run)
    lost = [name for name, was in before.items() if after.get(name) != was]
    if code and lost:
        bad.append(f"refused, and changed {', '.join(lost[:3])}")
    if bad:
        bad.append(f"  exit {code}; stdout {out[-300:]!r}; stderr {err[-600:]!r}")
    return bad


def cases() -> list[Case]:
    return [*flags(), *names(), *outputs(), *settings_files(), *folders()]


def make_run(path: Path) -> None:
    """A finished run with two checkpoints and a replay, and an evaluation."""
    argv = ["dqn", "--env", "CartPole-v1", "--steps", "600", "--checkpoint-every", "300", "--eval-every", "300",
    "--eval-episodes", "1", "--run-dir", str(path), "--heldout-states", "8", "--agent.learning-starts", "100", "--agent.capacity",
    "400"]  # fmt: skip
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    if guarded(train_agent.main, argv) or guarded(evaluate_agent.main, [str(path), "--episodes", "1"]):
        os._exit(1)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", default="")
    args = parser.parse_args(argv)
    chosen = [case for case in cases() if args.only in case.name][:: args.every]
    os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir()) / "arcturus-tests")
    torch.set_num_threads(1)
    bad: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary) / "kept"
        if not os.fork():
            make_run(kept)
            os._exit(0)
        if os.wait()[1]:
            raise SystemExit("the run that the cases need could not be made")
        for number, case in enumerate(chosen):
            folder = Path(temporary) / f"case-{number}"
            folder.mkdir()
            if found := run_case(case, kept, folder):
                bad[case.name] = found
                print(f"BAD {case.name}:", *found, sep="\n    ", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"inputs": len(chosen), "answered badly": len(bad)}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
