"""Tables of docs/results.md are those of the JSON kept beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import arcturus
from arcturus.errors import ConfigError
from arcturus.runs import folder
from arcturus.scripts import evaluate_agent
from tools import results

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["few-steps-beginnings", "few-steps-second"])
def test_the_table_of_switches_for_few_steps_is_made_from_its_runs(name):
    kept = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    games = sorted({run["game"] for run in kept["runs"]})
    found = {(run["variant"], run["game"]): run for run in kept["runs"]}
    for variant in {run["variant"] for run in kept["runs"]}:
        cells = []
        for game in games:
            run = found.get((variant, game))
            cells.append(f"{run['mean']:g} [{run['ci_low']:g}, {run['ci_high']:g}]" if run else "-")
        assert f"| `{variant}` | {' | '.join(cells)} |" in page
    assert kept["commit"] in page


def test_every_table_of_the_page_is_made_from_the_numbers_kept_beside_it():
    text = results.PAGE.read_text(encoding="utf-8")
    assert results.page(text) == text
    kept = {path.stem for path in results.KEPT.glob("*.json")} & results.TABLES.keys()
    assert sorted(name for _, name, _ in results.BLOCK.findall(text)) == sorted(kept)
    for name in kept:
        told = json.loads((results.KEPT / f"{name}.json").read_text(encoding="utf-8"))
        assert all(one["commit"] for one in told.get("runs") or told["rows"])


def test_a_runs_score_is_kept_once_however_often_it_is_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "source_commit", lambda: "0123456")
    run = arcturus.train("ppo", "CartPole-v1", steps=400, run_dir=tmp_path / "r", quiet=True, device="cpu", eval_every=0)
    into = tmp_path / "kept.json"
    with pytest.raises(ConfigError, match="no score yet"):
        results.main(["keep", str(run.path), "--into", str(into)])
    for seed in ("3", "4"):
        evaluate_agent.main([str(run.path), "--episodes", "3", "--seed", seed])
        results.main(["keep", str(run.path), "--into", str(into)])
    (one,) = json.loads(into.read_text())["runs"]
    report = json.loads(next(run.path.glob("evaluations/*seed4/evaluation.json")).read_text())
    assert (one["mean"], one["episodes"], one["commit"], one["steps"]) == (report["score"]["mean"], 3, "0123456", 400)
    assert one["core_seconds"] > 0
    arcturus.resume(run.path, steps=800, quiet=True)
    with pytest.raises(ConfigError, match="no score yet"):  # not the old score beside the new steps
        results.main(["keep", str(run.path), "--into", str(into)])


@pytest.mark.parametrize("made_at", [None, "0123456-changed"])
def test_a_run_of_code_that_nobody_can_find_again_is_not_kept(made_at, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "source_commit", lambda: made_at)
    run = arcturus.train("ppo", "CartPole-v1", steps=400, run_dir=tmp_path / "r", quiet=True, device="cpu", eval_every=0)
    evaluate_agent.main([str(run.path), "--episodes", "1"])
    with pytest.raises(ConfigError, match="in no commit"):
        results.main(["keep", str(run.path), "--into", str(tmp_path / "kept.json")])


def test_tables_say_what_their_numbers_say():
    def run(agent, env, seed, mean):
        told = {"agent": agent, "env": env, "seed": seed, "mean": mean, "ci95": [mean - 1, mean + 1], "minutes": 9.0, "core_seconds": 500.0}
        return told | {"steps": 100_000}

    runs = [run("ppo", "A-v0", 0, 5.0), run("ppo", "A-v0", 1, 3.0), run("dqn", "A-v0", 0, 4.0)]
    assert results.first_tasks({"thresholds": {"A-v0": 4, "B-v0": 1}, "runs": runs}).splitlines()[3:] == [
        "| ppo | 5, 3 | - |",
        "| dqn | **4** | - |",
    ]
    human = [run("c51", "ALE/Pong-v5", 0, 14.6), run("c51", "ALE/Boxing-v5", 0, 0.1), run("c51", "ALE/Boxing-v5", 1, 12.1)]
    table = results.atari57({"runs": human})
    assert "| Pong | 0 | 14.6 [13.6, 15.6] | -20.7 | 1.000 |" in table  # the human's score
    assert "| c51, `atari100k-cpu` | 0.750 | 0.750 | 0.750 | 0.250 |" in table  # Boxing counts once, with its mean of 0 and 1
