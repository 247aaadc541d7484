"""How the algorithmic tasks are answered and what answers are worth, by hand; and whether others' tools can play them."""

from __future__ import annotations

import itertools
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import arcturus
from arcturus.envs.own import TASKS as NAMES
from arcturus.envs.own import TURING
from arcturus.envs.tasks import task_of
from arcturus.envs.tasks.playing import Play
from arcturus.envs.tasks.sequences import Tapes
from arcturus.envs.tasks.vector import TaskVectorEnv

SMALL = {
    "Copy": {"high": 3, "width": 3},
    "RepeatCopy": {"high": 2, "repeats_high": 3, "width": 2},
    "AssociativeRecall": {"high": 3, "width": 2, "vectors": 2},
    "DynamicNGrams": {"low": 3, "high": 9, "n": 3},
    "PrioritySort": {"low": 3, "high": 5, "width": 3, "best": 3},
}
EVERY = [
    *itertools.product(("bits", "symbol", "serial"), ("bits", "exact", "sparse", "stop")),
    *itertools.product(("probs", "quantised"), ("logscore",)),
]
EVERY = [pytest.param(name, a, r, id=f"{name}-{a}-{r}") for name in NAMES for a, r in EVERY]


def scalar(name, **settings):
    return gym.make(f"NTM/{name}-v0", **(SMALL[name] | settings)).unwrapped


# -- encodings --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3, 8])
@pytest.mark.parametrize("actions", ["bits", "symbol"])
def test_every_row_of_bits_is_an_action_of_its_own_and_comes_back(actions, outputs):
    play = Play(outputs, actions)
    rows = torch.tensor(list(itertools.product((0, 1), repeat=outputs)), dtype=torch.uint8)
    said = play.encode(rows)
    assert said.dtype == torch.int64
    assert torch.equal(play.decode(said), rows)
    assert len({str(a) for a in said.tolist()}) == 2**outputs
    assert all(play.space.contains(a) for a in said.numpy().astype(play.space.dtype))
    assert torch.equal(play.decode(play.encode(rows.view(2, -1, outputs))), rows.view(2, -1, outputs))


def test_of_a_symbol_the_first_output_is_the_lowest_bit():
    play = Play(4, "symbol")
    assert int(play.encode(torch.tensor([1, 0, 0, 0], dtype=torch.uint8))) == 1
    assert int(play.encode(torch.tensor([0, 1, 0, 1], dtype=torch.uint8))) == 10
    assert play.decode(torch.tensor([1, 8, 15])).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1]]


def test_serial_answers_make_one_row_of_each_bit_and_leave_the_others_alone():
    x = torch.tensor([[7.0], [8.0], [9.0]])[:, None].expand(3, 2, 1)
    y = torch.tensor([[[0, 0], [0, 0]], [[1, 0], [0, 1]], [[0, 1], [1, 1]]], dtype=torch.uint8)  # [T, B, bits]
    laid = Play(2, "serial").lay_out(Tapes(x, y, torch.tensor([False, True, True])))
    assert laid.inputs[:, 0, 0].tolist() == [7, 8, 8, 9, 9]
    assert laid.mask.tolist() == [False, True, True, True, True]
    assert laid.targets.shape == (5, 2, 1)
    assert laid.targets[1:, 0, 0].tolist() == [1, 0, 0, 1]
    assert laid.targets[1:, 1, 0].tolist() == [0, 1, 1, 1]
    assert Play(2, "serial").rows(3, 2) == 5
    assert Play(2, "bits").rows(3, 2) == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("actions", ["bits", "serial"])
def test_rows_as_they_are_played_are_as_many_as_is_said(name, actions):
    task, play = task_of(f"NTM/{name}-v0", SMALL[name] | {"actions": actions})
    tapes = task.sample(torch.Generator(), 2, task.longest)
    laid = play.lay_out(tapes)
    assert (
        len(laid.mask) == len(laid.inputs) == len(laid.targets) == play.rows(task.rows(task.longest), task.answers(task.longest))
    )
    asked = tapes.targets[tapes.mask].transpose(0, 1).flatten(1)
    assert torch.equal(laid.targets[laid.mask].transpose(0, 1).flatten(1), asked)  # the same bits in the same order


