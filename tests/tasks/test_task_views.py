"""One task seen three ways (a Gymnasium environment, a NumPy vector environment, tensors on a device): the same game in all of them."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

from arcturus.envs import EnvConfig, make, open_training
from arcturus.envs.own import TASKS as NAMES
from arcturus.envs.tasks import task_of
from arcturus.envs.tasks.device import TaskEnvs
from arcturus.envs.tasks.sequences import Tapes
from arcturus.seeding import Seeds

N = 4
SMALL = {
    "Copy": {"high": 3, "width": 3},
    "RepeatCopy": {"high": 2, "repeats_high": 3, "width": 2},
    "AssociativeRecall": {"high": 3, "width": 2, "vectors": 2},
    "DynamicNGrams": {"low": 3, "high": 9, "n": 3},
    "PrioritySort": {"low": 3, "high": 5, "width": 3, "best": 3},
}
TOGETHER = [*itertools.product(("bits", "symbol", "serial"), ("bits", "exact", "sparse")), ("quantised", "logscore")]
PLAYS = [pytest.param(name, a, r, id=f"{name}-{a}-{r}") for name in NAMES for a, r in TOGETHER]


def scalar(name, **settings):
    return gym.make(f"NTM/{name}-v0", **(SMALL[name] | settings)).unwrapped


def opened(name, n=N, seed=0, **settings):
    env_id = f"NTM/{name}-v0"
    return TaskEnvs(env_id, *task_of(env_id, SMALL[name] | settings), n, "cpu", seed=seed)


def one_of(tapes, i):
    return Tapes(tapes.inputs[:, i : i + 1], tapes.targets[:, i : i + 1], tapes.mask)


@pytest.fixture
def drawn(monkeypatch):
    """The tapes of each batch, as they are drawn."""
    out = []

    def watch(kind):
        real = kind.sample

        def sample(self, *args):
            out.append(real(self, *args))
            return out[-1]

        monkeypatch.setattr(kind, "sample", sample)
        return out

    return watch


# -- three views ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "actions", "reward"), PLAYS)
def test_three_views_of_the_same_tapes_say_the_same_at_every_step(name, actions, reward, drawn):
    """Random actions, half of them right; through several ends, where the vector environments begin anew by themselves."""
    settings = SMALL[name] | {"actions": actions, "reward": reward, "levels": 5}
    tensors = opened(name, actions=actions, reward=reward, levels=5)
    arrays = gym.make_vec(f"NTM/{name}-v0", N, **settings)
    single = [scalar(name, actions=actions, reward=reward, levels=5) for _ in range(N)]
    tapes, rng = drawn(type(tensors.task)), np.random.default_rng(0)

    def reset(**kwargs):
        return zip(*(env.reset(options={"tape": one_of(tapes[-1], i)}, **kwargs) for i, env in enumerate(single)), strict=True)

    seen, info = tensors.reset(seed=5)
    seen_too, info_too = arrays.reset(seed=5)
    seen_one, infos = reset(seed=1)
    ends, scores, over = 0, np.zeros(N), False
    arrays.single_action_space.seed(0)
    for _ in range(60):
        for other in (seen_too, np.stack(seen_one)):
            assert np.array_equal(seen.numpy(), other)
            assert other.dtype == np.float32
        asked = [i["valid"] for i in infos]
        assert info["valid"].tolist() == info_too["valid"].tolist() == asked
        action = np.stack([arrays.single_action_space.sample() for _ in range(N)])
        if info.get("target") is not None:
            action = np.where(rng.random(N).reshape(N, *[1] * (action.ndim - 1)) < 0.5, info["target"].numpy(), action)
        began = over
        seen, got, ended, cut, info = tensors.step(action)
        seen_too, got_too, ended_too, cut_too, info_too = arrays.step(action)
        if began:
            seen_one, infos = reset()
            got_one, ended_one = (0.0,) * N, (False,) * N
        else:
            seen_one, got_one, ended_one, cut_one, infos = zip(
                *(e.step(a) for e, a in zip(single, action, strict=True)), strict=True
            )
            assert not any(cut_one)
        assert got.tolist() == got_too.tolist() == pytest.approx(list(got_one))
        assert got_too.dtype == np.float64
        assert ended.tolist() == ended_too.tolist() == list(ended_one)
        assert not cut.any()
        assert not cut_too.any()
        scores += got.numpy()
        over = bool(ended.all())
        assert over == bool(ended.any())
        if over:
            finished = tensors.take_finished()
            assert [e.score for e in finished] == pytest.approx(scores)
            assert [e.env for e in finished] == list(range(N))
            ends, scores = ends + 1, np.zeros(N)
    assert ends >= 2
    assert len({len(t.mask) for t in tapes}) > 1 or name == "DynamicNGrams"


# -- on a device ------------------------------------------------------------------------------------------------------------------


def course(envs, ts, steps, seed=0):
    """Every field of the rows that follow, with random actions."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        rows.append([x.clone() for x in ts if x is not None])
        shape = (envs.num_envs, *envs.single_action_space.shape)
        envs.send(torch.randint(2, shape, generator=generator))
        ts = envs.recv()
    return rows


