"""What the tests share: a small pixel environment whose frames tell their own history, and tiny runs."""

from __future__ import annotations

import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ["XDG_CONFIG_HOME"] = os.path.join(tempfile.gettempdir(), "arcturus-tests")  # no configuration of whoever runs the tests

import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import settings

from arcturus.api import Act
from arcturus.envs.vector import DeviceEnvs, HostTimeStep

torch.set_num_threads(1)

# `make test` draws the same examples every time; `make test-learning` searches, with HYPOTHESIS_PROFILE=search
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


class CounterBackend:
    """N environments of 9x9 frames, each filled with a number that goes up with every step of its environment.

    Episodes last 2 to 7 steps and end by termination (even environments) or truncation (odd ones); a life is lost at every
    third step; the reward is the step's number in its episode, times the environment's number plus one.
    """

    frame_shape, obs_dtype, has_lives, env_id = (9, 9), torch.uint8, True, "test/Counter"

    def __init__(self, num_envs: int = 3, actions: int = 3):
        self.num_envs, self.action_space = num_envs, gym.spaces.Discrete(actions)
        self.sent: np.ndarray | None = None
        self.resets = 0

    def _row(self, reward, terminated, truncated, life_lost):
        obs = np.repeat(self.count.astype(np.uint8), 81).reshape(self.num_envs, 9, 9)
        return HostTimeStep(obs, reward.astype(np.float32), terminated, truncated, life_lost)

    def reset(self, seeds, mask):
        assert self.sent is None, "reset while sent"
        self.resets += 1
        no = np.zeros(self.num_envs, bool)
        if mask is None:
            mask = ~no
            self.count, self.t = np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs, np.int64)
            self.length, self.done = np.zeros(self.num_envs, np.int64), no.copy()
            self.rngs = [np.random.default_rng(int(s)) for s in seeds]
        for i in np.flatnonzero(mask):
            self.rngs[i] = np.random.default_rng(int(seeds[i]))
            self._open(i)
        return self._row(np.zeros(self.num_envs), no, no, no)

    def _open(self, i):
        self.t[i], self.length[i], self.done[i] = 0, self.rngs[i].integers(2, 8), False
        self.count[i] = self.count[i] % 250 + 1

    def send(self, action):
        assert self.sent is None
        self.sent = action

    def recv(self):
        assert self.sent is not None
        self.sent = None
        n = self.num_envs
        reward, terminated, truncated, lost = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
        for i in range(n):
            if self.done[i]:
                self._open(i)
                continue
            self.t[i] += 1
            self.count[i] = self.count[i] % 250 + 1
            reward[i] = self.t[i] * (i + 1)
            self.done[i] = self.t[i] >= self.length[i]
            terminated[i], truncated[i] = self.done[i] and i % 2 == 0, self.done[i] and i % 2 == 1
            lost[i] = self.t[i] % 3 == 0 and not self.done[i]
        return self._row(reward, terminated, truncated, lost)

    def close(self):
        assert self.sent is None, "closed while sent"


class RandomActor:
    """Plays at random; learns nothing."""

    stochastic, on_policy, network, objective = True, False, None, None

    def __init__(self, actions: int = 3):
        self.actions, self.rows = actions, []

    def initial_state(self, n):
        return ()

    def act(self, ts, state, *, explore, generator=None):
        return Act(torch.randint(self.actions, ts.reward.shape, generator=generator), (), {})

    def observe(self, step):
        self.rows.append(step)

    def learn(self, ts=None, state=()):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...


@pytest.fixture
def counter():
    """counter(n, stack): DeviceEnvs over CounterBackend."""
    return lambda n=3, stack=4, actions=3: DeviceEnvs(CounterBackend(n, actions), "cpu", frame_stack=stack)


@pytest.fixture
def random_actor():
    return RandomActor


@pytest.fixture(scope="session")
def small_run():
    """small_run(path, steps, ...): a DQN run of a second or two; other agents, environments and options on demand."""
    import arcturus

    fast = {"capacity": 600, "learning_starts": 64, "batch_size": 16, "epsilon_steps": 500}
    options = {"heldout_states": 16, "quiet": True, "device": "cpu", "eval_episodes": 2, "deterministic": True}

    def train(path, steps=1200, agent="dqn", env="CartPole-v1", agent_config=None, **more):
        config = (fast if agent == "dqn" else {}) | (agent_config or {})
        return arcturus.train(agent, env, steps=steps, run_dir=path, agent_config=config, **(options | more))

    return train


@pytest.fixture(scope="session")
def finished(small_run, tmp_path_factory):
    """A run with checkpoints at 800 and 1200 steps and a best one; not to be changed."""
    return small_run(tmp_path_factory.mktemp("runs") / "whole", checkpoint_every=400, log_every=100, eval_every=300)


@pytest.fixture
def copy(finished, tmp_path):
    """The path of a copy of it."""
    return shutil.copytree(finished.path, tmp_path / "r")


@pytest.fixture(autouse=True)
def a_signal_ends_a_run_and_not_the_tests():
    """arcturus.train() sends the signal that ended its run on, once all is saved: here it returns the run."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("arcturus.runs.library._sent_on", lambda run, raise_signals: run)
        yield


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(step): the run in this process gets a SIGTERM at the row that reaches this many steps."""
    from arcturus.runs.monitor import Monitor

    row = Monitor.row

    def arm(step, number=signal.SIGTERM):
        def watched(self, steps, metrics, finished):
            row(self, steps, metrics, finished)
            if steps >= step:
                monkeypatch.setattr(Monitor, "row", row)
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Monitor, "row", watched)

    return arm


@pytest.fixture(scope="session")
def start():
    """start(*argv): a train-agent process whose output can be read."""

    def go(*argv, **more):
        command = [sys.executable, "-m", "arcturus.scripts.train_agent", *map(str, argv)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)

    return go


@pytest.fixture(scope="session")
def until():
    """until(condition, process): waits for the condition while the process lives."""

    def wait(condition, process, seconds=60):
        for _ in range(seconds * 50):
            if condition():
                return
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        process.kill()
        raise AssertionError("nothing happened")

    return wait
