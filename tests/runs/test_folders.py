"""A run and its folder: whose it is, what it depends on, what was damaged, and under which versions it went on."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import arcturus
from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.depending import PINNED, opened
from arcturus.runs.folder import FolderTaken, Run, versions
from arcturus.runs.monitor import Monitor

OPTIONS = {"eval_every": 0, "heldout_states": 0, "log_every": 40}


def flip(path, at=-100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# -- whose it is -------------------------------------------------------------------------------------------------------------------


def test_a_run_never_writes_into_the_folder_of_another(small_run, tmp_path, monkeypatch):
    """Its folder is removed while it trains, and another run begins there: both would write into it, and resume mixed them."""
    small_run(tmp_path / "other", 200, seed=1, **OPTIONS)
    there = {p: p.read_bytes() for p in (tmp_path / "other").rglob("*") if p.is_file()}
    row = Monitor.row

    def replaced(self, steps, metrics, finished):
        row(self, steps, metrics, finished)
        if steps == 480:
            shutil.rmtree(self.path)
            shutil.copytree(tmp_path / "other", self.path)

    monkeypatch.setattr(Monitor, "row", replaced)
    with pytest.raises(FolderTaken, match="now belongs to another run"):
        small_run(tmp_path / "r", checkpoint_every=200, **OPTIONS)
    assert {
        tmp_path / "other" / p.relative_to(tmp_path / "r"): p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()
    } == there


def test_a_folder_that_comes_back_is_locked_again(small_run, tmp_path, monkeypatch):
    row, seen = Monitor.row, []

    def removed(self, steps, metrics, finished):
        row(self, steps, metrics, finished)
        if steps == 480:
            shutil.rmtree(self.path)
        if steps == 880:
            with pytest.raises(CheckpointError, match="another process"), Run(self.path).locked():
                raise AssertionError("two hold the lock")
            seen.append(steps)

    monkeypatch.setattr(Monitor, "row", removed)
    run = small_run(tmp_path / "r", checkpoint_every=200, **OPTIONS)
    assert (run.status, seen) == ("finished", [880])


def test_files_of_a_run_have_one_mode(small_run, tmp_path):
    before = os.umask(0o002)
    try:
        run = small_run(tmp_path / "r", 200, **OPTIONS)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in run.path.rglob("*") if p.is_file()} == {0o664}


# -- what it depends on ------------------------------------------------------------------------------------------------------------


def test_a_student_reads_the_teacher_it_began_with_or_none(small_run, stop_at, tmp_path, monkeypatch):
    """The teacher's newest checkpoint was read again at each resume: other results, and no word."""
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "t", 400, **OPTIONS)
    stop_at(400)
    student = arcturus.train(
        "distill", "CartPole-v1", steps=800, run_dir="s", quiet=True, agent_config={"teachers": "t"},
        env_config={"num_envs": 4}, checkpoint_every=0, **OPTIONS,
    )  # fmt: skip
    kept = student.config().agent.teachers
    assert PINNED.fullmatch(kept)["run"] == str(tmp_path / "t")
    monkeypatch.chdir("/")  # a relative path means something else here
    assert opened(kept)[1].name == "step-000000000400"
    gone = shutil.move(tmp_path / "t" / "checkpoints", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="which no longer exists"):
        arcturus.resume(tmp_path / "s", quiet=True)
    shutil.copytree(gone, tmp_path / "t" / "checkpoints")
    flip(tmp_path / "t" / "checkpoints" / "step-000000000400" / "manifest.json")
    with pytest.raises(CheckpointError, match="which has changed"):
        arcturus.resume(tmp_path / "s", quiet=True)
    shutil.rmtree(tmp_path / "t" / "checkpoints")
    shutil.copytree(gone, tmp_path / "t" / "checkpoints")
    assert arcturus.resume(tmp_path / "s", quiet=True).status == "finished"


