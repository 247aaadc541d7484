"""Code that a run names: never executed by opening the run, unless its user said so, at this command or for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcturus.errors import ConfigError
from arcturus.runs.settings import from_run, resolve
from arcturus.trusting import Outside, check_trust, settings_file, trusted_for_good

RUN = Path("somebodys-run")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes the user's own configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def write(text: str) -> Path:
        file = settings_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
        return file

    return write


def refused(name, kind="agent", trust=(), for_good=True):
    try:
        check_trust([Outside(kind, name, for_good)], trust, RUN)
    except ConfigError as e:
        assert name in str(e)
        assert "--trust" in str(e)
        return True
    return False


def test_a_name_is_trusted_with_everything_in_it_and_nothing_beside_it(own):
    own("trust: [mine, nets.Traces, 'signpost:Signpost-v0']\n")
    for name in ("mine", "mine.sarsa", "mine.nets.Torso", "mine:Maze-v0", "nets.Traces", "signpost:Signpost-v0"):
        assert not refused(name), name
    for name in (
        "mineral",
        "mineral.sarsa",
        "nets",
        "nets.Other",
        "nets.TracesToo",
        "signpost",
        "signpost:Other-v0",
        "other.mine",
    ):
        assert refused(name), name


def test_an_empty_configuration_and_a_relative_folder_of_it_trust_nothing(own, monkeypatch):
    own("")
    assert trusted_for_good() == ()
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")  # which would be another one in every folder
    assert settings_file().is_absolute()


def test_without_a_configuration_only_the_commands_word_counts(own):
    assert trusted_for_good() == ()
    assert refused("mine.sarsa")
    assert not refused("mine.sarsa", trust=("mine.sarsa",))
    assert refused("mine.sarsa", trust=("mine",))  # at a command, exactly what it says


def test_options_that_may_name_code_are_not_trusted_for_good(own, tmp_path):
    """Trusting a maze for good must not let somebody's run open it with a reward function of theirs."""
    own("trust: ['maze:Maze-v0']\n")
    for options, lets in (("size=5", True), ("reward=their.module", False)):
        config = resolve("dqn", env={"id": "CartPole-v1"}, run={"device": "cpu"}).text()
        config = config.replace("id: CartPole-v1", "id: maze:Maze-v0").replace("options: ''", f"options: {options}")
        (tmp_path / "config.yaml").write_text(config)
        if lets:
            assert from_run(tmp_path).env.id == "maze:Maze-v0"
        else:
            with pytest.raises(ConfigError, match="--trust maze:Maze-v0 .at every command"):
                from_run(tmp_path)
            assert from_run(tmp_path, trust=("maze:Maze-v0",)).env.options == options


@pytest.mark.parametrize(("text", "says"), [
    ("trust: mine\n", "a list of names"), ("trust: [mine, 3]\n", "a list of names"), ("trust: ['']\n", "a list of names"),
    ("trust: [mine.]\n", "a list of names"), ("trust: ['*']\n", "a list of names"),
    ("trusted: [mine]\n", "did you mean trust"), ("[mine]\n", "holds no settings"), ("trust: [mine\n", "not readable YAML"),
])  # fmt: skip
def test_a_configuration_that_says_something_else_is_told(own, text, says):
    file = own(text)
    with pytest.raises(ConfigError, match=says) as e:
        check_trust([Outside("agent", "mine.sarsa")], (), RUN)
    assert str(file) in str(e.value)
    check_trust([], (), RUN)  # it isn't read for runs that name no code


def test_a_configuration_that_others_may_write_is_refused(own):
    for mode in (0o606, 0o660):
        own("trust: [mine]\n").chmod(mode)
        with pytest.raises(ConfigError, match="other users may write to"):
            trusted_for_good()
