"""Processes, terminals, paths, memory and code of one's own: what surrounds a command is never its end, and is told as what it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import arcturus
from arcturus.comparing.comparison import read_runs
from arcturus.config import expanded, parse_options, parse_yaml
from arcturus.device import of_container
from arcturus.errors import ArcturusError, ConfigError, by_users_code, nearest, out_of_memory
from arcturus.runs.judging import SHARE, Probe
from arcturus.runs.settings import resolve, validate
from arcturus.runs.signals import Signals
from arcturus.scoring.keeping import kept, whole
from arcturus.scripts import compare_runs, evaluate_agent, train_agent
from arcturus.scripts.frontend import guarded
from arcturus.telling import plain, shortened, typed

SMALL = {"eval_every": 0, "heldout_states": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_run):
    return small_run(tmp_path_factory.mktemp("where") / "r", 200, **SMALL)


# -- paths -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "meant"), [
    ("~/a", "{home}/a"), ("~", "{home}"), ("$HOME/a", "{home}/a"), ("${HOME}/a", "{home}/a"), ("a/~/b", "a/~/b"), ("$HOMER/a", "$HOMER/a"),
    ("$x", "$x"), ("a$HOME", "a$HOME"), ("", ""),
])  # fmt: skip
def test_a_home_folder_is_meant_where_no_shell_expands_it(monkeypatch, written, meant):
    """A folder named ~ was made in the current one, and cleaning that up removes the home."""
    monkeypatch.setenv("HOME", "/h")
    assert expanded(written) == meant.format(home="/h")


def test_every_way_to_name_a_run_folder_expands_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("env: CartPole-v1\nrun: {run_dir: ~/b}\n")
    flags = ["--env", "CartPole-v1", "--steps", "100"]
    assert train_agent.parse("uniform", [*flags, "--run-dir=~/a"]).run.run_dir == f"{tmp_path}/a"
    assert train_agent.parse("uniform", ["--config=~/c.yaml"]).run.run_dir == f"{tmp_path}/b"
    arcturus.train("uniform", "CartPole-v1", steps=16, run_dir="~/c", quiet=True, **SMALL)
    assert arcturus.read_metrics("~/c") == arcturus.read_metrics(tmp_path / "c")
    assert evaluate_agent.parser().parse_args(["~/c", "--video=~/f.mp4"]).video == tmp_path / "f.mp4"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_printed_paths_can_be_pasted(path):
    import shlex

    assert shlex.split(typed(path)) == [path]


# -- terminals ---------------------------------------------------------------------------------------------------------------------


@given(st.text())
def test_no_text_from_a_folder_reaches_a_terminal_raw(text):
    shown = plain(text)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert len(shortened(shown, 50)) <= 50


def test_errors_are_a_few_short_lines(capsys):
    long = "x" * 100_000
    for argv in (["dqn", "--env", long], [long, "--env", "CartPole-v1"], ["dqn", "--preset", long, "--env", "CartPole-v1"]):
        assert guarded(train_agent.main, argv) in (2, 3)
        lines = capsys.readouterr().err.splitlines()
        assert 0 < len(lines) <= 20
        assert max(map(len, lines)) <= 200
    assert nearest(long, ["dqn"], "agents") == "the name is too long"


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_command_without_streams_does_its_work(tmp_path, closed):
    here, scripts = f"{sys.executable} -m arcturus.scripts", f"--run-dir {tmp_path}/r"
    train = f"{here}.train_agent uniform --env CartPole-v1 --steps 80 --eval-every 0 {scripts} {closed}"
    assert subprocess.run(["sh", "-c", train], check=False).returncode == 0
    assert subprocess.run(["sh", "-c", f"{here}.evaluate_agent {tmp_path}/r --episodes 1 {closed}"], check=False).returncode == 0
    assert len(kept(tmp_path / "r")) == 1


# -- signals -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hang_up():
    """hang_up(handler): what SIGHUP does; the tests themselves may have been started under nohup."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


