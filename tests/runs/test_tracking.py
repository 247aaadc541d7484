"""A tracker gets what TensorBoard gets, every step once, also over a stop; and whatever it does, the run goes on as without it."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

import arcturus
from arcturus.runs.checkpoint import Checkpoints
from arcturus.scripts import evaluate_agent, train_agent
from arcturus.scripts.frontend import guarded
from arcturus.tracking import follow as following
from arcturus.tracking import start, trackers

RUN = {"steps": 1_200, "eval_every": 400, "log_every": 100, "heldout_states": 0, "eval_episodes": 2, "checkpoint_every": 400}


class Recorder:
    """A tracker that only remembers."""

    made: list[Recorder] = []
    broken = 0  # calls that fail from now on

    def __init__(self, run):
        self.run, self.sent, self.films, self.status = run, [], [], None
        self.made.append(self)

    def send(self, step, scalars, pictures):
        if Recorder.broken:
            Recorder.broken -= 1
            raise ConnectionError("no network")
        self.sent.append((step, dict(scalars), dict(pictures)))

    def film(self, path):
        self.films.append(path)

    def end(self, status):
        self.status = status


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Recorder)
    monkeypatch.setattr(following, "AGAIN", (0.01, 0.01))
    monkeypatch.setattr(following, "LAST_WORDS", 0.3)
    Recorder.made, Recorder.broken = [], 0
    return Recorder


def followed(path, films=()):
    (path / "tracking").mkdir(exist_ok=True)
    return following.follow(path, "wandb", lambda: True, films)


def logged(path):
    """(step, tag) -> value of metrics.jsonl."""
    return {(r["step"], tag): v for r in arcturus.read_metrics(path) for tag, v in r.items() if tag not in ("step", "time")}


def test_all_that_is_logged_is_sent_once_with_the_settings_and_the_pictures(recorder, small_run, tmp_path):
    run = small_run(tmp_path / "r", **RUN, env="ALE/Pong-v5", env_config={"frame_size": 42}, agent_config={"learning_starts": 5_000},
                    eval_max_steps=20)  # fmt: skip
    assert followed(run.path) == 0
    (tracker,) = recorder.made
    steps = [step for step, _, _ in tracker.sent]
    assert steps == sorted(set(steps))
    sent = {(step, tag): value for step, scalars, _ in tracker.sent for tag, value in scalars.items()}
    expected = logged(run.path)
    assert {key for key in sent if key[1].split("/")[0] in {tag.split("/")[0] for _, tag in expected}} == set(expected)
    assert all(sent[key] == pytest.approx(value, rel=1e-6) for key, value in expected.items())
    pictures = {tag: png for _, _, shown in tracker.sent for tag, png in shown.items()}
    assert Image.open(io.BytesIO(pictures["network/first_layer_filters"])).size[0] > 8
    assert tracker.run.config["agent.learning_starts"] == 5_000
    assert (tracker.run.id, tracker.status) == (run.about["id"], "finished")
    assert followed(run.path, [tmp_path / "f.mp4"]) == 0
    assert (recorder.made[-1].sent, recorder.made[-1].films) == ([], [tmp_path / "f.mp4"])


def test_steps_that_a_resumed_run_logs_again_are_not_sent_again(recorder, small_run, tmp_path, stop_at):
    stop_at(700)
    run = small_run(tmp_path / "r", **RUN)
    assert followed(run.path) == 0
    assert recorder.made[0].status == "preempted"
    arcturus.resume(run.path, quiet=True)
    assert followed(run.path) == 0
    assert recorder.made[0].run.id == recorder.made[1].run.id
    steps = [step for tracker in recorder.made for step, _, _ in tracker.sent]
    assert steps == sorted(set(steps))
    assert {step for step, _ in logged(run.path)} <= set(steps)


def test_a_tracker_that_fails_for_a_while_gets_everything_and_one_that_fails_for_ever_is_given_up(recorder, small_run, tmp_path):
    run = small_run(tmp_path / "r", **RUN)
    recorder.broken = 2
    assert followed(run.path) == 0
    assert {step for step, _ in logged(run.path)} <= {step for step, _, _ in recorder.made[0].sent}
    (run.path / "tracking" / "wandb.json").unlink()
    recorder.broken = 1_000
    assert followed(run.path) == 1


def test_a_step_is_sent_only_when_nothing_more_can_be_added_to_it(recorder, small_run, tmp_path):
    run = small_run(tmp_path / "r", **RUN)
    events = following.Events(run.path / "tensorboard")
    before, last = list(events.new()), list(events.new(last=True))
    assert len(last) == 1
    assert last[0][0] > before[-1][0]
    assert list(events.new(last=True)) == []


PACKAGE = {"fails": "raise RuntimeError('no account')", "hangs": "import time; time.sleep(1_000)", "crashes": "import os; os.abort()"}


@pytest.mark.parametrize("kind", PACKAGE)
def test_a_tracker_that_fails_hangs_or_crashes_changes_nothing(kind, small_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(PACKAGE[kind])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setattr(start, "PATIENCE", 3.0)
    monkeypatch.setattr(start, "find_spec", lambda name: True)
    monkeypatch.setattr(start.Trackers.let_go, "__defaults__", (3.0,))
    plain = small_run(tmp_path / "plain", **RUN)
    tracked = small_run(tmp_path / "tracked", **RUN, track="wandb")
    assert tracked.about["status"] == "finished"
    assert "wandb" in capsys.readouterr().err
    manifests = [json.loads((Checkpoints(run.path).find() / "manifest.json").read_text()) for run in (plain, tracked)]
    assert manifests[0]["files"]["tensors.safetensors"] == manifests[1]["files"]["tensors.safetensors"]
    subprocess.run(["pkill", "-f", f"tracking.follow {tracked.path}"], check=False)


def test_an_unknown_or_missing_tracker_is_one_error_before_anything_is_made(tmp_path, capsys, monkeypatch):
    line = ["ppo", "--env", "CartPole-v1", "--run-dir", str(tmp_path / "r"), "--track"]
    assert guarded(train_agent.main, [*line, "wandbb"]) == 2
    assert "wandb" in capsys.readouterr().err
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    assert guarded(train_agent.main, [*line, "mlflow"]) == 3
    assert "arcturus[mlflow]" in capsys.readouterr().err
    assert guarded(evaluate_agent.main, [str(tmp_path), "--track", "mlflow"]) in (2, 3)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("argv", "says"), [([], "are needed"), (["none", "wandb"], "not a run folder"), (["none", "wnadb"], "wandb")])
def test_following_by_hand_answers_mistakes_in_a_line(argv, says, capsys):
    assert guarded(following.main, argv) == 2
    assert says in capsys.readouterr().err


# -- the real ones, offline ------------------------------------------------------------------------------------------------------


def records(path):
    """What a .wandb file holds: records in LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, []
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, last
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def of_wandb(path, run):
    files = sorted(path.glob("wandb/offline-run-*/*.wandb"))
    for file in files:
        for record in records(file):
            if record.WhichOneof("record_type") == "history":
                items = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
                if "charts/episodic_return" in items:
                    yield items["_step"], items["charts/episodic_return"]


