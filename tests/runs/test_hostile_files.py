"""Hostile run folders: refused at once, nothing of them runs, and nothing is written, cut or removed outside or inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as pack

from arcturus.runs.checkpoint import COURSE_BYTES, Checkpoints, _seal
from arcturus.runs.files import digest, read_json


class Bomb:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return open, (str(self.sentinel), "w")


def reseal(path, files=None, **changes):
    """A manifest that verifies, whatever is in the files."""
    manifest = {k: v for k, v in read_json(path / "manifest.json").items() if k != "digest"} | changes
    for name in ("tensors.safetensors", "state.json"):
        if (path / name).is_file() and (path / name).stat().st_size < 1 << 28:
            data = (path / name).read_bytes()
            manifest["files"][name] = {"size": len(data), "digest": digest(data)}
    manifest["files"] |= files or {}
    (path / "manifest.json").write_bytes(_seal(manifest))


def header(entries, body=b""):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + body


LINKED = (
    ".tmp-run.json",
    ".tmp-config.yaml",
    ".lock",
    "run.json",
    "metrics.jsonl",
    "tensorboard",
    "replay",
    "checkpoints",
    "evaluations",
)


def hostile_cases(sentinel):
    """name -> a function that makes a run folder hostile; newest is its newest checkpoint, best its best."""
    import pickle  # noqa: TID251
    import zlib

    bomb = pickle.dumps(Bomb(sentinel))

    def tensors(data):
        return lambda run, newest: ((newest / "tensors.safetensors").write_bytes(data), reseal(newest))

    def values(**changes):
        def make(run, newest):
            old = json.loads((newest / "state.json").read_text())
            (newest / "state.json").write_text(json.dumps(old | changes))
            reseal(newest)

        return make

    def segment(data, name=None):
        def make(run, newest):
            replay = read_json(newest / "manifest.json")["replay"]
            last = replay["segments"][-1]
            new = name or f"{last[: last.rindex('-')]}-{digest(data)}.z"
            if "/" not in new:
                (run / "replay" / new).write_bytes(data)
            reseal(newest, replay=replay | {"segments": [*replay["segments"][:-1], new]})

        return make

    def values_without(*names):
        def make(run, newest):
            old = json.loads((newest / "state.json").read_text())
            (newest / "state.json").write_text(json.dumps({k: v for k, v in old.items() if k not in names}))
            reseal(newest)

        return make

    def many_folders(run, newest):
        shutil.rmtree(newest)
        for i in range(1500):
            (run / "checkpoints" / f"step-{i + 10**6 * int(newest.name[-4] == '8'):012d}").mkdir(exist_ok=True)

    def link(name):
        """What a run writes, truncates or deletes would lie elsewhere."""

        def make(run, newest):
            target, there = run.parent / "elsewhere", run / name
            if not target.exists():
                shutil.copytree(there, target) if there.is_dir() else target.write_text("not yours")
            if there.is_dir() and not there.is_symlink():
                shutil.rmtree(there)
            else:
                there.unlink(missing_ok=True)
            there.symlink_to(target)

        return make

    def replaced(what, make_it):
        def make(run, newest):
            target = run / what.format(newest=f"checkpoints/{newest.name}")
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            make_it(target)

        return make

    def sparse(path):
        with open(path, "wb") as f:
            f.truncate(1 << 40)

    def sparse_and_sealed(run, newest):
        sparse(newest / "tensors.safetensors")
        reseal(newest, files={"tensors.safetensors": {"size": 1 << 40, "digest": "0" * 40}})

    def outside(run, newest):
        (run.parent / "evil.safetensors").write_bytes((newest / "tensors.safetensors").read_bytes())
        data = (newest / "tensors.safetensors").read_bytes()
        reseal(newest, files={"../../../evil.safetensors": {"size": len(data), "digest": digest(data)}})

    def elsewhere(run, newest):
        target = run.parent / f"elsewhere-{newest.name}"
        shutil.copytree(newest, target)
        shutil.rmtree(newest)
        newest.symlink_to(target)

    def linked(run, newest):
        target = run.parent / "tensors"
        shutil.copy(newest / "tensors.safetensors", target)
        (newest / "tensors.safetensors").unlink()
        (newest / "tensors.safetensors").symlink_to(target)

    many = header({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(1_000_000)})
    weight = "agent/network/head.weight"
    huge = header({weight: {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}}, bytes(16))
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    deep = b"[" * 2_000_000
    both = ("load", "resume")
    return {
        "a pickle as tensors": (tensors(bomb), both),
        "a pickle as values": (lambda run, newest: ((newest / "state.json").write_bytes(bomb), reseal(newest)), both),
        "a pickle as a segment": (segment(bomb), ("resume",)),
        "a header of a million tensors": (tensors(many), both),
        "a header longer than the file": (tensors((1 << 60).to_bytes(8, "little") + b"{}"), both),
        "a shape that overflows": (tensors(huge), both),
        "offsets that overlap": (tensors(header({weight: {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 8]}}, bytes(8))), both),
        "a name nothing has": (tensors(pack({"agent/network/evil": torch.zeros(3)})), both),
        "a decompression bomb": (segment(zlib.compress(bytes(1 << 28), 9)), ("resume",)),
        "a segment elsewhere": (segment(b"", "../../../etc/passwd"), ("resume",)),
        "a segment list that lies": (lambda run, newest: reseal(newest, replay={"count": 10**15, "segments": []}), ("resume",)),
        "a file elsewhere": (outside, both),
        "a linked checkpoint": (elsewhere, both),
        "a linked file": (linked, both),
        "a pipe as a file": (replaced("{newest}/state.json", os.mkfifo), both),
        "a device as a file": (replaced("{newest}/tensors.safetensors", lambda p: p.symlink_to("/dev/zero")), both),
        "a terabyte of nothing": (sparse_and_sealed, both),
        "a manifest of a terabyte": (replaced("{newest}/manifest.json", sparse), both),
        "brackets": (replaced("{newest}/manifest.json", lambda p: p.write_bytes(deep)), both),
        "steps that are no number": (values(steps="many"), ("resume",)),
        "steps beyond counting": (values(steps=10**300), ("resume",)),
        "an agent's counter of text": (values(**{"agent/steps": "x"}), both),
        "a course without end": (values(**{"course/rows": COURSE_BYTES * 10, "course/started": 0, "course/seen": ""}), ("resume",)),
        "event files elsewhere": (values(**{"monitor/files": [["../../../victim", "x"]]}), ("resume",)),
        "settings as a pipe": (replaced("config.yaml", os.mkfifo), both),
        "no logs' state": (values_without("monitor/returns", "monitor/metrics"), ("resume",)),
        "logs' state of text": (values(**{"monitor/returns": ["x"]}), ("resume",)),
        "logs' state of lists": (values(**{"monitor/metrics": [["a", [1, 2]]]}), ("resume",)),
        "a course without actions": (values(**{"course/rows": 3, "course/started": 0, "course/seen": ""}), ("resume",)),
        "counters below zero": (values(**{"agent/updates": -(10**18)}), both),
        "updates without end": (values(**{"agent/updates": 0, "agent/steps": 10**15}), ("resume",)),
        "three thousand checkpoints": (many_folders, ("resume",)),
        **{f"a link as {name}": (link(name), ("resume",)) for name in LINKED},
        "YAML that unfolds": (lambda run, newest: (run / "config.yaml").write_text(laughs), both),
        "YAML without end": (lambda run, newest: (run / "config.yaml").write_bytes(b"a: [" + b"[" * 10_000_000), both),
        "YAML that calls": (
            lambda run, newest: (run / "config.yaml").write_text(f"a: !!python/object/apply:builtins.open ['{sentinel}', w]"), both
        ),
    }  # fmt: skip


def contents(folder):
    """Every file below and its bytes, but for the lock's."""
    out = {}
    for place, folders, files in os.walk(folder):
        for name in files:
            path = Path(place) / name
            regular = path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 25
            out[str(path)] = path.read_bytes() if regular else os.lstat(path).st_mode
    return {k: v for k, v in out.items() if not k.endswith("/.lock")}


