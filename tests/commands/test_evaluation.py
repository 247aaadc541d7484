"""Scores: whole episodes, raw rewards, every episode to be played again; films that are what was scored."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.api import Act, Objective
from arcturus.envs import EnvConfig, open_envs
from arcturus.errors import ConfigError, TrainingFailed
from arcturus.pictures.moments import Canvas
from arcturus.pictures.value import turning_points
from arcturus.scoring.evaluation import STALL_STEPS, evaluate, obtained_return, policy_of
from arcturus.scoring.film import replay, value_figure, write_film
from arcturus.scoring.floors import floors
from arcturus.scoring.instruments import HeldOut, as_timestep, collect_heldout, first_filters
from arcturus.scoring.statistics import human_normalised, published, stratified_interval, summary
from arcturus.seeding import Seeds

PONG = EnvConfig(id="ALE/Pong-v5", frame_size=42, num_envs=2)
BREAKOUT = replace(PONG, id="ALE/Breakout-v5")


def build(name, config, **settings):
    module = agents.load(name)
    with open_envs(replace(config, num_envs=1), 0, "cpu") as envs:
        return module.Agent(module.Config(**settings), envs.spec, "cpu", Seeds(0))


@pytest.fixture(scope="module")
def dqn_breakout():
    return build("dqn", BREAKOUT, capacity=10, torso="small", end_on_life_loss=True)


@pytest.fixture(scope="module")
def scored(dqn_breakout):
    return evaluate(dqn_breakout, BREAKOUT, 5, policy="epsilon=0.7", num_envs=2, keep_frames=True)


@pytest.mark.slow
def test_scores_do_not_depend_on_how_many_play_side_by_side():
    actor = build("constant", BREAKOUT, action=2)
    one = evaluate(actor, BREAKOUT, 5, num_envs=1)
    three = evaluate(actor, BREAKOUT, 5, num_envs=3)
    assert [(e.seed, e.score, e.length) for e in one.episodes] == [(e.seed, e.score, e.length) for e in three.episodes]
    assert len({e.seed for e in one.episodes}) == 5


def test_every_episode_is_whole_and_its_score_is_its_rewards(scored):
    assert len(scored.episodes) == 5
    for e in scored.episodes:
        assert e.length == len(e.actions) == len(e.rewards) == len(e.frames) - 1
        assert e.score == e.rewards.sum()
        assert e.length > 50


def test_the_start_value_stands_beside_the_same_quantity(scored, dqn_breakout):
    """Discounted, clipped, up to the first lost life: what the agent's values are values of."""
    assert dqn_breakout.objective == Objective(0.99, 1.0, True)
    assert obtained_return([3.0, -2.0, 0.5, 9.0], [False, False, False, False], Objective(0.5, 1.0)) == 1 - 0.5 + 0.125 + 0.125
    assert obtained_return([3.0, 1.0, 9.0], [False, True, False], Objective(0.5, 0.0, True)) == 3.5
    report = scored.to_json()
    assert math.isclose(report["start_value"]["predicted"], np.mean([e.start_value for e in scored.episodes]))
    for e in scored.episodes:
        assert e.obtained <= e.score  # clipped and discounted


def test_an_episode_that_goes_nowhere_is_ended_and_reported():
    config = replace(BREAKOUT, protocol="nature")  # nobody presses FIRE: the ball never appears
    result = evaluate(build("constant", config, action=0), config, 2, num_envs=2)
    assert all(e.stalled for e in result.episodes)
    assert all(STALL_STEPS <= e.length <= STALL_STEPS + 300 for e in result.episodes)
    assert result.to_json()["stalled"] == 2


