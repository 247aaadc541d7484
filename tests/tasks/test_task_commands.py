"""What can't be is refused in a line or two before anything runs, and leaves no run folder; by the commands, in this process."""

from __future__ import annotations

import json
import shutil

import pytest

from arcturus.scripts import evaluate_agent, train_agent
from arcturus.scripts.frontend import guarded


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call(main, *argv) -> exit code, what was said on stderr; in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def go(main, *argv):
        try:
            code = guarded(main, [str(a) for a in argv])
        except SystemExit as e:
            code = e.code
        return code, capsys.readouterr().err

    return go


def refused(call, tmp_path, main, argv, says):
    code, told = call(main, *argv, *(["--steps", "64"] if main is train_agent.main else []))  # few, if it isn't refused
    assert code == 2, told
    assert says in told
    assert "Traceback" not in told
    assert "this is a fault" not in told
    assert len(told.splitlines()) <= 8
    assert not list((tmp_path / "here").iterdir()), "a mistake leaves no run folder"


def options(env, text, *more):
    return ["a2c", "--env", f"NTM/{env}-v0", "--env.options", text, *more]


@pytest.mark.parametrize(("argv", "says"), [
    (options("Copy", "low=0"), "low is 0"), (options("Copy", "high=-1"), "high is -1"), (options("Copy", "width=2.5"), "width is 2.5"),
    (options("Copy", "width=abc"), "width is 'abc'"), (options("Copy", "width="), "width is None"), (options("Copy", "high=1e9"), "high is"),
    (options("Copy", "width=.nan"), "width is nan"), (options("Copy", "low=true"), "low is True"), (options("Copy", "low=[1]"), "low is [1]"),
    (options("Copy", "high=1000000"), "from 1 to 100,000"), (options("Copy", "low=9,high=3"), "range of length is empty: from 9 to 3"),
    (options("RepeatCopy", "repeats_low=11"), "range of repeats is empty"), (options("AssociativeRecall", "low=1"), "low is 1"),
    (options("PrioritySort", "best=21"), "best 21"), (options("PrioritySort", "low=5,best=6"), "best 6"),
    (options("DynamicNGrams", "n=17"), "n may be at most 16"), (options("CopyStop", "low=0"), "low is 0"),
    (options("CopySeries", "series=0"), "series is 0"), (options("Copy", "width=9,actions=symbol"), "at most 8 bits"),
    (options("RepeatCopy", "actions=symbol"), "at most 8 bits"), (options("Copy", "actions=word"), "of bits, symbol"),
    (options("Copy", "reward=more"), "of bits, exact"), (options("Copy", "reward=logscore"), "other actions can't have it"),
    (options("Copy", "actions=quantised,reward=bits"), "have reward=bits"), (options("CopyExact", "actions=quantised"), "reward=exact"),
    (options("Copy", "actions=quantised,reward=logscore,levels=1"), "levels is 1"), (options("Copy", "levels=many"), "levels is 'many'"),
    (options("Copy", "actions=probs,reward=logscore"), "use actions=quantised"), (options("CopyStop", "actions=probs"), "reward=stop"),
    (options("Copy", "colour=3"), "no setting colour; the settings are low, high, width, series, actions, reward, levels"),
    (options("Copy", "names=3"), "no setting names"), (options("Copy", "task=RepeatCopy"), "no setting task"),
    (options("Copy", "render_mode=rgb_array"), "no setting render_mode"), (options("Copy", "width"), "'width' is not a setting"),
    (["a2c", "--env", "NTM/Copi-v0"], "did you mean NTM/Copy-v0"), (["a2c", "--env", "NTM/Copy", "--agent.horizon", "8"], "NTM/Copy-v0"),
    (["sb3", "--env", "NTM/Copy"], "did you mean NTM/Copy-v0"), (["a2c", "--env", "NTM/DynamicNGramsExact-v0"], "did you mean NTM/"),
])  # fmt: skip
def test_settings_that_can_t_be(call, tmp_path, argv, says):
    refused(call, tmp_path, train_agent.main, argv, says)


NTM = ["--preset", "memory", "--agent.core", "ntm", "--agent.core-options", "slots=8,word=4"]


@pytest.mark.parametrize(("argv", "says"), [
    (["supervised", "--env", "CartPole-v1"], "doesn't provide the right answers"),
    (["supervised", "--env", "NTM/CopyStop-v0", "--agent.horizon", "8"], "doesn't provide the right answers"),
    (["supervised", *options("Copy", "actions=quantised,reward=logscore")[1:]], "doesn't provide the right answers"),
    (["supervised", *options("Copy", "high=129")[1:]], "slots=129 or more"),
    (["supervised", "--env", "NTM/Copy-v0", *NTM[2:]], "has 20 vectors to remember"),
    (["a2c", "--env", "NTM/Copy-v0", *NTM], "has 20 vectors to remember"),
    (["a2c", "--env", "NTM/CopyStop-v0", *NTM], "has 20 vectors to remember"),
    (["a2c", "--env", "NTM/DynamicNGrams-v0", *NTM], "has 32 vectors to remember"),
    (["supervised", "--env", "NTM/Copy-v0", "--env.curriculum", "lessons"], "add --agent.play True"),
    (["supervised", "--env", "NTM/Copy-v0", "--env.curriculum", "school"], "lessons"),
    (["a2c", "--env", "CartPole-v1", "--env.curriculum", "lessons"], "no lengths for a curriculum"),
    (["a2c", "--env", "Memory/Recall-v0", "--env.curriculum", "mixture"], "no lengths for a curriculum"),
    (["dqn", "--env", "NTM/Copy-v0", "--env.options", "actions=bits"], "one discrete action at a time"),
    (["a2c", "--env", "NTM/Copy-v0", "--env.frame-stack", "2"], "--env.frame-stack"),
    (["a2c", "--env", "NTM/CopyStop-v0", "--env.frame-stack", "2"], "--env.frame-stack"),
    (["a2c", *options("Copy", "high=7", "--agent.bptt", "5")[1:]], "whole episodes can't be split"),
    (["reinforce", *options("Copy", "high=128")[1:]], "use 257 or more"),
    (["supervised", *options("Copy", "high=100000")[1:]], "use shorter tasks"),
    (options("DynamicNGrams", "actions=quantised", "--env.curriculum", "mixture"), "would never advance"),
])  # fmt: skip
def test_agents_and_tasks_that_don_t_go_together(call, tmp_path, argv, says):
    refused(call, tmp_path, train_agent.main, argv, says)


