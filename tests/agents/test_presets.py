"""Presets reproduce what they name: the first steps of their optimisers, and the protocol of their source."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from arcturus import agents
from arcturus.config import hints
from arcturus.envs import EnvConfig, check_settings, open_envs, open_training
from arcturus.envs.atari import PROTOCOLS
from arcturus.errors import ConfigError
from arcturus.optimizers import RMSProp
from arcturus.runs.building import build_agent
from arcturus.runs.settings import RunOptions, resolve, validate
from arcturus.scoring.evaluation import policy_of

PUBLISHED = {  # preset -> protocol of its source
    ("dqn", "mnih2013"): "nature", ("dqn", "nature"): "nature", ("dqn", "adam"): "v5", ("dqn", "prioritised"): "noop",
    ("dqn", "munchausen"): "v5", ("c51", "c51"): "noop", ("c51", "rainbow"): "noop", ("qr_dqn", "qr-dqn-1"): "noop",
    ("iqn", "iqn"): "noop", ("iqn", "munchausen"): "v5", ("pqn", "pqn"): "noop-fire", ("sac", "christodoulou2019"): "noop-fire",
    ("a2c", "atari"): "noop-fire", ("ppo", "atari"): "noop-fire", ("c51", "der"): "v5", ("dqn", "drq-eps"): "v5", ("iqn", "btr"): "v5",
}  # fmt: skip


@pytest.mark.parametrize(("agent", "preset"), PUBLISHED)
def test_a_published_preset_plays_by_its_sources_protocol_and_says_so(agent, preset):
    given = agents.presets(agent).named[preset]
    name = given.get("env", {}).get("protocol", "v5")
    assert name == PUBLISHED[agent, preset]
    assert re.search(rf"protocol\s+{name}\b", given["source"])
    rules = PROTOCOLS[name]
    assert rules.max_frames == (18_000 if name == "nature" else 108_000)
    assert (rules.repeat_action_probability == 0) is (name != "v5")


def test_every_published_preset_stands_in_the_table_of_sources():
    page = (Path(__file__).parents[2] / "docs" / "presets.md").read_text(encoding="utf-8")
    for agent, preset in PUBLISHED:
        assert f"`{agent}` `{preset}`" in page


def test_noisy_agents_are_scored_without_epsilon_where_their_source_does():
    class Actor:
        stochastic, network = False, nn.Identity()

        def __init__(self, noisy):
            self.config = type("Config", (), {"noisy": noisy})()

    def policy(protocol, noisy):
        from arcturus.envs import EnvConfig

        return policy_of(Actor(noisy), None, EnvConfig(id="ALE/Pong-v5", protocol=protocol))

    assert policy("noop", 0.5) == "greedy"
    assert policy("noop", 0.0) == "epsilon=0.001"
    assert policy("v5", 0.5) == "epsilon=0.001"
    assert policy("nature", 0.0) == "epsilon=0.05"
    assert policy("noop-fire", 0.0) == "greedy"


def zoo(grad_sum, batch, steps):
    """DQN Zoo's arithmetic (optax's centred rmsprop, decay 0.95, eps 0.01 / 32^2 inside the root) on the gradient of a batch's mean."""
    lr, rho, eps = 2.5e-4, 0.95, 0.01 / 32**2
    g = np.zeros_like(grad_sum[0])
    square, out = np.zeros_like(g), []
    for step in range(steps):
        grad = grad_sum[step] / batch
        square = rho * square + (1 - rho) * grad**2
        g = rho * g + (1 - rho) * grad
        out.append(lr * grad / np.sqrt(square - g**2 + eps))
    return out


def lua(grad_sum, steps):
    """The authors' own: eps 0.01 beside the gradient of a batch's sum."""
    lr, rho, eps = 2.5e-4, 0.95, 0.01
    g = np.zeros_like(grad_sum[0])
    square, out = np.zeros_like(g), []
    for step in range(steps):
        square = rho * square + (1 - rho) * grad_sum[step] ** 2
        g = rho * g + (1 - rho) * grad_sum[step]
        out.append(lr * grad_sum[step] / np.sqrt(square - g**2 + eps))
    return out


@pytest.mark.parametrize("preset", ["nature", "mnih2013"])
@pytest.mark.parametrize("scale", [1e-3, 1e-1, 10.0])
def test_the_first_steps_of_2015_are_dqn_zoos_and_the_authors(preset, scale):
    c = resolve("dqn", preset=preset).agent
    rng = np.random.default_rng(0)
    sums = [scale * rng.standard_normal(1000) for _ in range(100)]
    p = nn.Parameter(torch.zeros(1000, dtype=torch.float64))
    optimizer = RMSProp([p], c.learning_rate, eps=c.optimizer_eps)
    ours = []
    for total in sums:
        before = p.detach().clone()
        p.grad = torch.from_numpy(total / c.batch_size)
        optimizer.step()
        ours.append((before - p.detach()).numpy())
    for theirs in (zoo(sums, 32, 100), lua(sums, 100)):
        for t in (0, 1, 9, 99):
            assert np.linalg.norm(ours[t]) == pytest.approx(np.linalg.norm(theirs[t]), rel=0.02)


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e-2, 1.0])
def test_the_first_steps_of_a2c_are_tensorflows(scale):
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    c = resolve("a2c", preset="atari").agent
    assert c.mean_square == 1.0
    a, b = (nn.Parameter(torch.zeros(1000)) for _ in range(2))
    ours = RMSProp([a], c.learning_rate, rho=0.99, eps=c.optimizer_eps, centred=False, mean_square=c.mean_square)
    theirs = RMSpropTFLike([b], lr=7e-4, alpha=0.99, eps=1e-5)
    generator = torch.Generator().manual_seed(1)
    for t in range(301):
        before = a.detach().clone(), b.detach().clone()
        a.grad = scale * torch.randn(1000, generator=generator)
        b.grad = a.grad.clone()
        ours.step(), theirs.step()
        if t in (0, 1, 9, 99, 300):
            steps = (a.detach() - before[0]).norm(), (b.detach() - before[1]).norm()
            assert float(steps[0]) == pytest.approx(float(steps[1]), rel=0.02)