def test_a_hang_up_asks_for_the_end_unless_it_is_ignored(hang_up):
    for handler, received in ((signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, None)):
        hang_up(handler)
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == received


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)])
def test_one_signal_ends_a_scripts_loop_over_seeds(tmp_path, until, number, code):
    loop = (
        "import arcturus, sys\ntry:\n    for seed in (0, 1):\n"
        f"        arcturus.train('uniform', 'CartPole-v1', steps=10**8, seed=seed, run_dir=f'{tmp_path}/{{seed}}', quiet=True, "
        "eval_every=0, log_every=100)\nexcept KeyboardInterrupt:\n    sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: (tmp_path / "0" / "metrics.jsonl").exists(), process)
    process.send_signal(number)
    assert process.wait(60) == code
    assert json.loads((tmp_path / "0" / "run.json").read_text())["status"] == "preempted"
    assert list((tmp_path / "0" / "checkpoints").glob("step-*"))
    assert not (tmp_path / "1").exists()


def test_an_interrupted_evaluation_keeps_what_was_over_and_nobody_takes_it_for_a_score(run, monkeypatch, capsys):
    from arcturus.scoring import evaluation

    took, calls = evaluation._Play._took, []

    def watched(self, i, action):
        calls.append(1)
        if sum(e is not None for e in self.done) == 3 and len(calls) > 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return took(self, i, action)

    monkeypatch.setattr(evaluation._Play, "_took", watched)
    assert guarded(evaluate_agent.main, [str(run.path), "--episodes", "40", "--seed", "3"]) == 128 + signal.SIGTERM
    assert "of 40 episodes were over" in capsys.readouterr().out
    (report,) = (p for p in kept(run.path) if "unfinished" in p.parent.name)
    assert 3 <= len(json.loads(report.read_text())["per_episode"]) < 40
    assert all("unfinished" not in path.parent.name for path, _ in whole(run.path))


# -- scores ------------------------------------------------------------------------------------------------------------------------


def test_scores_are_kept_before_they_are_printed(run, monkeypatch, capsys):
    before = len(kept(run.path))
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert guarded(evaluate_agent.main, [str(run.path), "--episodes", "1", "--seed", "11"]) == 5
    assert len(kept(run.path)) == before + 1
    assert "No space left on device" in capsys.readouterr().err


def test_the_newest_evaluation_is_the_last_one_whatever_the_clock_said(run):
    for seed in ("21", "22"):
        assert guarded(evaluate_agent.main, [str(run.path), "--episodes", "1", "--seed", seed]) == 0
    os.utime(kept(run.path)[-1], (0, 0))
    assert "seed22" in kept(run.path)[-1].parent.name


def test_a_run_folder_that_can_t_be_written_loses_no_scores(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mkdir = Path.mkdir

    def readonly(self, *args, **kwargs):
        if run.path in self.parents:
            raise PermissionError(13, "Permission denied")
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", readonly)
    assert guarded(evaluate_agent.main, [str(run.path), "--episodes", "1", "--seed", "31"]) == 0
    assert re.search(r"saved in r-\w{8}-evaluations", capsys.readouterr().err)
    assert len(list(tmp_path.glob("r-*-evaluations/*/evaluation.json"))) == 1


@pytest.mark.parametrize(("flag", "file", "code"), [
    ("--video", "/proc/x.mp4", 5), ("--video", "x.avi", 2), ("--value-figure", "/proc/x.png", 5), ("--value-figure", "x.txt", 2),
    ("--rollouts", "/proc/x.npz", 5), ("--rollouts", "x.csv", 2), ("--episodes", "100001", 2), ("--episodes", "0", 2),
    ("--num-envs", "100000", 2), ("--sequences", "10000000", 2),
])  # fmt: skip
def test_what_can_t_be_done_is_refused_before_an_episode_is_played(run, monkeypatch, capsys, flag, file, code):
    monkeypatch.setattr("arcturus.scoring.evaluation._Play.run", lambda *args: pytest.fail("it played"))
    assert guarded(evaluate_agent.main, [str(run.path), flag, file]) == code
    assert flag in capsys.readouterr().err


def test_one_broken_run_is_left_out_of_a_comparison_and_named(small_run, tmp_path, capsys):
    small_run(tmp_path / "a", 200, eval_episodes=2, heldout_states=0)
    small_run(tmp_path / "unscored", 200, **SMALL)
    broken = small_run(tmp_path / "broken", 200, **SMALL)
    (broken.path / "config.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").mkdir()
    assert guarded(compare_runs.main, [str(tmp_path), str(tmp_path / "empty"), "--json", str(tmp_path / "n.json")]) == 0
    told = capsys.readouterr()
    assert "left out" in told.out
    left = {Path(one["path"]).name for one in json.loads((tmp_path / "n.json").read_text())["left_out"]}
    assert left == {"unscored", "broken"}
    assert "empty contains no run folder" in told.err
    with pytest.raises(ArcturusError, match="no score yet"):
        read_runs([tmp_path / "unscored"])


def test_damaged_lines_of_a_log_are_left_out(run, capsys):
    file = run.path / "metrics.jsonl"
    good = file.read_bytes()
    rows = arcturus.read_metrics(run)
    for bad in (b"\xff\xfe\n", b"[" * 200_000 + b"\n", b'{"step": 1' + b"1" * 5_000 + b"}\n", b"[]\n", b"null\n"):
        file.write_bytes(bad + good)
        assert arcturus.read_metrics(run) == rows
    assert "line 1 can't be read and will be ignored" in capsys.readouterr().err
    file.write_bytes(good)


# -- threads, memory, time ---------------------------------------------------------------------------------------------------------


def test_python_scores_with_one_thread_of_torch_as_the_command_does(run):
    """Torch's threads fight with the emulator's: 4 to 21 times slower."""
    actor, seen, before = arcturus.load(run), [], torch.get_num_threads()
    act = actor.act
    actor.act = lambda *args, **kwargs: [seen.append(torch.get_num_threads()), act(*args, **kwargs)][1]
    torch.set_num_threads(2)
    try:
        arcturus.evaluate(actor, "CartPole-v1", episodes=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_memory_limits_of_containers_count(tmp_path):
    own = tmp_path / "self"
    own.write_text("0::/jobs/17\n")
    job = tmp_path / "root" / "jobs" / "17"
    job.mkdir(parents=True)
    (tmp_path / "root" / "memory.max").write_text("max\n")
    (job.parent / "memory.max").write_text("5000\n")
    (job.parent / "memory.current").write_text("1000\n")
    (job / "memory.max").write_text("2000\n")
    (job / "memory.current").write_text("900\n")
    (job / "memory.stat").write_text("anon 600\ninactive_file 300\n")
    assert sorted(set(of_container(tmp_path / "root", own))) == [1400, 4000]
    older = tmp_path / "v1" / "memory"
    older.mkdir(parents=True)
    (older / "memory.limit_in_bytes").write_text("700\n")
    (older / "memory.usage_in_bytes").write_text("500\n")
    assert set(of_container(tmp_path / "v1", tmp_path / "none")) == {200}
    assert list(of_container(tmp_path / "nothing", tmp_path / "none")) == []


@pytest.mark.parametrize("error", [
    MemoryError("Unable to allocate 149. GiB for an array with shape (200000, 200000)"), OSError(12, "Cannot allocate memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes."),
])  # fmt: skip
def test_no_memory_is_no_fault_of_arcturus(error, capsys):
    def asks(argv):
        raise error

    assert guarded(asks, []) == 3
    err = capsys.readouterr().err
    assert "not enough memory" in err
    assert "fault of arcturus" not in err
    assert out_of_memory(ValueError("x")) is None


@pytest.mark.parametrize("steps", [1_000, 20_000, 1_000_000])
def test_the_probe_is_spread_over_steps_and_never_costs_more_than_its_share(steps):
    config = validate(resolve("dqn", env={"id": "CartPole-v1"}, run={"steps": steps}))
    probe = Probe(config)
    points = range(config.log_every, steps + 1, config.log_every)
    probe.exact = True
    looks = sum(map(probe.due, points))
    assert 1 <= looks <= 200
    assert looks * probe.count <= steps / 8 + 2 * probe.count
    probe.exact, probe.spent = False, 10.0
    assert not any(map(probe.due, points))
    assert SHARE == 0.05


# -- code and settings of one's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "code"), [
    (["ppo", "--agent.torso", "broken_mine.X"], 2), (["ppo", "--listeners", "broken_mine.X"], 2), (["ppo", "--listeners", "nodot"], 2),
    (["broken_mine.agent"], 2), (["../x"], 2), (["..."], 2), (["ppo", "--agent.core", "zero_mine.X"], 2),
])  # fmt: skip
def test_what_a_users_module_raises_is_told_as_its_own(tmp_path, monkeypatch, capsys, argv, code):
    (tmp_path / "broken_mine.py").write_text("def f(:\n")
    (tmp_path / "zero_mine.py").write_text("class X:\n    def __init__(self, *a, **k):\n        1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert guarded(train_agent.main, [*argv, "--env", "CartPole-v1", "--run-dir", str(tmp_path / "r")]) == code
    assert "fault of arcturus" not in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_an_error_in_code_outside_arcturus_names_its_line(capsys):
    def listener(argv):
        return 1 / 0

    assert guarded(listener, []) == 4
    assert "listener in" in capsys.readouterr().err
    try:
        raise ValueError
    except ValueError as e:
        assert Path(__file__).name in by_users_code(e)


@pytest.mark.parametrize("keyword", ["num_envs", "frame_stack", "learning_rate"])
def test_a_keyword_in_the_wrong_place_names_the_right_one(keyword):
    home = "agent_config" if keyword == "learning_rate" else "env_config"
    with pytest.raises(ConfigError, match=f"{home}={{'{keyword}': 2}}"):
        arcturus.train("dqn", "CartPole-v1", **{keyword: 2})


@pytest.mark.parametrize(("argv", "meant"), [
    (["rainbow"], "train-agent c51 --preset rainbow"), (["dqn", "--lr", "1e-3"], "--agent.learning-rate"),
    (["dqn", "--total-timesteps", "9"], "--steps"), (["dqn", "--agent.lr=1e-3"], "--agent.learning-rate"),
    (["ppo", "--agent.ent-coef", "0.1"], "--agent.entropy-cost"), (["ppo", "--agent.ent_coef=0.1"], "--agent.entropy-cost"),
    (["dqn", "--buffer-size", "9"], "--agent.capacity"), (["ppo", "--n-steps", "9"], "--agent.horizon"),
])  # fmt: skip
def test_other_libraries_names_are_answered_with_ours(capsys, argv, meant):
    assert guarded(train_agent.main, [*argv, "--env", "CartPole-v1"]) == 2
    assert meant in capsys.readouterr().err


def test_every_suggested_flag_exists_for_some_agent():
    from arcturus import agents
    from arcturus.suggesting import NAMES

    every = set.union(*(train_agent.known_flags(agents.load(name).Config, []) for name in agents.names()))
    assert set(NAMES) <= every


def test_options_said_twice_and_minutes_for_numbers_are_refused():
    with pytest.raises(ConfigError, match="delay is given twice"):
        parse_options("delay=3,delay=4")
    assert parse_options("delay=1:30") == {"delay": "1:30"}  # YAML 1.1 makes 90 of it
    assert parse_yaml(b"steps: 1:30", Path("x")) == {"steps": "1:30"}
    for env, option in (("Memory/Recall-v0", "delay=true"), ("Tape/Copy-v0", "low=true"), ("Tape/DuplicatedInput-v0", "duplication=true")):
        with pytest.raises(ArcturusError):
            arcturus.make(env, options=option)


def test_a_file_of_settings_that_is_a_pipe_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "c.yaml")
    assert guarded(train_agent.main, ["dqn", "--config", str(tmp_path / "c.yaml")]) == 2
    assert guarded(train_agent.main, ["dqn", "--config", "/dev/zero"]) == 2
    assert capsys.readouterr().err.count("is not a regular file") == 2


def test_the_package_lists_its_calls():
    assert set(arcturus.__all__) <= set(dir(arcturus))


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "code", "says"), [
    ("dqn", "class Config(dqn.Config):\n    def epsilon(self, step): return None\nAgent = dqn.Agent", "NoneType"),
    ("dqn", "class Config(dqn.Config):\n    def epsilon(self, step): return 3.0\nAgent = dqn.Agent", "epsilon is 3.0"),
    ("ppo", "Config = ppo.Config\nclass Agent(ppo.Agent):\n    def loss(self, batch): return super().loss(batch)[0]", "'metrics'"),
    ("ppo", "Config = ppo.Config\nclass Agent(ppo.Agent):\n    learning_rate = -1.0", "the learning rate is -1.0"),
])  # fmt: skip
def test_what_code_of_ones_own_returns_is_not_called_our_fault(agent, code, says, tmp_path):
    (tmp_path / "mine").mkdir()
    head = f"from dataclasses import dataclass\nfrom arcturus.agents import {agent}\nPRESETS = {agent!r}\n"
    (tmp_path / "mine" / "odd.py").write_text(head + code.replace("class Config", "@dataclass(frozen=True)\nclass Config") + "\n")
    argv = ["mine.odd", "--env", "CartPole-v1", "--steps", "4000", "--eval-every", "0", "--run-dir", "r"]
    done = subprocess.run([sys.executable, "-m", "arcturus.scripts.train_agent", *argv], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert says in done.stderr
    assert "code outside arcturus took part: mine.odd" in done.stderr


def test_scores_that_could_not_be_kept_with_their_run_are_found_again_and_replace_nobody_elses(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = []
    for place in ("a", "b"):
        runs.append(Path(shutil.copytree(run.path, tmp_path / place / "s0")))
        shutil.rmtree(runs[-1] / "evaluations", ignore_errors=True)
        (runs[-1] / "evaluations").write_text("in the way")
        assert guarded(evaluate_agent.main, [str(runs[-1]), "--episodes", "1", "--seed", "3"]) == 0
    assert len(list(tmp_path.glob("s0-*-evaluations"))) == 2
    assert guarded(evaluate_agent.main, [str(runs[0]), "--episode", "0", "--video", "f.mp4"]) == 0, capsys.readouterr().err
    assert (tmp_path / "f.mp4").stat().st_size > 0


def test_a_listeners_own_broken_pipe_or_missing_file_is_told_as_its_own(tmp_path):
    (tmp_path / "ears.py").write_text(
        "class Ear:\n    def __init__(self, config, folder): pass\n    def __call__(self, row): raise BrokenPipeError(32, 'gone')\n"
        "class Reader(Ear):\n    def __call__(self, row): open('/nowhere/at/all')\n"
    )
    for name in ("Ear", "Reader"):
        argv = ["uniform", "--env", "CartPole-v1", "--steps", "64", "--eval-every", "0", "--listeners", f"ears.{name}"]
        done = subprocess.run([sys.executable, "-m", "arcturus.scripts.train_agent", *argv], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(tmp_path)})  # fmt: skip
        assert done.returncode == 4, done.stderr
        assert "ears.py, line" in done.stderr


@pytest.mark.parametrize("name", ["train_agent", "evaluate_agent", "compare_runs", "export_agent"])
def test_a_command_is_there_before_torch_is_so_that_ctrl_c_finds_it(name):
    code = f"import sys, arcturus.scripts.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
