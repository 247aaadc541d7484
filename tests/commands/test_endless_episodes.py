"""Episodes without an end: an evaluation ends at a stated cap, tells how far it is, and says what it cut."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.envs import LONGEST_SCORED, EnvConfig, longest_episode, open_envs
from arcturus.errors import ConfigError
from arcturus.scoring import evaluation
from arcturus.scoring.evaluation import STALL_STEPS, evaluate
from arcturus.seeding import Seeds


class Endless(gym.Env):
    """Every step brings a reward and something new."""

    observation_space, action_space = gym.spaces.Box(-9, 9, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return self.np_random.random(1, np.float32), 1.0, False, False, {}


@pytest.fixture
def endless():
    gym.register("Endless-v0", entry_point=Endless)
    yield "Endless-v0"
    del gym.registry["Endless-v0"]


def actor_of(config, name="uniform", **settings):
    module = agents.load(name)
    with open_envs(config, 0, "cpu") as envs:
        return module.Agent(module.Config(**settings), envs.spec, "cpu", Seeds(0))


def test_an_evaluation_without_an_end_is_cut_and_says_so(endless):
    config = EnvConfig(id=endless, num_envs=4)
    result = evaluate(actor_of(config), config, 6, max_steps=50)
    assert [(e.length, e.cut, e.stalled) for e in result.episodes] == [(50, True, False)] * 6
    report = result.to_json()
    assert (report["cut"], report["max_steps"], report["stalled"]) == (6, 50, 0)
    assert all(e["cut"] for e in report["per_episode"])


def test_without_a_word_the_cap_is_the_environments_own_or_ten_thousand(endless):
    assert longest_episode(EnvConfig(id=endless)) == 0
    assert longest_episode(EnvConfig(id="CartPole-v1")) == 500
    assert longest_episode(EnvConfig(id="ALE/Pong-v5")) == 27_000
    config = EnvConfig(id=endless, num_envs=1)
    assert [e.length for e in evaluate(actor_of(config), config, 1).episodes] == [LONGEST_SCORED]
    cartpole = EnvConfig(id="CartPole-v1", num_envs=1)
    assert evaluate(actor_of(cartpole), cartpole, 1).to_json()["max_steps"] == 0


def test_costs_get_nobody_anywhere():
    """CliffWalking up against the wall for ever: -1 a step, always the same state, no limit."""
    config = EnvConfig(id="CliffWalking-v1", num_envs=2)
    result = evaluate(actor_of(config, "constant", action=0), config, 2)
    assert all(e.stalled and not e.cut for e in result.episodes)
    assert all(e.length <= STALL_STEPS + 5 for e in result.episodes)


def test_it_is_told_how_far_an_evaluation_is(endless, monkeypatch):
    monkeypatch.setattr(evaluation, "PROGRESS_SECONDS", 0.0)
    config, said = EnvConfig(id=endless, num_envs=2), []
    evaluate(actor_of(config), config, 3, max_steps=40, progress=said.append, num_envs=2)
    assert said[0].startswith("evaluating: 0 of 3 episodes are over; the longest one still running has 0 steps, cut at 40")
    assert any("2 of 3" in line for line in said)


def test_training_with_default_settings_does_not_stand_still(endless, tmp_path, capfd):
    run = arcturus.train("uniform", endless, steps=400, run_dir=tmp_path / "r", eval_every=200, eval_max_steps=100)
    said = capfd.readouterr().err
    assert "10 were cut at 100 steps" in said
    assert [m["eval/cut_episodes"] for m in arcturus.read_metrics(run) if "eval/cut_episodes" in m] == [10, 10]


def test_the_command_cuts_and_tells(endless, tmp_path, capsys):
    from arcturus.scripts.evaluate_agent import main

    run = arcturus.train("uniform", endless, steps=80, run_dir=tmp_path / "r", eval_every=0, quiet=True)
    assert main([str(run.path), "--episodes", "3", "--max-steps", "30"]) == 0
    assert "3 episodes were cut at 30 steps" in capsys.readouterr().out
    assert main([str(run.path), "--episodes", "3", "--max-steps", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cut"] == 3


def test_an_agent_of_another_environment_is_refused_in_one_line(tmp_path):
    run = arcturus.train("dqn", "CartPole-v1", steps=80, run_dir=tmp_path / "r", eval_every=0, quiet=True, heldout_states=0)
    with pytest.raises(ConfigError, match=r"trained on CartPole-v1, with observations \[4\].*Acrobot-v1 has observations \[6\]"):
        arcturus.evaluate(arcturus.load(run), "Acrobot-v1", 1)
    with pytest.raises(ConfigError, match="for Atari"):
        arcturus.evaluate(arcturus.load(run), "CartPole-v1", 1, protocol="nature")


def test_the_command_refuses_a_protocol_off_atari(tmp_path):
    from arcturus.scripts.evaluate_agent import main

    run = arcturus.train("uniform", "CartPole-v1", steps=80, run_dir=tmp_path / "r", eval_every=0, quiet=True)
    with pytest.raises(ConfigError, match="protocols are for Atari"):
        main([str(run.path), "--protocol", "nature"])


def test_nobody_looks_for_the_best_of_thousands_of_constant_actions():
    from arcturus.scoring.floors import floors

    class Many(Endless):
        action_space = gym.spaces.Discrete(5_000)

        def step(self, action):
            return np.zeros(1, np.float32), 1.0, True, False, {}

    gym.register("Many-v0", entry_point=Many)
    try:
        found = floors(EnvConfig(id="Many-v0"), 2)
    finally:
        del gym.registry["Many-v0"]
    assert (found.constant, found.action, found.random.mean) == (None, -1, 1.0)


@pytest.mark.parametrize("agent", ["c51", "qr_dqn", "iqn"])
def test_greedy_acting_asks_the_network_once(agent, monkeypatch):
    """And what it says is what it acts by."""
    from arcturus.scoring.instruments import as_timestep

    actor = actor_of(EnvConfig(id="CartPole-v1", num_envs=1), agent, capacity=600)
    calls = []
    actor.network.torso.register_forward_hook(lambda *args: calls.append(1))
    obs = torch.randn(3, 4)
    act = actor.act(as_timestep(obs), (), explore=False)
    assert len(calls) == 1
    torch.testing.assert_close((act.extras["returns"] * act.extras["probabilities"]).sum(-1), act.extras["q_values"])
    torch.testing.assert_close(act.extras["q_values"], actor.network(obs).detach())
    assert actor.act_fn == actor.predict
