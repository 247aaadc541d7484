"""Runs: what a folder holds, going on after a stop, and what a damaged file may do (nothing)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

import arcturus
from arcturus.errors import ArcturusError, ConfigError
from arcturus.runs.folder import Run
from arcturus.runs.monitor import WALL_CLOCK

FAST = {"capacity": 600, "learning_starts": 64, "batch_size": 16, "epsilon_steps": 500}
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


def test_evaluating_and_watching_do_not_change_training_by_a_bit(finished, tmp_path):
    blind = train(tmp_path / "blind", checkpoint_every=400, log_every=600, eval_every=0, heldout_states=0)
    assert same(weights(blind), weights(finished))


def test_a_finished_run_goes_on_to_more_steps(tmp_path):
    run = train(tmp_path / "r", steps=400)
    with pytest.raises(ConfigError, match="400 steps already"):
        arcturus.resume(run, quiet=True)
    assert arcturus.resume(run, steps=640, quiet=True).about["steps"] == 640


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


def test_a_run_outlives_the_name_of_its_preset(finished, tmp_path):
    """Presets are renamed from version to version; a run's folder holds every setting by itself."""
    path = tmp_path / "r"
    shutil.copytree(finished.path, path)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("preset: classic", "preset: of-old"))
    assert Run(path).config().preset == "of-old"
    assert Run(path).config().agent == finished.config().agent
    assert same(weights(Run(path)), weights(finished))


def test_a_torn_last_line_of_metrics_is_left_out(finished, tmp_path):
    path = tmp_path / "r"
    path.mkdir()
    text = (finished.path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(text + '{"step": 99, "cha')
    assert len(arcturus.read_metrics(path)) == len(text.splitlines())


# -- faults that are not the user's ---------------------------------------------------------------------------------------


def test_a_new_total_of_steps_is_remembered(tmp_path):
    run = train(tmp_path / "r", steps=400)
    arcturus.resume(run, steps=800, quiet=True)
    assert Run(run.path).config().run.steps == 800


@pytest.mark.slow
def test_processes_that_start_at_once_never_share_a_folder(tmp_path, monkeypatch):
    """A sweep begun with & in one second: each makes its folder whole before it has the name."""
    monkeypatch.chdir(tmp_path)
    code = ("import sys; from arcturus.runs.settings import *; from arcturus.runs.folder import Run\n"
            "c = resolve('uniform', env={'id': 'CartPole-v1'}, run={'device': 'cpu'}); sys.stdin.readline()\n"
            "import time; time.strftime = lambda *a: 'now'\n"
            "print(Run.create(c, []).path, flush=True); sys.stdin.readline()")  # fmt: skip
    many = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for p in many:
        p.stdin.write("\n")
        p.stdin.flush()
    paths = [p.stdout.readline().strip() for p in many]
    for p in many:
        p.communicate("\n", timeout=60)
    assert len(set(paths)) == 4
    assert not list((tmp_path / "runs").glob(".tmp*"))
    assert all(Run(tmp_path / p).config().env.id == "CartPole-v1" for p in paths)


def test_two_runs_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        arcturus.train("uniform", "CartPole-v1", steps=16, quiet=True, device="cpu", eval_every=0)
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_the_best_is_chosen_on_other_episodes_than_it_is_scored_on(small_run, tmp_path, monkeypatch):
    """A maximum over evaluations flatters: the score that is reported must come from episodes that had no part in the choice."""
    from arcturus.runs import judging

    evaluate, chosen = judging.evaluate, []

    def watched(*args, **kwargs):
        chosen.append(evaluate(*args, **kwargs))
        return chosen[-1]

    monkeypatch.setattr(judging, "evaluate", watched)
    run = small_run(tmp_path / "r", steps=800, eval_every=200, eval_episodes=10)
    best = arcturus.load(run, "best")
    assert best.step in [200, 400, 600, 800]
    assert run.about["best"] == max(e.mean for e in chosen)
    selection = {episode.seed for e in chosen for episode in e.episodes}
    assert len(selection) == 10  # the same ones every time, so that evaluations can be compared
    for seed in range(5):
        fresh = arcturus.evaluate(best, "CartPole-v1", episodes=10, seed=seed)
        assert not selection & {episode.seed for episode in fresh.episodes}
