"""The benchmarks that nobody runs for months: they must still run, and what they compare must be the same work."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from arcturus.agents import dqn
from arcturus.api import EnvSpec
from arcturus.envs import EnvConfig
from arcturus.memory import CORES
from arcturus.replay.ring import Ring, uniform
from arcturus.scripts.benchmark import main
from arcturus.scripts.benchmarks import ablation, learners, memory, ntm, prioritised, tasks

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


def test_prioritised_replay_is_compared_with_whatever_is_installed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(prioritised, "WORLDS", (prioritised.World(300, 10), prioritised.World(300, 0)))
    monkeypatch.setitem(sys.modules, "cpprb", None)  # as if it weren't installed
    main(["replay", "--prioritised", *BRIEF, "--json", str(tmp_path / "t.json")])
    tables = json.loads((tmp_path / "t.json").read_text())["tables"]
    assert [[row["name"].split()[0] for row in table["rows"]] for table in tables] == [["a", "arcturus"]] * 2
    said = capsys.readouterr().out
    assert said.count("cpprb is not installed") == 2
    assert "107.0 bytes a row" in said  # a frame of 10x10 and 7 bytes


def test_numpys_sum_tree_draws_in_proportion_and_never_what_is_0():
    tree, p = prioritised.NumpySumTree(5), np.array([4.0, 0.0, 1.0, 3.0, 0.0])
    tree.set(np.arange(5), np.ones(5))
    tree.set(np.arange(5), p)
    assert tree.nodes[1] == p.sum()
    rng = np.random.default_rng(0)
    drawn = np.bincount(np.concatenate([tree.draw(8, rng) for _ in range(50)]), minlength=5)
    assert (drawn == 50 * p).all()  # one from each eighth of the sum


def test_all_replays_rebuild_the_same_stacks():
    world = prioritised.World(300, 10)
    theirs = prioritised.NumpyReplay(world)
    theirs.fill(world)
    ring = prioritised.fill_ours(world, "cpu").ring
    t = np.array([5, 17, 200])
    batch = ring.transitions(torch.from_numpy(t), torch.zeros(3, dtype=torch.int64), 1, 0.99, 0.0, False)
    before, _, _, after, _ = theirs.transitions(t)
    assert (batch.s_tm1.numpy() == before).all()
    assert (batch.s_t.numpy() == after).all()
    assert len(np.unique(before.reshape(12, 100), axis=0)) == 12  # all frames differ


@pytest.mark.slow
def test_benchmark_rainbow_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(learners, "FILLED", 100)
    main(["rainbow", *BRIEF, "--num-envs", "2", "--json", str(tmp_path / "t.json")])
    tables = json.loads((tmp_path / "t.json").read_text())["tables"]
    assert [len(table["rows"]) for table in tables] == [2, 2]


def test_the_ablation_trains_scores_and_draws_every_cell(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ablation, "EPISODES", 2)
    main(["ablation", "--preset", "mdp", "--steps", "560", "--seeds", "1", "--out", str(tmp_path)])
    table = json.loads((tmp_path / "ablation.json").read_text())
    names = ["DQN", "without target", "without replay", "without both", "one frame", "linear"]
    assert [row["name"] for row in table["rows"]] == names
    assert {row["reuse"][0] for row in table["rows"]} == {64 * 15 / 560}  # equal work
    assert (tmp_path / "ablation.png").stat().st_size > 10_000
    assert "random play" in capsys.readouterr().out


@pytest.mark.parametrize(("batch", "num_envs", "n_step"), [(32, 1, 1), (32, 8, 3), (30, 4, 1)])
def test_without_replay_no_row_is_older_than_a_minibatch(batch, num_envs, n_step):
    config = dqn.Config(batch_size=batch, n_step=n_step)
    newest = ablation.newest_only(config, EnvConfig("ALE/Pong-v5", num_envs=num_envs))
    assert newest == replace(config, capacity=newest.capacity)
    spec = EnvSpec("x", num_envs, (4, 2, 2), torch.uint8, gym.spaces.Discrete(2), 4)
    ring = Ring(newest.capacity, spec, "cpu", n_step)
    ring.count = 1_000  # rows, all of one endless episode
    t, _ = uniform(10_000, ring.oldest, ring.count - n_step, num_envs, torch.Generator().manual_seed(0))
    assert len(t.unique()) == -(-batch // num_envs)
    assert t.max() == ring.count - n_step - 1


def test_the_correlation_of_neighbours_is_that_of_successive_samples():
    rng = torch.Generator().manual_seed(0)
    walk, even = ablation.Neighbours(), ablation.Neighbours()
    for _ in range(100):
        x = torch.randn(64, 3, generator=rng)
        even.add(x)
        for i in range(1, 64):
            x[i] = 0.9 * x[i - 1] + (1 - 0.9**2) ** 0.5 * x[i]
        x[:, 2] = 1.0  # what never varies has none
        walk.add(x)
    assert even.correlation() == pytest.approx(0, abs=0.02)
    assert walk.correlation() == pytest.approx(0.9, abs=0.02)
