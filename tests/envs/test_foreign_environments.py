"""Environments of other people: what is in them, how they are opened, and what they may keep from one episode to the next."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
import torch

import arcturus
from arcturus.envs import EnvConfig, check_settings, make, open_envs, single
from arcturus.envs.checked import checker
from arcturus.envs.encoding import encoding
from arcturus.envs.own import OWN
from arcturus.errors import ArcturusError, ConfigError, EnvironmentProblem, TrainingFailed
from arcturus.networks import SMALLEST, Torso
from arcturus.scoring.evaluation import evaluate
from arcturus.scoring.film import Drawing, check_screen


class Walk(gym.Env):
    """Ten steps of reward 1; `said` and `paid` say what its infos and rewards are."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)
    metadata: dict = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, said=None, paid=1.0, seen=None, shape=None, render_mode=None):
        self.said, self.paid, self.seen, self.render_mode = said, paid, seen, render_mode
        if shape is not None:
            self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def _info(self):
        n = int(self.np_random.integers(1, 6))
        kinds = {"moves": np.arange(n), "nested": {"board": {"free": np.arange(n)}}, "mixed": "illegal" if n > 3 else 1,
                 "large": 2**70, "array": np.zeros((n, 2)), None: 0}  # fmt: skip
        return {"x": kinds[self.said]} if self.said != "none" else None

    def _obs(self):
        return self.seen if self.seen is not None else np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(self.observation_space.shape, self.observation_space.dtype), self._info()

    def step(self, action):
        self.t += 1
        return self._obs(), self.paid, self.t >= 10, False, self._info()


@pytest.fixture
def walk(monkeypatch):
    """walk(**what it is made with): the id of such a Walk."""
    ids = []

    def register(kind=Walk, **kwargs):
        ids.append(f"Walk{len(ids)}-v0")
        gym.register(ids[-1], entry_point=kind, kwargs=kwargs)
        return ids[-1]

    yield register
    for env_id in ids:
        del gym.registry[env_id]


def play(env_id, steps=25, n=3, **options):
    with make(env_id, n, **options) as envs:
        envs.reset(seed=1)
        rows = [envs.step(torch.zeros(n, dtype=torch.int64)) for _ in range(steps)]
    return rows


# -- what is read of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["moves", "nested", "mixed", "large", "array", "none"])
def test_an_info_that_nobody_reads_may_hold_anything(walk, said):
    assert sum(float(row[1].sum()) for row in play(walk(said=said))) > 0


@pytest.mark.parametrize("paid", [np.array([1.0]), np.float64(1), 1, True, np.array(1)])
def test_a_reward_that_is_one_number_in_any_clothes_is_taken(walk, paid):
    assert play(walk(paid=paid), 3)[0][1].tolist() == [1.0] * 3


@pytest.mark.parametrize(("kwargs", "says"), [
    ({"paid": np.array([1.0, 2.0])}, r"environment 0 gave a reward of shape \(2,\)"),
    ({"paid": None}, "reward"),
    ({"paid": "much"}, "a reward that is not a number: much"),
    ({"seen": np.zeros(3, np.float32)}, r"an observation of shape \(3,\), but its observation_space has shape \(2,\)"),
    ({"seen": "here"}, "an observation of shape"),
])  # fmt: skip
def test_what_is_not_as_declared_is_named_with_its_shape(walk, kwargs, says):
    with pytest.raises(TrainingFailed, match=says) as e:
        play(walk(**kwargs))
    assert "raised" not in str(e.value)


@pytest.mark.parametrize(("space", "good", "bad"), [
    (gym.spaces.Box(0, 255, (2,), np.uint8), np.array([3, 4], np.int64), np.array([0.5, 1.0])),
    (gym.spaces.Box(-1, 1, (2,), np.float32), np.array([0, 1]), np.array(["a", "b"])),
    (gym.spaces.Discrete(3, start=2), 4, 5),
    (gym.spaces.Discrete(3), np.int32(2), 1.0),
    (gym.spaces.MultiDiscrete([2, 3]), [1, 2], [2, 0]),
    (gym.spaces.MultiBinary(2), np.array([True, False]), np.array([0, 2])),
])  # fmt: skip
def test_observations_are_checked_against_their_space(space, good, bad):
    right = checker(space)
    assert np.asarray(right(good)).tolist() == np.asarray(good).tolist()
    with pytest.raises(ValueError, match="observation"):
        right(bad)


