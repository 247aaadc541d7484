"""Published scores stand beside one's own with their protocol, on the same games, and are never taken for runs."""

from __future__ import annotations

import csv
import math
from importlib.resources import files

import numpy as np
import pytest

from arcturus.comparing.comparison import curve, environments, iqm_curves, read_runs, tag_of
from arcturus.comparing.published import (
    ATARI5,
    OF_MEANS,
    asked_for,
    atari5,
    beside,
    env_id,
    everything,
    game_set,
    game_sets,
    over_games,
    protocol_notes,
    sources,
)
from arcturus.envs.atari import games
from arcturus.errors import ConfigError
from arcturus.scoring.statistics import human_normalised, iqm, stratified_interval
from arcturus.scripts.compare_runs import main
from arcturus.scripts.frontend import guarded


def mrq(steps):
    (one,) = [one for one in everything() if (one.source, one.steps) == ("mrq", steps)]
    return one


def test_every_source_has_a_title_and_a_protocol_and_scores_of_games_that_exist():
    assert {one.source for one in everything()} == set(sources())
    assert all(set(about) == {"title", "protocol", "told"} for about in sources().values())
    assert {env for one in everything() for env in one.scores} <= set(games())
    rows = list(csv.DictReader((files("arcturus.comparing") / "published_scores.csv").read_text().splitlines()))
    keys = [(row["source"], row["agent"], row["steps"], row["game"]) for row in rows]
    assert len(set(keys)) == len(keys) == sum(len(one.scores) for one in everything())


def test_sets_of_games_are_as_large_as_they_are_called():
    assert {name: len(games) for name, games in game_sets().items()} == {"atari57": 57, "atari26": 26, "atari5": 5, "mnih2013": 7}
    assert all(set(games) <= set(game_set("atari57")) for games in game_sets().values())


@pytest.mark.parametrize(("steps", "expected"), [(100_000, 0.128), (500_000, 0.455), (1_000_000, 0.628), (2_500_000, 0.882)])
def test_mrqs_interquartile_mean_over_means_is_near_the_one_over_its_runs(steps, expected):
    """expected: over runs, which don't come along.  The line that says so gives both numbers after 500,000 steps."""
    over_means = over_games(mrq(steps), game_set("atari57"))["iqm"]
    assert expected <= over_means < 1.15 * expected
    assert steps != 500_000 or f"{100 * over_means:.1f}% over its means" in OF_MEANS


def test_atari5_says_what_is_said_of_it():
    shares = {env: mrq(2_500_000).human_normalised(env) for env in game_set("atari57")}
    assert round(100 * np.median(list(shares.values()))) == 96
    assert round(100 * atari5(shares)) == 64
    plain = 10 ** sum(w * math.log10(1 + 100 * max(0, shares[env_id(game)])) for game, w in ATARI5.items()) - 1
    assert atari5(shares) == pytest.approx(plain / 100)
    assert atari5(dict.fromkeys(game_set("atari5")[:4], 1.0)) is None
    assert atari5(dict.fromkeys(game_set("atari5"), -0.5)) == 0.0


def test_the_budget_nearest_to_the_runs_stands_beside_them():
    assert [one.steps for one in beside(["mrq"], game_set("atari26"), 300_000)] == [200_000]
    assert [one.steps for one in beside(["mrq"], game_set("atari26"), 20)] == [100_000]
    assert [one.steps for one in beside(["mrq"], game_set("atari26"), 1e9)] == [2_500_000]
    assert beside(["mrq"], ["CartPole-v1"], 1e5) == []


def test_scores_over_games_are_only_over_those_that_were_played():
    one = mrq(100_000)
    envs = ["ALE/Pong-v5", "ALE/Breakout-v5", "ALE/AirRaid-v5", "CartPole-v1"]
    told = over_games(one, envs)
    assert told["games"] == envs[:2]
    assert told["iqm"] == pytest.approx(float(iqm([one.human_normalised(env) for env in envs[:2]])))
    assert over_games(one, envs[1:]) is None


