"""A cell is one command that may be given again and again, and is never run by two."""

from __future__ import annotations

import fcntl
import json
import threading
import time

import pytest

import arcturus
from arcturus.scripts import train_agent
from arcturus.scripts.frontend import guarded
from arcturus.sweeps import cell as cells
from arcturus.sweeps.cell import STATE, STOPPED, bring_forward
from arcturus.sweeps.progress import look

SHORT = ["--env", "CartPole-v1", "--steps", "600", "--eval-every", "0", "--heldout-states", "0", "--deterministic", "True"]


def test_start_or_resume_starts_goes_on_and_then_leaves_the_run_alone(tmp_path, capsys):
    line = ["a2c", *SHORT, "--run-dir", str(tmp_path / "r"), "--start-or-resume"]
    assert guarded(train_agent.main, line) == 0
    about = arcturus.Run(tmp_path / "r").about
    assert (about["status"], len(about["starts"])) == ("finished", 1)
    assert guarded(train_agent.main, line) == 0
    assert arcturus.Run(tmp_path / "r").about == about  # nothing was written
    assert guarded(train_agent.main, [*line, "--agent.gamma", "0.5"]) == 2  # not what has finished there
    assert "agent.gamma" in capsys.readouterr().err
    assert guarded(train_agent.main, [x.replace("600", "800") for x in line]) == 0
    longer = arcturus.Run(tmp_path / "r").about
    assert longer["steps"] >= 800
    assert len(longer["starts"]) == 2
    assert guarded(train_agent.main, [*line, "--agent.gamma", "0.5", "--steps", "900"]) == 2
    assert "agent.gamma" in capsys.readouterr().err


def test_start_or_resume_needs_a_folder(capsys):
    assert guarded(train_agent.main, ["a2c", *SHORT, "--start-or-resume"]) == 2
    assert "--run-dir" in capsys.readouterr().err


def test_a_cell_waits_while_another_process_has_its_lock_and_leaves_when_asked_to(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "_run", lambda *args: pytest.fail("it must not run"))
    (tmp_path / STATE).mkdir()
    with open(tmp_path / STATE / "c.lock", "w") as other:
        fcntl.flock(other.fileno(), fcntl.LOCK_EX)
        assert look(tmp_path, {"c": [["train-agent"]]})[0].state == "running"
        ended = []
        thread = threading.Thread(target=lambda: ended.append(bring_forward(str(tmp_path), "c", json.dumps([["train-agent"]]), "t")))
        thread.start()
        time.sleep(1.0)
        assert not ended
        (tmp_path / STATE / "stop").mkdir()
        (tmp_path / STATE / "stop" / "t").touch()
        thread.join(timeout=20)
    assert ended == [STOPPED]


def test_a_cell_is_trained_and_scored_once_and_its_codes_are_kept(tmp_path):
    run = ["--env", "CartPole-v1", "--run-dir", str(tmp_path / "c"), "--steps", "300", "--eval-every", "0", "--start-or-resume"]
    commands = [["train-agent", "a2c", *run], ["evaluate-agent", str(tmp_path / "c"), "--episodes", "2"]]
    assert bring_forward(str(tmp_path), "c", json.dumps(commands), "t") == 0
    assert len(list((tmp_path / "c" / "evaluations").iterdir())) == 1
    assert bring_forward(str(tmp_path), "c", json.dumps(commands), "t") == 0
    (report,) = (tmp_path / "c" / "evaluations").glob("*/evaluation.json")
    assert json.loads(report.read_text())["number"] == 1  # it wasn't scored again
    assert json.loads((tmp_path / STATE / "c.json").read_text()) == {"codes": [0, 0], "scored": commands[-1]}
    (found,) = look(tmp_path, {"c": commands})
    assert (found.state, found.steps, found.total) == ("done", 304, 300)  # 16 environments step at once
    (found,) = look(tmp_path, {"c": [commands[0], [*commands[1], "--seed", "1"]]})
    assert found.state == "stopped", "it is to be scored in another way"


def test_what_failed_by_itself_is_told_from_what_failed_with_its_machine(tmp_path):
    assert bring_forward(str(tmp_path), "d", json.dumps([["train-agent", "a2c", "--agent.gamma", "7"]]), "t") == 2
    (found,) = look(tmp_path, {"d": [["train-agent"]]})
    assert found.state == "failed"
    assert "error: " in found.note
    (tmp_path / STATE / "d.json").write_text('{"codes": [2, 137]}')
    assert look(tmp_path, {"d": [["train-agent"]]})[0].state == "waiting"  # it is tried again