CHECK = """
import json, sys, time
import torch, arcturus
from arcturus.errors import ArcturusError
arcturus.load(sys.argv[1])                                # everything imported and warm
try: arcturus.resume(sys.argv[1], quiet=True)
except ArcturusError: pass
def memory(what): return int(next(x for x in open('/proc/self/status') if x.startswith(what)).split()[1]) / 1024
for line in sys.stdin:
    how, path = line.rstrip("\\n").split("\\t")
    open('/proc/self/clear_refs', 'w').write('5')  # the peak begins anew
    began, before = time.process_time(), memory('VmRSS')  # a busy machine doesn't count
    try:
        arcturus.load(path) if how == "load" else arcturus.resume(path, steps=1600, quiet=True)
        code, said = 0, "loaded"
    except ArcturusError as e:
        code, said = e.exit_code, str(e)
    except BaseException as e:
        code, said = -1, repr(e)
    print(json.dumps([code, said, time.process_time() - began, memory('VmHWM') - before]), flush=True)
"""


@pytest.mark.slow
def test_hostile_files_are_refused_at_once_and_run_nothing(finished, tmp_path):
    sentinel = tmp_path / "sentinel"
    cases, lines, before = hostile_cases(sentinel), [], {}
    (tmp_path / "victim").write_text("intact")
    for i, (_, (make, hows)) in enumerate(cases.items()):
        for how in hows:
            run = shutil.copytree(finished.path, tmp_path / f"{i}-{how}" / "r")
            for path in Checkpoints(run).resumable():
                make(run, path)
            before[run] = contents(run.parent)
            lines.append(f"{how}\t{run}")
    out = subprocess.run(
        [sys.executable, "-c", CHECK, str(finished.path)], input="\n".join(lines), capture_output=True, text=True
    )
    results = [json.loads(line) for line in out.stdout.splitlines()]
    assert len(results) == len(lines), out.stderr[-2000:]
    names = [f"{name}, {how}" for name, (_, hows) in cases.items() for how in hows]
    for name, (code, said, seconds, megabytes) in zip(names, results, strict=True):
        assert code == 5, (name, said)
        assert seconds < 1, (name, seconds)
        assert megabytes < 300, (name, megabytes)
    for run, there in before.items():
        assert contents(run.parent) == there, run  # nothing was written, cut or removed, inside or outside
    assert not sentinel.exists()
    assert (tmp_path / "victim").read_text() == "intact"


@pytest.mark.slow
def test_a_hostile_run_exits_with_5_on_the_command_line(copy):
    for path in Checkpoints(copy).resumable():
        (path / "tensors.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
        reseal(path)
    for command in (["train_agent", "resume", copy, "--steps", "1600"], ["evaluate_agent", copy]):
        module, *argv = map(str, command)
        done = subprocess.run([sys.executable, "-m", f"arcturus.scripts.{module}", *argv], capture_output=True, text=True)
        assert done.returncode == 5, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) <= 20


def test_no_code_of_ours_can_execute_a_file():
    """No pickle, torch.load, eval or exec anywhere; yaml only through the strict loader."""
    import re

    root = Path(__file__).parents[2]
    forbidden = re.compile(
        r"pickle|torch\.load\(|(?<![\w.])(eval|exec)\(|yaml\.(load|full_load|unsafe_load)\(|np\.load\(|allow_pickle=True"
    )
    for folder in ("core", "agents", "envs", "replay", "scripts"):
        for file in (root / folder).rglob("*.py"):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                assert not forbidden.search(line.split("#")[0]), f"{file}:{number}: {line}"
