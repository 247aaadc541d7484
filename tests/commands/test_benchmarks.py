"""The benchmarks that nobody runs for months: they must still run, and what they compare must be the same work."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arcturus.agents import dqn
from arcturus.api import EnvSpec, Objective
from arcturus.envs import EnvConfig
from arcturus.errors import ConfigError
from arcturus.losses import lambda_returns
from arcturus.memory import CORES
from arcturus.replay.records import Transition
from arcturus.replay.ring import Ring, uniform
from arcturus.seeding import Seeds
from benchmarks import ablation, frames, learners, memory, ntm, prioritised, tasks
from benchmarks.__main__ import command, main
from benchmarks.measuring import arithmetic, page
from benchmarks.measuring.timing import Contender, report
from benchmarks.peers import plain_ppo

DOCS = Path(__file__).parents[2] / "docs"
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
    assert [len(table["rows"]) for table in tables] == [4, 3, 2]
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
    ring = prioritised.fill_ours(world, "cpu", lambda batch: ({}, None)).ring
    t = np.array([5, 17, 200])
    batch = ring.transitions(torch.from_numpy(t), torch.zeros(3, dtype=torch.int64), 1, Objective(0.99))
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


class Fleeting:
    """8 environments of 84x84 frames; action 1 earns 1, 0 loses 1; episodes of 9 steps, with a row of its own that opens them."""

    def __init__(self, num_envs=8):
        self.num_envs, self.at = num_envs, 0

    def reset(self, seed=None):
        return self.rows()[0], {}

    def rows(self):
        rng = np.random.default_rng(self.at)
        end = np.full(self.num_envs, self.at % 10 == 9)
        return rng.integers(256, size=(self.num_envs, 4, 84, 84), dtype=np.uint8), end

    def step(self, action):
        self.at += 1
        obs, end = self.rows()
        return obs, np.where(action == 1, 1.0, -1.0), end, np.zeros_like(end), {}


def test_a_row_that_opens_an_episode_is_no_step():
    player = frames.gymnasiums(Fleeting(), 8, 2)
    assert sum(player.step() for _ in range(100)) == player.steps == 8 * 90
    assert player.resets == 80
    assert player.note() == "80 resets, one every 9 steps"


def test_environments_are_compared_with_single_frames_of_ale_py_too(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "envpool", None)  # as if it weren't installed
    monkeypatch.setattr(frames, "sb3_atari", lambda game, n, flag: NoSB3(n))
    main(["env", *BRIEF, "--num-envs", "2", "--env-threads", "1", "--json", str(tmp_path / "t.json")])
    kept = json.loads((tmp_path / "t.json").read_text())
    (table,) = kept["tables"]
    assert [row["beside"] for row in table["rows"] if row["name"] == table["besides"]] == [1.0]
    assert "1 emulator thread(s)" in table["title"]
    assert all("resets" in row["note"] for row in table["rows"])
    assert kept["hardware"]["processor"]
    assert capsys.readouterr().out.count("envpool is not installed") == 1


class NoSB3(Fleeting):
    def reset(self):
        return super().reset()[0]

    def step(self, action):
        obs, reward, end, _, _ = super().step(action)
        return obs, reward, end, [{}] * self.num_envs

    def close(self):
        pass


def test_the_second_ratio_is_to_the_one_named_and_warm_ups_are_in_no_window():
    def contender(name, rates):  # the warm-up's first
        rates = iter(rates)
        return Contender(name, lambda seconds: (next(rates) * seconds, seconds))

    three = [contender("a", [1, 10, 20]), contender("b", [1000, 20, 20]), contender("c", [1, 40, 10])]
    table = report("t", "steps/s", three, 2.0, 1, beside="b")
    assert [row["ratio"] for row in table["rows"]] == [1.0, 1.5, 2.25]
    assert [row["beside"] for row in table["rows"]] == [0.75, 1.0, 1.25]
    assert table["rows"][1]["windows"] == [20, 20]


@pytest.mark.slow
def test_plain_ppo_is_ppo():
    """Its advantages are lambda-returns less values, it makes as many updates as it should, and it learns."""
    torch.manual_seed(0)
    reward, value, done = torch.randn(7, 3), torch.randn(7, 3), (torch.rand(7, 3) < 0.3).float()
    last_value, last_done = torch.randn(3), torch.tensor([0.0, 1.0, 0.0])
    after = torch.cat([done[1:], last_done[None]])
    returns = lambda_returns(
        reward, plain_ppo.GAMMA * (1 - after), torch.cat([value[1:], last_value[None]]), after.bool(), plain_ppo.LAMBDA
    )
    torch.testing.assert_close(plain_ppo.advantages(reward, value, done, last_value, last_done), returns - value)
    plain = plain_ppo.PlainPPO(Fleeting(), 8, 8, 2, "cpu")
    assert sum(plain.step() for _ in range(10)) == 10 * 64
    assert plain.note() == "250.00 updates per 1,000 steps"
    plain.play()
    assert (plain.action == 1).float().mean() > 0.85


def test_an_updates_multiply_adds_are_those_that_torch_counts():
    spec = EnvSpec("x", 2, (4, 84, 84), torch.uint8, gym.spaces.Discrete(6), 4)
    agent = dqn.Agent(dqn.Config(torso="nature", batch_size=3, capacity=100), spec, "cpu", Seeds(0))
    obs = torch.zeros((3, 4, 84, 84), dtype=torch.uint8)
    nothing = torch.zeros(3)
    batch = Transition(obs, nothing.long(), nothing, nothing, obs, nothing + 1)
    with FlopCounterMode(display=False) as counter:
        value, _, _ = dqn.loss(agent.network, agent.target, batch, agent.config)
        value.backward()
    assert counter.get_total_flops() == 2 * arithmetic.update_products(agent.network, obs)


@pytest.mark.slow
def test_benchmark_dqn_counts_updates_alike_and_gives_the_share_of_sgemm(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torchrl", None)  # as if it weren't installed
    main(["dqn", *BRIEF, "--num-envs", "4", "--capacity", "600", "--json", str(tmp_path / "t.json")])
    training, updates = json.loads((tmp_path / "t.json").read_text())["tables"]
    rates = [float(row["note"].split()[0]) for row in training["rows"]]
    assert rates[-1] == max(rates) == 0.25  # stable-baselines3 leaves one update out whenever a window ends
    assert min(rates) > 0.15
    assert [row["name"].split()[0] for row in updates["rows"]] == ["sgemm", "3x3", "stable-baselines3,", "arcturus", "arcturus,"]
    assert updates["besides"] == "3x3 convolution"
    assert "torchrl is not installed" in capsys.readouterr().out


def test_replay_is_compared_in_training_and_by_drawing_alone(tmp_path):
    main(["replay", *BRIEF, "--capacity", "600", "--json", str(tmp_path / "t.json")])
    training, drawing = json.loads((tmp_path / "t.json").read_text())["tables"]
    assert (training["unit"], drawing["unit"]) == ("agent steps/s", "batches/s")
    assert [row["name"] for row in drawing["rows"]][:3] == [row["name"] for row in training["rows"]]


PAGE = (
    "# Speed\n\nbefore\n\n<!-- table: env -->\nold\n<!-- end -->\n\nbetween\n\n<!-- table: dqn -->\nkept\n<!-- end -->\n\nafter\n"
)


def kept_json(name="env"):
    row = {"median": 1234.5, "windows": [1000.0, 1469.0], "ratio": 1.0, "beside": 2.0, "warm_up": 0.1, "note": "3 resets"}
    rows = [row | {"name": "a peer"}, row | {"name": "arcturus dqn", "ratio": 0.954, "note": ""}]
    table = {"title": "steps", "unit": "steps/s", "seconds": 2.0, "besides": "bare", "rows": rows}
    hardware = {"processor": "A chip", "cores": 2, "device": "no GPU used", "system": "Linux x86_64"}
    about = {"command": "python -m x env", "hardware": hardware, "versions": {"torch": "2.13.0"}, "load": [0.1, 1.26]}
    return {"name": name, **about, "tables": [table]}


def test_the_page_has_the_numbers_of_the_json_and_its_prose_stays(tmp_path):
    (tmp_path / "env.json").write_text(json.dumps(kept_json()))
    (tmp_path / "p.md").write_text(PAGE)
    for _ in range(2):  # again changes nothing
        main(["page", str(tmp_path / "env.json"), "--out", str(tmp_path / "p.md")])
        said = (tmp_path / "p.md").read_text()
        assert "| **arcturus** dqn | 1,234 [1,000, 1,469] | **0.95** | **2.00** | |" in said
        assert "| a peer | 1,234 [1,000, 1,469] | 1.00 | 2.00 | 3 resets |" in said
        assert (
            "`python -m x env`\n\nA chip, 2 cores, no GPU used, Linux x86_64; torch 2.13.0; load 0.1 before, 1.3 after.\n" in said
        )
        assert "old" not in said
        before, after = PAGE.split("old")
        assert said.startswith(before)
        assert said.endswith(after)


def test_a_table_that_the_page_has_no_place_for_is_refused(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(kept_json("enw")))
    (tmp_path / "p.md").write_text(PAGE)
    with pytest.raises(ConfigError, match="env"):
        main(["page", str(tmp_path / "t.json"), "--out", str(tmp_path / "p.md")])
    assert (tmp_path / "p.md").read_text() == PAGE


def test_the_command_kept_is_what_to_type_for_the_numbers():
    typed = ["env", "--json", "x.json", "--seconds", "2", "--name=env-64", "--num-envs", "64"]
    assert command(typed) == "python -m benchmarks env --seconds 2 --num-envs 64"


def test_no_number_of_the_pages_tables_is_written_by_hand():
    """docs/performance/*.json are the source; `benchmark page` writes the rest."""
    text = (DOCS / "performance.md").read_text()
    names = [found[2] for found in page.BLOCK.finditer(text)]
    assert len(set(names)) == len(names) >= 6
    files = sorted((DOCS / "performance").glob("*.json"))
    blocks = {kept["name"]: page.block(kept) for kept in (json.loads(file.read_text()) for file in files)}
    assert len(blocks) == len(files)
    assert page.rewritten(text, blocks) == text