def of_mlflow(path, run):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{path}/mlflow.db")
    (mine,) = client.search_runs([client.get_experiment_by_name("arcturus").experiment_id])
    assert mine.data.params["agent.learning_rate"]
    assert mine.info.status == "FINISHED"
    for metric in client.get_metric_history(mine.info.run_id, "charts/episodic_return"):
        yield metric.step, metric.value


def of_trackio(path, run):
    import sqlite3

    with sqlite3.connect(path / "trackio" / "arcturus.db") as db:
        for step, metrics in db.execute("select step, metrics from metrics order by step"):
            told = json.loads(metrics)
            if "charts/episodic_return" in told:
                yield step, told["charts/episodic_return"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "read"), [("wandb", of_wandb), ("mlflow", of_mlflow), ("trackio", of_trackio)])
def test_real_trackers_hold_the_same_curve_after_a_stop_and_a_resume(name, read, tmp_path):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    env = {**os.environ, "WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio"), "TRACKIO_OFFLINE": "1",
           "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}  # fmt: skip
    line = [sys.executable, "-m", "arcturus.scripts.train_agent", "a2c", "--env", "CartPole-v1", "--steps", "3000", "--track", name,
            "--run-dir", str(tmp_path / "r"), "--deterministic", "True", "--heldout-states", "0", "--eval-every", "1000",
            "--start-or-resume"]  # fmt: skip
    first = subprocess.Popen(line, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "r" / "metrics.jsonl").exists() and first.poll() is None:
        time.sleep(0.05)
    first.terminate()
    assert first.wait(60) in (0, 143)
    for _ in range(2):
        assert subprocess.run(line, env=env, cwd=tmp_path, capture_output=True).returncode == 0
    run = arcturus.Run(tmp_path / "r")
    deadline = time.monotonic() + 60
    while json.loads((run.path / "tracking" / f"{name}.json").read_text())["sent"] < 3_000 and time.monotonic() < deadline:
        time.sleep(0.5)
    expected = {step: value for (step, tag), value in logged(run.path).items() if tag == "charts/episodic_return"}
    found = list(read(tmp_path, run))
    assert len(found) == len(dict(found)) == len(expected)
    np.testing.assert_allclose([dict(found)[step] for step in expected], list(expected.values()), rtol=1e-6)