def test_quantised_levels_stand_for_the_middles_of_equal_steps():
    play = Play(1, "quantised", "logscore", levels=4)
    assert play.space == gym.spaces.Discrete(4)
    assert play.probabilities(torch.arange(4))[:, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert play.decode(torch.arange(4))[:, 0].tolist() == [0, 0, 1, 1]
    rewards, right = play.score(torch.arange(4), torch.ones(4, 1, dtype=torch.uint8))
    assert rewards.tolist() == pytest.approx(np.log2([0.125, 0.375, 0.625, 0.875]))
    assert right.tolist() == [False, False, True, True]
    assert Play(3, "quantised", "logscore", levels=4).space == gym.spaces.MultiDiscrete([4, 4, 4])


def test_rewards_are_what_their_table_says():
    """Eight bits, of which three are wrong; and none."""
    y = torch.tensor([[1, 0, 1, 1, 0, 0, 1, 0]] * 2, dtype=torch.uint8)
    said = y.clone().long()
    said[0, :3] = 1 - said[0, :3]
    for reward, (wrong, right) in {"bits": (2 / 8, 1), "exact": (0, 1), "sparse": (0, 0), "stop": (-0.5, 1)}.items():
        got, solved = Play(8, "bits", reward).score(said, y)
        assert got.tolist() == [wrong, right]
        assert solved.tolist() == [False, True]
    p = torch.tensor([[0.25, 0.5], [1.0, 0.0]])
    got, solved = Play(2, "probs", "logscore").score(p, torch.tensor([[1, 0], [1, 0]], dtype=torch.uint8))
    assert got[0] == -3.0
    assert -1e-5 < got[1] < 0  # certainty is cut to 1 - 1e-6, so that the worst is not infinite
    assert solved.tolist() == [False, True]
    worst, _ = Play(1, "probs", "logscore").score(torch.tensor([0.0]), torch.tensor([1], dtype=torch.uint8))
    assert -20 < worst < -19.9


def test_guessing_is_worth_nothing():
    generator = torch.Generator().manual_seed(0)
    y, said = (torch.randint(2, (20_000, 8), generator=generator) for _ in range(2))
    reward, _ = Play(8).score(said, y)
    assert abs(reward.mean()) < 4 * (1 / 8 / 20_000) ** 0.5
    assert reward.min() == -1
    assert reward.max() == 1


@pytest.mark.parametrize(
    ("actions", "reward"), [("bits", "bits"), ("symbol", "bits"), ("serial", "bits"), ("quantised", "logscore")]
)
def test_chances_of_bits_are_sums_over_a_policys_actions(actions, reward):
    bits = 1 if actions == "serial" else 3
    play = Play(3, actions, reward, levels=5)
    k, choices = {"bits": (3, 2), "symbol": (1, 8), "serial": (1, 2), "quantised": (3, 5)}[actions]
    pi = torch.rand(4, k, choices, generator=torch.Generator().manual_seed(0)).softmax(-1)
    got = play.chances(pi)
    assert got.shape == (4, bits)
    for i, b in itertools.product(range(4), range(bits)):
        if actions == "symbol":
            wanted = sum(float(pi[i, 0, a]) for a in range(8) if a >> b & 1)
        elif actions == "quantised":
            wanted = sum(float(pi[i, b, a]) * (a + 0.5) / 5 for a in range(5))
        else:
            wanted = float(pi[i, b, 1])
        assert float(got[i, b]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("settings", "says"), [
    ({"outputs": 9, "actions": "symbol"}, "at most 8 bits"), ({"outputs": 2, "reward": "logscore"}, "reward=logscore"),
    ({"outputs": 2, "actions": "probs"}, "can't have reward=bits"), ({"outputs": 2, "actions": "words"}, "'words'"),
    ({"outputs": 2, "reward": "more"}, "'more'"), ({"outputs": 2, "actions": None}, "None"), ({"outputs": 2, "levels": 1}, "levels is 1"),
    ({"outputs": 2, "levels": 16.0}, "levels is 16.0"), ({"outputs": 2, "levels": 1_001}, "levels is 1001"),
    ({"outputs": 2, "actions": "quantised", "reward": "exact"}, "can't have reward=exact"), ({"outputs": 2, "levels": True}, "levels"),
])  # fmt: skip
def test_ways_of_playing_that_can_t_be_are_told_in_one_line(settings, says):
    with pytest.raises(ValueError, match=says) as e:
        Play(**settings)
    assert "\n" not in str(e.value)


def test_shortfall_is_how_far_a_return_is_from_the_most():
    assert Play(8).shortfall(4.5, 5) == -0.5
    assert Play(8, reward="exact").shortfall(5.0, 5) == 0.0
    assert Play(8, reward="stop").shortfall(1.5, 5) == -3.5
    assert [Play(8, reward="sparse").shortfall(x, 5) for x in (0.0, 1.0)] == [-5.0, 0.0]  # its most is 1, not 5
    assert Play(8, "probs", "logscore").shortfall(-7.0, 5) == -7.0


# -- rewards in an environment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "actions", "reward"), EVERY)
def test_right_answers_earn_the_most_and_any_other_less(name, actions, reward):
    """What the most is, by hand; a wrong bit in the second row that asks costs what the table says."""
    env = scalar(name, actions=actions, reward=reward, levels=4)
    lengths = tuple(max(low, min(high, 2)) for low, high in env.task.ranges)
    rows = env.task.answers(lengths) * (env.task.outputs if actions == "serial" else 1)
    bits = 1 if actions == "serial" else env.task.outputs
    assert rows >= 2

    def answer(y):
        """The action that says bits y; of forecasts, the surest."""
        if actions == "bits":
            return y.astype(np.int8)
        if actions == "symbol":
            return np.int64(sum(int(b) << k for k, b in enumerate(y)))
        if actions == "serial":
            return np.int64(y[0])
        if actions == "probs":
            return y.astype(np.float32)
        return np.int64(3 * y[0]) if bits == 1 else 3 * y.astype(np.int64)

    def play(slips):
        """Rewards and right of an episode in which these rows that ask (counted from 0) are answered with one wrong bit."""
        _, info = env.reset(seed=1, options={"lengths": lengths})
        rewards, ended, count = [], False, 0
        while not ended:
            y = env._y[env.t].copy()
            if asked := info["valid"]:
                y[-1] ^= count in slips
                count += 1
            _, reward, ended, _, info = env.step(answer(y))
            rewards.append((asked, reward))
        assert all(reward == 0 for asked, reward in rewards if not asked)
        return [reward for asked, reward in rewards if asked], info["solved"]

    sure = {"probs": 1 - 1e-6, "quantised": 7 / 8}.get(actions, 1)
    best = {"sparse": [0.0] * (rows - 1) + [1.0], "logscore": [bits * np.log2(sure)] * rows}.get(reward, [1.0] * rows)
    got, solved = play(())
    assert got == pytest.approx(best, abs=1e-6)
    assert solved
    slip = {"bits": 1 - 2 / bits, "exact": 0.0, "sparse": 0.0, "stop": -0.5}
    if reward == "logscore":
        slip = {"logscore": (bits - 1) * np.log2(sure) + np.log2(1 - sure)}
    wanted = [best[0], slip[reward], *best[2:]]
    if reward == "sparse":
        wanted[-1] = 0.0
    got, solved = play((1,))
    assert got == pytest.approx(wanted[:2] if reward == "stop" else wanted, abs=0.05 if actions == "probs" else 1e-6)
    assert not solved


def test_a_step_after_the_end_or_before_a_reset_is_refused():
    """After a wrong row of `stop` the tape could go on, and pay."""
    env = scalar("Copy", reward="stop")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3, np.int8))
    _, info = env.reset(seed=0, options={"lengths": (3,)})
    while not info["valid"]:
        *_, info = env.step(np.zeros(3, np.int8))
    _, reward, ended, _, info = env.step(1 - env._y[env.t])
    assert (reward, ended, info) == (-0.5, True, {"valid": False, "solved": False})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(3, np.int8))