@pytest.mark.parametrize("config", [BREAKOUT, PONG])
def test_the_colour_twin_plays_the_scored_episode_to_its_score(config, dqn_breakout):
    actor = dqn_breakout if config is BREAKOUT else build("uniform", config)
    episode = evaluate(actor, config, 2, policy="sample" if actor.stochastic else "epsilon=0.7").episodes[1]
    moments = list(replay(actor, config, episode))
    assert len(moments) == episode.length + 1
    assert moments[-1].score == episode.score
    assert moments[0].picture.shape == (210, 160, 3)
    assert len({m.picture.tobytes() for m in moments}) > 50
    colours = moments[10].picture.reshape(-1, 3)
    assert (colours.max(1) != colours.min(1)).any()


def test_a_replay_that_earns_something_else_is_refused(scored, dqn_breakout):
    episode = max(scored.episodes, key=lambda e: e.score)
    wrong = episode._replace(rewards=np.roll(episode.rewards, 1), seed=episode.seed)
    assert episode.score > 0
    with pytest.raises(TrainingFailed, match="was scored"):
        list(replay(dqn_breakout, BREAKOUT, wrong))


def test_films_are_h264_at_real_speed(scored, dqn_breakout, tmp_path):
    import av

    path = tmp_path / "new" / "f.mp4"
    count = write_film(path, dqn_breakout, BREAKOUT, scored.episodes[0], steps=40)
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 15
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    assert len(frames) == count == 40
    assert frames[0].std() > 10
    assert (frames[0] != frames[30]).any()
    assert [p.name for p in path.parent.iterdir()] == ["f.mp4"]


def test_films_of_other_environments_and_gifs(tmp_path):
    from PIL import Image

    config = EnvConfig(id="FrozenLake-v1", num_envs=1)
    actor = build("uniform", config)
    episode = evaluate(actor, config, 1).episodes[0]
    write_film(tmp_path / "f.gif", actor, config, episode)
    with Image.open(tmp_path / "f.gif") as gif:
        assert gif.n_frames >= 2
    with pytest.raises(ConfigError, match=r"\.mp4 or \.gif"):
        write_film(tmp_path / "f.avi", actor, config, episode)


def test_the_value_figure_marks_rise_peak_and_fall(scored, dqn_breakout, tmp_path):
    assert turning_points(np.array([0, 0, 0, 1, 2, 3, 4, 2, 1, 0, 5 * 0.0])) == (4, 6, 9)
    points = value_figure(tmp_path / "v.png", dqn_breakout, BREAKOUT, scored.episodes[0])
    assert points[0] <= points[1] <= points[2]
    assert (tmp_path / "v.png").stat().st_size > 20_000
    with pytest.raises(ConfigError, match="predicts no value"):
        value_figure(tmp_path / "w.png", build("uniform", BREAKOUT), BREAKOUT, scored.episodes[0])


def test_policies_and_protocols():
    value, sampler, floor = build("dqn", PONG, capacity=10), build("uniform", PONG), build("constant", PONG)
    assert policy_of(value, None, PONG) == "epsilon=0.001"
    assert policy_of(value, None, replace(PONG, protocol="nature")) == "epsilon=0.05"
    assert policy_of(sampler, None, PONG) == "sample"
    assert policy_of(floor, None, PONG) == "greedy"
    assert policy_of(value, None, EnvConfig(id="CartPole-v1")) == "greedy"
    for bad in ("sample", "epsilon=2", "epsilon=x", "eps=0.1", "best"):
        with pytest.raises(ConfigError):
            policy_of(value, bad, PONG)
    with pytest.raises(ConfigError, match="not from 1 to"):
        evaluate(value, PONG, 0)


def test_floors_are_random_play_and_the_best_constant_action():
    found = floors(EnvConfig(id="CartPole-v1"), 10)
    assert 12 < found.random.mean < 40
    assert found.constant.mean < 11
    assert [e.seed for e in found.constant.episodes] == [e.seed for e in found.random.episodes]  # the same starts
    assert set(found.constant.episodes[0].actions.tolist()) == {found.action}


