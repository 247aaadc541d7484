"""Environments: real emulator, real registry; the traps of ale-py's and Gymnasium's vector environments."""

from __future__ import annotations

import itertools
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from arcturus.envs import EnvConfig, make, open_backend
from arcturus.envs.atari import PROTOCOLS, AtariBackend, action_names, games
from arcturus.envs.encoding import encoding
from arcturus.envs.vector import FrameStack, reach
from arcturus.errors import ConfigError, EnvironmentProblem
from arcturus.seeding import Seeds


def actions(n, high, count, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.integers(high, size=n)) for _ in range(count)]


# -- frames ----------------------------------------------------------------------------------------------------------------


def test_reach_says_how_far_back_an_episode_goes():
    assert reach(torch.tensor([0, 1, 3, 255], dtype=torch.uint8), torch.tensor([-2, -1, 0])).tolist() == [
        [False, False, True],
        [False, True, True],
        [True, True, True],
        [True, True, True],
    ]


@pytest.mark.parametrize(("stack", "shape"), [(4, (84, 84)), (2, (42, 42)), (7, (3,)), (3, (2, 5, 5))])
def test_any_stack_of_any_frame_shape_is_blank_before_the_episode(stack, shape):
    frames, age = FrameStack(2, stack, shape, torch.uint8, "cpu"), 0
    for t, age in enumerate([0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8], 1):
        out = frames.push(torch.full((2, *shape), t, dtype=torch.uint8), torch.tensor([age, 0], dtype=torch.uint8))
        shown = out.flatten(2)[:, :, 0].tolist()
        assert shown[0] == [t - k if age >= k else 0 for k in range(stack - 1, -1, -1)]
        assert shown[1] == [0] * (stack - 1) + [t]


@pytest.mark.parametrize("game", ["Breakout", "MsPacman", "SpaceInvaders"])
def test_frames_are_those_of_gymnasiums_preprocessing_stacked_with_zeros(game):
    """Bit-equal up to 1 grey level: OpenCV's area averaging rounds some pixels otherwise in another major version.

    Without no-ops and sticky actions both emulators follow the actions alone.  The frame of a game's end is left out: both
    preprocessings leave their skip loop early there, and show the frame before, in different buffers.
    """
    import ale_py
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    from arcturus.envs.atari import EvalProtocol
    from arcturus.envs.vector import DeviceEnvs

    gym.register_envs(ale_py)
    env_id = f"ALE/{game}-v5"
    rules = EvalProtocol("test", 0.0, 0, False, 108_000, 0.0, 0.0)
    ours = DeviceEnvs(AtariBackend(EnvConfig(env_id, num_envs=1), rules), "cpu", frame_stack=4)
    theirs = FrameStackObservation(
        AtariPreprocessing(gym.make(env_id, frameskip=1, repeat_action_probability=0.0), noop_max=0), 4, padding_type="zero"
    )
    ts, (obs, _) = ours.restart(np.array([3])), theirs.reset(seed=3)
    compared = 0
    for t, action in enumerate(actions(1, theirs.action_space.n, 700)):
        if not ts.last[0]:
            difference = np.abs(ts.obs[0].numpy().astype(int) - obs.astype(int))
            assert difference.max() <= 1, (t, difference.max())
            compared += 1
        if ts.last[0]:
            break
        ours.send(action)
        ts = ours.recv()
        obs, reward, terminated, truncated, _ = theirs.step(int(action[0]))
        assert float(ts.reward[0]) == reward
        assert bool(ts.terminated[0]) == terminated
    assert compared > 150
    ours.close()


# -- the rule of idle and sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["ALE/Breakout-v5", "CartPole-v1"])
def test_resetting_between_send_and_recv_raises_and_closing_waits(env_id):
    envs = make(env_id, 2)
    envs.reset()
    envs.send(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="call recv"):
        envs.reset()
    with pytest.raises(RuntimeError, match="while sent"):
        envs.send(torch.zeros(2, dtype=torch.int64))
    envs.recv()
    with pytest.raises(RuntimeError, match="nothing to receive"):
        envs.recv()
    envs.reset()
    envs.send(torch.zeros(2, dtype=torch.int64))
    envs.close()
    envs.close()
    with pytest.raises(RuntimeError, match="closed"):
        envs.reset()


@pytest.mark.parametrize("bad", [[4, 0], [-1, 0], [99, 1], [0]])
def test_an_impossible_action_raises_instead_of_hanging_the_emulator(bad):
    with make("ALE/Breakout-v5", 2) as envs:
        envs.reset()
        with pytest.raises(ValueError, match="action"):
            envs.step(torch.tensor(bad))
        envs.step(torch.tensor([3, 0]))  # and it still plays


# -- seeds and determinism ------------------------------------------------------------------------------------------------------


def test_neighbouring_run_seeds_share_no_environment_seeds():
    sets = [set(Seeds(s).branch("env").environments(64).tolist()) for s in range(8)]
    assert all(not a & b for a, b in itertools.combinations(sets, 2))
    assert all(0 <= x < 2**31 for s in sets for x in s)


