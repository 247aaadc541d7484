"""Settings: whatever comes from outside is read strictly, and what is written reads back the same."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcturus import agents
from arcturus.agents import dqn
from arcturus.config import from_mapping, read_yaml
from arcturus.envs import EnvConfig
from arcturus.errors import ArcturusError, ConfigError
from arcturus.runs.settings import RunOptions, resolve, validate

NUMBERS = {
    "gamma": st.floats(0, 1), "n_step": st.integers(1, 100), "learning_rate": st.floats(0, 10), "batch_size": st.integers(1, 65_536),
    "double": st.booleans(), "optimizer": st.sampled_from(["adam", "rmsprop"]), "capacity": st.integers(2, 10**9),
    "replay_ratio": st.floats(0, 64), "torso": st.sampled_from(["nature", "mlp", "auto"]),
}  # fmt: skip


@settings(max_examples=150)
@given(agent=st.fixed_dictionaries({}, optional=NUMBERS), seed=st.integers(0, 2**63 - 1), steps=st.integers(16, 10**12),
       frame_size=st.integers(12, 210), preset=st.sampled_from(sorted(agents.presets("dqn").named)))  # fmt: skip
def test_a_config_file_reads_back_as_it_was_written(tmp_path_factory, agent, seed, steps, frame_size, preset):
    config = validate(resolve("dqn", preset=preset, agent=agent, env={"id": "ALE/Pong-v5", "frame_size": frame_size},
                              run={"seed": seed, "steps": steps, "device": "cpu"}))  # fmt: skip
    path = tmp_path_factory.mktemp("c") / "config.yaml"
    path.write_text(config.text())
    again = validate(resolve("dqn", file=path))
    assert again == config
    assert again.text() == path.read_text()


def test_a_setting_that_stands_for_a_number_says_the_number_used():
    config = resolve("dqn", env={"id": "CartPole-v1"}, run={"steps": 20_000, "device": "cpu"})
    lines = config.text().splitlines()
    assert "  eval_every: -1  # here 2,000" in lines
    assert "  eval_max_steps: 0  # here 500" in lines  # CartPole's own limit
    assert "  importance_steps: -1  # here 20,000" in lines
    assert "  log_every: 7" in resolve("dqn", env={"id": "CartPole-v1"}, run={"log_every": 7, "device": "cpu"}).text().splitlines()
    assert "  frame_stack: 0  # here 4" in resolve("ppo", env={"id": "ALE/Pong-v5"}, run={"device": "cpu"}).text().splitlines()


def test_flags_beat_file_beats_preset_beats_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("preset: nature\nagent: {gamma: 0.5, batch_size: 64}\nenv: ALE/Pong-v5\nrun: {steps: 1e3}\n")
    with pytest.raises(ConfigError, match="steps"):
        resolve("dqn", file=path)  # 1e3 is no whole number to YAML
    path.write_text("preset: nature\nagent: {gamma: 0.5, batch_size: 64, learning_rate: 1e-4}\nenv: ALE/Pong-v5\n")
    c = resolve("dqn", file=path, agent={"gamma": 0.75})
    assert (c.agent.gamma, c.agent.batch_size, c.agent.learning_rate) == (0.75, 64, 1e-4)
    assert c.agent.huber  # the preset's
    assert c.agent.n_step == dqn.Config().n_step
    assert c.env.protocol == "nature"


@pytest.mark.parametrize(("values", "says"), [
    ({"gama": 0.9}, "did you mean gamma"), ({"gamma": 1.5}, "from 0 to 1"), ({"gamma": "much"}, "must be a number"),
    ({"n_step": 0}, "from 1"), ({"n_step": 1.5}, "whole number"), ({"double": 1}, "true or false"), ({"double": "no"}, "true or false"),
    ({"optimizer": "sgd"}, "choices: adam, rmsprop"), ({"gamma": float("nan")}, "must be"), ({"batch_size": True}, "whole number"),
    ({"learning_rate": -1}, "must be"), ({3: 4}, "no setting"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(values, says):
    with pytest.raises(ConfigError, match=says):
        from_mapping(dqn.Config, values, "agent")


@pytest.mark.parametrize("text", [
    "a: 1\na: 2", "[1, 2]", "agent: {gamma: [", "x: &a [1]\ny: *a", "!!python/object/apply:os.system ['true']", "", "\x00", "- a\n- b",
    "agent: 3", "agent: {name: ppo}", "unknown: {}", "? [a]\n: b", "env: [x]", "<<: {a: 1}\nb: 2",
])  # fmt: skip
def test_files_that_are_no_settings_are_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ArcturusError) as e:
        resolve("dqn", file=path)
    assert e.value.exit_code == 2
    assert len(str(e.value).splitlines()) <= 20


@settings(max_examples=200)
@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused_never_a_traceback(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("y") / "c.yaml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        read_yaml(path)
    except ConfigError as e:
        assert e.exit_code == 2


@pytest.mark.parametrize("cls", [dqn.Config, EnvConfig, RunOptions])
def test_every_default_is_within_its_bounds(cls):
    config = from_mapping(cls, {f.name: f.default for f in fields(cls)}, "x")
    assert config == cls()


def test_the_preset_follows_from_the_environment():
    assert resolve("dqn", env={"id": "ALE/Pong-v5"}, run={"device": "cpu"}).preset == "cpu-small"
    assert resolve("dqn", env={"id": "CartPole-v1"}, run={"device": "cpu"}).preset == "classic"
    with pytest.raises(ConfigError, match="did you mean nature"):
        resolve("dqn", preset="natur", env={"id": "ALE/Pong-v5"})
