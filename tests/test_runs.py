"""Runs: what a folder holds, going on after a stop, and what a damaged file may do (nothing)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import arcturus
from arcturus.errors import ArcturusError, CheckpointError, ConfigError, TrainingFailed
from arcturus.runs.checkpoint import Checkpoints, flatten, unflatten
from arcturus.runs.folder import Run
from arcturus.runs.monitor import WALL_CLOCK, Monitor

FAST = {"capacity": 600, "learn_start": 64, "batch_size": 16, "epsilon_steps": 500}
OPTIONS = {"heldout_states": 16, "quiet": True, "device": "cpu", "eval_episodes": 2}


def train(path, steps=1200, agent=FAST, **options):
    return arcturus.train("dqn", "CartPole-v1", steps=steps, run_dir=path, agent_config=agent, **(OPTIONS | options))


def weights(run, which="last"):
    return arcturus.load(run, which).network.state_dict()


def numbers(run):
    """metrics.jsonl without what the clock says."""
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in arcturus.read_metrics(run)]


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "whole", checkpoint_every=400, log_every=100, eval_every=300)


def test_a_run_folder_holds_what_the_readme_says(finished):
    assert finished.status == "finished"
    about = finished.about
    assert about["steps"] == 1200
    assert torch.__version__.startswith(about["versions"]["torch"].split("+")[0])
    names = {p.name for p in finished.path.iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "tensorboard", "checkpoints", "replay"} <= names
    kept = sorted(p.name for p in (finished.path / "checkpoints").iterdir())
    assert [k for k in kept if k.startswith("step")] == ["step-000000000800", "step-000000001200"]
    assert len([k for k in kept if k.startswith("best")]) == 1
    tags = set().union(*(r.keys() for r in arcturus.read_metrics(finished)))
    assert {"charts/SPS", "charts/episodic_return", "charts/epsilon", "losses/td_loss", "health/grad_norm", "health/replay_fill",
            "charts/heldout_max_q", "health/dead_units/relu1", "health/activation_std/relu2",
            "eval/episodic_return_mean"} <= tags  # fmt: skip


def test_tensorboard_reads_the_run(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"charts/episodic_return", "charts/heldout_max_q", "eval/episodic_return_mean"} <= set(tags["scalars"])
    written = [r["step"] for r in arcturus.read_metrics(finished) if "charts/epsilon" in r]
    assert [e.step for e in events.Scalars("charts/epsilon")] == written
    assert (finished.path / "tensorboard" / "projector_config.pbtxt").exists()


def test_a_resumed_run_ends_as_one_that_never_stopped(finished, tmp_path):
    """Stopped at its second checkpoint, in a copy of its folder as it was then."""
    short = train(tmp_path / "short", checkpoint_every=400, log_every=100, eval_every=300, steps=1200)
    shutil.rmtree(short.path / "checkpoints" / "step-000000001200")
    short.update(status="failed")
    resumed = arcturus.resume(short, quiet=True)
    assert resumed.status == "finished"
    assert same(weights(resumed), weights(finished))
    assert numbers(resumed) == numbers(finished)
    one, two = (Checkpoints(r.path).load_newest() for r in (resumed, finished))
    assert one[1]["replay"]["segments"] == two[1]["replay"]["segments"]
    assert one[1]["files"]["tensors.safetensors"] == two[1]["files"]["tensors.safetensors"]


def test_evaluating_and_watching_do_not_change_training_by_a_bit(finished, tmp_path):
    blind = train(tmp_path / "blind", checkpoint_every=400, log_every=600, eval_every=0, heldout_states=0)
    assert same(weights(blind), weights(finished))


def test_a_finished_run_goes_on_to_more_steps(tmp_path):
    run = train(tmp_path / "r", steps=400)
    with pytest.raises(ConfigError, match="400 steps already"):
        arcturus.resume(run, quiet=True)
    assert arcturus.resume(run, steps=640, quiet=True).about["steps"] == 640


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on(tmp_path, number):
    command = [sys.executable, "-m", "arcturus.scripts.train_agent"]
    flags = "dqn --env CartPole-v1 --steps 400000 --heldout-states 0 --eval-every 0 --log-every 200 --device cpu".split()
    path = tmp_path / "r"
    process = subprocess.Popen([*command, *flags, "--run-dir", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    metrics = path / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.stat().st_size > 500:
            break
        time.sleep(0.1)
    process.send_signal(number)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 128 + number, out
    run = Run(path)
    assert run.status == "preempted"
    assert "train-agent resume" in out
    steps = run.about["steps"]
    assert steps > 0
    assert arcturus.resume(run, steps=steps + 400, quiet=True).about["steps"] >= steps + 400


# -- checkpoints --------------------------------------------------------------------------------------------------------


def test_nested_state_survives():
    state = {"a": {"b.c": torch.arange(3), "d": {}}, "n": 3, "none": None, "list": [1.5, "x"]}
    back = unflatten(*flatten(state))
    assert torch.equal(back["a"].pop("b.c"), state["a"].pop("b.c"))
    assert back == state
    with pytest.raises(ValueError, match="slash"):
        flatten({"a/b": 1})


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "swap"])
@pytest.mark.parametrize("what", ["tensors.safetensors", "state.json", "manifest.json", "segment"])
def test_damage_is_seen_and_the_checkpoint_before_is_taken(finished, tmp_path, damage, what, capsys):
    path = tmp_path / "r"
    shutil.copytree(finished.path, path)
    checkpoints = Checkpoints(path)
    newest, before = checkpoints.resumable()[::-1][:2]
    if what == "segment":
        theirs = json.loads((before / "manifest.json").read_text())["replay"]["segments"]
        name = next(s for s in json.loads((newest / "manifest.json").read_text())["replay"]["segments"] if s not in theirs)
        file = path / "replay" / name
    else:
        file = newest / what
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "delete":
        file.unlink()
    elif what == "segment":
        file.write_bytes((path / "replay" / theirs[0]).read_bytes())
    else:
        file.write_bytes((before / what).read_bytes())
    state, _ = checkpoints.load_newest()
    assert state["steps"] == 800
    assert "passed over" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_says_so(tmp_path, finished):
    path = tmp_path / "r"
    shutil.copytree(finished.path, path)
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(CheckpointError, match="none yet"):
        arcturus.resume(path, quiet=True)
    with pytest.raises(CheckpointError, match="no checkpoint 'last'"):
        arcturus.load(path)
    with pytest.raises(CheckpointError, match="no checkpoint '7'") as e:
        arcturus.load(finished, "7")
    assert e.value.exit_code == 5
    assert "step-000000001200" in str(e.value)


def test_non_finite_weights_are_never_written(tmp_path):
    c = Checkpoints(tmp_path)
    c.save(1, {"agent": {"w": torch.ones(2)}})
    with pytest.raises(TrainingFailed, match="agent/w"):
        c.save(2, {"agent": {"w": torch.tensor([1.0, float("nan")])}})
    assert [p.name for p in c.resumable()] == ["step-000000000001"]
    assert not list((tmp_path / "checkpoints").glob(".tmp*"))


def test_another_agents_checkpoint_is_refused(finished, tmp_path):
    path = tmp_path / "r"
    shutil.copytree(finished.path, path)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("CartPole-v1", "Acrobot-v1"))
    with pytest.raises(CheckpointError, match="doesn't fit"):
        arcturus.load(path)


def test_segments_are_written_once_and_shared(tmp_path, counter, random_actor, monkeypatch):
    import numpy as np

    from arcturus.loop import run
    from arcturus.replay.ring import Ring
    from arcturus.runs import checkpoint

    monkeypatch.setattr(checkpoint, "SEGMENT_STEPS", 30)
    envs, rows = counter(3), []
    for row in run(envs, random_actor(), steps=600, seeds=lambda: np.arange(3), generator=torch.Generator()):
        rows.append(row.step)
    ring, c = Ring(150, envs.spec, "cpu"), Checkpoints(tmp_path)
    written = []
    for i, step in enumerate(rows, 1):
        ring.append(step)
        if i % 25 == 0:
            c.save(i, {"x": 1}, ring, keep=2)
            written.append({p.name: p.stat().st_mtime_ns for p in c.segments.glob("seg-*")})
    for old, new in zip(written, written[1:], strict=False):
        shared = old.keys() & new.keys()
        assert all(old[k] == new[k] for k in shared)
        assert shared
    assert len(written[-1]) <= 12  # two checkpoints of 50 rows in pieces of 10
    state, manifest = Checkpoints(tmp_path).load_newest()
    twin = Ring(150, envs.spec, "cpu")
    Checkpoints(tmp_path).load_replay(twin, manifest)
    assert twin.count == ring.count
    for name in ("frame", "action", "reward", "flags", "age"):
        assert torch.equal(getattr(ring, name), getattr(twin, name))


# -- folders, trust and logging -------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_left_alone(finished):
    before = (finished.path / "run.json").read_text()
    with pytest.raises(ConfigError, match="resume"):
        train(finished.path)
    assert (finished.path / "run.json").read_text() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ArcturusError, match="can't be written"):
        train(tmp_path / "r")


def test_a_run_never_imports_code_it_names_unless_trusted(finished, tmp_path, monkeypatch):
    path = tmp_path / "r"
    shutil.copytree(finished.path, path)
    (tmp_path / "evil_env.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (path / "config.yaml").read_text()
    for old, new in (("CartPole-v1", "evil_env:CartPole-v1"), ("name: dqn", "name: evil_env.agent")):
        (path / "config.yaml").write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match="--trust evil_env"):
            arcturus.load(path)
        with pytest.raises(ConfigError, match="--trust evil_env"):
            arcturus.resume(path, steps=5000, quiet=True)
    assert not (tmp_path / "sentinel").exists()


def test_a_log_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    assert train(tmp_path / "r", steps=400).status == "finished"
    err = capsys.readouterr().err
    assert err.count("TensorBoard is not written any more") == 1


def test_a_torn_last_line_of_metrics_is_left_out(finished, tmp_path):
    path = tmp_path / "r"
    path.mkdir()
    text = (finished.path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(text + '{"step": 99, "cha')
    assert len(arcturus.read_metrics(path)) == len(text.splitlines())


# -- faults that are not the user's ---------------------------------------------------------------------------------------


def test_a_full_disk_for_metrics_loses_no_line_at_resume_and_is_tried_again(tmp_path, monkeypatch):
    write = Monitor.scalars

    def failing(self, steps, values):
        if 500 < steps < 900:
            self.file_sink.failed = True  # as an OSError would leave it
        write(self, steps, values)

    monkeypatch.setattr(Monitor, "scalars", failing)
    run = train(tmp_path / "r", log_every=100, eval_every=0, checkpoint_every=400, steps=1200)
    steps = [r["step"] for r in arcturus.read_metrics(run)]
    assert min(steps) <= 104
    assert max(steps) >= 1200  # written again after the checkpoint at 800
    before = len(steps)
    arcturus.resume(run, steps=1600, quiet=True)
    assert len(arcturus.read_metrics(run)) > before


def test_a_new_total_of_steps_is_remembered(tmp_path):
    run = train(tmp_path / "r", steps=400)
    arcturus.resume(run, steps=800, quiet=True)
    assert Run(run.path).config().run.steps == 800


def test_best_weights_that_cannot_be_saved_do_not_end_the_run(tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        raise CheckpointError("best weights could not be written")

    monkeypatch.setattr(Checkpoints, "save_best", full)
    assert train(tmp_path / "r", steps=400, eval_every=100).status == "finished"


def test_weights_gone_bad_stop_the_run_with_their_name(tmp_path, monkeypatch):
    from arcturus.agents import dqn

    update = dqn.Agent._update

    def poisoned(self, batch):
        out = update(self, batch)
        if self.updates == 20:
            with torch.no_grad():
                self.network.head.bias.fill_(float("nan"))
        return out

    monkeypatch.setattr(dqn.Agent, "_update", poisoned)
    with pytest.raises(TrainingFailed, match="agent/network/") as e:
        train(tmp_path / "r", steps=2000, checkpoint_every=400, eval_every=0)
    assert e.value.exit_code == 4
    assert Run(tmp_path / "r").status == "failed"


def test_an_environment_that_raises_is_named_and_the_run_is_failed(tmp_path, monkeypatch):
    (tmp_path / "breaking.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Breaking(gym.Env):\n"
        "    observation_space = gym.spaces.Box(0, 1, (2,), np.float32); action_space = gym.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed); self.t = 0; return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        self.t += 1\n"
        "        if self.t == 60: raise ZeroDivisionError('no way')\n"
        "        return np.zeros(2, np.float32), 0.1, False, False, {}\n"
        "gym.register('Breaking-v0', entry_point=Breaking)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TrainingFailed, match="Breaking-v0 raised ZeroDivisionError: no way"):
        arcturus.train(
            "uniform", "breaking:Breaking-v0", steps=1000, run_dir=tmp_path / "r", quiet=True, eval_every=0, device="cpu"
        )
    assert Run(tmp_path / "r").status == "failed"


def test_two_runs_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        arcturus.train("uniform", "CartPole-v1", steps=16, quiet=True, device="cpu", eval_every=0)
    assert len(list((tmp_path / "runs").iterdir())) == 3