def test_branches_do_not_depend_on_one_another():
    seeds = Seeds(3)
    before = seeds.branch("env", 2).environments(3).tolist()
    seeds.branch("eval").numpy().random(100)
    assert before == Seeds(3).branch("env", 2).environments(3).tolist()
    assert before != seeds.branch("env", 3).environments(3).tolist()


def test_atari_is_a_function_of_seeds_and_actions_whatever_the_threads_and_the_past():
    def course(threads, warm):
        with make("ALE/Breakout-v5", 4, frame_size=42, threads=threads) as envs:
            if warm:
                envs.reset(seed=99)
                for a in actions(4, 4, 30, 7):
                    envs.step(a)
            obs = [envs.reset(seed=5)[0]]
            out = []
            for a in actions(4, 4, 250):
                o, *rest, _ = envs.step(a)
                obs.append(o)
                out.append(torch.stack([x.float() for x in rest]))
            return torch.stack(obs), torch.stack(out)

    first = course(1, False)
    for other in (course(2, False), course(2, True)):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_masked_restart_moves_only_its_environments():
    with make("ALE/Breakout-v5", 3, frame_size=42) as envs:
        ts = envs.restart(np.array([1, 2, 3]))
        for a in actions(3, 4, 20):
            envs.send(a)
            ts = envs.recv()
        again = envs.restart(np.array([0, 7, 0]), np.array([False, True, False]))
        assert torch.equal(again.obs[[0, 2]], ts.obs[[0, 2]])
        assert again.age.tolist() == [20, 0, 20]
        assert not again.obs[1, :-1].any()
        with make("ALE/Breakout-v5", 1, frame_size=42) as alone:
            mine = alone.restart(np.array([7]))
            assert torch.equal(mine.obs[0], again.obs[1])
            for a in actions(3, 4, 60, 1):
                envs.send(a), alone.send(a[1:2])
                ts, mine = envs.recv(), alone.recv()
                assert torch.equal(ts.obs[1], mine.obs[0])
                assert ts.reward[1] == mine.reward[0]


# -- Atari ------------------------------------------------------------------------------------------------------------------------


def test_protocols_reach_the_emulator():
    """ale-py's own default is no sticky actions where its registered v5 ids have 0.25."""

    def course(name):
        with make("ALE/Breakout-v5", 2, protocol=name, frame_size=42) as envs:
            envs.reset(seed=1)
            return torch.stack([envs.step(a)[0] for a in actions(2, 4, 40)])

    assert PROTOCOLS["v5"].repeat_action_probability == 0.25
    assert PROTOCOLS["nature"].repeat_action_probability == 0.0
    assert not torch.equal(course("v5"), course("nature"))
    with pytest.raises(ConfigError, match="unknown protocol"):
        make("ALE/Breakout-v5", 1, protocol="v6")


def test_rewards_are_raw_and_lives_are_derived_while_the_game_goes_on():
    with make("ALE/SpaceInvaders-v5", 4, frame_size=42, seed=2) as envs:
        envs.restart(np.arange(4))
        rewards, lost, ends = [], 0, 0
        for a in actions(4, 6, 900):
            envs.send(a)
            ts = envs.recv()
            rewards.append(ts.reward)
            lost += int(ts.life_lost.sum())
            ends += int(ts.last.sum())
            assert not (ts.life_lost & ts.last).any()
            assert (ts.reward[ts.first] == 0).all()
            assert (ts.valid == ~ts.last).all()
        assert torch.stack(rewards).max() > 1
        assert ends >= 2
        assert lost >= ends  # three lives a game: two are lost before its end
        finished = envs.take_finished()
        assert len(finished) == ends
        assert envs.take_finished() == []
        assert all(e.score >= 0 and e.length > 50 for e in finished)


def test_full_action_space_and_names():
    assert action_names("ALE/Pong-v5") == ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    with make("ALE/Pong-v5", 1, full_action_space=True) as envs:
        assert envs.single_action_space.n == 18


def test_a_missing_rom_says_what_to_do(monkeypatch):
    import ale_py.vector_env

    def missing(*args, **kwargs):
        raise FileNotFoundError("no ROM")

    monkeypatch.setattr(ale_py.vector_env, "AtariVectorEnv", missing)
    with pytest.raises(EnvironmentProblem, match="reinstall") as e:
        make("ALE/Pong-v5", 1)
    assert e.value.exit_code == 3


@pytest.mark.slow
def test_every_game_that_ale_py_ships_opens_and_steps():
    assert len(games()) >= 100
    for env_id in games():
        with make(env_id, 1, frame_size=42, threads=1) as envs:
            envs.reset(seed=1)
            obs, *_ = envs.step(torch.zeros(1, dtype=torch.int64))
            assert obs.shape == (1, 4, 42, 42), env_id
            assert len(action_names(env_id)) == envs.single_action_space.n