class Grid(gym.Env):
    """As MinAtar shows itself: a grid of bits, 10 x 10 of 4 channels."""

    observation_space = gym.spaces.Box(0, 1, (10, 10, 4), bool)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((10, 10, 4), bool), {}

    def step(self, action):
        return np.zeros((10, 10, 4), bool), 1.0, False, False, {}


gym.register("test/Grid-v0", Grid, max_episode_steps=9)


def built(name, preset, env_id):
    """As a run is made: settings checked, environments opened, the agent built on them (with a small replay)."""
    small = {"capacity": 2_000} if hasattr(agents.load(name).Config, "capacity") else {}
    config = resolve(name, preset=preset, agent=small, env={"id": env_id})
    check_settings(config.env)
    validate(config)
    with (open_envs if agents.load(name).Agent.own_loop else open_training)(config.env, 0, "cpu") as envs:
        build_agent(config, envs.spec, "cpu")


WORLDS = {"atari": "ALE/Pong-v5", "classic": "CartPole-v1", "grid": "test/Grid-v0",
          "mdp": "MDP/Grid-v0", "memory": "Memory/Recall-v0", "ntm": "NTM/Copy-v0",
          "tape": "Tape/Copy-v0"}  # fmt: skip
EVERY = [(name, preset) for name in agents.names() for preset in agents.presets(name).named]


def world_of(name, preset):
    """The family whose default it is, or else the one that its names say."""
    known = agents.presets(name)
    for family, found in known.default.items():
        if preset in (found.values() if isinstance(found, dict) else [found]):
            return WORLDS[family]
    settings = known.named[preset]
    if name == "supervised" or preset.startswith("ntm"):
        return WORLDS["ntm"]
    pixels = "protocol" in settings.get("env", {}) or "frame_size" in settings.get("env", {}) or any(
        torso in str(settings) for torso in ("nature", "impala", "data_efficient")
    )
    return WORLDS["atari" if pixels else "classic"]


@pytest.mark.parametrize(("name", "preset"), EVERY, ids=["-".join(x) for x in EVERY])
def test_an_unknown_or_impossible_number_in_a_preset_fails_here_and_not_at_run_time(name, preset):
    settings = agents.presets(name).named[preset]
    module = agents.load(name)
    assert settings["source"].strip()
    for cls, part in ((module.Config, "agent"), (EnvConfig, "env"), (RunOptions, "run")):
        assert set(settings.get(part, {})) <= set(hints(cls))
    built(name, preset, "FrozenLake-v1" if (name, preset) == ("q_learning", "classic") else world_of(name, preset))


def test_every_agent_has_a_preset_that_begins_with_nothing_else_given():
    for name in agents.names():
        known = agents.presets(name)
        assert known.title.partition(":")[0] == (agents.load(name).__doc__ or "").splitlines()[0].partition(":")[0], name
        for family in WORLDS:
            for device in ("cpu", "cuda"):
                assert known.suited(family, device) in known.named


@pytest.mark.parametrize("text", ["title: x", "title: x\npresets: {}", "title: x\npresets: {a: {agent: {}}}",
                                  "title: x\npresets: {a: {source: x, agnt: {}}}", "title: x\npresets: {a: {source: x, agent: 3}}",
                                  "title: x\ndefault: {classic: b}\npresets: {a: {source: x}}"])  # fmt: skip
def test_a_file_of_presets_of_another_shape_is_refused(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="mine.yaml"):
        agents.read_presets(tmp_path / "mine.yaml")


def test_what_lies_beyond_a_support_is_told():
    from arcturus.return_distributions import clipped_mass

    support = torch.linspace(0, 100, 51)
    p = torch.zeros(2, 51)
    p[0, 0], p[1, 25] = 1.0, 1.0
    assert clipped_mass(p, torch.tensor([-1.5, -1.5]), torch.tensor([0.99, 0.99]), support).tolist() == [1.0, 0.0]
    assert clipped_mass(p, torch.tensor([-0.5, 0.0]), torch.ones(2), support).tolist() == [0.0, 0.0]  # within half an atom


def test_a_support_that_holds_no_return_is_warned_of(tmp_path, capfd):
    import arcturus

    options = {"steps": 2_500, "eval_every": 0, "heldout_states": 0, "log_every": 100}
    wrong = {"v_min": 0.0, "v_max": 100.0, "learning_starts": 100, "learning_rate": 5e-3}
    run = arcturus.train("c51", "Acrobot-v1", run_dir=tmp_path / "a", agent_config=wrong, **options)
    assert "lies outside the support from 0 to 100" in capfd.readouterr().err
    assert max(line.get("health/clipped_mass", 0) for line in arcturus.read_metrics(run)) > 0.1
    arcturus.train("c51", "Acrobot-v1", run_dir=tmp_path / "b", agent_config={"learning_starts": 100}, **options)
    assert "outside the support" not in capfd.readouterr().err
    assert resolve("c51", preset="classic").agent.v_min < 0
