"""A sweep's file: which cells follow from it, and what is refused before the first one starts."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcturus.errors import ConfigError
from arcturus.scripts import sweep_agents
from arcturus.scripts.frontend import guarded
from arcturus.sweeps.file import read_sweep, shipped
from arcturus.sweeps.progress import claim

GOOD = "agents: [dqn, ppo]\nenvs: [CartPole-v1]\nseeds: [0, 1]\nsettings: {steps: 1000}\n"


@pytest.fixture
def written(tmp_path):
    def write(text, name="s.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_cells_are_the_grid_and_their_names_say_what_varies(written):
    text = "out: here\nagents: {dqn: {}, ppo: {agent.gamma: [0.9, 0.99]}}\nenvs: [ALE/Pong-v5, CartPole-v1]\nseeds: 0-1\nsettings: {steps: 9}"
    sweep = read_sweep(written(text))
    assert len(sweep.cells) == 2 * 2 + 2 * 2 * 2
    names = [cell.name for cell in sweep.cells]
    assert names[:2] == ["Pong-v5-dqn-s0", "Pong-v5-dqn-s1"]
    assert "CartPole-v1-ppo-gamma=0.99-s1" in names
    cell = sweep.cells[names.index("CartPole-v1-ppo-gamma=0.99-s1")]
    assert shlex.join(cell.train(sweep.out)).endswith(
        "here/CartPole-v1-ppo-gamma=0.99-s1 --steps 9 --agent.gamma 0.99 --start-or-resume"
    )


def some(values):
    return st.lists(values, min_size=1, max_size=4, unique=True)


def test_code_that_a_sweep_names_is_trusted_by_its_own_evaluations_and_no_other():
    sweep = read_sweep(Path("minatar"))
    _, scored = sweep.commands(sweep.cells[0])
    assert scored[-2:] == ["--trust", "minatar.gym:MinAtar/Asterix-v1"]
    assert not any("--trust" in line for cell in read_sweep(Path("atari5")).cells for line in sweep.commands(cell))
    _, scored = sweep.commands(replace(sweep.cells[0], agent="mine.sarsa", env="CartPole-v1"))
    assert scored[-2:] == ["--trust", "mine.sarsa"]


def test_files_that_a_cell_is_given_are_named_from_anywhere(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cell,) = read_sweep(written("agents: [ppo]\nenvs: [CartPole-v1]\nsettings: {config: mine.yaml, keep: 3}\n")).cells
    assert cell.flags == ("--config", str(tmp_path / "mine.yaml"), "--keep", "3")


def test_an_agent_may_have_environments_of_its_own(written):
    sweep = read_sweep(written("agents: {dqn: {envs: [CartPole-v1]}, ppo: {}}\nenvs: [Acrobot-v1, NTM/Copy-v0]\n"))
    assert [cell.name for cell in sweep.cells] == ["CartPole-v1-dqn-s0", "Acrobot-v1-ppo-s0", "NTM-Copy-v0-ppo-s0"]


def test_an_agent_may_have_seeds_of_its_own(written):
    made = read_sweep(written("agents: {dqn: {seeds: 0-2}, ppo: {}}\nenvs: [CartPole-v1]\nseeds: [7]\n")).cells
    assert [(cell.agent, cell.seed) for cell in made] == [("dqn", 0), ("dqn", 1), ("dqn", 2), ("ppo", 7)]
    with pytest.raises(ConfigError, match="seed"):
        read_sweep(written("agents: {dqn: {seeds: [-1]}}\nenvs: [CartPole-v1]\n"))


@given(some(st.sampled_from(["dqn", "ppo", "a2c"])), some(st.integers(0, 99)), some(st.integers(1, 9)))
def test_no_two_cells_share_a_folder_and_none_is_missing(tmp_path_factory, agents, seeds, values):
    path = tmp_path_factory.mktemp("sweep") / "s.yaml"
    path.write_text(f"agents: {agents}\nenvs: [CartPole-v1]\nseeds: {seeds}\nsettings: {{keep: {values}}}".replace("'", ""))
    cells = read_sweep(path).cells
    assert len(cells) == len({cell.name for cell in cells}) == len(agents) * len(seeds) * len(values)
    assert {(cell.agent, cell.seed, cell.flags) for cell in cells} == {
        (a, s, ("--keep", str(v))) for a in agents for s in seeds for v in values
    }


@pytest.mark.parametrize(("text", "says"), [
    (GOOD + "agent: dqn", "did you mean agents"), (GOOD.replace("[dqn, ppo]", "[]"), "agents must be a list"),
    (GOOD.replace("[dqn, ppo]", "[dqn, dqn]"), "dqn twice"), (GOOD.replace("[0, 1]", "[0, 0]"), "2 cells of this sweep are called"),
    (GOOD.replace("[0, 1]", "9-3"), "end before they begin"), (GOOD.replace("[0, 1]", "[-1]"), "not a seed"),
    (GOOD.replace("{steps: 1000}", "{steps: []}"), "settings.steps has no value"),
    (GOOD.replace("{steps: 1000}", "{seed: 3}"), "seed is no setting"),
    (GOOD.replace("dqn", "dqnn"), "unknown agent"), (GOOD.replace("steps", "agent.lr"), "--agent.learning-rate"),
    (GOOD + "cpus: many", "cpus is 'many'"), (GOOD + "cpus: 0", "from 0.01"),
    (GOOD + "gpus: 1.5", "shares one GPU or has whole ones"), (GOOD + "out:", "out is None"),
    (GOOD + "tries: 0", "from 1 to"), (GOOD + "evaluate: 30", "evaluate must hold"), ("- 1", "holds no settings"),
])  # fmt: skip
def test_a_wrong_file_is_refused_before_anything_starts(written, text, says, capsys):
    path = written(text)
    assert guarded(sweep_agents.main, ["list", str(path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) <= 20


def test_a_folder_is_not_taken_over_by_another_sweep_but_cells_may_be_added(written, tmp_path):
    out = tmp_path / "out"
    claim(read_sweep(written(GOOD), out))
    claim(read_sweep(written(GOOD.replace("[0, 1]", "[0, 1, 2]")), out))
    with pytest.raises(ConfigError, match="another sweep"):
        claim(read_sweep(written(GOOD.replace("1000", "2000")), out))
    with pytest.raises(ConfigError, match="another sweep"):
        claim(read_sweep(written(GOOD), out))  # seed 2 isn't among its cells
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds no sweep"):
        claim(read_sweep(written(GOOD), tmp_path / "full"))


@pytest.mark.parametrize("name", shipped())
def test_every_sweep_that_comes_along_has_cells_that_train_agent_understands(name, capsys):
    assert guarded(sweep_agents.main, ["list", name]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(read_sweep(__import__("pathlib").Path(name)).cells)


def test_without_ray_a_line_says_what_to_install(written, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert guarded(sweep_agents.main, ["run", str(written(GOOD)), "--out", str(tmp_path / "o")]) == 3
    assert "pip install 'arcturus[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_cell_larger_than_the_machine_is_one_error(written, capsys, tmp_path):
    pytest.importorskip("ray")
    assert guarded(sweep_agents.main, ["run", str(written(GOOD + "cpus: 1000")), "--out", str(tmp_path / "o")]) == 2
    assert "a cell takes 1000 cpus" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_cluster_that_does_not_answer_is_one_error(written, capsys, tmp_path):
    pytest.importorskip("ray")
    for address, code in (("127.0.0.1:9", 3), ("nowhere", 2)):
        assert guarded(sweep_agents.main, ["run", str(written(GOOD)), "--out", str(tmp_path / "o"), "--address", address]) == code
        assert "--address" in capsys.readouterr().err