def same(a, b):
    return all(torch.equal(x, y) for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_seeded_restart_doesn_t_depend_on_what_was_before(name):
    seeds = Seeds(3).branch("env").environments(N)
    envs = opened(name)
    first = course(envs, envs.restart(seeds), 50)
    course(envs, envs.restart(seeds[::-1].copy()), 17)
    assert same(first, course(envs, envs.restart(seeds), 50))
    other = opened(name, seed=9)
    assert same(first, course(other, other.restart(seeds), 50))
    assert not same(first, course(other, other.restart(seeds + 1), 50))
    assert same(first, course(other, other.restart(seeds), 50, seed=1)) is False  # rewards are of the actions
    assert torch.equal(opened(name).reset()[0], opened(name).reset()[0])  # the first reset is that of the seed given


def test_a_reset_takes_a_seed_seeds_lengths_or_tapes():
    envs = opened("Copy", high=9)
    a, b = envs.reset(seed=[1, 2, 3, 4]), envs.reset(seed=np.array([1, 2, 3, 4]))
    assert torch.equal(a[0], b[0])
    obs, info = envs.reset(seed=0, options={"lengths": (7,)})
    assert len(envs.tapes.mask) == 15
    with pytest.raises(ValueError, match="is not a length"):
        envs.reset(options={"lengths": (0,)})
    tapes = envs.task.sample(torch.Generator(), N, (2,))
    obs, info = envs.reset(options={"tapes": tapes})
    assert torch.equal(obs, tapes.inputs[0])
    assert not info["valid"].any()


@pytest.mark.parametrize(("name", "actions", "reward"), PLAYS)
def test_flags_targets_and_rewards_of_rows(name, actions, reward):
    """Decides only where an answer is asked for, and what is then the target scores as right."""
    envs = opened(name, actions=actions, reward=reward)
    assert envs.spec.has_targets == (actions != "quantised")
    ts, t, ends = envs.restart(np.arange(N)), 0, 0
    mask, total = envs.tapes.mask.tolist(), torch.zeros(N)
    for _ in range(3 * envs.spec.episode_rows + 3):
        over = t == len(mask)
        assert ts.obs.shape == (N, *envs.spec.obs_shape)
        assert ts.obs.dtype == torch.float32
        assert (ts.age == t).all()
        assert ts.age.dtype == torch.uint8
        assert (ts.terminated == over).all()
        assert (ts.last == over).all()
        assert (ts.valid == (not over and mask[t])).all()
        assert not (ts.truncated | ts.life_lost | ts.interrupted).any()
        total += ts.reward
        if over:
            ends += 1
            most = {"sparse": 1, "logscore": 0}.get(reward, sum(mask))
            assert not ts.obs.any()
            assert (total == most).all() or actions == "quantised"
            assert len(mask) <= envs.spec.episode_rows
            (score, _, length), *_ = [(e.score, e.env, e.length) for e in envs.take_finished()]
            assert length == len(mask)
            assert score == total[0]
        if ts.first.all():
            assert not ts.reward.any()
        if actions == "quantised":
            assert ts.target is None
            action = torch.zeros((N, *envs.single_action_space.shape), dtype=torch.int64)
        else:
            assert ts.target.dtype == torch.int64
            assert all(envs.single_action_space.contains(a) for a in ts.target.numpy().astype(envs.single_action_space.dtype))
            action = ts.target
        envs.send(action)
        ts = envs.recv()
        t += 1
        if over:
            t, mask, total = 0, envs.tapes.mask.tolist(), torch.zeros(N)
    assert ends >= 2
    assert envs.take_bad() == []


def test_environments_that_are_sent_can_t_be_reset_or_sent_again():
    envs = opened("Copy")
    with pytest.raises(RuntimeError, match="while new"):
        envs.send(torch.zeros(N, 3, dtype=torch.int64))
    envs.reset()
    with pytest.raises(ValueError, match=r"must be \[4, 3\]"):
        envs.send(torch.zeros(N, dtype=torch.int64))
    envs.send(torch.zeros(N, 3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"call recv\(\) before reset"):
        envs.reset()
    with pytest.raises(RuntimeError, match="while sent"):
        envs.send(torch.zeros(N, 3, dtype=torch.int64))
    envs.recv()
    with pytest.raises(RuntimeError, match="nothing to receive"):
        envs.recv()
    with pytest.raises(RuntimeError, match="begin and end together"):
        envs.restart(np.arange(N), np.array([True, False, True, True]))
    envs.restart(np.arange(N), np.ones(N, bool))
    envs.send(torch.zeros(N, 3, dtype=torch.int64))
    envs.settle()
    envs.settle()
    envs.send(torch.zeros(N, 3, dtype=torch.int64))
    envs.close()
    envs.close()
    for call in (envs.reset, envs.recv, lambda: envs.send(torch.zeros(N, 3, dtype=torch.int64))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_training_environments_live_together_and_those_that_stop_don_t():
    assert isinstance(make("NTM/Copy-v0", 2), TaskEnvs)
    assert isinstance(make("NTM/CopyExact-v0", 2, options="low=3,width=2,actions=serial"), TaskEnvs)
    assert not isinstance(make("NTM/CopyStop-v0", 2), TaskEnvs)
    assert not isinstance(make("NTM/Copy-v0", 2, options="reward=stop"), TaskEnvs)
    with open_training(EnvConfig(id="NTM/PrioritySort-v0", num_envs=3, options="low=4,high=5,best=2"), 0, "cpu") as envs:
        assert envs.reset()[0].shape == (3, 10)
        assert envs.spec.remembered == 5
        assert envs.schedule.ranges == ((4, 5),)


def test_environments_that_stop_say_which_rows_ask():
    """At a reset, at a step, at the row that closes an episode, and where single ones are reset."""
    with make("NTM/CopyStop-v0", 3, options="low=2,high=2,width=1") as envs:
        ts = envs.restart(np.arange(3))
        assert not ts.valid.any()  # two rows and the end flag are shown, then two are asked for
        for _ in range(40):
            asked = (ts.age >= 3) & ~ts.terminated
            assert torch.equal(ts.valid, asked)
            envs.send(torch.zeros(3, 1, dtype=torch.int64))
            ts = envs.recv()
            if ts.valid.any():
                ts = envs.restart(np.arange(3), np.array([True, False, False]))
                assert not ts.valid[0]
