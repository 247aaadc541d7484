"""The benchmarks that nobody runs for months: they must still run, and what they compare must be the same work."""

from __future__ import annotations

import json
import sys

import gymnasium as gym
import pytest

from arcturus.memory import CORES
from arcturus.scripts.benchmark import main
from arcturus.scripts.benchmarks import memory, ntm, tasks

BRIEF = ("--seconds", "0.02", "--rounds", "1")


def test_every_view_of_the_task_is_compared_and_does_the_same_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tasks, "COUNTS", (1, 64))
    monkeypatch.setattr(tasks, "AIM_ENVS", 64)
    monkeypatch.setitem(sys.modules, "popgym.envs.repeat_previous", None)  # as if it weren't installed
    main(["tasks", *BRIEF, "--json", str(tmp_path / "t.json")])
    one, many = json.loads((tmp_path / "t.json").read_text())["tables"]
    assert len(one["rows"]) == len(many["rows"]) == 4
    assert many["aims"]["fastest"].startswith("arcturus")
    said = capsys.readouterr().out
    assert said.count("POPGym is not installed") == 1
    assert "at least 2,000,000 steps/s" in said


@pytest.mark.parametrize("num_envs", [1, 3])
def test_single_environments_in_a_loop_count_rows_as_gymnasium_does(num_envs):
    bits = [gym.vector.utils.batch_space(tasks.copy_env().action_space, num_envs).sample() for _ in range(60)]
    loop, sync = tasks.OneByOne(num_envs), gym.vector.SyncVectorEnv([tasks.copy_env] * num_envs)
    loop.reset(seed=0), sync.reset(seed=0)
    for action in bits:
        ours, theirs = loop.step(action), sync.step(action)
        assert (ours[0] == theirs[0]).all()
        assert (ours[1] == theirs[1]).all()


def test_a_player_reads_what_it_is_given():
    ones = tasks.Player(tasks.OneByOne(2), [[[1] * 8] * 2])
    for _ in range(200):
        ones.step()
    assert float(ones.note().split()[-1]) == pytest.approx(0.21, abs=0.08)  # 0.207 in the long run
    assert ones.earned != 0


@pytest.mark.slow
def test_benchmark_ntm_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ntm, "BATCHES", (1,))
    monkeypatch.setattr(ntm, "SLOTS", (16,))
    main(["ntm", *BRIEF, "--json", str(tmp_path / "t.json")])
    tables = json.loads((tmp_path / "t.json").read_text())["tables"]
    assert [len(table["rows"]) for table in tables] == [4, 2]
    assert "ms a step" in capsys.readouterr().out


def test_the_memory_benchmark_reports_and_draws_every_core(tmp_path, capsys):
    names = [*CORES, "my.own.Core"]
    rows = [
        {"core": core, "delay": delay, "solved": 0.5, "fresh": 0.1, "trained": 0.1} for core in names for delay in memory.DELAYS
    ]
    memory.report(rows)
    memory.plot(rows, 1, tmp_path / "memory.png")
    said = capsys.readouterr().out
    assert all(said.count(f"  {name} ") == 3 for name in names)
    assert (tmp_path / "memory.png").stat().st_size > 10_000
