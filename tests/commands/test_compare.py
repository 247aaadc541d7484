"""compare-runs: what is one experiment and what another, statistics by definition, the clock without pauses, and what is said."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from arcturus.comparing.comparison import (
    EVALUATED,
    RETURN,
    Group,
    Score,
    Scored,
    aggregate,
    aggregate_cautions,
    cautions,
    curves_of,
    environments,
    find_runs,
    improvements,
    on_common_grid,
    read_run,
    running_minutes,
    standing,
    summarise,
    tag_of,
)
from arcturus.comparing.tables import over_games, table
from arcturus.errors import CheckpointError, ConfigError
from arcturus.pictures.comparison import comparison, profiles
from arcturus.runs.groups import grouped
from arcturus.runs.settings import resolve
from arcturus.scoring.statistics import (
    human_normalised,
    improvement,
    iqm,
    mean,
    median_of_tasks,
    optimality_gap,
    percentiles,
    profile,
    resampled,
    stratified_interval,
)
from arcturus.scripts.compare_runs import main
from arcturus.scripts.frontend import guarded


class Trained(NamedTuple):
    config: Any
    step: int


@pytest.fixture(scope="module")
def folder(small_run, tmp_path_factory):
    """Three seeds of one setting (the third is the second under another name), and another learning rate; not to be changed."""
    at = tmp_path_factory.mktemp("compare")
    for seed in (0, 1):
        small_run(at / f"a{seed}", 500, seed=seed, eval_every=200, log_every=50)
    settings = shutil.copytree(at / "a1", at / "a2") / "config.yaml"
    settings.write_text(settings.read_text().replace("seed: 1", "seed: 2"))
    small_run(at / "b", 500, eval_every=200, log_every=50, agent_config={"learning_rate": 0.01})
    return at


def scored(
    env="CartPole-v1", seed=0, value=1.0, step=1_000, by="evaluate-agent", policy="greedy", rows=(), machine="cpu", version="0.2.0", **agent
):
    """A run that never was."""
    config = resolve("dqn", preset="classic", agent=agent, env={"id": env}, run={"seed": seed, "device": "cpu"})
    score = Score(value, step, 30, by, "v5", policy)
    return Scored(f"{env}{seed}", config, score, (np.array([0, step]), np.array([0.0, 2.0])), list(rows), machine, version)


def score_by(run, value, step=None, **more):
    """As evaluate-agent leaves it."""
    step = json.loads((run / "run.json").read_text())["checkpoint"] if step is None else step
    at = run / "evaluations" / f"step-{step:012d}-{value}"
    at.mkdir(parents=True)
    report = {"checkpoint": step, "protocol": "-", "policy": "greedy", "score": {"mean": value, "episodes": 30}}
    (at / "evaluation.json").write_text(json.dumps(report | more))


# -- statistics ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 15])
def test_the_interquartile_mean_drops_a_quarter_at_each_end(count):
    scores = np.random.default_rng(count).permutation(np.arange(count) ** 2.0).tolist()
    left = sorted(scores)
    for _ in range(count // 4):
        left = left[1:-1]
    assert float(iqm(scores)) == pytest.approx(sum(left) / len(left))
    np.testing.assert_allclose(iqm([scores, scores[::-1]]), sum(left) / len(left))


def test_one_broken_seed_moves_the_mean_and_not_the_interquartile_mean():
    good = [10.0, 11.0, 12.0, 13.0, 14.0]
    assert float(iqm([*good[:-1], 1e6])) == float(iqm(good))
    assert float(mean([*good[:-1], 1e6])) > 1e5


def test_intervals_hold_the_statistic_and_are_the_plain_ones_of_one_task():
    scores = np.random.default_rng(3).normal(100, 20, 12).tolist()
    for statistic in (mean, iqm):
        low, high = stratified_interval([scores], statistic)
        assert min(scores) < low < float(statistic(scores)) < high < max(scores)


def test_resamples_stay_within_their_task():
    """Two tasks whose runs all score alike: no replicate can have one of them more often, as in a bootstrap over all."""
    assert stratified_interval([[0.0] * 4, [100.0] * 4]) == (50, 50)
    low, high = stratified_interval([[0.0] * 4 + [100.0] * 4])
    assert low < 30 < 70 < high
    drawn = []
    stratified_interval([[1.0, 2.0, 3.0], [10.0, 20.0]], lambda x: drawn.append(x) or x.mean(-1))
    assert set(np.unique(drawn[0][:, :3])) == {1, 2, 3}
    assert set(np.unique(drawn[0][:, 3:])) == {10, 20}


FIRST = [[0.2, 0.65, 0.74, -0.27], [-0.06, 0.32, -0.02, 0.56], [0.48, 0.21, 0.12, 0.02], [0.81, 0.97, 1.4, 0.29], [1.17, 1.42, 0.7, 0.36]]
SECOND = [[0.14, 0.91, -0.14, 0.3], [0.78, -0.32, 0.51, -0.05], [0.47, 0.37, 0.48, -0.18], [0.21, 0.01, 0.35, 0.61],
          [0.7, 0.41, -0.02, -0.05]]  # fmt: skip


def test_aggregates_are_those_of_rliable():
    """rliable 1.2.0 on these scores of five tasks with four runs each: its iqm, median, mean, optimality gap and probability of
    improvement, and the share of runs above 0, 0.5 and 1."""
    every = np.concatenate(FIRST)
    assert float(iqm(every)) == pytest.approx(0.451)
    assert float(median_of_tasks(FIRST)) == pytest.approx(0.33)
    assert float(mean(every)) == pytest.approx(0.5035)
    assert float(optimality_gap(every)) == pytest.approx(0.546)
    assert float(improvement(FIRST, SECOND)) == pytest.approx(0.625)
    assert profile(every, np.array([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.85, 0.45, 0.15])


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 3.0]), min_size=2, max_size=5), min_size=2, max_size=4), st.data())
def test_aggregates_are_their_definitions_in_plain_python(first, data):
    second = [data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=4)) for _ in first]
    wins = [sum((x > y) + 0.5 * (x == y) for x in a for y in b) / (len(a) * len(b)) for a, b in zip(first, second, strict=True)]
    assert float(improvement(first, second)) == pytest.approx(sum(wins) / len(wins))
    assert float(improvement(first, second) + improvement(second, first)) == pytest.approx(1.0)
    every = [x for task in first for x in task]
    assert float(optimality_gap(every)) == pytest.approx(sum(1.0 - min(x, 1.0) for x in every) / len(every))
    assert float(median_of_tasks(first)) == pytest.approx(statistics.median(sum(task) / len(task) for task in first))
    assert profile(every, np.array([0.0])).tolist() == pytest.approx([sum(x > 0 for x in every) / len(every)])


def test_an_interval_of_a_median_resamples_within_tasks():
    drawn = resampled(FIRST, 500)
    assert all(set(x.ravel()) <= set(task) for x, task in zip(drawn, FIRST, strict=True))
    low, high = percentiles(median_of_tasks(drawn))
    assert low <= 0.33 <= high


def test_one_group_is_better_than_another_with_a_probability_over_their_common_games():
    values = {"ALE/Pong-v5": [-20.0, 0.0, 10.0], "ALE/Breakout-v5": [1.7, 30.5, 60.0]}
    runs = [scored(env, seed, value + gain, gamma=gamma) for gamma, gain in ((0.9, 5.0), (0.8, 0.0)) for env, its in values.items()
            for seed, value in enumerate(its)]  # fmt: skip
    lines = aggregate(environments(runs))
    (pair,) = improvements(lines)
    assert (pair["first"], pair["second"]) == (lines[0]["group"], lines[1]["group"])
    assert pair["probability"] == pytest.approx(6 / 9)
    assert pair["ci95"][0] <= 6 / 9 <= pair["ci95"][1]
    assert f"{pair['first']} > {pair['second']}: 66.7%" in over_games(lines)
    figure = profiles(lines)
    assert len(figure.axes[0].lines) == 2
    for line in figure.axes[0].lines:
        assert (np.diff(line.get_ydata()) <= 0).all()
    one = improvements(aggregate(environments([run for run in runs if run.config.run.seed < 2])))
    assert one[0]["ci95"] is None, "of two seeds"


def test_games_are_put_together_by_human_normalised_scores():
    values = {"ALE/Pong-v5": [-20.0, 0.0, 10.0, 20.0], "ALE/Breakout-v5": [1.7, 30.5, 60.0, 300.0]}
    runs = [scored(env, seed, value) for env, its in values.items() for seed, value in enumerate(its)]
    (line,) = aggregate(environments(runs))
    strata = [[human_normalised(game, x) for x in values[f"ALE/{game.title()}-v5"]] for game in ("pong", "breakout")]
    every = sorted(itertools.chain(*strata))
    assert line["mean"] == pytest.approx(sum(every) / 8)
    assert line["iqm"] == pytest.approx(sum(every[2:-2]) / 4)
    assert line["iqm_ci95"] == stratified_interval(strata, iqm)
    assert (line["games"], line["seeds"]) == (list(values), [4, 4])
    assert aggregate_cautions([line]) == []
    (line,) = aggregate(environments(runs[:-2]))
    assert line["iqm_ci95"] is None, "of two seeds of a game"
    assert "counts for more" in aggregate_cautions([line])[0]
    assert "same games" in aggregate_cautions([line, line | {"games": ["ALE/Pong-v5"]}])[0]
    assert aggregate(environments(runs[:4])) == [], "of one game there is nothing to put together"


def test_a_score_under_attack_is_not_the_runs(folder, tmp_path):
    run = shutil.copytree(folder / "a0", tmp_path / "r")
    score_by(run, 300.0)
    score_by(run, 20.0, attack={"how": "fgsm", "strength": 0.01})
    assert read_run(run).score.value == 300.0


# -- grouping ------------------------------------------------------------------------------------------------------------------


def test_seeds_of_one_setting_are_a_group_and_another_learning_rate_is_another(folder):
    tables = environments([read_run(path) for path in find_runs([folder])])
    a, b = tables["CartPole-v1"]
    assert (a.seeds, b.seeds) == ([0, 1, 2], [0])
    assert b.name == "dqn, learning_rate 0.01"
    assert b.differs == {"learning_rate": 0.01}
    assert a.name.startswith("dqn, learning_rate ")


@pytest.mark.parametrize(("change", "groups"), [
    ({"run": {"seed": 5}}, 1), ({"run": {"steps": 500, "eval_every": 7, "run_dir": "x", "device": "cuda"}}, 1),
    ({"env": {"threads": 1}}, 1), ({"preset": "other"}, 2), ({"env": {"num_envs": 4}}, 2), ({"env": {"protocol": "nature"}}, 2),
    ({"agent": {"double": False}}, 2), ({"run": {"deterministic": True}}, 2),
    ({"run": {"init_from": "a"}}, 2), ({"run": {"init_from": "a", "new_head": True}}, 2), ({"run": {"freeze": "torso"}}, 2),
    ({"env": {"id": "ALE/Breakout-v5"}}, 1),
])  # fmt: skip
def test_what_makes_another_group(change, groups):
    first = resolve("dqn", preset="cpu-small", env={"id": "ALE/Pong-v5"}, run={"steps": 1_000})
    second = first
    for part, values in change.items():
        second = replace(second, **{part: values if part == "preset" else replace(getattr(second, part), **values)})
    found = grouped([Trained(first, 1_000), Trained(second, 1_000)])
    assert len(found) == groups
    assert len({name for name, _, _ in found}) == groups


def test_a_schedule_over_the_whole_run_is_told_in_steps():
    """Two runs of PPO with anneal_steps -1 and other lengths learn otherwise; one that says the same steps itself is the same."""

    def ppo(steps, anneal):
        return Trained(resolve("ppo", env={"id": "CartPole-v1"}, run={"steps": steps}, agent={"anneal_steps": anneal}), 1_000)

    assert len(grouped([ppo(1_000, -1), ppo(2_000, -1)])) == 2
    assert len(grouped([ppo(1_000, -1), ppo(2_000, 1_000)])) == 1


def test_runs_that_were_trained_longer_are_no_repetition():
    config = resolve("dqn", env={"id": "CartPole-v1"})
    found = grouped([Trained(config, step) for step in (1_000, 1_090, 5_000, 1_050)])
    assert [(name, places) for name, _, places in found] == [("dqn, 1,000 steps", [0, 1, 3]), ("dqn, 5,000 steps", [2])]


def test_names_tell_three_settings_apart_and_count_the_rest():
    many = {"gamma": 0.9, "n_step": 2, "double": False, "batch_size": 8}
    names = [
        name for name, _, _ in grouped([Trained(scored(**agent).config, 1) for agent in ({}, many, many | {"batch_size": 4})])
    ]
    assert len(set(names)) == 3
    assert all(name.endswith("1 more") or name.endswith("1 more (2)") for name in names)


# -- scores --------------------------------------------------------------------------------------------------------------------


def test_evaluate_agent_goes_before_training_and_only_at_the_last_checkpoint(folder, tmp_path):
    run = shutil.copytree(folder / "a0", tmp_path / "r")
    inside = read_run(run).score
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = [row for row in rows if EVALUATED in row][-1]
    assert (inside.by, inside.value, inside.step, inside.episodes) == ("training", newest[EVALUATED], newest["step"], 2)
    score_by(run, 77.0, step=400)
    score_by(run, 66.0, memory_slots=9)
    assert read_run(run).score == inside
    score_by(run, 55.0)
    assert read_run(run).score == Score(55.0, inside.step, 30, "evaluate-agent", "-", "greedy")


def test_kinds_of_scores_are_never_mixed_silently():
    runs = [scored(seed=0), scored(seed=1, by="training", policy=None)]
    assert cautions([Group("dqn", {}, runs)]) == [
        "1 of 2 scores are from the newest evaluation during training, the others from evaluate-agent"
    ]
    assert "fresh seeds" in cautions([Group("dqn", {}, runs[1:])])[0]
    assert cautions([Group("dqn", {}, runs[:1])]) == []
    other = scored(seed=1, policy="sample")
    assert cautions([Group("dqn", {}, runs[:1]), Group("ppo", {}, [other])]) == [
        "scored under different policies: greedy (dqn); sample (ppo)"
    ]
    other = runs[0]._replace(score=runs[0].score._replace(protocol="nature"), machine="cuda")
    told = cautions([Group("dqn", {}, [runs[0], other])])
    assert [line.split(":")[0] for line in told] == [
        "scored under different protocols", "several runs have the same seed, so they are not independent",
        "minutes were measured on different machines or devices",
    ]  # fmt: skip
    (line,) = cautions([Group("c51", {}, [runs[0], scored(seed=1, version="0.1.0")])])
    assert "different versions of arcturus: 0.1.0, 0.2.0" in line


def test_two_seeds_are_too_few_and_two_runs_of_one_seed_are_one():
    runs = [scored(seed=seed, value=float(seed)) for seed in (0, 1, 2)]
    line = summarise(Group("dqn", {}, runs))
    assert line["mean_ci95"] == stratified_interval([[0, 1, 2]])
    assert (line["mean"], line["minutes"], line["human_normalised"]) == (1, 2, None)
    for few in (runs[:2], [runs[0], runs[1], runs[1]]):
        assert summarise(Group("dqn", {}, few))["iqm_ci95"] is None
        assert "2 seeds: too few" in table("CartPole-v1", [Group("dqn", {}, few)])


# -- the clock -----------------------------------------------------------------------------------------------------------------


def logged(stretches):
    """Rows of (step, seconds of the day, steps by this process since its last point, seconds of its own clock)."""
    return [{"step": step, "time": 1e9 + day, "charts/SPS": steps / seconds} for step, day, steps, seconds in stretches]


def test_a_pause_and_the_way_back_do_not_count_as_running():
    """100 steps a second; stopped at step 850, resumed an hour later, and 30 seconds of playing again before it goes on."""
    unbroken = [(100 * i, i, 100, 1.0) for i in range(1, 21)]
    steps, minutes = running_minutes(logged(unbroken))
    np.testing.assert_allclose(minutes, steps / 100 / 60)
    stopped = [
        (step, day + (3_632 if step > 850 else 0), *((50, 30.5) if step == 900 else (n, s))) for step, day, n, s in unbroken
    ]
    rows = logged(stopped)
    rows.insert(4, {"step": 400, "time": rows[3]["time"] + 0.5, EVALUATED: 1.0})
    steps, minutes = running_minutes(rows)
    np.testing.assert_allclose(minutes, steps / 100 / 60)


def test_slow_stretches_count_in_full():
    """An evaluation of a minute between two points was running, not a pause."""
    rows = logged([(100, 1, 100, 1.0), (200, 62, 100, 61.0), (300, 63, 100, 1.0)])
    np.testing.assert_allclose(running_minutes(rows)[1] * 60, [0, 1, 62, 63])
    assert running_minutes([])[1].tolist() == [0]


def test_a_real_run_that_was_resumed_much_later(small_run, stop_at, tmp_path):
    import arcturus

    stop_at(225)
    small_run(tmp_path / "r", 500, eval_every=200, log_every=50)
    metrics = tmp_path / "r" / "metrics.jsonl"
    run = arcturus.resume(tmp_path / "r", quiet=True)
    assert run.status == "finished"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    for row in rows:
        row["time"] += 36_000 * (row["step"] > 225)
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rows[-1]["time"] - rows[0]["time"] > 36_000
    assert 0 < read_run(tmp_path / "r").minutes < 1


def test_lines_that_a_resumed_run_wrote_again_count_once():
    rows = [{"step": step, "n": n} for n, step in enumerate([100, 200, 300, 200, 300, 300, 400])]
    assert [row["n"] for row in standing(rows)] == [0, 1, 3, 4, 5, 6]


# -- curves --------------------------------------------------------------------------------------------------------------------


def test_curves_meet_on_one_grid_only_where_all_have_data():
    curves = [(np.array([0.0, 10.0]), np.array([0.0, 10.0])), (np.array([4.0, 20.0]), np.array([8.0, 40.0]))]
    grid, values = on_common_grid(curves, 7)
    np.testing.assert_allclose(grid, [4, 5, 6, 7, 8, 9, 10])
    np.testing.assert_allclose(values, [grid, 2 * grid])
    assert len(on_common_grid([curves[0], (np.array([11.0, 12.0]), np.zeros(2))])[0]) == 0


def test_bands_are_of_three_seeds_and_hold_the_mean():
    def rows(seed):
        return [{"step": step, EVALUATED: seed * step} for step in (100, 500, 1_000)]

    runs = [scored(seed=seed, rows=rows(seed)) for seed in (1, 2, 6)]
    found = curves_of(Group("dqn", {}, runs), EVALUATED, clock=True)
    np.testing.assert_allclose(found["x"][-1], 2.0)
    np.testing.assert_allclose(found["mean"], 3 * np.array(found["x"]) * 500)
    assert (np.array(found["low"]) < found["mean"]).all()
    assert (np.array(found["high"]) > found["mean"]).all()
    assert set(curves_of(Group("dqn", {}, runs[:2]), EVALUATED, clock=False)) == {"lines"}


def test_evaluations_are_drawn_unless_a_run_has_too_few():
    several = scored(rows=[{"step": s, EVALUATED: 1.0, RETURN: 1.0} for s in (1, 2)])
    one = scored(rows=[{"step": 1, EVALUATED: 1.0, RETURN: 1.0}])
    teacher = scored(rows=[{"step": 1, EVALUATED: 1.0}])
    tags = [tag_of([Group("dqn", {}, runs)]) for runs in ([several], [several, one], [several, teacher])]
    assert tags == [EVALUATED, RETURN, EVALUATED]


def test_the_legend_says_how_many_seeds_there_are():
    rows = [{"step": step, EVALUATED: 1.0} for step in (100, 500, 1_000)]
    runs = [scored(seed=seed, rows=rows) for seed in range(3)]
    figure = comparison({"CartPole": [Group("a", {}, runs), Group("b", {}, runs[:1])]})
    told = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    assert told[0].endswith("3 seeds, mean and 95% interval")
    assert told[1].endswith("1 seed: too few for an interval")
    assert [len(axes.collections) for axes in figure.subfigs[0].axes] == [1, 1], "a band for the three, none for the one"


# -- the command ---------------------------------------------------------------------------------------------------------------


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_the_command_prints_draws_and_writes_elsewhere(folder, tmp_path, capsys):
    before = tree(folder)
    picture, file = tmp_path / "new" / "curves.png", tmp_path / "numbers.json"
    (tmp_path / "notes.txt").touch()
    argv = [str(folder / "a0"), str(folder), str(tmp_path / "notes.txt"), "--plot", str(picture), "--json", str(file)]
    assert guarded(main, argv) == 0
    told = capsys.readouterr()
    assert (told.err, tree(folder)) == ("", before)
    (env,) = json.loads(file.read_text())["environments"]
    a = env["groups"][0]
    assert [run["seed"] for run in a["runs"]] == [0, 1, 2], "a folder given twice counts once"
    assert a["mean"] == pytest.approx(np.mean([run["value"] for run in a["runs"]]))
    assert a["mean_ci95"][0] <= a["mean"] <= a["mean_ci95"][1]
    assert len(a["curves"]["steps"]["x"]) == len(a["curves"]["steps"]["low"])
    assert len(a["curves"]["minutes"]["lines"]) == 3
    lines = told.out.splitlines()
    assert lines[0] == "CartPole-v1"
    assert f"{a['mean']:.2f} [{a['mean_ci95'][0]:.2f}, {a['mean_ci95'][1]:.2f}]" in lines[2]
    assert "[1 seed: too few]" in lines[3]
    assert lines[4].startswith("! scores are from the newest evaluations during training")
    assert sum(str(folder) in line for line in lines[5:]) == 4
    assert imread(picture).std() > 0.02


@pytest.mark.slow
def test_it_prints_without_loading_matplotlib(folder):
    code = (
        "import sys; from arcturus.scripts.compare_runs import main; main(sys.argv[1:]); assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "CartPole-v1" in done.stdout


@pytest.mark.parametrize(("argv", "code", "says"), [
    (["{tmp}/nothing"], 2, "is not a folder"), (["{tmp}"], 2, "contains no run folder"), (["{tmp}/file"], 2, "all files"),
    (["{a}", "--plot", "x.gif"], 2, "doesn't end in .png"), (["{a}", "--plot", "{a}/x.png"], 2, "is in a run folder"),
    (["{a}", "--json", "{a}/evaluations/x.json"], 2, "is in a run folder"),
    (["{a}", "--plot", "{tmp}/file/x.png"], 5, "can't be written"), (["{a}", "--plot", "{tmp}/d.png"], 5, "it is a folder"),
    (["{a}", "--plot", "x.png", "--bits", "./x.png"], 2, "is given for --bits, too"),
])  # fmt: skip
def test_bad_input_gets_a_code_and_one_line(folder, tmp_path, monkeypatch, capsys, argv, code, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "d.png").mkdir()
    assert guarded(main, [word.format(tmp=tmp_path, a=folder / "a0") for word in argv]) == code
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.count("error:") == 1
    assert told.out == ""


def test_a_run_without_a_score_and_damaged_ones_are_named(folder, tmp_path):
    run = shutil.copytree(folder / "a0", tmp_path / "r")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="has no score yet"):
        read_run(run)
    for line in ("[]", '{"time": 1}', '{"step": "x", "charts/SPS": 1}'):  # no lines of a log: left out
        (run / "metrics.jsonl").write_text(line + "\n")
        with pytest.raises(ConfigError, match="has no score yet"):
            read_run(run)
    for line in ('{"step": 1, "eval/episodic_return_mean": NaN}', '{"step": 1, "time": 0, "charts/SPS": "fast"}'):
        (run / "metrics.jsonl").write_text(line + "\n")
        with pytest.raises(CheckpointError, match="no scores that can be read"):
            read_run(run)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="has no score yet"):
        read_run(run)
    (run / "metrics.jsonl").touch()
    score_by(run, "good")
    with pytest.raises(CheckpointError, match="no scores that can be read"):
        read_run(run)


def test_runs_without_scores_are_drawn_and_a_table_of_them_is_refused_before_anything_is_written(small_run, tmp_path, capsys):
    runs = [str(small_run(tmp_path / f"r{seed}", 500, seed=seed, eval_every=0, log_every=50).path) for seed in (0, 1)]
    picture = tmp_path / "curves.png"
    assert guarded(main, [*runs, "--plot", str(picture), "--json", str(tmp_path / "numbers.json")]) == 2
    assert guarded(main, [runs[0], "--plot", str(picture), "--json", str(tmp_path / "numbers.json")]) == 2
    assert not picture.exists()
    capsys.readouterr()
    assert guarded(main, [*runs, "--plot", str(picture)]) == 0
    assert "has no score yet" in capsys.readouterr().out
    assert imread(picture).std() > 0.02


def test_a_run_that_is_just_being_made_is_none_yet(folder, tmp_path):
    shutil.copytree(folder / "a0", tmp_path / "r")
    shutil.copytree(folder / "a0", tmp_path / ".tmp-s-1")
    assert find_runs([tmp_path]) == [tmp_path / "r"]
