"""Numbers gone bad, in an environment, a gradient or a weight, are skipped and counted, or end the run by name; none is ever saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import arcturus
from arcturus.errors import TrainingFailed
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run

ODD = """
import gymnasium as gym, numpy as np
class Odd(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32); action_space = gym.spaces.Discrete(2)
    def __init__(self, reward=(), obs=(), length=20): self.bad, self.length, self.steps = (set(reward), set(obs)), length, 0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed); self.t = 0; return np.full(2, 0.5, np.float32), {}
    def step(self, action):
        self.t += 1; self.steps += 1
        reward = float('nan') if self.steps in self.bad[0] else 1.0
        obs = np.full(2, np.inf if self.steps in self.bad[1] else 0.25, np.float32)
        return obs, reward, self.t == self.length, False, {}
gym.register('OddReward-v0', entry_point=Odd, kwargs={'reward': (30,)})
gym.register('OddObs-v0', entry_point=Odd, kwargs={'obs': (30, 31)})
class Always(Odd):
    total = 0  # steps of all of them, which are opened anew at checkpoints
    def step(self, action):
        obs, reward, *rest = super().step(action)
        Always.total += 1
        return obs, float('nan') if Always.total > 800 else reward, *rest
gym.register('OddAlways-v0', entry_point=Always)
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    (tmp_path / "odd_envs.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_reward_or_observation_that_is_not_finite_goes_no_further(odd):
    for name in ("OddReward", "OddObs"):
        with arcturus.make(f"odd_envs:{name}-v0", num_envs=2) as envs:
            ts, scores = envs.restart(np.arange(2)), []
            for _ in range(90):
                envs.send(torch.zeros(2, dtype=torch.int64))
                ts = envs.recv()
                assert torch.isfinite(ts.obs).all()
                assert torch.isfinite(ts.reward).all()
                scores += [e.score for e in envs.take_finished()]
            bad = envs.take_bad()
            assert {b.what for b in bad} == {"reward" if name == "OddReward" else "observation"}
            assert len(bad) == (2 if name == "OddReward" else 4)
            assert scores == [20.0] * 6  # the spoilt episode of each is not counted
            assert envs.take_bad() == []


def test_bad_rows_are_counted_and_end_the_run_with_their_name(odd, small_run, tmp_path, capsys):
    run = small_run(tmp_path / "r", env="odd_envs:OddReward-v0", steps=800, eval_every=0, log_every=80)
    assert run.status == "finished"
    assert max(row.get("health/bad_rows", 0) for row in arcturus.read_metrics(run)) == 8
    assert capsys.readouterr().err.count("gave a reward that is not finite") == 1
    with pytest.raises(TrainingFailed, match=r"OddAlways-v0: environment \d gave a reward that is not finite, the 10th") as e:
        small_run(tmp_path / "s", env="odd_envs:OddAlways-v0", steps=2000, checkpoint_every=400)
    assert e.value.exit_code == 4
    assert Checkpoints(tmp_path / "s").resumable()


def poison(monkeypatch, where, updates):
    """The loss (and so the gradient) or a weight of DQN becomes NaN at these updates."""
    from arcturus.agents import dqn

    update = dqn.Agent.update

    def poisoned(self, batch):
        made = self.updates  # before this one
        if made in updates and where == "weight":
            with torch.no_grad():
                self.network.head.bias.fill_(float("nan"))
        if made in updates and where == "gradient":
            batch = batch._replace(r_t=batch.r_t * float("nan"))
        return update(self, batch)

    monkeypatch.setattr(dqn.Agent, "update", poisoned)


def test_a_bad_gradient_is_skipped_and_counted(small_run, tmp_path, monkeypatch):
    poison(monkeypatch, "gradient", {22, 23, 50})
    run = small_run(tmp_path / "r", eval_every=0, log_every=8)
    assert run.status == "finished"
    skipped = [row["health/skipped_updates"] for row in arcturus.read_metrics(run) if "health/skipped_updates" in row]
    assert max(skipped) == 2
    assert skipped[-1] == 0
    saved = load_file(Checkpoints(run.path).resumable()[-1] / "tensors.safetensors")
    assert saved["agent/optimizer/0:step"] == arcturus.load(run).agent.updates - 3  # Adam's own count


@pytest.mark.parametrize(
    ("where", "name"), [("gradient", "the gradient of .* is not finite"), ("weight", "weight head.bias is not finite")]
)
def test_numbers_gone_bad_for_good_end_the_run_by_name_and_are_never_written(small_run, tmp_path, monkeypatch, where, name):
    poison(monkeypatch, where, set(range(300, 10_000)))
    with pytest.raises(TrainingFailed, match=name) as e:
        small_run(tmp_path / "r", steps=4000, checkpoint_every=400, eval_every=0)
    assert e.value.exit_code == 4
    run = Run(tmp_path / "r")
    assert run.status == "failed"
    assert all(torch.isfinite(w).all() for w in arcturus.load(run).network.state_dict().values())
    monkeypatch.undo()
    assert arcturus.resume(run, quiet=True, steps=1600).status == "finished"
