"""Environments that raise, leave, die or hang: named, and the run goes on from its checkpoint once they are mended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run

pytestmark = pytest.mark.slow
FLAGS = ["--device", "cpu", "--heldout-states", "0", "--eval-every", "0"]


BREAKING = """
import os, sys, time
import gymnasium as gym, numpy as np
class Breaking(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (2,), np.float32); action_space = gym.spaces.Discrete(2)
    made, steps = 0, [0] * 8
    def __init__(self, how): self.how, self.number = how, Breaking.made % 8; Breaking.made += 1
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed); self.t = 0; return np.zeros(2, np.float32), {}
    def step(self, action):
        self.t += 1; Breaking.steps[self.number] += 1  # of all that were opened in its place
        if Breaking.steps[self.number] == 60 and self.number == 2 and not os.environ.get('MENDED'):
            if self.how == 'raises': raise ZeroDivisionError('no way')
            if self.how == 'leaves': sys.exit(3)
            if self.how == 'dies': os._exit(7)
            if self.how == 'hangs': time.sleep(10_000)
        return np.zeros(2, np.float32), 0.1, self.t == 50, False, {}
for how in ('raises', 'leaves', 'dies', 'hangs'):
    gym.register(f'{how.title()}-v0', entry_point=Breaking, kwargs={'how': how})
"""


@pytest.mark.parametrize(("how", "code", "says"), [
    ("Raises", 4, "breaking_envs:Raises-v0: environment 2 raised ZeroDivisionError: no way"),
    ("Leaves", 4, "breaking_envs:Leaves-v0: environment 2 raised SystemExit: 3"),
    ("Dies", 7, ""),
    ("Hangs", 4, "breaking_envs:Hangs-v0: environment 2, last action"),
])  # fmt: skip
def test_an_environment_that_breaks_is_named_and_the_run_goes_on_once_it_is_mended(tmp_path, how, code, says, start):
    (tmp_path / "breaking_envs.py").write_text(BREAKING)
    env, path = {**os.environ, "PYTHONPATH": str(tmp_path)}, tmp_path / "r"
    flags = [*FLAGS, "--checkpoint-every", "160", "--env-timeout", "2", "--steps", "1600", "--agent.learning-starts", "64"]
    began = time.monotonic()
    process = start("dqn", "--env", f"breaking_envs:{how}-v0", "--run-dir", path, *flags, env=env)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == code, out
    assert says in out
    assert "Traceback" not in out
    assert time.monotonic() - began < 50  # two of them waiting for the environment
    assert Run(path).status == ("failed" if says else "running")
    checkpoints = Checkpoints(path)  # of those at 160, 320 and 480 the last may have been in the saver's hands
    assert checkpoints.resumable()[-1].name >= "step-000000000160"
    assert all(map(checkpoints.intact, checkpoints.resumable()))
    process = start("resume", path, "--trust", f"breaking_envs:{how}-v0", env=env | {"MENDED": "1"})
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 0, out
    assert Run(path).status == "finished"


STUCK = """
import sys, torch
from arcturus.envs.vector import DeviceEnvs
from arcturus.agents import uniform
from arcturus.api import Act
DeviceEnvs._check = lambda self, action: None
act, count = uniform.Agent.act, [0]
def bad(self, ts, state, **kwargs):
    count[0] += 1
    if count[0] < 100: return act(self, ts, state, **kwargs)
    return Act(torch.full((len(ts.reward),), 99), (), {})
uniform.Agent.act = bad
from arcturus.scripts.train_agent import cli
cli()
"""


SLOW_END = """
import sys, time
from arcturus.runs import checkpoint
write = checkpoint.write_file
def slow(path, data):
    if path.name == 'tensors.safetensors' and '480' in path.parent.name: time.sleep(7)
    return write(path, data)
checkpoint.write_file = slow
from arcturus.scripts.train_agent import cli
cli()
"""


def test_a_hung_environment_does_not_cut_off_a_checkpoint_that_is_being_written(tmp_path):
    (tmp_path / "breaking_envs.py").write_text(BREAKING)
    argv = ["dqn", "--env", "breaking_envs:Hangs-v0", *FLAGS, "--checkpoint-every", "160", "--env-timeout", "1", "--run-dir",
            str(tmp_path / "r")]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SLOW_END, *argv], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 4, done.stderr
    assert Checkpoints(tmp_path / "r").resumable()[-1].name == "step-000000000480"


def test_emulators_that_hang_outside_python_end_the_run(tmp_path):
    """An action out of range makes ale-py's threads wait for ever; with the check switched off, so do we."""
    path = tmp_path / "r"
    argv = ["uniform", "--env", "ALE/Pong-v5", "--num-envs", "2", "--steps", "4000", "--checkpoint-every", "100", *FLAGS,
            "--env-timeout", "2", "--run-dir", str(path)]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", STUCK, *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4, done.stderr
    assert "ALE/Pong-v5" in done.stderr
    assert Run(path).status == "failed"
    assert all(map(Checkpoints(path).intact, Checkpoints(path).resumable()))
    assert Checkpoints(path).resumable()


def test_a_process_that_was_stopped_for_a_while_is_not_taken_for_hung(tmp_path, start, until):
    path = tmp_path / "r"
    flags = [*FLAGS, "--env-timeout", "1", "--steps", "1000000", "--log-every", "80", "--agent.replay-ratio", "0.01"]
    process = start("dqn", "--env", "CartPole-v1", "--run-dir", path, *flags)
    until(lambda: (path / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    time.sleep(3)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