def test_hundreds_of_thousands_of_states_cost_a_row_and_not_a_square():
    space = gym.spaces.Discrete(200_000, start=7)
    code = encoding(space, "x")
    out = code.encode(np.array([7, 200_006]))
    assert out.shape == (2, 200_000)
    assert out.argmax(-1).tolist() == [0, 199_999]
    assert out.sum(-1).tolist() == [1, 1]
    many = encoding(gym.spaces.MultiDiscrete([100_000, 3]), "x")
    assert many.encode(np.array([[99_999, 2]]))[0].nonzero()[0].tolist() == [99_999, 100_002]


PICTURES = [  # shape -> shape as read, where its channels stand
    ((20, 30, 3), (3, 20, 30), "last"), ((4, 84, 84), (4, 84, 84), "first"), ((10, 10, 7), (7, 10, 10), "last"),
    ((12, 12, 20), (20, 12, 12), "last"), ((10, 8, 8), (10, 8, 8), "first"), ((7, 7, 3), (3, 7, 7), "last"),
    ((4, 4, 4), (4, 4, 4), "last"), ((210, 160, 3), (3, 210, 160), "last"), ((4, 84, 84, 3), (4, 3, 84, 84), "last"),
    ((4, 3, 84, 84), (4, 3, 84, 84), "first"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "read", "where"), PICTURES)
def test_channels_are_found_by_a_pictures_shape_and_it_is_told(shape, read, where):
    rng = np.random.default_rng(0)
    picture = rng.integers(256, size=(2, *shape), dtype=np.uint8)
    code = encoding(gym.spaces.Box(0, 255, shape, np.uint8), "x")
    out = code.encode(picture)
    assert (code.shape, code.dtype, out.shape[1:], out.dtype) == (read, torch.uint8, read, np.uint8)
    assert (out == (np.moveaxis(picture, -1, -3) if where == "last" else picture)).all()
    assert f"come {where} (by their shape" in code.told


def test_where_channels_stand_can_be_said():
    space = gym.spaces.Box(0, 255, (8, 8, 8), np.uint8)
    assert encoding(space, "x", "first").encode(np.arange(512, dtype=np.uint8).reshape(1, 8, 8, 8))[0, 1, 0, 0] == 64
    assert encoding(space, "x", "none").shape == (512,)
    floats = encoding(gym.spaces.Box(0, 1, (6, 5, 3), np.float32), "x", "last")
    assert (floats.shape, floats.dtype) == ((3, 6, 5), torch.float32)
    assert encoding(gym.spaces.Box(0, 1, (6, 5, 3), np.float32), "x").shape == (90,)
    with pytest.raises(ConfigError, match="not a picture"):
        encoding(gym.spaces.Box(0, 1, (6,), np.float32), "x", "last")


@pytest.mark.parametrize("shape", [(7, 7, 3), (8, 8), (20, 10), (4, 4, 3), (3, 15, 15), (15, 40), (16, 16, 3), (84, 84, 3)])
def test_every_picture_has_a_torso_by_default_and_a_wrong_one_gets_advice_that_works(walk, shape):
    with make(walk(shape=shape), 1) as envs:
        obs, _ = envs.reset()
        torso = Torso(envs.spec)
        side = min(envs.spec.obs_shape[-2:])
        assert torso.name == ("nature" if side >= 64 else "small" if side >= SMALLEST else "mlp")
        assert torso(obs).shape == (1, torso.width)
        if torso.name == "mlp":
            with pytest.raises(ConfigError, match="mlp") as e:
                Torso(envs.spec, "small")
            assert "frame-size" not in str(e.value)


