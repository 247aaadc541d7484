"""Beginning with another run's network: exactly its weights, nothing else, and frozen parts stay frozen for good."""

from __future__ import annotations

import shutil

import pytest
import torch

import arcturus
from arcturus.errors import ConfigError
from arcturus.scripts.train_agent import parse, spell_out

QUICK = {"eval_every": 0, "heldout_states": 0}


def weights(run, checkpoint="last"):
    return {k: v.clone() for k, v in arcturus.load(run, checkpoint).network.state_dict().items()}


@pytest.fixture(scope="module")
def learnt(small_run, tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("learnt") / "a", 1200, **QUICK)


@pytest.mark.parametrize("agent", ["dqn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qr_dqn", "sac"))])
def test_a_run_begins_with_exactly_the_weights_it_is_given(small_run, tmp_path, agent):
    settings = {"agent": agent, "agent_config": {"learning_starts": 100}}
    first = small_run(tmp_path / "a", 400, **settings, **QUICK)
    settings["agent_config"] = {"learning_starts": 1000}  # so that nothing is learnt in the second
    second = small_run(tmp_path / "b", 400, init_from=str(first.path), seed=3, **settings, **QUICK)
    before, after = weights(first), weights(second)
    assert all(torch.equal(before[k], after[k]) for k in before)
    agent = arcturus.load(second).agent
    source = agent.critics if hasattr(agent, "critics") else agent.network
    target = agent.target.state_dict()
    assert all(torch.equal(v, target[k]) for k, v in source.state_dict().items())


def test_a_new_head_is_new_and_the_rest_is_not(learnt, small_run, tmp_path):
    run = small_run(
        tmp_path / "b", 400, init_from=str(learnt.path), new_head=True, seed=3, agent_config={"learning_starts": 900}, **QUICK
    )
    plain = small_run(tmp_path / "c", 400, seed=3, agent_config={"learning_starts": 900}, **QUICK)
    before, after, fresh = weights(learnt), weights(run), weights(plain)
    assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("torso."))
    assert all(torch.equal(after[k], fresh[k]) for k in before if k.startswith("head."))
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_another_agent_takes_over_the_torso(learnt, tmp_path):
    run = arcturus.train(
        "ppo", "CartPole-v1", steps=256, run_dir=tmp_path / "p", quiet=True, init_from=str(learnt.path), new_head=True,
        freeze="torso", agent_config={"horizon": 16}, **QUICK,
    )  # fmt: skip
    before, after = weights(learnt), weights(run)
    for torso in ("torso", "value_torso"):
        assert all(torch.equal(after[k.replace("torso", torso, 1)], v) for k, v in before.items() if k.startswith("torso."))


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_frozen_parts_never_move_and_the_rest_learns(small_run, tmp_path, optimizer, stop_at):
    settings = {"freeze": "torso", "agent_config": {"optimizer": optimizer}, "checkpoint_every": 300, **QUICK}
    first = small_run(tmp_path / "a", 400, **settings)
    stop_at(800)
    run = small_run(tmp_path / "b", 1200, init_from=str(first.path), **settings)
    shutil.rmtree(first.path)  # going on needs it no more
    assert run.status == "preempted"
    run = arcturus.resume(run, quiet=True)
    now, fresh = weights(run), weights(small_run(tmp_path / "c", 100, **settings))
    assert all(torch.equal(now[k], v) for k, v in fresh.items() if k.startswith("torso."))  # of one seed, so as initialised
    assert not torch.equal(now["head.weight"], fresh["head.weight"])


def test_a_fine_tuned_run_goes_on_exactly(learnt, small_run, tmp_path, stop_at):
    settings = {"init_from": str(learnt.path), "freeze": "torso", "deterministic": True, **QUICK}
    whole = small_run(tmp_path / "whole", 900, **settings)
    stop_at(500)
    parts = arcturus.resume(small_run(tmp_path / "parts", 900, **settings), quiet=True)
    assert all(torch.equal(v, weights(parts)[k]) for k, v in weights(whole).items())


def test_what_does_not_fit_is_said_before_there_is_a_folder(learnt, small_run, tmp_path):
    for options, env, said in (
        ({"init_from": str(tmp_path / "nothing")}, "CartPole-v1", "not a run folder"),
        ({"init_from": str(learnt.path)}, "Acrobot-v1", "torso.layers.fc1.weight"),
        ({"init_from": str(learnt.path), "agent_config": {"dueling": True}}, "CartPole-v1", "--init-from"),
        ({"freeze": "leg"}, "CartPole-v1", "no leg"),
        ({"freeze": "core"}, "CartPole-v1", "no core"),
    ):
        with pytest.raises(ConfigError, match=said):
            small_run(tmp_path / "x", 400, env=env, **options, **QUICK)
        assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match="no network"):
        arcturus.train("uniform", "CartPole-v1", steps=100, run_dir=tmp_path / "x", quiet=True, init_from=str(learnt.path))


def test_another_number_of_actions_asks_for_a_new_head(small_run, tmp_path):
    first = small_run(tmp_path / "a", 100, env="MDP/Chain-v0", **QUICK)
    with pytest.raises(ConfigError, match="--new-head|frame size"):
        small_run(tmp_path / "b", 100, env="MDP/Grid-v0", init_from=str(first.path), **QUICK)


def test_new_head_may_stand_alone():
    assert spell_out(["--new-head", "--steps", "5"]) == ["--new-head", "True", "--steps", "5"]
    assert spell_out(["--steps", "5", "--new-head"])[-2:] == ["--new-head", "True"]
    assert parse("dqn", ["--env", "CartPole-v1", "--new-head", "--steps", "500"]).run.new_head
    assert not parse("dqn", ["--env", "CartPole-v1", "--new-head", "False"]).run.new_head