@pytest.mark.parametrize(("actions", "bad"), [
    ("bits", [0, 1]), ("bits", 1), ("bits", [0, 1, 2]), ("bits", [0, -1, 0]), ("symbol", 8), ("symbol", -1), ("symbol", [1, 0, 1]),
    ("serial", 2), ("serial", [1]), ("probs", [0.5, 0.5, 1.5]), ("probs", [0.5, float("nan"), 0.5]), ("probs", 0.5),
    ("quantised", [0, 1, 4]), ("quantised", [-1, 0, 0]), ("quantised", 2),
])  # fmt: skip
def test_an_impossible_action_raises_instead_of_being_scored_as_another(actions, bad):
    settings = {"actions": actions, "levels": 4} | ({"reward": "logscore"} if actions in ("probs", "quantised") else {})
    env = scalar("Copy", **settings)
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    while not info["valid"]:
        *_, info = env.step(env.action_space.sample())
    before = env.t
    with pytest.raises(ValueError, match="is not in"):
        env.step(np.array(bad))
    assert env.t == before
    env.step(env.action_space.sample())
    if actions != "probs":
        arrays = gym.make_vec("NTM/Copy-v0", 2, **(SMALL["Copy"] | settings))
        arrays.reset(seed=0)
        with pytest.raises(ValueError, match="is not in"):
            arrays.step(np.array([bad, bad]))