class Entries(gym.Env):
    observation_space = gym.spaces.Dict(
        direction=gym.spaces.Discrete(4), image=gym.spaces.Box(0, 255, (7, 7, 3), np.uint8), mission=gym.spaces.Text(9)
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.step(0)[0], {}

    def step(self, action):
        return {"direction": 1, "image": np.full((7, 7, 3), 9, np.uint8), "mission": "go"}, 1.0, False, False, {}


class TwoPictures(Entries):
    observation_space = gym.spaces.Dict(Entries.observation_space.spaces | {"map": gym.spaces.Box(0, 255, (7, 7, 3), np.uint8)})

    def step(self, action):
        obs, *rest = super().step(action)
        return obs | {"map": obs["image"]}, *rest


def test_the_only_picture_of_a_dict_is_what_an_agent_sees(walk):
    with make(walk(Entries), 2) as envs:
        assert envs.reset()[0].shape == (2, 3, 7, 7)
        assert "the entry image of their Dict" in envs.spec.told
    with make(walk(Entries), 2, observation="direction") as envs:
        assert envs.spec.states == 4


def test_the_advice_for_dict_observations_works(walk):
    env_id = walk(TwoPictures)
    with pytest.raises(ConfigError, match="--env.observation") as e:
        make(env_id, 1)
    assert "image: Box(7, 7, 3)" in str(e.value)
    with make(env_id, 2, observation="image") as envs:
        assert envs.reset()[0].shape == (2, 3, 7, 7)
    with pytest.raises(ConfigError, match="has no entry 'picture'"):
        make(env_id, 1, observation="picture")
    with pytest.raises(ConfigError, match="not a Dict"):
        make("CartPole-v1", 1, observation="image")


# -- how they are opened -----------------------------------------------------------------------------------------------------------


class Broken(gym.Env):
    def __init__(self, how):
        raise {"runtime": RuntimeError, "file": FileNotFoundError, "lacks": ModuleNotFoundError, "exit": SystemExit}[how]("so it is")


@pytest.mark.parametrize("how", ["runtime", "file", "lacks", "exit"])
def test_what_a_constructor_raises_is_the_environments_own(walk, how):
    env_id = walk(Broken)
    gym.registry[env_id].kwargs["how"] = how
    with pytest.raises(EnvironmentProblem, match=f"{env_id}: its constructor raised .*so it is") as e:
        make(env_id, 1)
    assert e.value.exit_code == 3


def test_modules_that_register_by_a_function_open_by_name(tmp_path, monkeypatch):
    (tmp_path / "shy_envs.py").write_text(textwrap.dedent("""
        import gymnasium as gym, numpy as np
        class Shy(gym.Env):
            observation_space, action_space = gym.spaces.MultiBinary(2), gym.spaces.Discrete(2)
            def reset(self, *, seed=None, options=None): super().reset(seed=seed); return np.zeros(2, np.int8), {}
            def step(self, action): return np.zeros(2, np.int8), 1.0, True, False, {}
        def register_shy_envs(): gym.register("Shy/One-v0", entry_point=Shy)
        """))
    (tmp_path / "sad_envs.py").write_text("import no_such_package_of_mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with make("shy_envs:Shy/One-v0", 1) as envs:
        assert envs.spec.obs_shape == (2,)
    with pytest.raises(ConfigError, match="install it"):
        make("no_such_module_of_mine:X-v0", 1)
    with pytest.raises(EnvironmentProblem, match="importing sad_envs raised ModuleNotFoundError"):
        make("sad_envs:X-v0", 1)
    gym.registry.pop("Shy/One-v0")
    sys.modules.pop("shy_envs")


@pytest.mark.parametrize("name", ["PongNoFrameskip-v4", "PongDeterministic-v4", "Pong-v0", "Pong-v5", "Pong", "pong", "ale/Pong-v5",
                                  "Atari/Pong", "Pong-ram-v5", "ALE/Pong", "ALE/Pong-v4", "ALE/Pong-ram-v5", "ale_py:Pong-v4",
                                  "ale_py:ALE/Pong-v5", "ale_py:PongNoFrameskip-v4", "shimmy:ALE/Pong-v5"])  # fmt: skip
def test_other_libraries_names_of_games_are_answered_with_ours(name):
    with pytest.raises(ConfigError, match="ALE/Pong-v5"):
        make(name, 1)


def test_games_of_several_words_are_known_by_all_their_spellings():
    for name in ("SpaceInvaders-v4", "space_invaders", "Space Invaders", "spaceinvaders"):
        with pytest.raises(ConfigError, match="ALE/SpaceInvaders-v5"):
            make(name, 1)


@pytest.mark.parametrize(("setting", "value"), [("protocol", "nature"), ("frame_size", 42), ("full_action_space", True), ("threads", 1)])
def test_settings_of_the_console_are_refused_elsewhere_and_the_other_way_round(setting, value):
    with pytest.raises(ConfigError, match="for Atari"):
        check_settings(EnvConfig(id="CartPole-v1", **{setting: value}))
    for name, given in (("observation", "image"), ("channels", "last"), ("reopen", False)):
        with pytest.raises(ConfigError, match="not for Atari"):
            check_settings(EnvConfig(id="ALE/Pong-v5", **{name: given}))


def test_importing_arcturus_registers_its_environments_and_imports_no_torch():
    code = "import arcturus, gymnasium, sys; assert 'torch' not in sys.modules; print(gymnasium.make('Tape/Copy-v0').reset(seed=1)[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(OWN) <= set(gym.registry)


# -- what they keep ------------------------------------------------------------------------------------------------------------------


class Sticky(Walk):
    """Keeps its last action across resets, as MinAtar's games do."""

    def __init__(self):
        super().__init__()
        self.last = 0

    def step(self, action):
        out = super().step(action)
        reward, self.last = float(self.last), int(action)
        return out[0], reward, *out[2:]


class Unseeded(Walk):
    """Draws from a generator of its own that no seed reaches."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng()

    def step(self, action):
        out = super().step(action)
        return self.rng.random(2, dtype=np.float32), *out[1:]


def course(envs, seeds, steps=9):
    envs.restart(seeds)
    rewards = []
    for t in range(steps):
        envs.send(torch.full((len(seeds),), (t + 1) % 2))
        rewards.append(envs.recv().reward.tolist())
    return rewards


def test_an_episode_depends_on_nothing_before_its_seed(walk):
    env_id, seeds = walk(Sticky), np.array([1, 2])
    with make(env_id, 2) as envs:
        assert course(envs, seeds) == course(envs, seeds)
    with make(env_id, 2, reopen=False) as envs:
        assert course(envs, seeds) != course(envs, seeds)


def test_a_restart_of_some_opens_only_those_anew(walk):
    made = []

    class Counted(Walk):
        def __init__(self):
            super().__init__()
            made.append(1)

    with make(walk(Counted), 3) as envs:
        envs.restart(np.arange(3))
        assert len(made) == 3
        envs.restart(np.arange(3), np.array([False, True, False]))
        assert len(made) == 4


@pytest.mark.parametrize(("kind", "repeats"), [(Sticky, True), (Unseeded, False)])
def test_a_run_says_that_it_can_not_be_exact_where_a_seed_leads_elsewhere(walk, kind, repeats, tmp_path, capfd):
    run = arcturus.train("uniform", walk(kind), steps=400, eval_every=0, run_dir=tmp_path / "r", env_config={"num_envs": 2})
    assert ("is not determined by its seed" in capfd.readouterr().err) is not repeats
    assert run.about.get("repeats", True) is repeats
    arcturus.resume(run, steps=480)
    assert ("not an exact continuation" in capfd.readouterr().err) is not repeats


class Only(Walk):
    """There may be one at a time."""

    open: list = []
    most = 0

    def __init__(self, render_mode=None):
        if Only.open:
            raise RuntimeError("port 5005 is taken")
        Only.open.append(self)
        super().__init__(render_mode=render_mode)

    def render(self):
        return np.full((20, 20, 3), self.t * 20, np.uint8)

    def close(self):
        Only.open.clear()


def test_one_environment_never_opens_a_second(walk, tmp_path):
    """In training, its held-out states and evaluations, when it is scored, and in a film."""
    from arcturus.scripts.evaluate_agent import main

    Only.open.clear()
    env_id = walk(Only)
    assert single(EnvConfig(id=env_id, num_envs=1))
    assert not single(EnvConfig(id=env_id, num_envs=2))
    assert not single(EnvConfig(id="CartPole-v1", num_envs=1))
    run = arcturus.train("dqn", env_id, steps=300, eval_every=50, quiet=True, run_dir=tmp_path / "r", env_config={"num_envs": 1},
                         checkpoint_every=120, agent_config={"learning_starts": 50, "capacity": 300})  # fmt: skip
    scores = [line for line in arcturus.read_metrics(run) if "eval/episodic_return_mean" in line]
    assert len(scores) >= 4
    assert main([str(run.path), "--episodes", "2", "--video", str(tmp_path / "f.mp4"), "--floors"]) == 0
    assert (tmp_path / "f.mp4").stat().st_size > 0
    assert arcturus.evaluate(arcturus.load(run), env_id, episodes=3).mean == 10
    with pytest.raises(EnvironmentProblem, match=r"(?s)port 5005.*--num-envs 1"):
        evaluate(arcturus.load(run), EnvConfig(id=env_id, num_envs=2), 2)
    assert not Only.open


def test_stopping_and_resuming_an_only_environment_ends_as_one_never_stopped(walk, tmp_path, stop_at):
    Only.open.clear()
    env_id = walk(Only)
    options = {"steps": 400, "eval_every": 60, "quiet": True, "env_config": {"num_envs": 1}, "deterministic": True, "log_every": 40,
               "agent_config": {"learning_starts": 50, "capacity": 300}}  # fmt: skip
    whole = arcturus.train("dqn", env_id, run_dir=tmp_path / "a", **options)
    stop_at(170)
    stopped = arcturus.train("dqn", env_id, run_dir=tmp_path / "b", **options)
    assert stopped.status == "preempted"
    again = arcturus.resume(stopped, quiet=True)

    def told(run):
        return [{k: v for k, v in line.items() if k not in ("time", "charts/SPS")} for line in arcturus.read_metrics(run)]

    assert told(whole) == told(again)


# -- pictures they draw ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drawn", "wanted"), [
    (np.full((4, 5, 3), 100, np.uint8), 100), (np.full((4, 5), 100, np.uint8), 100), (np.full((4, 5, 4), 100, np.uint8), 100),
    (np.full((4, 5, 1), 100, np.uint8), 100), (np.full((3, 4, 5), 100, np.uint8), 100), (np.full((4, 5, 3), 0.5, np.float32), 127),
    (np.full((4, 5, 3), 100.0), 100), (np.full((4, 5, 3), 100), 100), (np.full((4, 5, 3), 999), 255), (np.ones((4, 5), bool), 255),
    ([np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 7, np.uint8)], 7), (np.full((4, 5, 3), np.nan), 0),
])  # fmt: skip
def test_whatever_is_drawn_becomes_a_picture_of_bytes(drawn, wanted):
    out = Drawing(type("E", (), {"backend": None})()).picture(drawn)
    assert (out.shape, out.dtype) == ((4, 5, 3), np.uint8)
    assert (out == wanted).all()


@pytest.mark.parametrize("drawn", [None, "text", np.zeros((2, 3, 4, 5)), np.zeros((7, 7, 9), np.uint8), np.zeros((0, 5, 3), np.uint8), []])
def test_what_is_no_picture_is_told_before_the_episodes_are_played(walk, drawn):
    class DrawnWalk(Walk):
        def render(self):
            return drawn

    with pytest.raises(EnvironmentProblem, match="its render.. gave"):
        check_screen(EnvConfig(id=walk(DrawnWalk)))


def test_what_render_raises_is_the_environments_own(walk):
    class DrawnWalk(Walk):
        def render(self):
            raise ValueError("no display")

    with pytest.raises(EnvironmentProblem, match="its render.. raised ValueError: no display"):
        check_screen(EnvConfig(id=walk(DrawnWalk)))


def test_a_replay_of_a_course_that_chance_led_says_what_may_be_why(walk):
    class Lucky(Walk):
        def step(self, action):
            out = super().step(action)
            return out[0], float(np.random.default_rng().random()), *out[2:]

        def render(self):
            return np.zeros((9, 9, 3), np.uint8)

    from arcturus.agents import uniform
    from arcturus.scoring.film import replay
    from arcturus.seeding import Seeds

    config = EnvConfig(id=walk(Lucky), num_envs=1)
    with open_envs(config, 0, "cpu") as envs:
        actor = uniform.Agent(uniform.Config(), envs.spec, "cpu", Seeds(0))
    episode = evaluate(actor, config, 1, policy="sample").episodes[0]
    with pytest.raises(ArcturusError, match="randomness that reset.seed. doesn't set"):
        list(replay(actor, config, episode))


@pytest.mark.parametrize(("obs", "flag", "says"), [
    (np.array([300, -1]), False, "the uint8 of its observation_space can't hold"), (np.array([3, 1]), None, "not a boolean: None"),
    (np.array([3, 1]), "False", "not a boolean: False"),
])  # fmt: skip
def test_numbers_that_would_wrap_and_flags_that_are_none_are_named(obs, flag, says, tmp_path):
    class Odd(gym.Env):
        observation_space, action_space = gym.spaces.Box(0, 255, (2,), np.uint8), gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.uint8), {}

        def step(self, action):
            return obs, 0.0, flag, False, {}

    gym.register("Odd-v0", entry_point=Odd)
    try:
        with pytest.raises(TrainingFailed, match=says):
            arcturus.train("uniform", "Odd-v0", steps=64, run_dir=tmp_path / "r", eval_every=0, quiet=True)
    finally:
        del gym.registry["Odd-v0"]
