"""The policies that come along: all of them load, are small, and play as well as is said of them; and none can be mistaken for a run
that training could go on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import arcturus
from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.folder import Run
from arcturus.scoring.sequences import parse_lengths, score_lengths
from arcturus.scripts import evaluate_agent
from arcturus.scripts.export_agent import main

HERE = Path(__file__).parents[2] / "pretrained"
NAMES = sorted(p.name for p in HERE.iterdir() if p.is_dir())
MOST_BYTES = 8_000_000


def test_there_are_two_games_and_a_turing_machine():
    runs = [Run(HERE / name).config() for name in NAMES]
    assert len({c.env.id for c in runs if c.env.id.startswith("ALE/")}) >= 2
    assert any(c.env.id.startswith("NTM/") and c.agent.core == "ntm" for c in runs)
    told = (HERE / "README.md").read_text()
    assert all(f"`{name}`" in told for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_loads(name):
    assert sum(f.stat().st_size for f in (HERE / name).rglob("*") if f.is_file()) <= MOST_BYTES
    actor = arcturus.load(HERE / name)
    assert actor.step > 0
    assert actor.config.run.run_dir == f"pretrained/{name}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("pong-dqn", 0), ("kungfu-dqn", 5_000), ("kungfu-ppo", 5_000), ("enduro-dqn", 100)])
def test_the_games_are_played_well(name, least):
    """Far above random play (-20, 470, 0), far below what is said, as two games say little."""
    actor = arcturus.load(HERE / name)
    assert arcturus.evaluate(actor, actor.config.env, episodes=2, num_envs=2).mean > least


@pytest.mark.parametrize("name", ["copy-ppo", "copy-teacher"])
def test_the_turing_machines_copy(name):
    actor = arcturus.load(HERE / name)
    assert score_lengths(actor, actor.config.env, parse_lengths("5"), 50, seed=0, device="cpu")[0].exact >= 0.95


def test_a_policy_plays_as_its_run_and_training_cannot_go_on_from_it(finished, tmp_path, capsys):
    assert main([str(finished.path), "--to", "policy", str(tmp_path / "p")]) == 0
    assert "evaluate-agent" in capsys.readouterr().out
    whole, policy = arcturus.load(finished), arcturus.load(tmp_path / "p")
    assert whole.step == policy.step
    tensors = policy.network.state_dict()
    assert all(torch.equal(v, tensors[k]) for k, v in whole.network.state_dict().items())
    scores = [arcturus.evaluate(actor, "CartPole-v1", episodes=3).scores for actor in (whole, policy)]
    assert scores[0] == scores[1]
    with pytest.raises(CheckpointError):
        arcturus.resume(shutil.copytree(tmp_path / "p", tmp_path / "q"), steps=2000, quiet=True)
    with pytest.raises(ConfigError, match="not empty|exists"):
        main([str(finished.path), "--to", "policy", str(tmp_path / "p")])


def test_a_policys_card_says_how_it_was_trained_and_what_it_scores(tmp_path, capsys):
    run = arcturus.train("ppo", "CartPole-v1", steps=600, run_dir=tmp_path / "r", quiet=True, device="cpu", eval_every=0, heldout_states=0,
                         seed=3, agent_config={"gamma": 0.95})  # fmt: skip
    assert main([str(run.path), "--to", "policy", str(tmp_path / "unscored")]) == 0
    assert "was not scored" in (tmp_path / "unscored" / "MODEL_CARD.md").read_text()
    assert not (tmp_path / "unscored" / "still.png").exists()
    evaluate_agent.main([str(run.path), "--episodes", "5", "--floors"])
    assert main([str(run.path), "--to", "policy", str(tmp_path / "p")]) == 0
    card = (tmp_path / "p" / "MODEL_CARD.md").read_text()
    score = json.loads(next(run.path.glob("evaluations/*/evaluation.json")).read_text())["score"]
    assert f"| ppo | {score['mean']:.2f} [{score['ci95_low']:.2f}, {score['ci95_high']:.2f}] |" in card
    assert card.count("best constant action (") == card.count("| random play |") == 1
    assert "`agent.gamma 0.95`" in card
    assert "| seed | 3 |" in card
    with Image.open(tmp_path / "p" / "still.png") as still:
        assert still.convert("L").getextrema()[1] > 100
    assert arcturus.load(tmp_path / "p").step == 600
    arcturus.resume(run.path, steps=1200, quiet=True)  # a newer checkpoint's evaluation is neither its score nor its picture
    evaluate_agent.main([str(run.path), "--episodes", "1", "--seed", "9"])
    assert main([str(run.path), "--checkpoint", "600", "--to", "policy", str(tmp_path / "older")]) == 0
    older = tmp_path / "older"
    assert (older / "still.png").read_bytes() == (tmp_path / "p" / "still.png").read_bytes()
    kept = [line for line in card.splitlines() if line.startswith(("| ppo |", "| random", "| command", "| agent steps"))]
    assert len(kept) == 4
    assert set(kept) <= set((older / "MODEL_CARD.md").read_text().splitlines())


def test_each_is_opened_by_its_name_where_no_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {Run(name).path.resolve() for name in NAMES} == {HERE / name for name in NAMES}
    (tmp_path / "pong-dqn").mkdir()
    with pytest.raises(ConfigError, match="not a run folder"):
        Run("pong-dqn")


@pytest.mark.parametrize(("name", "told"), [("pong-dqm", "did you mean pong-dqn"), ("tennis", "policies: copy-ppo, copy-teacher")])
def test_a_policy_that_does_not_exist_is_one_clear_line(name, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="does not exist") as error:
        arcturus.load(name)
    assert told in (error.value.fix or "")
    (tmp_path / "mine").mkdir()
    for there in ("mine", tmp_path / "no" / "run"):  # a folder, or a path: no name is meant
        with pytest.raises(ConfigError) as error:
            arcturus.load(there)
        assert error.value.fix == "give a folder that train-agent made"
