"""A search tries the preset first, never forgets or repeats a trial, stops those that fall behind, and says whether it found anything."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from arcturus.errors import ConfigError
from arcturus.runs.settings import resolve
from arcturus.scripts import sweep_agents
from arcturus.scripts.frontend import guarded
from arcturus.scripts.train_agent import parse
from arcturus.sweeps.file import read_sweep
from arcturus.sweeps.progress import cells_of, claim, keep_record, look

pytest.importorskip("optuna")
from arcturus.sweeps import search as searches
from arcturus.sweeps.search import Searching, alone, by_chance, fitted, preset_of

FILE = """
agents: [a2c]
envs: [CartPole-v1]
seeds: [10, 11]
settings: {steps: 2000}
search:
  trials: 12
  confirm: 4
  settings:
    agent.learning-rate: {low: 1e-4, high: 1.0, log: true}
    agent.gamma: [0.5, 0.99]
"""


class Runs:
    """Stands in for Ray and the runs: a cell ends at once, with a score that only its settings say."""

    slots = 4

    def __init__(self, searching, score, code=lambda cell: 0, evaluations=lambda cell: []):
        self.codes, self.halted, self.seen = {}, [], []
        self.score, self.code, self.searching = score, code, searching
        searching.score = score
        searching._evaluations = evaluations

    def halt(self, names):
        self.halted += names

    def run(self, rounds=100):
        for _ in range(rounds):
            cells = self.searching.more(self)
            self.seen += cells
            for cell in cells:
                if (code := self.code(cell)) is not None:
                    self.codes[cell.name] = code
            if not cells and not self.searching.live:
                return


def settings_of(cell):
    flags = dict(zip(cell.flags[::2], cell.flags[1::2], strict=True))
    return float(flags.get("--agent.learning-rate", math.nan)), flags.get("--agent.gamma")


def far_from_best(cell):
    """Best at a learning rate of 0.03."""
    rate, gamma = settings_of(cell)
    if math.isnan(rate):
        return -9.0
    return -abs(math.log10(rate / 0.03)) - (gamma == "0.5")


@pytest.fixture
def opened(tmp_path):
    def make(text=FILE):
        (tmp_path / "s.yaml").write_text(text)
        sweep = read_sweep(tmp_path / "s.yaml", tmp_path / "out")
        base = preset_of(sweep)
        sweep = replace(sweep, search=fitted(sweep, sweep.search, base))
        claim(sweep)
        return Searching(sweep, base)

    return make


def test_the_preset_is_tried_first_and_the_best_is_near_the_optimum_and_confirmed(opened, tmp_path):
    searching = opened()
    runs = Runs(searching, far_from_best)
    runs.run()
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    preset = resolve("a2c", env={"id": "CartPole-v1"}).agent
    assert record["trials"][0]["settings"] == {"agent.learning-rate": preset.learning_rate, "agent.gamma": preset.gamma}
    assert len(record["trials"]) == 12
    assert all(trial["state"] == "complete" for trial in record["trials"])
    best = searching.best()
    assert best.params["agent.gamma"] == 0.99
    assert abs(math.log10(best.params["agent.learning-rate"] / 0.03)) < 0.5
    fresh = [cell for cell in runs.seen if cell.name.startswith(("best-", "preset-"))]
    assert sorted(cell.seed for cell in fresh) == [12, 12, 13, 13, 14, 14, 15, 15]  # none that a trial has seen
    verdict = searching.verdict(runs)
    assert verdict["better"]
    assert verdict["difference"] == pytest.approx(9 + searching.best().value)
    names = [cell.name for cell in runs.seen]
    assert len(set(names)) == len(names) == 12 * 2 + 8


def test_the_best_settings_are_a_file_that_config_reads(opened, tmp_path):
    searching = opened()
    Runs(searching, far_from_best).run()
    config = parse("a2c", ["--env", "CartPole-v1", "--config", str(tmp_path / "out" / "best.yaml")])
    assert config.agent.learning_rate == searching.best().params["agent.learning-rate"]
    assert config.agent.gamma == 0.99


def test_better_means_rarely_by_chance():
    """Of two groups of four, one deal in seventy is as good; of three, one in twenty, which proves nothing."""
    assert by_chance([[2.0, 3.0, 4.0, 5.0]], [[0.0, 1.0, -1.0, 0.5]]) == pytest.approx(1 / 70, abs=0.003)
    assert by_chance([[2.0, 3.0, 4.0]], [[0.0, 1.0, -1.0]]) == pytest.approx(1 / 20, abs=0.006)
    assert by_chance([[1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0]]) == 1.0
    assert by_chance([[2.0, 3.0], [9.0, 8.0]], [[0.0, 1.0], [5.0, 4.0]]) == pytest.approx(1 / 36, abs=0.005)


def test_a_search_says_that_it_found_nothing_better(opened):
    searching = opened()
    runs = Runs(searching, lambda cell: 3.0 if cell.name.startswith("t005") else 2.0)
    runs.run()
    assert not searching.verdict(runs)["better"]


def test_fewer_seeds_than_an_interval_needs_prove_nothing(opened):
    searching = opened(FILE.replace("confirm: 4", "confirm: 2"))
    runs = Runs(searching, lambda cell: 3.0 if cell.name.startswith(("t005", "best")) else 2.0)
    runs.run()
    assert (searching.verdict(runs)["ci95"], searching.verdict(runs)["better"]) == (None, False)


def test_a_trial_that_fails_by_itself_ends_and_the_search_goes_on(opened, tmp_path):
    searching = opened()
    runs = Runs(searching, far_from_best, code=lambda cell: 4 if cell.name.startswith("t003") else 0)
    runs.run()
    states = [trial["state"] for trial in json.loads((tmp_path / "out" / "search.json").read_text())["trials"]]
    assert states == ["complete"] * 3 + ["fail"] + ["complete"] * 8


def test_a_trial_whose_machine_failed_is_not_over(opened):
    searching = opened()
    Runs(searching, far_from_best, code=lambda cell: 137 if cell.name.startswith("t003") else 0).run()
    again = opened()
    assert again.live == [3]
    runs = Runs(again, far_from_best)
    runs.run()
    assert [cell.name[:4] for cell in runs.seen][:2] == ["t003", "t003"]
    assert all(trial.state.name == "COMPLETE" for trial in again.study.get_trials())


def test_a_trial_that_falls_behind_is_stopped_and_not_gone_on_with(opened):
    searching = opened()
    slow = ("t008", "t010")
    runs = Runs(searching, far_from_best, code=lambda cell: None,
                evaluations=lambda cell: [-100.0] * 4 if cell.name.startswith(slow) else [1.0, 2.0, 3.0, 4.0])  # fmt: skip
    while searching.more(runs) or searching.live:
        going = list(searching.live)
        searching.more(runs)  # evaluations are reported while a trial runs, before it ends
        for number in going:
            runs.codes |= dict.fromkeys((cell.name for cell in searching.cells(number)), 0)
    assert {name[:4] for name in runs.halted} == set(slow)
    again = opened()
    assert ({name[:4] for name in again.pruned()}, again.live) == (set(slow), [])


def test_a_search_goes_on_after_its_process_was_killed_in_the_middle_of_a_line(opened, tmp_path):
    searching = opened()
    runs = Runs(searching, far_from_best, code=lambda cell: 0 if cell.name < "t005" else None)
    runs.run(rounds=8)
    live = list(searching.live)
    assert live
    with open(tmp_path / "out" / ".sweep" / "search.log", "ab") as journal:
        journal.write(b'{"op_code": 4, "work')
    again = opened()
    assert again.live == live
    runs = Runs(again, far_from_best)
    runs.run()
    assert len(again.study.get_trials()) == 12
    once_more = opened()
    assert [t.params for t in once_more.study.get_trials()] == [t.params for t in again.study.get_trials()]


def test_settings_that_were_half_written_down_make_no_trial(opened, tmp_path):
    searching = opened()
    searching.more(Runs(searching, far_from_best))
    log = tmp_path / "out" / ".sweep" / "search.log"
    lines = log.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b"agent.gamma" in line)
    log.write_bytes(b"".join(lines[:last]))  # trial 1 has only its learning rate
    again = opened()
    assert again.live == [0]
    Runs(again, far_from_best).run()
    states = [trial["state"] for trial in json.loads((tmp_path / "out" / "search.json").read_text())["trials"]]
    assert states == ["complete", "fail", *["complete"] * 11]
    again.end(Runs(again, far_from_best))
    assert (tmp_path / "out" / "search.png").exists()
    assert again.failed() == 0


def test_a_range_of_whole_ends_is_of_whole_numbers_only_for_settings_that_are(opened):
    text = FILE.replace("agent.gamma: [0.5, 0.99]", "agent.gamma: {low: 0, high: 1}\n    agent.horizon: {low: 4, high: 8}")
    searching = opened(text)
    Runs(searching, lambda cell: 0.0).run()
    trials = searching.study.get_trials()
    assert len({trial.params["agent.gamma"] for trial in trials}) > 5
    assert {type(trial.params["agent.horizon"]) for trial in trials} == {int}
    assert trials[0].params["agent.gamma"] == 0.99


def test_a_trial_without_a_score_fails_and_stops_nobody(opened):
    def score(cell):
        if cell.name.startswith("t002"):
            raise ConfigError("it has no score yet", where="RUN")
        return 1.0

    searching = opened()
    Runs(searching, score).run()
    assert [t.state.name for t in searching.study.get_trials()] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 9
    assert searching.failed() == 1


def test_trials_may_be_added_but_not_what_is_searched(opened):
    Runs(opened(), far_from_best).run()
    more = opened(FILE.replace("trials: 12", "trials: 14"))
    Runs(more, far_from_best).run()
    assert len(more.study.get_trials()) == 14
    with pytest.raises(ConfigError, match="what it searches are not the same"):
        opened(FILE.replace("0.5, 0.99", "0.9, 0.99"))
    for old, new in (("[a2c]", "[ppo]"), ("steps: 2000", "steps: 3000"), ("[10, 11]", "[10, 12]"), ("1e-4", "0.0001001")):
        with pytest.raises(ConfigError, match="another sweep"):
            opened(FILE.replace(old, new))


def test_no_two_processes_search_in_one_folder(opened, tmp_path):
    opened()
    with alone(tmp_path / "out"), pytest.raises(ConfigError, match="another process"), alone(tmp_path / "out"):
        pass


def test_pruned_cells_are_told_from_stopped_ones(opened, tmp_path):
    searching, out = opened(), tmp_path / "out"
    cells = {cell.name: searching.commands(cell) for cell in searching.cells(0)} if searching.asked else {}
    cells = cells or {"t000-a": [["train-agent", "a2c"]], "t001-a": [["train-agent", "a2c"]]}
    for name in cells:
        (out / name).mkdir()
        (out / name / "run.json").write_text('{"steps": 5}')
    keep_record(out, cells, [next(iter(cells))], searching.search.to_json())
    assert [p.state for p in look(out, *cells_of(out))] == ["pruned", "stopped"]


RANGE = "{low: 1e-4, high: 1.0, log: true}"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("trials: 12", "trials: 0", "search.trials is 0"),
        ("trials: 12", "tirals: 12", "trials"),
        (RANGE, "{low: 1, high: 0.1}", "ends at 0.1, before it begins"),
        (RANGE, "{low: 0, high: 1, log: true}", "begins at 0"),
        (RANGE, "{low: 0.1, hihg: 1}", "high"),
        (RANGE, "0.1", "neither a range nor"),
        (RANGE, "{low: -1, high: 1}", "with agent.learning-rate -1"),
        ("[0.5, 0.99]", "[0.5, 0.5]", "different choices"),
        ("[0.5, 0.99]", "[0.5, 7]", "with agent.gamma 7"),
        ("agent.gamma", "agent.gamam", "cell with agent.gamam 0.5"),
        ("agents: [a2c]", "agents: [a2c, ppo]", "one agent"),
        ("steps: 2000", "steps: [2000, 3000]", "one agent"),
        ("steps: 2000", "steps: 2000, agent.gamma: 0.9", "is set as well"),
        ("[CartPole-v1]", "[CartPole-v1, Acrobot-v1]", "no common scale"),
        ("confirm: 4", "scale: {Acrobot-v1: [0, 1]}", "must name each of envs"),
        ("confirm: 4", "scale: {CartPole-v1: [1, 1]}", "two different scores"),
        ("confirm: 4", "prune: maybe", "must be true or false"),
        ("agent.gamma: [0.5, 0.99]", "preset: [classic, mdp]", "preset can't be searched"),
        ("agent.gamma: [0.5, 0.99]", "agent.learning_rate: [0.1, 0.2]", "agent.learning-rate twice"),
        ("steps: 2000", "steps: 2000, eval-every: 0", "would have no score"),
        ("seeds: [10, 11]\nsettings: {steps: 2000}", "seeds: [10]\nevaluate: {}\nsettings: {steps: 2000, eval-every: 0}", "these have none"),
        ("seeds: [10, 11]", "seeds: [10]\nevaluate: {checkpoint: best}", "at its last checkpoint"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_before_it_starts(tmp_path, capsys, old, new, says):
    assert old in FILE
    (tmp_path / "s.yaml").write_text(FILE.replace(old, new))
    assert guarded(sweep_agents.main, ["run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) <= 20
    assert not (tmp_path / "out").exists()


def test_without_optuna_a_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    (tmp_path / "s.yaml").write_text(FILE)
    assert guarded(sweep_agents.main, ["run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")]) == 3
    assert "arcturus[search]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_several_environments_are_averaged_on_their_scale(opened):
    text = FILE.replace("[CartPole-v1]", "[CartPole-v1, Acrobot-v1]")
    scaled = text.replace("confirm: 4", "confirm: 4\n  scale: {CartPole-v1: [0, 500], Acrobot-v1: [-500, 0]}")
    searching = opened(scaled)
    runs = Runs(searching, lambda cell: 250.0 if cell.env == "CartPole-v1" else 0.0)
    runs.run()
    assert {trial.value for trial in searching.study.get_trials()} == {0.75}
    opened(scaled)  # and it goes on
    assert searches.SCORING == ("--episodes", "30")
