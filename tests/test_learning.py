"""Agents learn: fixed seeds, a threshold and a budget, never run again until green."""

from __future__ import annotations

import pytest

import arcturus


def cartpole(tmp_path, seed):
    """Mean of 20 fresh evaluation episodes after the `classic` preset's 50,000 steps."""
    run = arcturus.train("dqn", "CartPole-v1", seed=seed, run_dir=tmp_path / str(seed), device="cpu", quiet=True, eval_every=0,
                         heldout_states=0, log_every=5_000)  # fmt: skip
    return arcturus.evaluate(arcturus.load(run), "CartPole-v1", episodes=20, seed=1).mean


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_dqn_solves_cartpole(tmp_path):
    assert cartpole(tmp_path, 0) >= 400


@pytest.mark.learning
@pytest.mark.timeout(400)
def test_dqn_solves_cartpole_on_two_of_three_seeds(tmp_path):
    scores = [cartpole(tmp_path, seed) for seed in (0, 1, 2)]
    print(scores)
    assert sum(s >= 400 for s in scores) >= 2


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_dqn_beats_both_floors_of_a_real_game_within_minutes(tmp_path):
    from arcturus.scoring.floors import floors
    from arcturus.scoring.statistics import bootstrap_interval

    run = arcturus.train(
        "dqn", "ALE/KungFuMaster-v5", steps=100_000, run_dir=tmp_path / "r", device="cpu", quiet=True, eval_every=0
    )
    actor = arcturus.load(run)
    score = bootstrap_interval(arcturus.evaluate(actor, actor.config.env, 16, seed=1).scores)
    found = floors(actor.config.env, 16, seed=1)
    assert score[0] > bootstrap_interval(found.random.scores)[1]
    assert score[0] > bootstrap_interval(found.constant.scores)[1]