def test_saved_evaluations_read_back(scored, tmp_path):
    from safetensors.numpy import load_file

    scored.save(tmp_path)
    report = json.loads((tmp_path / "evaluation.json").read_text())
    arrays = load_file(tmp_path / "episodes.safetensors")
    assert report["score"]["episodes"] == 5
    assert [e["score"] for e in report["per_episode"]] == scored.scores
    assert np.array_equal(arrays["3/actions"], scored.episodes[3].actions)
    assert "sticky 0.25" in report["protocol_rules"]


def test_statistics():
    s = summary([1.0, 2.0, 3.0, 10.0])
    assert (s["mean"], s["median"], s["min"], s["max"], s["episodes"]) == (4.0, 2.5, 1.0, 10.0, 4)
    assert math.isclose(s["std"], np.std([1, 2, 3, 10], ddof=1))
    x = np.random.default_rng(1).normal(5, 2, 400)
    low, high = stratified_interval([list(x)])
    assert abs((high - low) / 2 - 1.96 * x.std() / 20) < 0.03
    assert stratified_interval([[3.0]]) == (3.0, 3.0)


def test_human_normalised_scores_are_0_for_random_and_1_for_human():
    from arcturus.envs.atari import games

    row = published()["breakout"]
    assert (row["random"], row["human"]) == (1.7, 30.5)
    assert human_normalised("breakout", 1.7) == 0
    assert human_normalised("breakout", 30.5) == 1
    assert human_normalised("no_such_game", 1) is None
    assert set(published()) <= set(games().values())


# -- instruments ------------------------------------------------------------------------------------------------------------


def test_heldout_states_are_fixed_and_met_by_random_play():
    one, two = (collect_heldout(BREAKOUT, 24, Seeds(4).branch("heldout"), "cpu") for _ in range(2))
    assert one.shape == (24, 4, 42, 42)
    assert torch.equal(one, two)
    assert len({o.numpy().tobytes() for o in one}) > 12


def test_heldout_values_and_dead_units_are_those_of_the_network(dqn_breakout):
    obs = collect_heldout(BREAKOUT, 100, Seeds(4), "cpu")  # more than one chunk
    actor = build("dqn", BREAKOUT, capacity=10, torso="small")
    with torch.no_grad():
        actor.network.torso.layers.fc.bias[:32] = -1e6  # 32 of 128 units die
        actor.network.torso.layers.fc.bias[32:] = 1e3  # the others can't
        want = actor.network(obs).max(-1).values
    scalars, arrays = HeldOut(obs).read(actor)
    assert math.isclose(scalars["charts/heldout_max_q"], want.mean().item(), rel_tol=1e-4)
    assert math.isclose(scalars["health/dead_units/relu_fc"], 0.25)
    hidden = actor.network.torso(obs).detach()
    assert np.allclose(arrays["hidden"], hidden, atol=1e-2)
    assert math.isclose(scalars["health/activation_std/relu_fc"], hidden.std(correction=0).item(), rel_tol=1e-3)
    assert not any(m._forward_hooks for m in actor.network.modules())


def test_units_that_are_asked_several_times_a_state_are_counted_once():
    actor = build("iqn", BREAKOUT, capacity=10, torso="small", samples=4)  # its layers see [B, K, units]
    with torch.no_grad():
        actor.network.head.advantage.layers["fc"].bias[:32] = -1e6
    scalars, _ = HeldOut(collect_heldout(BREAKOUT, 8, Seeds(4), "cpu")).read(actor)
    assert scalars["health/dead_units/head.advantage.layers.relu"] >= 0.25
    assert scalars["health/dead_units/head.advantage.layers.relu"] * 128 == pytest.approx(
        round(scalars["health/dead_units/head.advantage.layers.relu"] * 128)
    )


def test_the_first_filters_are_a_picture(dqn_breakout):
    picture = first_filters(dqn_breakout.network)
    assert picture.dtype == np.uint8
    assert picture.shape == (8 * 5 * 4, 2 * 4 * 5 * 4)  # 16 filters of 4x4 and a border, 4 frames, enlarged 4 times
    assert first_filters(torch.nn.Linear(2, 2)) is None


