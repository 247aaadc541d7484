"""tools/gpu.py spends lent time: it must end at its limit whatever its steps do, and say what each of them did."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tools import gpu

SAVES = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *a: sys.exit(143)); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"


def step(name, code, most=1.0):
    return gpu.Step(name, [sys.executable, "-c", code], most)


def told(out):
    return {one["name"]: one for one in json.loads((out / "steps.json").read_text())}


def test_a_step_that_goes_on_is_asked_to_end_and_one_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    began = time.monotonic()
    steps = [step("quick", "print(3)"), step("saves", SAVES, 0.4), step("deaf", DEAF), step("late", "print(4)")]
    assert gpu.work(iter(steps), tmp_path, 12.0, scoring=0.0) == 0
    assert time.monotonic() - began < 15
    found = told(tmp_path)
    assert (found["quick"]["code"], found["quick"]["stopped"]) == (0, False)
    assert (found["saves"]["code"], found["saves"]["stopped"]) == (143, True)
    assert (found["deaf"]["code"], found["deaf"]["stopped"]) == (-9, True)
    assert found["late"] == {"name": "late", "left out": "no time"}
    assert (tmp_path / "logs" / "quick.log").read_text() == "3\n"


def test_what_a_step_started_does_not_outlive_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    begins = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    gpu.work(iter([step("parent", begins)]), tmp_path, 6.0, scoring=0.0)
    pid = int((tmp_path / "logs" / "parent.log").read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("its child lives on")


def test_a_step_that_fails_is_told_and_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    assert gpu.work(iter([step("bad", "raise SystemExit(4)"), step("good", "pass")]), tmp_path, 20.0, scoring=0.0) == 1
    assert [one["code"] for one in told(tmp_path).values()] == [4, 0]


def test_tests_come_first_and_training_last(tmp_path):
    names = [one.name.partition("-")[0] for one in gpu.planned("cuda", tmp_path, ["tests"])]
    assert names == sorted(names, key=["tests", "benchmark", "train"].index)
    assert names.count("train") == len(gpu.GAMES)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_trained_is_scored_before_the_limit(tmp_path, monkeypatch):
    place = str(tmp_path / "r")
    flags = ["--env", "CartPole-v1", "--device", "cpu", "--run-dir", place, "--start-or-resume"]
    train = gpu.Step("train-it", gpu.python("arcturus.scripts.train_agent", "ppo", *flags, "--steps", "10000000"), 1.0, place)
    monkeypatch.setattr(gpu, "GRACE", 10.0)
    assert gpu.work(iter([train]), tmp_path, 120.0, scoring=70.0) == 0
    found = told(tmp_path)
    assert (found["train-it"]["code"], found["train-it"]["stopped"]) == (143, True)
    assert found["score-r"]["code"] == 0
    assert list((tmp_path / "r" / "evaluations").glob("*/evaluation.json"))
