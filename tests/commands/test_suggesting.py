"""Names of other libraries and of version 0.1 are answered with today's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arcturus.errors import ConfigError
from arcturus.scripts.train_agent import parse, train

PAGE = Path(__file__).parents[2] / "docs" / "switching.md"


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
                                            ("drnq", "did you mean drqn"), ("DQN", "did you mean dqn?")])  # fmt: skip
def test_an_agent_that_is_called_otherwise_here_is_answered_with_its_name(name, says):
    with pytest.raises(ConfigError) as e:
        train(name, ["--env", "CartPole-v1"])
    assert says in e.value.fix


def rows_of_settings():
    """(a flag of CleanRL or stable-baselines3, our flags), as docs/switching.md has them."""
    table = PAGE.read_text(encoding="utf-8").partition("## Settings")[2].partition("\n## ")[0]
    rows = [[set(re.findall(r"`([^`]+)`", cell)) for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    return sorted((theirs, tuple(sorted(ours))) for cleanrl, sb3, ours in rows for theirs in cleanrl | sb3)


@pytest.mark.parametrize(("theirs", "ours"), rows_of_settings())
def test_every_flag_of_the_switchers_page_is_answered_with_one_of_ours(theirs, ours):
    told = []
    for agent in ("ppo", "dqn"):
        try:
            parse(agent, ["--env", "CartPole-v1", f"--{theirs}", "1"])
        except ConfigError as e:
            told.append(e.fix)
        except SystemExit:  # neither known nor answered
            pass
    assert any(flag in fix for flag in ours for fix in told), told


def test_an_environment_without_its_flag_is_told_the_flag():
    with pytest.raises(ConfigError) as e:
        parse("dqn", ["ALE/Pong-v5"])
    assert e.value.fix.endswith("--env ALE/Pong-v5")
