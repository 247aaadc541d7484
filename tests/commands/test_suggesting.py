"""Names of other libraries and of version 0.1 are answered with today's."""

from __future__ import annotations

import pytest

from arcturus.errors import ConfigError
from arcturus.scripts.train_agent import parse, train


@pytest.mark.parametrize(("agent", "flag", "ours"), [
    ("dqn", "--agent.learn-start=5", "--agent.learning-starts"), ("dqn", "--learning_starts", "--agent.learning-starts"),
    ("ppo", "--agent.lam", "--agent.gae-lambda"), ("pqn", "--agent.lam", "--agent.q-lambda"), ("a2c", "--gae-lambda", "--agent.gae-lambda"),
    ("dqn", "--agent.life-loss", "--agent.end-on-life-loss"), ("ppo", "--agent.lr", "--agent.learning-rate"),
    ("ppo", "--agent.ent-coef", "--agent.entropy-cost"), ("dqn", "--agent.batch", "--agent.batch-size"),
    ("dqn", "--total-timesteps", "--steps"), ("ppo", "--vf_coef", "--agent.value-cost"),
    ("dqn", "--agent.core", "train-agent drqn"), ("c51", "--agent.burn-in", "train-agent drqn"),
    ("supervised", "--agent.teachers", "train-agent distill"), ("drqn", "--agent.munchausen", "train-agent dqn"),
    ("a2c", "--env.groups=2", "leave it out"),
])  # fmt: skip
def test_a_flag_that_is_called_otherwise_here_is_answered_with_its_name(agent, flag, ours):
    with pytest.raises(ConfigError) as e:
        parse(agent, ["--env", "CartPole-v1", flag, "1"])
    assert ours in e.value.fix


@pytest.mark.parametrize(("name", "says"), [("teacher", "train-agent supervised"), ("rainbow", "train-agent c51 --preset rainbow"),
                                            ("drnq", "did you mean drqn")])  # fmt: skip
def test_an_agent_that_is_called_otherwise_here_is_answered_with_its_name(name, says):
    with pytest.raises(ConfigError) as e:
        train(name, ["--env", "CartPole-v1"])
    assert says in e.value.fix
