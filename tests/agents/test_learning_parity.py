"""benchmark learning: what it compares must be the same work, and what it prints must follow from the runs."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from arcturus.api import EnvSpec
from arcturus.errors import ConfigError
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
