"""What ale-py says of the console, and what is true: lives, games that end unseen, screens of other heights (docs/games.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arcturus.envs import EnvConfig, make, open_backend
from arcturus.envs.atari import RESTARTED, AtariBackend, protocol, screen_size
from arcturus.envs.vecenv import SB3VecEnv
from arcturus.seeding import Seeds

SPARE = ["BankHeist", "Frogger", "DonkeyKong", "KeystoneKapers", "SirLancelot", "MrDo", "Turmoil", "Atlantis", "Atlantis2"]


def losses(game, steps, seed=1, act=None):
    """(lives before, lives, life_lost, last) of every row at which lives fell."""
    rng = np.random.default_rng(seed)
    out = []
    with make(f"ALE/{game}-v5", 1, protocol="nature", frame_stack=1, frame_size=12) as envs:
        ts = envs.restart(np.array([7]))
        before = int(envs.backend._lives[0])
        for _ in range(steps):
            action = int(rng.integers(int(envs.single_action_space.n))) if act is None else act
            envs.send(torch.tensor([action]))
            ts = envs.recv()
            now = int(envs.backend._lives[0])
            if now < before:
                out.append((before, now, bool(ts.life_lost[0]), bool(ts.last[0])))
            before = now
            if ts.last[0]:
                break
    return out


@pytest.mark.parametrize(("game", "steps", "act"), [("DonkeyKong", 800, None), ("Frogger", 2200, 0), ("MrDo", 1200, None)])
def test_the_loss_of_the_last_spare_life_is_a_loss(game, steps, act):
    seen = losses(game, steps, act=act)
    zero = [row for row in seen if row[1] == 0]
    assert zero == [(1, 0, True, False)], seen
    assert all(lost for _, _, lost, last in seen if not last)


@pytest.mark.parametrize("game", ["Breakout", "SpaceInvaders", "Qbert"])
def test_the_loss_that_ends_a_game_is_its_end_and_no_loss_beside_it(game):
    seen = losses(game, 2000)
    assert [(lost, last) for _, now, lost, last in seen if now == 0] == [(False, True)]


@pytest.mark.slow
@pytest.mark.parametrize("game", SPARE)
def test_games_that_count_spare_lives_only_are_played_on_at_none(game):
    for seed in range(4):
        seen = losses(game, 4500, seed)
        if any(now == 0 and not last for _, now, _, last in seen):
            assert all(lost for _, _, lost, last in seen if not last)
            return
    pytest.fail(f"{game} never came to its last life")


@pytest.mark.parametrize("game", ["Amidar", "DemonAttack", "Turmoil"])
def test_a_number_of_lives_that_is_wrong_at_once_after_a_reset_ends_nothing(game):
    """It is wrong in the row of the reset itself where neither no-ops nor FIRE follow."""
    from arcturus.envs.atari import EvalProtocol

    rules = EvalProtocol("bare", 0.0, 0, False, 108_000, 0.0, 0.0)
    backend = AtariBackend(EnvConfig(f"ALE/{game}-v5", num_envs=1, frame_size=12), rules)
    backend.reset(np.array([3]), None)
    for _ in range(20):
        backend.send(np.zeros(1, np.int64))
        row = backend.recv()
        assert not row.truncated[0]
        assert not row.life_lost[0]
        assert not backend.over
    backend.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_frostbite_frozen_on_its_last_life_is_over_and_begins_again():
    """Its lives would jump back up and the console's demonstration run for half an hour of frames.  The next episode is a function of
    the seed, too."""

    def play():
        with make("ALE/Frostbite-v5", 1, frame_stack=1, frame_size=12, protocol="nature") as envs:
            envs.restart(np.array([1]))
            for n in range(4000):
                *_, terminated, truncated, info = envs.step(torch.zeros(1, dtype=torch.int64))
                if truncated[0] or terminated[0]:
                    break
            assert info["over"] == {0: RESTARTED}
            assert not terminated[0]
            obs, reward, terminated, truncated, info = envs.step(torch.zeros(1, dtype=torch.int64))
            assert info["age"].tolist() == [0]
            assert info["over"] == {}
            assert (float(reward[0]), bool(terminated[0]), bool(truncated[0])) == (0.0, False, False)
            frames = [obs] + [envs.step(torch.full((1,), 2))[0] for _ in range(30)]
            return n, torch.stack(frames)

    (first, a), (second, b) = play(), play()
    assert first == second > 3000
    assert torch.equal(a, b)


def test_lives_that_jump_end_the_game_of_that_environment_only(monkeypatch):
    """The rule by itself, on a game whose lives are made to jump."""
    backend = AtariBackend(EnvConfig("ALE/Breakout-v5", num_envs=3, frame_size=12), protocol("nature"))
    backend.reset(np.arange(3), None)
    for _ in range(3):
        backend.send(np.zeros(3, np.int64))
        backend.recv()
    backend._lives = np.array([5, 2, 4])  # so that the next row's 5 is a jump by 3 in one, an extra life in another
    backend.send(np.zeros(3, np.int64))
    row = backend.recv()
    assert row.truncated.tolist() == [False, True, False]
    assert backend.over == {1: RESTARTED}
    backend.send(np.zeros(3, np.int64))
    row = backend.recv()
    assert (row.truncated | row.terminated).tolist() == [False] * 3
    assert backend.over == {}
    backend.close()


def test_a_game_whose_own_clock_has_run_out_is_over(monkeypatch):
    from arcturus.envs import atari

    monkeypatch.setitem(atari.CLOCKS, "ALE/Pitfall-v5", 12)  # instead of twenty minutes
    with make("ALE/Pitfall-v5", 2, protocol="nature", frame_size=12) as envs:
        envs.reset(seed=1)
        ends = []
        for t in range(1, 30):
            *_, truncated, info = envs.step(torch.zeros(2, dtype=torch.int64))
            if truncated.any():
                ends.append((t, truncated.tolist(), info["over"]))
    over = {0: atari.RUN_OUT, 1: atari.RUN_OUT}
    assert ends == [(12, [True, True], over), (25, [True, True], over)]


@pytest.mark.slow
def test_breakout_is_over_where_its_counter_of_frames_runs_over():
    with make("ALE/Breakout-v5", 1, protocol="noop", frame_size=12) as envs:
        envs.reset(seed=1)
        still = torch.zeros(1, dtype=torch.int64)
        steps = next(t for t in range(1, 27_001) if envs.step(still)[3].any())
    assert steps == 65_536 // 4


def test_stable_baselines3_sees_the_loss_of_the_last_spare_life_as_an_end():
    with make("ALE/DonkeyKong-v5", 1, protocol="nature", frame_size=12) as envs:
        view = SB3VecEnv(envs.spec, end_on_life_loss=True)
        view.bind(envs, Seeds(0))
        view.reset()
        rng, ends = np.random.default_rng(1), []
        for _ in range(900):
            view.step_async(rng.integers(18, size=1) % int(envs.single_action_space.n))
            _, _, done, _ = view.step_wait()
            if done[0]:
                ends.append((int(envs.backend._lives[0]), bool(envs.host.terminated[0])))
        assert (0, False) in ends


@pytest.mark.parametrize(("game", "height"), [("Pong", 210), ("MrDo", 250), ("Pooyan", 220), ("KingKong", 250)])
def test_films_have_the_consoles_own_height(game, height):
    assert screen_size(f"ALE/{game}-v5") == (height, 160)
    backend = open_backend(EnvConfig(id=f"ALE/{game}-v5", num_envs=1, protocol="nature"), colour=True)
    assert backend.reset(np.array([3]), None).obs.shape == (1, height, 160, 3)
    backend.close()
