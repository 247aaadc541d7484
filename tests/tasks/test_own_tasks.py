"""A task of one's own on the algorithmic tasks' interface; and the most that there is to be had of any of them."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
import torch

import arcturus
from arcturus.envs import EnvConfig, family, is_own, make
from arcturus.envs.own import TURING
from arcturus.envs.tasks import register_task, task_of
from arcturus.envs.tasks.sequences import Copy, Tapes
from arcturus.errors import ArcturusError, EnvironmentProblem
from arcturus.scoring.highest import highest_return
from arcturus.scoring.sequences import score_lengths

MODULE = """
from dataclasses import dataclass

from arcturus.envs.tasks import register_task
from arcturus.envs.tasks.sequences import Copy, Tapes


@dataclass(frozen=True)
class Reverse(Copy):
    high: int = 4
    width: int = 3

    def sample(self, generator, batch, lengths):
        x, y, mask = super().sample(generator, batch, lengths)
        y[mask] = y[mask].flip(0)
        return Tapes(x, y, mask)


register_task("NTM/Reverse-v0", Reverse)
register_task("NTM/ReverseExact-v0", Reverse, reward="exact")
"""


@pytest.fixture
def reverse(tmp_path, monkeypatch):
    """A module `mytask` that registers NTM/Reverse-v0, and forgotten afterwards."""
    (tmp_path / "mytask.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "mytask:NTM/Reverse-v0"
    sys.modules.pop("mytask", None)
    for name in [i for i in gym.registry if i.startswith("NTM/") and i not in TURING]:
        del gym.registry[name]


def test_a_task_of_ones_own_is_stepped_as_one_batch_and_says_the_right_answers(reverse):
    assert family(reverse) == "ntm"
    assert is_own(reverse)
    with make(reverse, num_envs=3, seed=1) as envs:
        assert envs.spec.has_targets
        obs, _ = envs.reset(options={"lengths": (4,)})
        shown, answers = [obs], []
        for _ in range(8):
            obs, _, _, _, info = envs.step(torch.zeros(3, 3, dtype=torch.int64))
            shown.append(obs)
            answers += [info["target"]] if bool(info["valid"].all()) else []
    assert torch.equal(torch.stack(answers), torch.stack(shown[:4])[:, :, :3].long().flip(0))


@pytest.mark.slow
def test_a_task_of_ones_own_trains_is_scored_by_length_and_resumes_exactly(reverse, tmp_path):
    agent = {"anneal_steps": 0}  # or it would go by the steps asked for
    told = {
        "env_config": {"num_envs": 8},
        "agent_config": agent,
        "eval_every": 0,
        "checkpoint_every": 800,
        "deterministic": True,
        "quiet": True,
    }
    whole = arcturus.train("supervised", reverse, steps=1_600, run_dir=tmp_path / "whole", **told)
    stopped = arcturus.train("supervised", reverse, steps=800, run_dir=tmp_path / "stopped", **told)
    with pytest.raises(ArcturusError, match="--trust mytask"):
        arcturus.load(stopped.path)
    stopped = arcturus.resume(stopped.path, steps=1_600, trust=(reverse,), quiet=True)
    one, two = (arcturus.load(run.path, trust=(reverse,)) for run in (whole, stopped))
    weights = one.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in two.network.state_dict().items())
    assert [s.lengths for s in score_lengths(one, one.config.env, [(2,), (6,)], 4)] == [(2,), (6,)]
    assert arcturus.evaluate(one, reverse, 2).about["highest"] == 2.5  # lengths from 1 to 4


@dataclass(frozen=True)
class Short(Copy):
    def answers(self, lengths):
        return lengths[0] + 1


@dataclass(frozen=True)
class Wide(Copy):
    def sample(self, generator, batch, lengths):
        x, y, mask = super().sample(generator, batch, lengths)
        return Tapes(torch.cat([x, x], -1), y, mask)


@dataclass(frozen=True)
class Loud(Copy):
    def sample(self, generator, batch, lengths):
        x, y, mask = super().sample(generator, batch, lengths)
        return Tapes(x, torch.ones_like(y), mask)


@dataclass(frozen=True)
class Doubtful(Copy):
    def sample(self, generator, batch, lengths):
        x, y, mask = super().sample(generator, batch, lengths)
        return Tapes(x, y.float(), mask)


@dataclass(frozen=True)
class Moody(Copy):
    def sample(self, generator, batch, lengths):
        return super().sample(torch.Generator().manual_seed(torch.seed() % 2**31), batch, lengths)


@pytest.mark.parametrize(("env_id", "kind", "says"), [
    ("NTM/Moody-v0", Moody, "draw only from the generator"),
    ("NTM/Short-v0", Short, "answers\\(\\) says 2"), ("NTM/Wide-v0", Wide, "length 1: inputs are .3, 2, 18."),
    ("NTM/Loud-v0", Loud, "0 in rows"),
    ("NTM/Doubtful-v0", Doubtful, "torch.float32, not .* torch.uint8"), ("Reverse-v0", Copy, "NTM/Name-v0"),
    ("NTM/Copy-v0", Copy, "not one of arcturus's tasks"), ("NTM/Reverse", Copy, "NTM/Name-v0"), (None, Copy, "NTM/Name-v0"),
    ("NTM/Thing-v0", dict, "not a subclass"),
])  # fmt: skip
def test_a_task_that_is_not_what_it_says_is_refused_where_it_is_registered(env_id, kind, says):
    before = set(gym.registry)
    with pytest.raises(ValueError, match=says):
        register_task(env_id, kind)
    assert set(gym.registry) == before


@dataclass(frozen=True)
class Between(Copy):
    """What it says at its shortest and its longest, and something else between."""

    high: int = 3
    fault: int = 0

    def least(self, name):
        return 0 if name == "fault" else super().least(name)

    def sample(self, generator, batch, lengths):
        x, y, mask = super().sample(generator, batch, lengths)
        if lengths == (2,):
            x = x * float("nan") if self.fault == 0 else x * 1_000 if self.fault == 1 else x
            y = y * 7 if self.fault == 2 else y
            mask = mask & False if self.fault == 3 else mask
        return Tapes(x, y, mask)


@pytest.mark.parametrize(("fault", "says"), [
    (0, "inputs must be finite"), (1, "as `bounds` says"), (2, "targets must be 0 or 1"), (3, "0 rows ask for an answer"),
])  # fmt: skip
def test_a_task_that_is_not_what_it_says_at_some_length_ends_by_name(fault, says, reverse, tmp_path):
    register_task("NTM/Between-v0", Between, fault=fault)
    with pytest.raises(EnvironmentProblem, match=f"mytask:NTM/Between-v0: Between, length 2: .*{says}"):
        arcturus.train("supervised", "mytask:NTM/Between-v0", steps=2_000, run_dir=tmp_path / "r", eval_every=0, quiet=True)


def test_registered_again_by_the_same_class_the_newer_one_counts_and_nobody_elses_task_is_replaced(reverse, recwarn):
    importlib.import_module("mytask")
    importlib.reload(sys.modules["mytask"])
    assert gym.spec("NTM/Reverse-v0").kwargs["task"] is sys.modules["mytask"].Reverse
    assert not recwarn.list
    with pytest.raises(ValueError, match="registered already"):
        register_task("NTM/Reverse-v0", Between)
    with pytest.raises(ValueError, match="registered already"):
        register_task("NTM/Reverse-v0", sys.modules["mytask"].Reverse, reward="stop")


def test_an_environment_in_the_tasks_namespace_that_is_no_task_is_played_as_any_other(reverse):
    gym.register("NTM/Plain-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
    assert not is_own("mytask:NTM/Plain-v0")
    assert highest_return(EnvConfig(id="mytask:NTM/Plain-v0")) is None
    with make("mytask:NTM/Plain-v0", num_envs=2) as envs:
        assert not envs.spec.has_targets


@pytest.mark.parametrize("settings", [
    {}, {"reward": "exact"}, {"reward": "sparse"}, {"reward": "stop"}, {"actions": "serial"}, {"actions": "symbol"},
    {"actions": "serial", "reward": "exact"},
])  # fmt: skip
@pytest.mark.parametrize("name", ["Copy", "RepeatCopy", "AssociativeRecall", "PrioritySort"])
def test_who_answers_everything_right_has_the_highest_return(name, settings):
    short = {
        "RepeatCopy": {"high": 3, "repeats_high": 2, "width": 4},
        "PrioritySort": {"low": 3, "high": 4, "best": 2, "width": 4},
    }
    options = short.get(name, {"high": 4, "width": 4}) | settings
    task, play = task_of(f"NTM/{name}-v0", options)
    env = gym.make(f"NTM/{name}-v0", **options)
    totals = []
    for lengths in np.ndindex(*(high - low + 1 for low, high in task.ranges)):
        tape = task.sample(
            torch.Generator().manual_seed(1), 1, tuple(low + i for i, (low, _) in zip(lengths, task.ranges, strict=True))
        )
        laid = play.lay_out(tape)
        env.reset(seed=0, options={"tape": tape})
        totals.append(sum(float(env.step(play.encode(row[0]).numpy())[1]) for row in laid.targets))
    told = ",".join(f"{k}={v}" for k, v in options.items())
    assert highest_return(EnvConfig(id=f"NTM/{name}-v0", options=told)) == pytest.approx(np.mean(totals))


@pytest.mark.parametrize(("env_id", "options", "highest"), [
    ("NTM/Copy-v0", "", 10.5), ("NTM/CopyStop-v0", "high=4", 2.5), ("NTM/DynamicNGrams-v0", "", None),
    ("NTM/DynamicNGrams-v0", "reward=sparse", None),
    ("Memory/Recall-v0", "delay=3,max_episode_steps=2", None), ("NTM/Copy-v0", "max_episode_steps=2", None),
    ("Memory/Recall-v0", "delay=3", 1.0),
    ("NTM/Copy-v0", "actions=quantised", None), ("CartPole-v1", "", None), ("ALE/Pong-v5", "", None), ("Tape/Copy-v0", "", None),
    ("MDP/Grid-v0", "", 0.7053),  # Russell & Norvig, figure 17.3: the utility of (1, 1)
])  # fmt: skip
def test_the_highest_return_is_told_where_it_is_known(env_id, options, highest):
    found = highest_return(EnvConfig(id=env_id, options=options))
    assert found == (highest if highest is None else pytest.approx(highest, abs=1e-3))