# -- Gymnasium, stable-baselines3 ---------------------------------------------------------------------------------------------------

MODES = ({}, {"actions": "symbol"}, {"actions": "serial"}, {"actions": "probs", "reward": "logscore"},
         {"actions": "quantised", "reward": "logscore"})  # fmt: skip


def playable(env_id, mode):
    narrow = {"width": 7} if "RepeatCopy" in env_id and mode.get("actions") == "symbol" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|out of date).*")
        return gym.make(env_id, **mode, **narrow)


PLAYED = [  # of the variants' other actions only in the slow tests
    pytest.param(i, mode, id=f"{i}-{mode.get('actions', 'bits')}", marks=[pytest.mark.slow] if len(e["kwargs"]) > 1 and mode else [])
    for i, e in TURING.items()
    for mode in MODES
]


@pytest.mark.parametrize(("env_id", "mode"), PLAYED)
def test_the_checkers_of_gymnasium_and_stable_baselines3_pass(env_id, mode):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    env = playable(env_id, mode).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|out of date|normalize).*")  # repeats have no largest number
        check_env(env, skip_render_check=True)
        check_sb3(env)


@pytest.mark.parametrize("name", NAMES)
def test_the_checkers_pass_with_pictures_too(name):
    env = scalar(name, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|out of date).*")
        check_env(env)


@pytest.mark.parametrize("env_id", [i for i in TURING if "Stop" not in i])
def test_make_vec_keeps_gymnasiums_contract(env_id):
    envs = gym.make_vec(env_id, 3)
    assert isinstance(envs, TaskVectorEnv)
    assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    assert envs.spec.id == env_id
    assert envs.observation_space == gym.vector.utils.batch_space(envs.single_observation_space, 3)
    assert envs.action_space == gym.vector.utils.batch_space(envs.single_action_space, 3)
    obs, info = envs.reset(seed=1)
    envs.action_space.seed(1)
    kept, seen = obs.copy(), []
    for _ in range(300):
        assert envs.observation_space.contains(obs)
        assert info["valid"].dtype == bool
        obs, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert reward.shape == terminated.shape == truncated.shape == info["valid"].shape == (3,)
        assert (terminated.dtype, truncated.dtype) == (bool, bool)
        seen.append((obs.copy(), terminated.copy()))
        for written in (obs, reward, terminated, truncated, info["valid"]):
            written[:] = 1  # what is handed out is the caller's own
    ends = [i for i, (_, t) in enumerate(seen[:-1]) if t.all()]
    assert ends
    assert all(not seen[i + 1][1].any() and not seen[i][0].any() for i in ends)
    assert np.array_equal(envs.reset(seed=1)[0], kept)
    assert np.array_equal(envs.reset(seed=[1, 7, 9])[0], kept)
    envs.close()


def test_stop_and_probabilities_are_stepped_one_by_one():
    envs = gym.make_vec("NTM/CopyStop-v0", 2)
    assert isinstance(envs, gym.vector.SyncVectorEnv)
    for settings in ({"reward": "stop"}, {"actions": "probs", "reward": "logscore"}):
        with pytest.raises(ValueError, match="one environment at a time"):
            gym.make_vec("NTM/Copy-v0", 2, **settings)
        assert gym.make_vec("NTM/Copy-v0", 2, vectorization_mode="sync", **settings).reset()[0].shape == (2, 9)


def test_environments_without_a_seed_don_t_play_the_same_tapes():
    for maker in (lambda: scalar("Copy", low=9, high=9), lambda: gym.make_vec("NTM/Copy-v0", 1, low=9, high=9)):
        obs = []
        for _ in range(3):
            env = maker()
            for _ in range(2):
                rows = [env.reset()[0]] + [env.step(env.action_space.sample())[0] for _ in range(8)]
                obs.append(np.concatenate(rows).tobytes())
        assert len(set(obs)) == 6


def test_stepping_for_ever_keeps_no_account_of_what_is_over():
    for envs in (
        arcturus.make("NTM/Copy-v0", 2, options="low=1,high=1"),
        arcturus.make("Memory/Recall-v0", 2, options="delay=1"),
    ):
        envs.reset(seed=0)
        for _ in range(40):
            envs.step(np.zeros(envs.action_space.shape, np.int64))
        assert len(envs.take_finished()) <= 2
        envs.close()