# -- Gymnasium --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "width"), [("CartPole-v1", 4), ("FrozenLake-v1", 16), ("Taxi-v4", 500), ("Blackjack-v1", None)]
)
def test_gymnasium_environments(env_id, width):
    if width is None:
        with pytest.raises(ConfigError, match="Tuple observations"):
            make(env_id, 2)
        return
    with make(env_id, 3, seed=1) as envs:
        obs, _ = envs.reset()
        assert obs.shape == (3, width)
        assert obs.dtype == torch.float32
        if width > 4:
            assert torch.equal(obs.sum(1), torch.ones(3))
        obs, reward, terminated, truncated, _ = envs.step(np.zeros(3, np.int64))
        assert reward.shape == terminated.shape == truncated.shape == (3,)


def test_the_old_name_of_an_environment_is_told():
    with pytest.raises(ConfigError, match="CartPole"):
        make("CartPol-v1", 1)


@pytest.mark.parametrize("env_id", ["Pendulum-v1"])
def test_continuous_actions_are_refused_in_one_line(env_id):
    with pytest.raises(ConfigError, match="Box actions"):
        make(env_id, 1)


def test_an_environment_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "my_maze.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Maze(gym.Env):\n"
        "    observation_space = gym.spaces.MultiDiscrete([3, 2])\n"
        "    action_space = gym.spaces.Discrete(2, start=5)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed); self.t = 0; return np.array([0, 1]), {}\n"
        "    def step(self, action):\n"
        "        assert action in (5, 6), action\n"
        "        self.t += 1; return np.array([self.t % 3, 0]), float(action), self.t == 4, False, {}\n"
        "gym.register('Maze-v0', entry_point=Maze)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with make("my_maze:Maze-v0", 2) as envs:
        obs, _ = envs.reset()
        assert obs.tolist() == [[1, 0, 0, 0, 1]] * 2
        obs, reward, *_ = envs.step(torch.tensor([0, 1]))
        assert reward.tolist() == [5.0, 6.0]
        assert obs.tolist() == [[0, 1, 0, 1, 0]] * 2
    sys.modules.pop("my_maze", None)
    with pytest.raises(ConfigError, match="no_such_module"):
        make("no_such_module:X-v0", 1)


@pytest.mark.parametrize(
    ("space", "value", "wanted"),
    [
        (gym.spaces.MultiBinary(3), [[1, 0, 1]], [[1.0, 0.0, 1.0]]),
        (gym.spaces.Discrete(3, start=2), [4], [[0.0, 0.0, 1.0]]),
        (gym.spaces.Box(-1, 1, (2, 2), np.float64), [[[0.5, 1], [0, 0]]], [[0.5, 1.0, 0.0, 0.0]]),
    ],
)
def test_observations_become_vectors(space, value, wanted):
    shape, dtype, encode, _ = encoding(space, "x")
    out = encode(np.array(value))
    assert out.tolist() == wanted
    assert out.shape[1:] == shape
    assert torch.from_numpy(out).dtype == dtype


def test_images_stay_bytes_with_channels_first():
    shape, dtype, encode, _ = encoding(gym.spaces.Box(0, 255, (20, 30, 3), np.uint8), "x")
    assert (shape, dtype) == ((3, 20, 30), torch.uint8)
    assert encode(np.zeros((2, 20, 30, 3), np.uint8)).shape == (2, 3, 20, 30)


def test_truncation_is_told_from_termination():
    with make("MountainCar-v0", 2) as envs:
        envs.reset(seed=1)
        for _ in range(199):
            _, _, terminated, truncated, info = envs.step(torch.tensor([1, 1]))
            assert not (terminated | truncated).any()
        _, _, terminated, truncated, _ = envs.step(torch.tensor([1, 1]))
        assert truncated.all()
        assert not terminated.any()
        *_, info = envs.step(torch.tensor([1, 1]))  # void: the next episode opens
        assert info["age"].tolist() == [0, 0]


def test_the_shape_of_a_gymnasium_vector_environment(counter):
    envs = counter()
    assert envs.observation_space.shape == (3, 4, 9, 9)
    assert envs.action_space.shape == (3,)
    assert envs.metadata["autoreset_mode"] is gym.vector.AutoresetMode.NEXT_STEP
    first, _ = envs.reset(seed=[1, 2, 3])
    again, _ = envs.reset(seed=np.array([1, 2, 3]))
    assert first.shape == again.shape
    assert open_backend(EnvConfig(id="CartPole-v1", num_envs=2)).num_envs == 2


def test_an_interrupt_while_receiving_leaves_an_environment_that_can_be_closed(counter):
    """The interrupted receive may have taken the row already: waiting for it again would last for ever."""
    envs = counter()
    envs.reset()
    receive, calls = envs.backend.recv, []

    def interrupted():
        calls.append(1)
        receive()
        raise KeyboardInterrupt

    envs.backend.recv = interrupted
    with pytest.raises(KeyboardInterrupt):
        envs.step(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="while receiving"):
        envs.reset()
    envs.close()
    assert len(calls) == 1


def test_a_settling_that_fails_still_closes(counter):
    envs, closed = counter(), []
    envs.reset()
    envs.send(torch.zeros(3, dtype=torch.int64))

    def failing():
        raise OverflowError

    envs.backend.recv, envs.backend.close = failing, lambda: closed.append(1)
    with pytest.raises(OverflowError):
        envs.close()
    assert closed == [1]