@pytest.mark.slow
def test_loading_gives_the_agent_that_was_trained(tmp_path):
    run = arcturus.train("dqn", "ALE/Pong-v5", steps=400, run_dir=tmp_path / "r", quiet=True, device="cpu", eval_every=0,
                         heldout_states=8, agent_config={"capacity": 2_000, "learning_starts": 100})  # fmt: skip
    actor = arcturus.load(run)
    assert actor.step == 400
    assert actor.config.env.frame_size == 42
    assert arcturus.evaluate(actor, "ALE/Pong-v5", episodes=1).about["frame_stack"] == 4  # with the frames it was trained on
    act = actor.act(as_timestep(torch.zeros(3, 4, 42, 42, dtype=torch.uint8)), (), explore=False)
    assert isinstance(act, Act)
    assert act.extras["q_values"].shape == (3, 6)


@pytest.mark.slow
def test_epsilon_scores_do_not_depend_on_how_many_play_side_by_side(dqn_breakout):
    one, three = (evaluate(dqn_breakout, BREAKOUT, 4, policy="epsilon=0.5", num_envs=n) for n in (1, 3))
    assert [(e.score, e.length) for e in one.episodes] == [(e.score, e.length) for e in three.episodes]


@pytest.mark.parametrize("agent", ["c51", "qr_dqn", "iqn"])
def test_films_show_the_distribution_of_the_chosen_actions_return(agent):
    config = EnvConfig(id="CartPole-v1", num_envs=1)
    actor = build(agent, config, capacity=10)
    episode = evaluate(actor, config, 1, seed=3).episodes[0]
    moments = [m for m, _ in zip(replay(actor, config, episode), range(4), strict=False)]
    for m in moments:
        returns, probabilities = m.returns
        assert float(returns @ probabilities) == pytest.approx(float(m.bars.numbers[m.action]), abs=1e-4)
    wide, narrow = (Canvas(config, "", 0.1).draw(x) for x in (moments[0], moments[0]._replace(returns=None)))
    assert (wide.width, wide.height) == (narrow.width + 240, narrow.height)
    panel = np.asarray(wide)[90:390, narrow.width : narrow.width + 225].astype(int)
    assert (np.abs(panel - [0xF2, 0xB1, 0x34]).sum(-1) < 9).any()  # the mean's line
    assert (np.abs(panel - [0x4F, 0x6D, 0x8F]).sum(-1) < 9).any()  # and bars


def test_films_of_environments_of_your_own_with_rewards_that_float32_rounds(tmp_path, monkeypatch):
    (tmp_path / "painted.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Painted(gym.Env):\n"
        "    metadata = {'render_modes': ['rgb_array'], 'render_fps': 7}\n"
        "    observation_space = gym.spaces.MultiBinary(2); action_space = gym.spaces.MultiBinary(2)\n"
        "    def __init__(self, render_mode=None): self.render_mode = render_mode\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed); self.t = 0; return np.zeros(2, np.int8), {}\n"
        "    def step(self, action):\n"
        "        self.t += 1; return np.zeros(2, np.int8), 0.1, self.t == 9, False, {}\n"
        "    def render(self): return np.full((40, 30, 3), self.t * 20, np.uint8)\n"
        "class Bare(Painted):\n"
        "    def __init__(self): pass\n"
        "gym.register('Painted-v0', entry_point=Painted); gym.register('Bare-v0', entry_point=Bare)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Painted", "Bare"):
        config = EnvConfig(id=f"painted:{name}-v0", num_envs=1)
        actor = build("uniform", config)
        episode = evaluate(actor, config, 1, policy="sample").episodes[0]
        assert math.isclose(episode.score, 0.9, rel_tol=1e-6)
        if name == "Painted":
            assert write_film(tmp_path / "p.mp4", actor, config, episode) == 10
        else:
            with pytest.raises(ConfigError, match="can't be filmed"):
                write_film(tmp_path / "p.mp4", actor, config, episode)