@pytest.mark.parametrize(("free", "says"), [(1 << 11, "times 4 environments takes"), (1 << 16, "times 41 rows of an episode")])
def test_memory_that_can_t_fit_is_refused_before_it_is_asked_for(call, tmp_path, monkeypatch, free, says):
    monkeypatch.setattr("arcturus.memory.available_bytes", lambda device: free)
    core = ["--agent.core-options", "slots=20,word=4", "--agent.core-width", "8", "--num-envs", "4"]
    refused(call, tmp_path, train_agent.main, ["supervised", "--env", "NTM/Copy-v0", *core], says)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_run):
    """An agent on CartPole, and one with an LSTM and one with an NTM on short copying."""
    folder, env = tmp_path_factory.mktemp("runs"), {"options": "high=4,width=2", "num_envs": 2}
    small_run(folder / "cartpole", 16, "uniform", eval_every=0)
    short = {"env": "NTM/Copy-v0", "env_config": env, "eval_every": 0, "heldout_states": 0}
    for core, about in (("lstm", ""), ("ntm", "slots=6,word=4")):
        settings = {"core": core, "core_width": 4, "core_options": about}
        small_run(folder / core, 20, "supervised", agent_config=settings, **short)
    return folder


@pytest.mark.parametrize(("argv", "says"), [
    (["cartpole", "--lengths", "3"], "no sequences to score by length"), (["lstm", "--memory-slots", "64"], "no memory slots"),
    (["lstm", "--lengths", "3x2"], "is not a length"), (["lstm", "--lengths", "0"], "is not a length"),
    (["lstm", "--lengths", "abc"], "are not lengths"), (["lstm", "--lengths", "3", "--sequences", "0"], "not from 1 to"),
    (["ntm", "--lengths", "7"], "--memory-slots 7 or more"),
    (["ntm", "--lengths", "9", "--memory-slots", "8"], "--memory-slots 9 or more"), (["ntm", "--memory-slots", "0"], "can't have 0 slots"),
    (["ntm", "--memory-slots", "9999999"], "can't have 9999999 slots"), (["ntm", "--lengths", "1000000"], "is not a length"),
    (["ntm", "--lengths", "3", "--env-options", "width=3"], "has other observations or actions"),
    (["ntm", "--lengths", "3", "--env-options", "colour=3"], "no setting colour"), (["ntm", "--env-options", "series=2"], "add --lengths"),
    (["ntm", "--lengths", "3", "--video", "x.mp4"], "--video"), (["ntm", "--lengths", "3", "--value-figure", "x.png"], "--value-figure"),
])  # fmt: skip
def test_scores_that_can_t_be(call, tmp_path, runs, argv, says):
    refused(call, tmp_path, evaluate_agent.main, [runs / argv[0], *argv[1:]], says)
    assert not (runs / argv[0] / "evaluations").exists()


@pytest.mark.parametrize("place", ["/dev/null/x", "/dev/null"])
def test_pictures_that_can_t_be_written_are_refused_before_anything_is_scored(runs, capsys, place):
    code = guarded(evaluate_agent.main, [str(runs / "ntm"), "--lengths", "3", "--pictures", place])
    assert (code, "can't be written" in capsys.readouterr().err) == (5, True)
    assert not (runs / "ntm" / "evaluations").exists()


def test_scores_that_can(call, runs):
    code, told = call(evaluate_agent.main, runs / "ntm", "--lengths", "3,9", "--memory-slots", "9", "--sequences", "3")
    assert code == 0, told
    (report,) = (runs / "ntm" / "evaluations").glob("*/lengths.json")
    assert json.loads(report.read_text())["memory_slots"] == 9
    scores = json.loads(report.read_text())["lengths"]
    assert [(s["lengths"], s["chance"], s["sequences"]) for s in scores] == [([3], 6, 3), ([9], 18, 3)]
    shutil.rmtree(runs / "ntm" / "evaluations")


def test_scores_of_the_task_under_other_settings(call, runs):
    code, told = call(evaluate_agent.main, runs / "ntm", "--lengths", "2", "--env-options", "series=3", "--sequences", "3")
    assert code == 0, told
    (report,) = (runs / "ntm" / "evaluations").glob("*series=3*/lengths.json")
    assert json.loads(report.read_text())["lengths"][0]["chance"] == 3 * 2 * 2
    shutil.rmtree(runs / "ntm" / "evaluations")


def test_scores_with_other_slots_don_t_take_the_place_of_the_agents_own(call, runs):
    for slots in ([], ["--memory-slots", "9"]):
        for how in (["--lengths", "3", "--sequences", "3"], ["--episodes", "1"]):
            code, told = call(evaluate_agent.main, runs / "ntm", *how, *slots)
            assert code == 0, told
    found = (runs / "ntm" / "evaluations").glob("*/*.json")
    assert sorted(json.loads(f.read_text()).get("memory_slots", 0) for f in found) == [0, 0, 9, 9]
    shutil.rmtree(runs / "ntm" / "evaluations")
