"""A sweep whose workers, machine and driver are killed ends bit-identical to one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import arcturus
from arcturus.runs.checkpoint import Checkpoints

pytest.importorskip("ray")

FILE = """
agents: {agents}
seeds: [0, 1]
settings: {{steps: {steps}, deterministic: true, heldout-states: 0, checkpoint-every: 200, eval-every: 300, eval-episodes: 2}}
evaluate: {{episodes: 2}}
tries: 50
"""
IGNORED = ("time", "charts/SPS")


def start(file, out):
    argv = [sys.executable, "-m", "arcturus.scripts.sweep_agents", "run", str(file), "--out", str(out), "--cpus", "2"]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=open(f"{out}.log", "ab"), start_new_session=True)


def below(pid):
    """Processes that descend from one, by kind."""
    parents, words = {}, {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    inside = {pid}
    while more := {child for child, parent in parents.items() if parent in inside} - inside:
        inside |= more
    kinds = {"worker": "ray::bring_forward", "trainer": "arcturus.scripts.train_agent", "node": "/raylet/raylet "}
    found = {kind: [p for p in inside if word in words.get(p, "") and p != pid] for kind, word in kinds.items()}
    return found | {"driver": [pid]}


def kill_one(process, kind):
    """Whether there was one to kill."""
    victims = below(process.pid)[kind]
    if victims:
        os.kill(random.Random(len(victims)).choice(victims), signal.SIGKILL)
    return bool(victims)


def run_with_kills(file, out, kinds, pause):
    """The same command again and again, until it ends by itself."""
    kinds, process, codes = list(kinds), start(file, out), []
    deadline = time.monotonic() + 1_500
    while time.monotonic() < deadline:
        try:
            codes.append(process.wait(pause))
            if codes[-1] == 0:
                return codes, kinds
            process = start(file, out)
        except subprocess.TimeoutExpired:
            if kinds and (out / ".sweep").exists() and kill_one(process, kinds[0]):
                kinds.pop(0)
    raise AssertionError(f"it never ended: {codes}")


def what_came_out(out):
    """Weights, metrics and scores of every cell."""
    found = {}
    for place in sorted(out.glob("*/run.json")):
        run = place.parent
        newest = Checkpoints(run).find()
        rows = [{k: v for k, v in row.items() if k not in IGNORED} for row in arcturus.read_metrics(run)]
        (report,) = (run / "evaluations").glob("*/evaluation.json")
        scores = [e["score"] for e in json.loads(report.read_text())["per_episode"]]
        found[run.name] = (json.loads((newest / "manifest.json").read_text())["files"]["tensors.safetensors"], rows, scores)
    return found


def check(tmp_path, kinds, pause, **parts):
    file = tmp_path / "s.yaml"
    file.write_text(FILE.format(**parts))
    left_alone, _ = run_with_kills(file, tmp_path / "calm", [], 5.0)
    assert left_alone == [0]
    codes, spared = run_with_kills(file, tmp_path / "killed", kinds, pause)
    print(codes, spared)
    assert not spared  # every kill found its victim
    calm, killed = what_came_out(tmp_path / "calm"), what_came_out(tmp_path / "killed")
    assert len(calm) == parts["cells"]
    assert calm == killed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_workers_and_a_killed_driver_change_nothing(tmp_path):
    kinds = ["trainer", "worker", "driver", "worker"]
    check(tmp_path, kinds, 3.0, agents="{dqn: {envs: [CartPole-v1]}, a2c: {envs: [CartPole-v1]}}", steps=3_000, cells=4)


TWELVE = """
  dqn: {envs: [CartPole-v1, ALE/Pong-v5]}
  a2c: {envs: [ALE/Pong-v5, NTM/Copy-v0]}
  ppo: {envs: [CartPole-v1, NTM/Copy-v0]}
"""


@pytest.mark.learning
@pytest.mark.timeout(3_000)
def test_thirty_kills_over_twelve_cells_change_nothing(tmp_path):
    """Three agents on a game, CartPole and copying; workers, trainers, Ray's node and the driver are killed."""
    kinds = ["worker", "trainer", "trainer", "node", "worker", "driver"] * 5
    check(tmp_path, kinds, 4.0, agents=TWELVE, steps=3_000, cells=12)


TWO_NODES = """
agents: [a2c, dqn]
envs: [CartPole-v1]
seeds: [0, 1]
settings: {steps: 12000, deterministic: true, heldout-states: 0, checkpoint-every: 500, eval-every: 3000, eval-episodes: 2}
evaluate: {episodes: 2}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_that_is_gone_leaves_its_cells_to_the_other(tmp_path, monkeypatch):
    """Two nodes of one cluster on this machine; one is killed while both have cells that are half done."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # as docs/sweeps.md says; Ray's own is 15
    file, out = tmp_path / "s.yaml", tmp_path / "out"
    file.write_text(TWO_NODES)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        argv = [sys.executable, "-m", "arcturus.scripts.sweep_agents", "run", str(file), "--out", str(out), "--address", cluster.address]
        with open(f"{out}.log", "ab") as log:
            process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while len(list(out.glob("*/checkpoints/step-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
        begun = {p.parent.name for p in out.glob("*/run.json")}
        assert len(begun) >= 2
        cluster.remove_node(second, allow_graceful=False)
        assert process.wait(400) == 0, Path(f"{out}.log").read_text()[-2_000:]
    finally:
        cluster.shutdown()
    starts = {run.name: len(json.loads((run / "run.json").read_text())["starts"]) for run in map(Path.parent.fget, out.glob("*/run.json"))}
    assert len(starts) == 4
    assert max(starts.values()) > 1, "none was gone on with"
    assert "137; it is tried again" in Path(f"{out}.log").read_text()
    assert len(what_came_out(out)) == 4