def test_init_from_keeps_which_checkpoint_it_was(small_run, tmp_path):
    small_run(tmp_path / "a", 200, **OPTIONS)
    run = small_run(tmp_path / "b", 200, init_from=str(tmp_path / "a"), **OPTIONS)
    assert PINNED.fullmatch(run.config().run.init_from)["checkpoint"] == "step-000000000200"
    with pytest.raises(ConfigError, match="is not a run folder"):
        small_run(tmp_path / "c", 200, init_from=str(tmp_path / "none"), **OPTIONS)
    assert not (tmp_path / "c").exists()


# -- what was damaged --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(small_run, tmp_path):
    return small_run(tmp_path / "r", 800, checkpoint_every=400, agent_config={"learning_starts": 200}, **OPTIONS)


def test_a_fork_of_damaged_checkpoints_is_refused(finished, tmp_path, capsys):
    """It began again at step 0, and exited 0."""
    for path in Checkpoints(finished.path).resumable():
        flip(path / "tensors.safetensors")
    with pytest.raises(CheckpointError, match="every checkpoint .* is damaged"):
        arcturus.resume(finished, steps=1200, fork=tmp_path / "f", quiet=True)
    assert capsys.readouterr().err.count("is left out") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_weights_outlive_a_damaged_replay(finished, capsys):
    for segment in (finished.path / "replay").glob("seg-*"):
        flip(segment)
    with pytest.raises(CheckpointError, match="digest") as e:
        arcturus.resume(finished, steps=1200, quiet=True)
    assert "--checkpoint.replay none continues without it, which is not an exact continuation" in e.value.fix
    capsys.readouterr()
    run = arcturus.resume(finished, steps=1200, quiet=True, checkpoint_replay="none")
    assert (run.status, run.about["steps"]) == ("finished", 1200)
    assert "not an exact continuation" in capsys.readouterr().err


def test_folders_named_like_checkpoints_are_passed_over_in_a_few_lines(finished, capsys):
    for i in range(50):
        (finished.path / "checkpoints" / f"step-{900 + i:012d}").mkdir()
    (finished.path / "checkpoints" / "step-mine").mkdir()
    assert arcturus.resume(finished, steps=1200, quiet=True).status == "finished"
    assert "step-000000000949 is skipped: it has no manifest.json, and so are 49 more" in (err := capsys.readouterr().err)
    assert len(err.splitlines()) <= 5


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "run.json"])
@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_a_pipe_or_a_folder_in_a_files_place_is_refused(finished, name, kind):
    (finished.path / name).unlink()
    os.mkfifo(finished.path / name) if kind == "fifo" else (finished.path / name).mkdir()
    with pytest.raises((CheckpointError, ConfigError)):
        arcturus.resume(finished.path, steps=1200, quiet=True)


# -- under which versions ----------------------------------------------------------------------------------------------------------


def test_every_start_is_recorded_and_other_versions_are_told(finished, capsys):
    about = finished.about
    about["versions"]["torch"] = "1.0.0"
    (finished.path / "run.json").write_text(json.dumps(about))
    run = arcturus.resume(finished, steps=1200)
    err = capsys.readouterr().err
    assert f"torch 1.0.0 -> {versions()['torch']}" in err
    assert "not an exact continuation" in err
    assert [start["step"] for start in run.about["starts"]] == [0, 800]
    assert run.about["versions"] == versions("CartPole-v1")
    arcturus.resume(run, steps=1600)
    assert "->" not in capsys.readouterr().err


def test_a_fork_with_another_teacher_keeps_which_checkpoint_it_was(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "a", 200, **OPTIONS)
    run = small_run(tmp_path / "b", 200, **OPTIONS)
    fork = arcturus.resume(run, fork=tmp_path / "c", steps=304, init_from="a", quiet=True)
    assert PINNED.fullmatch(fork.config().run.init_from)["run"] == str(tmp_path / "a")


def test_a_fork_is_told_that_the_versions_are_others(small_run, tmp_path, capsys):
    run = small_run(tmp_path / "a", 200, **OPTIONS)
    about = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(about | {"versions": about["versions"] | {"torch": "1.0"}}))
    arcturus.resume(run, fork=tmp_path / "c", steps=304)
    assert "torch 1.0 ->" in capsys.readouterr().err
