"""Runs of version 0.1 under tests/data/old_names, one of each agent there was: they play, and go on, under today's names.

They were made by version 0.1 itself: 400 of 400 steps of two environments, with networks as small as can be.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import arcturus
from arcturus.config import read_yaml
from arcturus.errors import ConfigError
from arcturus.runs import renamed
from arcturus.runs.folder import Run

RUNS = Path(__file__).parents[1] / "data" / "old_names"
TODAY = {"teacher": "supervised", "teacher-of-teachers": "distill", "dqn-with-memory": "drqn"}


@pytest.fixture
def old(tmp_path, monkeypatch):
    """old(name): a copy of that run, whose teachers are copies beside it."""
    monkeypatch.setattr(renamed, "_said", set())

    def copy(name):
        path = Path(shutil.copytree(RUNS / name, tmp_path / name))
        settings = yaml.safe_load((path / "config.yaml").read_text())
        if settings["agent"].get("teachers"):
            teacher = shutil.copytree(RUNS / "dqn", tmp_path / "dqn", dirs_exist_ok=True)
            settings["agent"]["teachers"] = f"{teacher}#" + settings["agent"]["teachers"].partition("#")[2]
            (path / "config.yaml").write_text(yaml.safe_dump(settings))
        return path

    return copy


@pytest.mark.parametrize("name", sorted(p.name for p in RUNS.iterdir()))
def test_every_agent_of_version_0_1_plays_under_its_name_of_today(name, old, capsys):
    path = old(name)
    actor = arcturus.load(path)
    assert actor.config.agent_name == TODAY.get(name, name)
    assert len(arcturus.evaluate(actor, actor.config.env, episodes=1, max_steps=50).scores) == 1
    told = capsys.readouterr().err.count("settings of version 0.1 have new names")
    values = read_yaml(path / "config.yaml")["agent"]
    assert told == (1 if name in TODAY or {"lam", "learn_start", "life_loss"} & set(values) else 0)


@pytest.mark.parametrize("name", sorted(p.name for p in RUNS.iterdir() if p.name != "sb3"))
def test_every_run_of_version_0_1_goes_on(name, old):
    path = old(name)
    before = Run(path).about["steps"]
    settings = {"fork": str(path) + "-on"} if name == "teacher-of-teachers" else {}  # its teacher's folder has moved
    run = arcturus.resume(path, steps=800, quiet=True, **settings)
    assert (before, run.about["steps"], run.status) == (400, 800, "finished")
    saved = read_yaml(run.path / "config.yaml")
    assert saved["agent"]["name"] == TODAY.get(name, name)
    assert not {"lam", "learn_start", "life_loss"} & set(saved["agent"])
    assert "groups" not in saved["env"]


def test_values_keep_their_meaning():
    config = Run(RUNS / "dqn").config()
    assert (config.agent.learning_starts, config.agent.end_on_life_loss, config.agent.capacity) == (100, True, 300)
    assert Run(RUNS / "ppo").config().agent.gae_lambda == 0.9
    assert Run(RUNS / "pqn").config().agent.q_lambda == 0.7
    memory = Run(RUNS / "dqn-with-memory").config().agent
    assert (memory.core, memory.core_width, memory.bptt, memory.burn_in) == ("rnn", 4, 4, 2)


def test_a_settings_file_of_version_0_1_is_read_and_one_for_another_agent_of_today_is_named(tmp_path):
    from arcturus.runs.settings import resolve

    file = tmp_path / "c.yaml"
    file.write_text("env: CartPole-v1\nagent: {learn_start: 77, core: lstm}\n")
    with pytest.raises(ConfigError, match="for agent drqn, not dqn"):
        resolve("dqn", file=file)
    file.write_text("env: {id: CartPole-v1, groups: 1}\nagent: {learn_start: 77, life_loss: true}\n")
    assert resolve("dqn", file=file).agent.learning_starts == 77


@pytest.mark.parametrize(("text", "name", "says"), [
    ("agent: {name: dqn}\npreset: memory\nenv: Memory/Recall-v0", "dqn", "for agent drqn, not dqn"),
    ("agent: {name: dqn, bptt: 3}\nenv: CartPole-v1", "dqn", "bptt"),
])  # fmt: skip
def test_settings_that_only_an_agent_with_memory_has_are_never_dropped_in_silence(text, name, says, tmp_path):
    from arcturus.runs.settings import resolve

    (tmp_path / "c.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=says):
        resolve(name, file=tmp_path / "c.yaml")


def test_a_preset_of_version_0_1_is_read_under_its_name_of_today(tmp_path):
    from arcturus.runs.settings import resolve

    (tmp_path / "c.yaml").write_text("env: CartPole-v1\npreset: distil\n")
    assert resolve("distill", file=tmp_path / "c.yaml").preset == "default"


def test_an_agent_of_ones_own_keeps_a_setting_that_is_called_as_one_was_in_version_0_1(tmp_path, monkeypatch):
    """Names are only changed where the agent's Config has the new one and not the old one."""
    from arcturus.runs.settings import resolve

    package = tmp_path / "owned"
    package.mkdir()
    (package / "agent.py").write_text(
        "from dataclasses import dataclass\nfrom arcturus.agents import ppo\nAgent = ppo.Agent\n"
        "@dataclass(frozen=True)\nclass Config(ppo.Config):\n    learn_start: int = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "c.yaml").write_text("env: CartPole-v1\nagent: {learn_start: 7, lam: 0.5}\n")
    config = resolve("owned.agent", file=tmp_path / "c.yaml").agent
    assert (config.learn_start, config.gae_lambda) == (7, 0.5)
