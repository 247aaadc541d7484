"""Going on under changed settings: refused without a fork, and a fork leaves the run it came from alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

import arcturus
from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run


def test_changed_settings_are_listed_and_refused_without_a_fork(small_run, stop_at, tmp_path):
    stop_at(600)
    run = small_run(tmp_path / "r", eval_every=0)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="--fork") as e:
        arcturus.resume(run, quiet=True, agent_config={"gamma": 0.9}, env_config={"num_envs": 4}, steps=2000)
    assert "agent.gamma: 0.99 -> 0.9" in str(e.value)
    assert "env.num_envs: 8 -> 4" in str(e.value)
    assert "run.steps" not in str(e.value)
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("gamma: 0.99", "gamma: 0.5"))
    with pytest.raises(ConfigError, match="agent.gamma: 0.99 -> 0.5"):
        arcturus.resume(run, quiet=True)
    (run.path / "config.yaml").write_text(text)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    done = arcturus.resume(run, quiet=True, steps=800, log_every=50, keep=3)
    assert (done.status, done.about["steps"]) == ("finished", 800)


def test_a_fork_goes_on_under_new_settings_and_leaves_the_old_run_alone(small_run, stop_at, tmp_path):
    stop_at(600)
    run = small_run(tmp_path / "r", eval_every=0, checkpoint_every=400)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    stop_at(800)
    fork = arcturus.resume(run, quiet=True, fork=tmp_path / "fork", agent_config={"learning_rate": 1e-4})
    assert (fork.path, fork.about["forked_from"], fork.about["steps"]) == (tmp_path / "fork", str(run.path), 800)
    shutil.rmtree(fork.path / "checkpoints" / "step-000000000800")  # killed before a checkpoint of its own:
    assert arcturus.resume(fork, quiet=True).status == "finished"  # the copied one has the new settings
    assert fork.config().agent.learning_rate == 1e-4
    steps = [row["step"] for row in arcturus.read_metrics(fork)]
    assert steps == sorted(steps)
    assert steps[0] < 100
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    named = arcturus.resume(run, quiet=True, fork="")
    assert named.path.name == "r-fork1"


KILLED = """
import os, sys
import arcturus
from arcturus.runs import forking

copy = forking._copy

def copied_and_killed(*args):
    copy(*args)
    os.kill(os.getpid(), 9)

forking._copy = copied_and_killed
arcturus.resume(sys.argv[1], fork=sys.argv[2], quiet=True)
"""


def test_a_fork_killed_half_way_leaves_no_run_and_the_next_one_clears_up(small_run, stop_at, tmp_path):
    stop_at(600)
    run = small_run(tmp_path / "r", eval_every=0)
    assert subprocess.run([sys.executable, "-c", KILLED, str(run.path), str(tmp_path / "f")], cwd=tmp_path).returncode == -9
    assert not (tmp_path / "f").exists()
    (left,) = tmp_path.glob(".tmp-f-*")
    fresh = tmp_path / ".tmp-f-1"  # of somebody who is just making one
    fresh.mkdir()
    held = tmp_path / ".tmp-f-2"  # and of somebody who has been at it for long
    shutil.copytree(left, held)
    bare = tmp_path / ".tmp-f-3"  # killed before there was anything in it
    bare.mkdir()
    for old in (left, held, bare):
        os.utime(old, (1, 1))
    with Run(held).locked():
        os.utime(held, (1, 1))
        fork = arcturus.resume(run, quiet=True, fork=tmp_path / "f", steps=700)
        assert sorted(tmp_path.glob(".tmp-f-*")) == [fresh, held]
    assert fork.status == "finished"


def test_a_fork_keeps_the_best_and_may_shrink_the_replay_but_not_enlarge_it(small_run, tmp_path):
    run = small_run(tmp_path / "r", eval_every=400)
    best = arcturus.load(run, "best").step
    fork = arcturus.resume(run, quiet=True, fork=tmp_path / "f", steps=1208, agent_config={"capacity": 400})
    assert arcturus.load(fork, "best").step >= best
    assert fork.about["best"] >= run.about["best"]
    with pytest.raises(CheckpointError, match="--agent.capacity"):
        arcturus.resume(run, quiet=True, fork=tmp_path / "g", steps=1208, agent_config={"capacity": 1200})
    assert not (tmp_path / "g").exists()


def test_a_finished_run_stays_finished_when_it_cannot_go_on(small_run, tmp_path):
    run = small_run(tmp_path / "r", steps=400, eval_every=0)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name not in (".lock", "run.json")}
    for steps in (None, None, 80):
        with pytest.raises(ConfigError, match="400 steps already"):
            arcturus.resume(run, quiet=True, steps=steps)
    assert run.status == "finished"
    assert {p: p.read_bytes() for p in before} == before
    with pytest.raises(ConfigError, match="stays in its folder"):
        arcturus.resume(run, quiet=True, run_dir=str(tmp_path / "x"))


def test_a_fork_that_cannot_be_leaves_nothing(small_run, tmp_path):
    run = small_run(tmp_path / "r", steps=400, eval_every=0)
    with pytest.raises(CheckpointError, match="replay|fit|holds"):
        arcturus.resume(
            run, quiet=True, steps=800, fork=tmp_path / "fork", agent_config={"n_step": 1}, env_config={"num_envs": 3}
        )
    assert not (tmp_path / "fork").exists()


def test_a_run_of_before_a_setting_existed_goes_on_at_its_default(small_run, stop_at, tmp_path):
    stop_at(600)
    run = small_run(tmp_path / "r", eval_every=0)
    checkpoints, other = Checkpoints(run.path), Checkpoints(tmp_path / "other")
    for path in checkpoints.resumable():
        settings = json.loads(checkpoints.values(path)["config"])
        del settings["run"]["eager"], settings["agent"]["munchausen"]
        other.adopt(path, {"config": json.dumps(settings)})
        shutil.rmtree(path)
        shutil.move(other.folder / path.name, path)
    with pytest.raises(ConfigError, match="munchausen: 0.0 -> 0.9"):
        arcturus.resume(run, quiet=True, agent_config={"munchausen": 0.9})
    assert arcturus.resume(run, quiet=True).status == "finished"