def test_a_line_says_where_protocols_differ():
    """MR.Q's runs begin without no-ops and FIRE, ours under v5 with both."""
    lines = protocol_notes([mrq(100_000), *beside(["nature"], game_set("atari5"), 1e6)], ["nature"])
    assert "Its protocol (v5 without no-ops and FIRE at a reset) is not that of these runs (nature)" in lines[0]
    assert "is not that of these runs" not in lines[1]
    assert "Its protocol (nature) is not that of these runs (v5)" in protocol_notes(beside(["nature"], game_set("atari5"), 1e6), ["v5"])[0]


@pytest.mark.parametrize("text", ["", "mqr", "mrq,x"])
def test_an_unknown_source_or_set_is_named(text):
    with pytest.raises(ConfigError) as e:
        asked_for(text)
    assert "mrq" in str(e.value.fix)
    with pytest.raises(ConfigError):
        game_set("atari75")


@pytest.fixture(scope="module")
def two_games(small_run, tmp_path_factory):
    at = tmp_path_factory.mktemp("games")
    for game in ("Pong", "Breakout"):
        for seed in (0, 1, 2):
            small_run(at / f"{game}{seed}", 80, env=f"ALE/{game}-v5", seed=seed, eval_every=40, eval_episodes=1, heldout_states=0,
                      eval_max_steps=20, log_every=20, env_config={"frame_size": 42}, agent_config={"learning_starts": 5000})  # fmt: skip
    return at


def test_compare_runs_puts_them_beside_and_names_what_is_missing(two_games, tmp_path, capsys):
    pictures = [x for flag in ("iqm", "profile", "percentiles") for x in (f"--{flag}", str(tmp_path / f"{flag}.png"))]
    html = tmp_path / "page.html"
    command = [str(two_games), "--games", "atari5", "--beside", "mrq,nature"]
    assert guarded(main, command) == 2  # neither is one of the five
    assert "none of these runs is on a game of atari5" in capsys.readouterr().err
    assert guarded(main, [str(two_games / "Pong0"), "--games", "atari26"]) == 0
    assert "no score on 25 of 26 games" in capsys.readouterr().out
    assert guarded(main, [str(two_games), "--html", str(html), "--json", str(html)]) == 2
    assert "is given for" in capsys.readouterr().err
    command = [str(two_games), "--games", "mnih2013", "--beside", "mrq,nature", *pictures, "--html", str(html)]
    assert guarded(main, command) == 0
    told = capsys.readouterr().out
    assert "no score on 5 of 7 games" in told
    assert "mrq: MR.Q, 100,000 steps" in told
    assert "nature: DQN 2015" in told
    assert "Its protocol (nature) is not that of these runs (v5)" in told
    assert "401.20" in told  # DQN's score on Breakout
    assert all((tmp_path / f"{flag}.png").stat().st_size > 5_000 for flag in ("iqm", "profile", "percentiles"))
    page = html.read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "has no score on 5 of 7 games" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "mrq: MR.Q" in page


def test_what_comes_along_is_atari_only(small_run, tmp_path, capsys):
    small_run(tmp_path / "a", 100, eval_every=50, heldout_states=0)
    assert guarded(main, [str(tmp_path), "--beside", "mrq"]) == 2
    assert "for Atari only" in capsys.readouterr().err
    for flag in ("--iqm", "--profile", "--percentiles"):
        assert guarded(main, [str(tmp_path), flag, str(tmp_path / "x.png")]) == 2
        assert flag in capsys.readouterr().err
        assert not (tmp_path / "x.png").exists()


def test_the_curve_over_games_is_its_statistic_at_every_step(two_games):
    """Three seeds on each of two games; at each point the interval is the stratified one of that point's scores."""
    runs, _ = read_runs(sorted(two_games.iterdir()))
    tables = environments(runs)
    (told,) = iqm_curves(tables, False).values()
    for at in (0, len(told["x"]) // 2, len(told["x"]) - 1):
        strata = []
        for env, groups in tables.items():
            curves = [curve(run, tag_of(groups), False) for run in groups[0].runs]
            strata.append([human_normalised(games()[env], float(np.interp(told["x"][at], *c))) for c in curves])
        assert told["iqm"][at] == pytest.approx(float(iqm(sum(strata, []))))
        np.testing.assert_allclose([told["low"][at], told["high"][at]], stratified_interval(strata, iqm))
