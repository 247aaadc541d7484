"""--profile: every second is put down to one phase, and looking changes nothing."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch

import arcturus
from arcturus.runs.profile import Profile


def test_no_second_is_counted_twice(tmp_path):
    """learn() samples: the time of the sampling is the sampling's alone."""

    class ReplayLearner:
        def _draw(self):
            time.sleep(0.03)

    class Agent:
        learner = ReplayLearner()

        def learn(self):
            time.sleep(0.01)
            self.learner._draw()
            time.sleep(0.01)

    agent = Agent()
    profile = Profile(SimpleNamespace(agent=agent, config=SimpleNamespace(run=SimpleNamespace(device="cpu"))), tmp_path)
    for _ in range(5):
        agent.learn()
    profile.close()
    seconds = json.loads((tmp_path / "times.json").read_text())["phases"]
    assert seconds["update"] >= 0.1
    assert seconds["sample"] >= 0.15
    assert sum(seconds.values()) == pytest.approx(json.loads((tmp_path / "times.json").read_text())["seconds"], rel=1e-6)


def test_a_phase_that_raises_ends_all_the_same(tmp_path):
    agent = SimpleNamespace(learn=lambda: 1 / 0)
    profile = Profile(SimpleNamespace(agent=agent, config=SimpleNamespace(run=SimpleNamespace(device="cpu"))), tmp_path)
    with pytest.raises(ZeroDivisionError):
        agent.learn()
    assert not profile.running


@pytest.mark.parametrize("agent", ["dqn", "ppo"])
def test_profiling_changes_nothing_and_leaves_a_trace(small_run, tmp_path, agent):
    settings = {"agent": agent, "eval_every": 0, "log_every": 200}
    plain = small_run(tmp_path / "a", 1200, **settings)
    profiled = small_run(tmp_path / "b", 1200, profile=True, **settings)
    first, second = (arcturus.load(run).network.state_dict() for run in (plain, profiled))
    assert all(torch.equal(first[k], second[k]) for k in first)
    report = json.loads((profiled.path / "profile" / "times.json").read_text())
    assert report["steps"] == 1200
    assert {"emulator", "upload", "act", "store", "update", "log", "save", "rest"} <= report["phases"].keys()
    assert ("sample" in report["phases"]) == (agent == "dqn")
    assert all(seconds > 0 for seconds in report["phases"].values())
    trace = json.loads((profiled.path / "profile" / "trace.json").read_text())
    assert {"act", "update"} <= {event.get("name") for event in trace["traceEvents"]}
    assert not (plain.path / "profile").exists()
