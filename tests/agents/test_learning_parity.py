"""benchmark learning: what it compares must be the same work, and what it prints must follow from the runs."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from arcturus.api import ActedStep, EnvSpec, TimeStep
from arcturus.errors import ConfigError
from arcturus.replay.records import Transition
from arcturus.runs.building import build_agent
from arcturus.scripts.train_agent import parse
from benchmarks import learning
from benchmarks.__main__ import main

SPECS = {"mlp": ((4,), torch.float32), "grid": ((4, 10, 10), torch.uint8), "small": ((4, 42, 42), torch.uint8)}
PAIRS = [(task, algorithm) for task in learning.TASKS for algorithm in task.steps]


def both(task, algorithm):
    """Our agent, and theirs, as the first two runs of a comparison build them."""
    cells = {whose: cell for one, name, whose, cell in learning.cells((task,), 1, None) if name == algorithm}
    for whose in ("ours", "theirs"):
        cell = cells[whose]
        config = parse(cell.agent, ["--env", cell.env, *cell.flags])
        shape, dtype = SPECS[task.torso]
        spec = EnvSpec("x", config.env.num_envs, shape, dtype, gym.spaces.Discrete(3))
        yield config, build_agent(config, spec, "cpu")


@pytest.mark.parametrize(("task", "algorithm"), PAIRS, ids=lambda x: getattr(x, "name", x))
def test_both_sides_have_the_same_network_optimiser_and_steps(task, algorithm):
    (config, ours), (theirs_config, theirs) = both(task, algorithm)
    model = theirs.model
    online = model.q_net if algorithm == "dqn" else model.policy
    unique = {id(p): p for p in online.parameters()}.values()
    assert sorted(p.shape for p in unique) == sorted(p.shape for p in ours.network.parameters())
    mine, other = ours.gradient_step.optimizer.param_groups[0], model.policy.optimizer.param_groups[0]
    assert float(mine["lr"]) == pytest.approx(other["lr"] if algorithm != "ppo" else model.learning_rate(1.0))
    assert mine["eps"] == other["eps"]
    assert config.run.steps == theirs_config.run.steps
    assert config.env.num_envs == model.n_envs
    c = config.agent
    assert (c.gamma, c.max_grad_norm) == (model.gamma, model.max_grad_norm)
    if algorithm == "dqn":
        assert (c.batch_size, c.capacity, c.learning_starts) == (model.batch_size, theirs.buffer_size, model.learning_starts)
        assert 1 / c.replay_ratio == model.n_envs * model.train_freq.frequency / model.gradient_steps
        assert c.learning_starts + c.epsilon_steps == pytest.approx(model.exploration_fraction * config.run.steps)
        assert (c.epsilon_final, c.target_period, model.tau) == (model.exploration_final_eps, model.target_update_interval, 1.0)
        return
    assert (c.horizon, c.gae_lambda, c.entropy_cost) == (model.n_steps, model.gae_lambda, model.ent_coef)
    assert c.value_cost == 2 * model.vf_coef  # ours is half the squared error
    assert c.normalise == model.normalize_advantage
    if algorithm == "ppo":
        assert (c.epochs, c.clip, c.clip_value) == (model.n_epochs, model.clip_range(1.0), model.clip_range_vf is not None)
        assert c.horizon * config.env.num_envs // c.minibatches == model.batch_size


def parts(network, theirs, algorithm):
    """Our layers and theirs, in the same order."""
    if algorithm == "dqn":
        return (network.torso, network.head), (theirs.q_net.features_extractor.torso, theirs.q_net.q_net[0])
    p = theirs.policy
    ours = (network.torso, network.policy, network.value_torso, network.value)
    return ours, (p.pi_features_extractor.torso, p.action_net, p.vf_features_extractor.torso, p.value_net)


def same_weights(ours, theirs, algorithm):
    """Gives theirs our weights."""
    for mine, other in zip(*parts(ours.network, theirs.model, algorithm), strict=True):
        other.load_state_dict(mine.state_dict())
    theirs.model.set_logger(configure(None, []))


def apart(ours, theirs, algorithm):
    """The greatest difference between two weights."""
    mine, other = ([p for part in side for p in part.parameters()] for side in parts(ours.network, theirs.model, algorithm))
    return max(float((a - b).detach().abs().max()) for a, b in zip(mine, other, strict=True))


def row(obs, age, reward):
    never = torch.zeros(len(obs), dtype=torch.bool)
    return TimeStep(obs, reward, torch.full((len(obs),), age, dtype=torch.uint8), never, never, never, ~never, never)


@pytest.mark.parametrize(("task", "algorithm"), PAIRS, ids=lambda x: getattr(x, "name", x))
def test_equal_weights_see_the_same_in_an_observation(task, algorithm):
    """A torso that scales bytes itself, behind a library that has scaled them already, would see pictures 255 times darker."""
    (_, ours), (_, theirs) = both(task, algorithm)
    same_weights(ours, theirs, algorithm)
    shape, dtype = SPECS[task.torso]
    n = ours.spec.num_envs
    obs = torch.randint(0, 256, (n, *shape), dtype=dtype) if dtype == torch.uint8 else torch.randn(n, *shape)
    name = "q_values" if algorithm == "dqn" else "logits"
    mine, other = (agent.act(row(obs, 0, torch.zeros(n)), agent.initial_state(n), explore=False).extras for agent in (ours, theirs))
    if algorithm == "dqn":
        assert torch.allclose(mine[name], other[name], atol=1e-5)
        return
    assert torch.allclose(mine[name].log_softmax(-1), other[name].log_softmax(-1), atol=1e-5)
    assert torch.allclose(mine["value"], other["value"], atol=1e-4)


@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
def test_the_same_rollouts_change_our_weights_as_theirs(algorithm):
    (config, ours), (_, theirs) = both(learning.TASKS[0], algorithm)
    same_weights(ours, theirs, algorithm)
    model, n, rng = theirs.model, ours.spec.num_envs, torch.Generator().manual_seed(0)
    ours.epochs = model.n_epochs = 1  # more amplify the rounding of float32
    ts = row(torch.randn((n, 4), generator=rng), 0, torch.zeros(n))
    for update in range(20):
        buffer = model.rollout_buffer
        buffer.reset()
        model._current_progress_remaining = 1 - update * config.agent.horizon * n / config.run.steps  # of the rollout's beginning
        for i in range(config.agent.horizon):
            act = ours.act(ts, ours.initial_state(n), explore=True, generator=rng)
            v, log_prob, _ = (x.detach() for x in model.policy.evaluate_actions(ts.obs, act.action))
            reward = torch.randn(n, generator=rng)
            buffer.add(ts.obs.numpy(), act.action[:, None].numpy(), reward.numpy(), np.full(n, update == i == 0), v, log_prob)
            ours.observe(ActedStep(ts, ours.initial_state(n), act.action, act.extras))
            ts = row(torch.randn((n, 4), generator=rng), 1, reward)
            ours.learn_from_rollout(ts, ours.initial_state(n))
        buffer.compute_returns_and_advantage(model.policy.predict_values(ts.obs).detach(), np.zeros(n))
        model.train()
    assert ours.updates == 20
    assert apart(ours, theirs, algorithm) < 1e-6


def test_the_same_minibatches_change_our_weights_as_theirs():
    (config, ours), (_, theirs) = both(learning.TASKS[0], "dqn")
    same_weights(ours, theirs, "dqn")
    model, rng, b = theirs.model, torch.Generator().manual_seed(0), config.agent.batch_size
    model.q_net_target.load_state_dict(model.q_net.state_dict())
    for _ in range(20):
        s, s_t, r = (torch.randn(shape, generator=rng) for shape in ((b, 4), (b, 4), (b,)))
        a, over = (torch.randint(0, k, (b,), generator=rng) for k in (3, 2))
        ours.update(Transition(s, a, 3 * r, config.agent.gamma * (1 - over.float()), s_t, torch.ones(b)))
        drawn = ReplayBufferSamples(s, a[:, None], s_t, over[:, None].float(), 3 * r[:, None])
        model.replay_buffer.sample = lambda *_, drawn=drawn, **__: drawn
        model.train(1, b)
    assert apart(ours, theirs, "dqn") < 1e-6


def test_a_row_says_who_is_better_only_where_chance_is_unlikely():
    def told(ours, theirs):
        sides = [[{"final": x, "mean": x, "minutes": 1.0} for x in scores] for scores in (ours, theirs)]
        return learning.told(learning.row(learning.TASKS[0], "ppo", dict(zip(("ours", "theirs"), sides, strict=True)), 100))

    high, low = [9, 10, 11, 10, 9], [5, 6, 5, 4, 5]
    assert told(high, low).count(" ours |") == 2
    assert told(low, high).count(" theirs |") == 2
    assert told([1, 9, 5, 3], [2, 8, 6, 4]).count(" - |") == 2
    assert told(high[:3], low[:3]).count(" too few |") == 2


def test_equal_sides_are_rarely_told_apart():
    """An interval of bootstrapped means called one of them better in a fifth of all comparisons of three seeds."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        ours, theirs = ([{"final": v, "mean": v, "minutes": 1.0} for v in side] for side in rng.normal(size=(2, 5)).tolist())
        rows = {"ours": ours, "theirs": theirs}
        found += " - |" not in learning.told(learning.row(learning.TASKS[0], "ppo", rows, 1))
    assert found <= 20  # of 200 at 5%


@pytest.mark.parametrize("flags", [["--env", "Pong-v5"], ["--device", "cpu", "--num-envs", "4"], ["--preset", "adam"]])
def test_what_the_comparison_would_ignore_is_refused(flags):
    with pytest.raises(ConfigError):
        main(["learning", *flags])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_comparison_runs_to_its_table(tmp_path, capsys):
    pytest.importorskip("ray")
    main(
        [
            "learning",
            "--env",
            "CartPole",
            "--seeds",
            "1",
            "--steps",
            "2000",
            "--out",
            str(tmp_path / "r"),
            "--json",
            str(tmp_path / "j"),
        ]
    )
    (table,) = json.loads((tmp_path / "j").read_text())["tables"]
    assert [row["algorithm"] for row in table["rows"]] == ["dqn", "a2c", "ppo"]
    assert "| CartPole | ppo | 2,000 | 1 |" in capsys.readouterr().out
    assert len(list((tmp_path / "r").glob("*/run.json"))) == 6
