"""Agents learn: fixed seeds, a threshold and a budget, never run again until green."""

from __future__ import annotations

import pytest

import arcturus
from arcturus.scoring.sequences import score_lengths

CARTPOLE = {
    "dqn": 400,
    "c51": 400,
    "qr_dqn": 400,
    "iqn": 400,
    "pqn": 400,
    "reinforce": 195,
    "a2c": 400,
    "ppo": 450,
    "sac": 400,
}  # mean return over 20 episodes
MEMORY = "Memory/Recall-v0"  # a cue of 4, asked for after 8 steps: chance is 0.25


def score(agent, env, path, seed, **options):
    """Mean of fresh evaluation episodes after the default preset's training."""
    run = arcturus.train(agent, env, seed=seed, run_dir=path / f"{agent}-{seed}", device="cpu", quiet=True, eval_every=0,
                         heldout_states=0, log_every=5_000, **options)  # fmt: skip
    return arcturus.evaluate(arcturus.load(run), env, episodes=20 if env != MEMORY else 100, seed=1).mean


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("agent", CARTPOLE)
def test_cartpole_is_solved(agent, tmp_path):
    assert score(agent, "CartPole-v1", tmp_path, 0) >= CARTPOLE[agent]


@pytest.mark.learning
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("agent", CARTPOLE)
def test_cartpole_is_solved_on_two_of_three_seeds(agent, tmp_path):
    scores = [score(agent, "CartPole-v1", tmp_path, seed) for seed in (0, 1, 2)]
    print(agent, scores)
    assert sum(s >= CARTPOLE[agent] for s in scores) >= 2


@pytest.mark.learning
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("agent", ["c51", "sac", "a2c", "reinforce"])
def test_a_preset_chosen_for_cartpole_learns_where_every_step_costs(agent, tmp_path):
    """C51 whose support began at 0 learnt nothing here; the others never found the goal, which random play sees once in fifty episodes."""
    seeds = (3, 4) if agent == "sac" else (0, 1)  # SAC's preset was chosen with seed 0, where others never found the goal
    scores = [score(agent, "Acrobot-v1", tmp_path, seed) for seed in seeds]
    print(agent, scores)
    assert min(scores) > -200


RAINBOW = {"dueling": True, "noisy": 0.1, "prioritised": True, "epsilon_initial": 0.0, "epsilon_final": 0.0}


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_rainbow_solves_cartpole_on_two_of_three_seeds(tmp_path):
    scores = [score("c51", "CartPole-v1", tmp_path, seed, agent_config=RAINBOW) for seed in (0, 1, 2)]
    print(scores)
    assert sum(s >= 400 for s in scores) >= 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("core", ["rnn", "lstm", "gru", "deep_lstm"])
def test_every_recurrent_core_recalls_a_cue(core, tmp_path):
    assert score("ppo", MEMORY, tmp_path, 0, steps=100_000, agent_config={"core": core}) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_memory_a_cue_can_not_be_recalled(tmp_path):
    assert score("ppo", MEMORY, tmp_path, 0, steps=100_000, agent_config={"core": "none"}) <= 0.4


@pytest.mark.learning
@pytest.mark.timeout(900)
@pytest.mark.parametrize("agent", ["drqn", "a2c", "reinforce"])
def test_every_agent_recalls_a_cue_with_its_memory(agent, tmp_path):
    assert score(agent, MEMORY, tmp_path, 0) >= 0.95


def exact(run, *lengths, sequences=500):
    """Share of fresh tapes of each length that the agent answers without a wrong bit."""
    actor = arcturus.load(run)
    return [s.exact for s in score_lengths(actor, actor.config.env, [(n,) for n in lengths], sequences, seed=1)]


def copies(agent, path, seed=0, options="width=4,high=5", **more):
    """A run that was trained to copy short tapes, by the default preset if no other is named."""
    return arcturus.train(agent, "NTM/Copy-v0", seed=seed, run_dir=path / f"{agent}-{seed}", device="cpu", quiet=True, eval_every=0,
                          env_config={"options": options}, log_every=5_000, **more)  # fmt: skip


def check_small_copy(path, seed):
    scores = exact(copies("supervised", path, seed, preset="cpu-small"), 1, 2, 3, 4, 5, 8)
    print(seed, scores)
    assert min(scores[:5]) >= 0.99
    assert scores[5] >= 0.8  # a length that training never showed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_turing_machine_learns_to_copy_and_copies_what_is_longer(tmp_path):
    check_small_copy(tmp_path, 0)


@pytest.mark.learning
@pytest.mark.timeout(900)
def test_a_turing_machine_learns_to_copy_on_three_of_three_seeds_and_an_lstm_does_not_carry_over(tmp_path):
    for seed in (0, 1, 2):
        check_small_copy(tmp_path, seed)
    lstm = {"core": "lstm", "core_width": 128, "core_options": ""}
    assert exact(copies("supervised", tmp_path, 3, preset="cpu-small", agent_config=lstm), 8)[0] <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("controller", ["feedforward", "lstm"])
def test_a_differentiable_neural_computer_learns_to_copy_and_copies_what_is_longer(controller, tmp_path):
    dnc = {"core": "dnc", "core_width": 64, "core_options": f"controller={controller},slots=16,word=12"}
    scores = exact(copies("supervised", tmp_path, preset="cpu-small", steps=120_000, agent_config=dnc), 1, 2, 3, 4, 5, 8)
    print(scores)
    assert min(scores[:5]) >= 0.95
    assert scores[5] >= 0.5  # a length that training never showed


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_by_reward_alone_a_turing_machine_learns_to_copy_and_copies_what_is_twice_as_long(tmp_path):
    run = copies("ppo", tmp_path, options="high=5", steps=750_000)  # 8 bits, the default preset
    scores = exact(run, 1, 2, 3, 4, 5, 10)
    print(scores)
    assert min(scores[:5]) >= 0.95
    assert scores[5] >= 0.8


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_drqn_learns_to_copy_by_symbols(tmp_path):
    scores = exact(copies("drqn", tmp_path, options="actions=symbol,width=3,high=5", steps=200_000), 1, 2, 3, 4, 5)
    print(scores)
    assert min(scores) >= 0.95


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_dqn_beats_both_floors_of_a_real_game_within_minutes(tmp_path):
    from arcturus.scoring.floors import floors
    from arcturus.scoring.statistics import stratified_interval

    run = arcturus.train(
        "dqn", "ALE/KungFuMaster-v5", steps=100_000, run_dir=tmp_path / "r", device="cpu", quiet=True, eval_every=0
    )
    actor = arcturus.load(run)
    score = stratified_interval([arcturus.evaluate(actor, actor.config.env, 16, seed=1).scores])
    found = floors(actor.config.env, 16, seed=1)
    assert score[0] > stratified_interval([found.random.scores])[1]
    assert score[0] > stratified_interval([found.constant.scores])[1]
