"""Real train-agent processes, killed and interrupted at random instants, end as one that was never stopped (tools/survival.py)."""

from __future__ import annotations

import pytest

from tools import survival


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("env", ["gymnasium:CartPole-v1", "ALE/Pong-v5"])  # the first as code from outside, which needs trust
def test_killed_runs_end_as_one_never_stopped(env, tmp_path, capsys):
    code = survival.main(
        ["--env", env, "--kills", "2", "--in-save", "1", "--interrupts", "1", "--each", "3", "--folder", str(tmp_path)]
    )
    assert code == 0, capsys.readouterr().out


@pytest.mark.learning
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("env", ["CartPole-v1", "ALE/Pong-v5"])
def test_many_killed_runs_end_as_one_never_stopped(env, tmp_path, capsys):
    code = survival.main(
        ["--env", env, "--kills", "15", "--in-save", "5", "--interrupts", "5", "--seed", "1", "--folder", str(tmp_path)]
    )
    assert code == 0, capsys.readouterr().out


def test_the_comparison_sees_a_difference(small_run, tmp_path):
    """digests() would be no proof if it overlooked what differs."""
    one = survival.digests(small_run(tmp_path / "one", steps=600, eval_every=300).path)
    assert one == survival.digests(small_run(tmp_path / "same", steps=600, eval_every=300).path)
    two = survival.digests(small_run(tmp_path / "two", steps=600, eval_every=300, seed=1).path)
    assert one.keys() == two.keys()
    assert all(one[k] != two[k] for k in one)
