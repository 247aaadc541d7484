"""What a run tells: its first lines, its pictures in the projector, the watchdog's times one by one."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

import arcturus
from arcturus.errors import TrainingFailed
from arcturus.pictures.moments import MOST_BARS, Bars, Canvas, Moment
from arcturus.pictures.palette import HEIGHT
from arcturus.runs.monitor import EVENTS, Monitor
from arcturus.runs.reports import THUMBNAIL, thumbnails
from arcturus.runs.settings import resolve


@pytest.mark.parametrize(("shape", "wanted"), [
    ((5, 4, 84, 84), (5, 1, 84, 84)), ((5, 3, 20, 10), (5, 3, 20, 20)), ((5, 210, 160), (5, 1, THUMBNAIL, THUMBNAIL)),
    ((5, 4, 3, 30, 50), (5, 3, 50, 50)), ((5, 7, 9, 9), (5, 1, 9, 9)),
])  # fmt: skip
def test_pictures_of_the_projector_are_square_whatever_was_seen(shape, wanted):
    assert thumbnails(torch.full(shape, 255, dtype=torch.uint8)).shape == wanted
    assert float(thumbnails(torch.full(shape, 255, dtype=torch.uint8)).max()) == 1.0
    assert thumbnails(torch.zeros(5, 4)) is None


class Tall(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 255, (40, 20, 3), np.uint8), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros((40, 20, 3), np.uint8), {}

    def step(self, action):
        self.t += 1
        return np.full((40, 20, 3), self.t, np.uint8), 1.0, self.t >= 10, False, {}


def test_tall_pictures_reach_the_projector_and_the_first_lines_say_how_they_are_read(tmp_path, capfd):
    gym.register("Tall-v0", entry_point=Tall)
    try:
        run = arcturus.train("dqn", "Tall-v0", steps=200, eval_every=0, run_dir=tmp_path / "r", heldout_states=16,
                             agent_config={"learning_starts": 64, "capacity": 500})  # fmt: skip
    finally:
        del gym.registry["Tall-v0"]
    said = capfd.readouterr().err
    assert "pictures of 40 x 20, with 3 channels, which come last (by their shape; change it with --env.channels)" in said
    assert "read by the torso small" in said
    assert "TensorBoard can't be written" not in said
    assert list(run.path.glob("tensorboard/**/sprite.png"))


def test_a_film_of_many_actions_shows_the_best_and_the_one_that_was_played():
    from arcturus.envs import EnvConfig

    canvas = Canvas(EnvConfig(id="CartPole-v1"), "many", 0.1)
    q = np.arange(500, dtype=np.float32)
    image = canvas.draw(Moment(np.zeros((20, 20, 3), np.uint8), 3, 0.0, 0.0, Bars("action-values", q, 0.0), 1.0))
    assert image.height > HEIGHT
    assert MOST_BARS < 500


def test_the_watchdog_times_environments_one_by_one(tmp_path):
    """Each of eight takes a third of the limit: together they take more than twice it."""

    class Slow(Tall):
        slowest = 0.4

        def step(self, action):
            time.sleep(self.slowest)
            return super().step(action)

    class Stuck(Slow):
        slowest = 4.0

    gym.register("Slow-v0", entry_point=Slow)
    gym.register("Stuck-v0", entry_point=Stuck)
    options = {"steps": 16, "eval_every": 0, "quiet": True, "env_timeout": 1.2, "env_config": {"num_envs": 8}}
    try:
        assert arcturus.train("uniform", "Slow-v0", run_dir=tmp_path / "a", **options).status == "finished"
        with pytest.raises(TrainingFailed, match="Stuck-v0: environment 0"):
            arcturus.train("uniform", "Stuck-v0", run_dir=tmp_path / "b", **options)
    finally:
        del gym.registry["Slow-v0"], gym.registry["Stuck-v0"]


def test_a_learning_rate_that_jumps_on_resume_is_told(tmp_path, capfd):
    run = arcturus.train("ppo", "CartPole-v1", steps=1_024, eval_every=0, quiet=True, run_dir=tmp_path / "r")
    capfd.readouterr()
    arcturus.resume(run, steps=4_096)
    said = capfd.readouterr().err
    assert "the learning rate falls to 0 over the whole run: with 4,096 steps instead of 1,024" in said
    rates = [m["charts/learning_rate"] for m in arcturus.read_metrics(run) if "charts/learning_rate" in m]
    assert max(np.diff(rates)) > 0


def log_to(folder, state=None, steps=(), start=0):
    """A monitor that logs a point at each of these steps, as a run would, and what it would go on from."""
    config = resolve("dqn", env={"id": "CartPole-v1"}, run={"device": "cpu", "log_every": 1})
    monitor = Monitor(folder, config, start, quiet=True, state=state)
    for step in steps:
        monitor.scalars(step, {"charts/SPS": 1.0})
    return monitor, monitor.state()


def points(board):
    board.Reload()
    return [event.step for event in board.Tensors("charts/SPS")]


def test_a_live_tensorboard_shows_no_point_twice_after_a_kill_and_a_resume(tmp_path):
    killed, state = log_to(tmp_path, steps=[1, 2, 3])
    for step in (4, 5):  # after the checkpoint
        killed.scalars(step, {"charts/SPS": 1.0})
    killed.board.flush()
    watching = EventAccumulator(str(tmp_path / "tensorboard"))
    assert points(watching) == [1, 2, 3, 4, 5]
    resumed, _ = log_to(tmp_path, state, [4, 5, 6], start=3)
    try:
        assert points(watching) == [1, 2, 3, 4, 5, 6]
    finally:
        resumed.close()
        killed.close()


def test_a_clock_set_back_leaves_tensorboards_files_in_the_order_of_the_steps(tmp_path, monkeypatch):
    first, state = log_to(tmp_path, steps=[1, 2, 3])
    first.close()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 7_200)
    watching = EventAccumulator(str(tmp_path / "tensorboard"))
    assert points(watching) == [1, 2, 3]
    second, state = log_to(tmp_path, state, [4, 5], start=3)
    second.close()
    third, _ = log_to(tmp_path, state, [6], start=5)
    third.close()
    assert points(watching) == [1, 2, 3, 4, 5, 6]
    assert points(EventAccumulator(str(tmp_path / "tensorboard"))) == [1, 2, 3, 4, 5, 6]
    assert len(list((tmp_path / "tensorboard").glob(EVENTS))) == 3
