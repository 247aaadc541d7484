"""score_table: the same command again goes on where it was, and the table says what was measured."""

from __future__ import annotations

import json

import pytest

from arcturus.errors import ConfigError
from tools import score_table


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(score_table, "EPISODES", 1)


@pytest.mark.slow
def test_the_table_goes_on_and_is_never_trained_twice(quick, tmp_path, capsys, stop_at):
    command = ["--out", str(tmp_path), "--games", "Pong", "--agents", "uniform,a2c", "--steps", "1600", "--env-threads", "1"]
    command += ["--eval-every", "0", "--heldout-states", "0"]
    stop_at(200)
    assert score_table.main(command) == 143
    folders = sorted(p.name for p in tmp_path.iterdir() if p.is_dir())
    assert folders == ["Pong-uniform-s0"]
    assert score_table.main(command) == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("evaluation.json")}
    assert len(before) == 2
    capsys.readouterr()
    assert score_table.main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("evaluation.json")} == before
    table = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == table
    score = json.loads(next(iter(before)).read_text())["score"]["mean"]
    assert f"**{score:,.1f}**" in table
    assert "| Pong | a2c, cpu-small | 0 | 1,600 |" in table
    assert "20.25" not in table.replace("20.2", "")  # CleanRL has no A2C


def test_a_human_is_marked_where_passed_and_nowhere_else(tmp_path, small_run):
    for folder, mean in (("a", 100.0), ("b", 5.0)):
        run = small_run(tmp_path / folder, 80, env="ALE/Breakout-v5", eval_every=0, heldout_states=0, env_config={"frame_size": 42},
                        agent_config={"learning_starts": 5000})  # fmt: skip
        kept = run.path / "evaluations" / "x"
        kept.mkdir(parents=True)
        score = {"mean": mean, "ci95_low": mean - 1, "ci95_high": mean + 1, "episodes": 30}
        report = {"score": score, "checkpoint": 80, "protocol_rules": "rules", "policy": "greedy"}
        (kept / "evaluation.json").write_text(json.dumps(report))
    lines = score_table.write_table(tmp_path).splitlines()
    assert "31.0 (**passed**)" in lines[2]
    assert "passed" not in lines[3]
    assert "| 366.9 |" in lines[2]


@pytest.mark.parametrize(("wrong", "said"), [(["--games", "Pnog"], "Pong"), (["--seeds", "a"], "seeds")])
def test_what_is_not_there_is_named(tmp_path, wrong, said):
    with pytest.raises(ConfigError, match=said):
        score_table.main(["--out", str(tmp_path), *wrong])
    assert not list(tmp_path.iterdir())
