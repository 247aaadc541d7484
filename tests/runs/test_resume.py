"""Exact resume: a run stopped at any instant, resumed, ends as one that was never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.api import Act, state_leaves, state_like
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import ConfigError
from arcturus.runs.folder import Run
from tools.survival import digests

# 4 environments; the ring holds 100 rows; learning starts at 100 steps, the schedule ends at 500, target copies every 150
LSTM = {"core": "lstm", "core_width": 8}
SETTINGS = {
    "dqn": {"capacity": 400, "learning_starts": 100, "epsilon_steps": 400, "target_period": 150, "batch_size": 16},
    "ppo": {"horizon": 16, "epochs": 2, "minibatches": 2},
    "pqn": {"horizon": 16, "minibatches": 2, "epsilon_steps": 400},
    "sac": {"capacity": 400, "learning_starts": 100, "target_period": 150, "batch_size": 16, "autotune": True, "prioritised": True},
}
SETTINGS |= {
    "c51": SETTINGS["dqn"] | {"double": True, "dueling": True, "noisy": 0.5, "n_step": 3, "prioritised": True,
                                "anneal_steps": -1},  # Rainbow
    "qr_dqn": SETTINGS["dqn"] | {"quantiles": 5},
    "iqn": SETTINGS["dqn"] | {"samples": 4, "target_samples": 4, "policy_samples": 4},
    "drqn": SETTINGS["dqn"] | LSTM | {"bptt": 4, "burn_in": 2},
    "ppo lstm": SETTINGS["ppo"] | LSTM | {"bptt": 8},
    "pqn lstm": SETTINGS["pqn"] | LSTM | {"bptt": 8},
    "a2c lstm": LSTM | {"horizon": 12, "shared": False},
    "reinforce lstm": LSTM | {"horizon": 100, "bptt": 5},
}  # fmt: skip
SETTINGS["iqn shifted"] = SETTINGS["iqn"] | {  # resets, annealing, augmentation, spectral normalisation
    "torso": "impala", "spectral_norm": True, "max_pool": 2, "random_shift": 2, "random_intensity": 0.05, "n_step": 2,
    "reset_period": 60, "anneal_updates": 25, "initial_n_step": 4, "batch_size": 4, "munchausen": 0.9, "double": False,
}  # fmt: skip
NTM = {"torso": "none", "core": "ntm", "core_width": 8, "core_options": "slots=8,word=4"}
SETTINGS |= {
    "supervised": NTM | {"play": True},
    "ppo ntm": NTM | {"horizon": 0, "gamma": 0.0, "minibatches": 2},
    "drqn ntm": NTM | SETTINGS["dqn"] | {"bptt": 0, "gamma": 0.0},
    "a2c tape": LSTM | {"horizon": 12},
}
OPTIONS = {"env_config": {"num_envs": 4}, "steps": 900, "checkpoint_every": 250, "eval_every": 350, "log_every": 60}
COPY = "low=1,high=5,width=1"  # so easy that chance takes the curriculum on
WORLDS = {
    "iqn shifted": ("ALE/Freeway-v5", {"frame_size": 16}),
    "q_learning": ("MDP/Grid-v0", {}),
    "supervised": ("NTM/Copy-v0", {"options": COPY, "curriculum": "mixture"}),
    "ppo ntm": ("NTM/Copy-v0", {"options": COPY, "curriculum": "lessons"}),
    "drqn ntm": ("NTM/Copy-v0", {"options": COPY + ",actions=symbol"}),
    "a2c tape": ("Tape/Copy-v0", {"options": "base=2", "curriculum": "promotion"}),
}


def world(agent):
    env, settings = WORLDS.get(agent, ("CartPole-v1", {}))
    more = {"eval_every": 0} if env == "ALE/Freeway-v5" else {}
    return {"env": env, "env_config": settings | {"num_envs": 4}} | more


MOMENTS = {
    "in warm-up": 52, "before the first update": 100, "mid-episode": 300, "ring just wrapped": 404, "at a scheduled checkpoint": 252,
    "at a target update": 452, "at the schedule's end": 500, "at an evaluation": 352, "one row before the end": 896,
}  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(small_run, tmp_path_factory):
    """unbroken(agent): the digests of a run that was never stopped."""
    known = {}

    def of(agent):
        if agent not in known:
            run = small_run(tmp_path_factory.mktemp("whole") / "r", agent=agent.split()[0], agent_config=SETTINGS.get(agent),
                            **(OPTIONS | world(agent)))  # fmt: skip
            known[agent] = digests(run.path)
        return known[agent]

    return of


CASES = [(agent, moment) for agent in agents.names() if agent not in ("sb3", "distill") for moment in MOMENTS]
CASES += [
    (name, moment)
    for name in SETTINGS
    if " " in name
    for moment in ("mid-episode", "at a scheduled checkpoint", "at an evaluation")
]
QUICK = {case for case in CASES if case[0] == "dqn" or case[1] == "mid-episode"}  # the rest takes minutes
CASES_MARKED = [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES]


@pytest.mark.parametrize(("agent", "moment"), CASES_MARKED)
def test_stopped_at_any_moment_it_ends_the_same(agent, moment, small_run, stop_at, unbroken, tmp_path):
    whole = unbroken(agent)
    stop_at(MOMENTS[moment])
    run = small_run(tmp_path / "r", agent=agent.split()[0], agent_config=SETTINGS.get(agent), **(OPTIONS | world(agent)))
    assert run.status == "preempted"
    assert run.about["steps"] == run.about["checkpoint"] == MOMENTS[moment]
    assert arcturus.resume(run, quiet=True).status == "finished"
    assert digests(run.path) == whole


def test_stopped_again_and_again_it_ends_the_same(small_run, stop_at, unbroken, tmp_path):
    """The second checkpoint after one restart holds the actions of both stretches."""
    whole, path = unbroken("dqn"), tmp_path / "r"
    stop_at(264)
    small_run(path, agent_config=SETTINGS["dqn"], **OPTIONS)
    for step in (280, 284, 360, 700):
        stop_at(step)
        assert arcturus.resume(path, quiet=True).about["checkpoint"] == step
    arcturus.resume(path, quiet=True)
    assert digests(path) == whole


def test_a_signal_during_an_evaluation_breaks_it_off_and_it_is_made_up_for(small_run, unbroken, tmp_path, monkeypatch):
    from arcturus.scoring import evaluation

    choose, calls = evaluation._Play._choose, []

    def watched(*args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return choose(*args)

    whole = unbroken("dqn")
    monkeypatch.setattr(evaluation._Play, "_choose", watched)
    run = small_run(tmp_path / "r", agent_config=SETTINGS["dqn"], **OPTIONS)
    assert (run.status, run.about["steps"], len(calls)) == ("preempted", 352, 3)
    assert not any("eval/episodic_return_mean" in row for row in arcturus.read_metrics(run))
    calls.clear()
    again = arcturus.resume(run, quiet=True)  # broken off a second time: nothing new to save
    assert (again.status, again.about["steps"], len(calls)) == ("preempted", 352, 3)
    calls += [1] * 3
    arcturus.resume(run, quiet=True)
    assert digests(run.path) == whole


def test_a_signal_before_the_first_row_leaves_a_run_that_can_begin(small_run, unbroken, tmp_path, monkeypatch):
    from arcturus.runs import judging

    collect = judging.collect_heldout
    monkeypatch.setattr(judging, "collect_heldout", lambda *args: [collect(*args), os.kill(os.getpid(), signal.SIGTERM)][0])
    run = small_run(tmp_path / "r", agent_config=SETTINGS["dqn"], **OPTIONS)
    assert (run.status, run.about["steps"]) == ("preempted", 0)
    assert (arcturus.resume(run, quiet=True).status, run.about["steps"]) == ("preempted", 0)
    monkeypatch.undo()
    assert arcturus.resume(run, quiet=True).status == "finished"
    assert digests(run.path) == unbroken("dqn")


def test_a_signal_on_the_way_back_leaves_the_checkpoint_as_it_was(small_run, stop_at, unbroken, tmp_path, monkeypatch):
    whole = unbroken("dqn")
    stop_at(460)
    run = small_run(tmp_path / "r", agent_config=SETTINGS["dqn"], **OPTIONS)
    before = {p: p.read_bytes() for p in (run.path / "checkpoints").rglob("*") if p.is_file()}
    recv, calls = DeviceEnvs.recv, []

    def watched(self):
        calls.append(1)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return recv(self)

    monkeypatch.setattr(DeviceEnvs, "recv", watched)
    assert (arcturus.resume(run, quiet=True).status, run.about["steps"], len(calls)) == ("preempted", 460, 20)
    assert {p: p.read_bytes() for p in (run.path / "checkpoints").rglob("*") if p.is_file()} == before
    arcturus.resume(run, quiet=True)
    assert digests(run.path) == whole


def test_a_signal_during_the_last_evaluation_leaves_a_run_that_can_finish(small_run, unbroken, tmp_path, monkeypatch):
    from arcturus.runs import judging

    evaluate, calls = judging.evaluate, []

    def watched(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **kwargs)

    whole = unbroken("dqn")
    monkeypatch.setattr(judging, "evaluate", watched)
    run = small_run(tmp_path / "r", agent_config=SETTINGS["dqn"], **OPTIONS)
    assert (run.status, run.about["steps"]) == ("preempted", 900)
    assert arcturus.resume(run, quiet=True).status == "finished"
    assert digests(run.path) == whole | {"values": digests(run.path)["values"]}  # its checkpoint is from before the evaluation


def test_a_run_whose_last_row_went_beyond_its_steps_can_finish(small_run, tmp_path, monkeypatch):
    """101 steps of 8 environments are 104; stopped in its last evaluation, it was told to have finished."""
    from arcturus.runs import judging

    evaluate, calls = judging.evaluate, []

    def watched(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(judging, "evaluate", watched)
    run = small_run(tmp_path / "r", steps=101, eval_every=100_000)
    assert (run.status, run.about["steps"]) == ("preempted", 104)
    run = arcturus.resume(run, quiet=True)
    assert (run.status, run.about["steps"]) == ("finished", 104)
    with pytest.raises(ConfigError, match="finished its 104 steps"):
        arcturus.resume(run, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", [180, 404])
def test_a_real_game_goes_on_exactly(small_run, stop_at, tmp_path, step):
    options = {"env": "ALE/Breakout-v5", "env_config": {"num_envs": 2, "frame_size": 36}, "steps": 600, "checkpoint_every": 250,
               "agent_config": {"capacity": 300, "torso": "small"}, "eval_every": 0}  # fmt: skip
    whole = small_run(tmp_path / "whole", **options)
    stop_at(step)
    run = small_run(tmp_path / "r", **options)
    assert run.about["checkpoint"] == step
    arcturus.resume(run, quiet=True)
    assert digests(run.path) == digests(whole.path)


MEMORY_AGENT = '''
"""Remembers a sum of what it saw, and acts on it; learns nothing."""
from dataclasses import dataclass
import torch
from arcturus import api
from arcturus.api import Act, state_leaves, state_like
@dataclass(frozen=True)
class Config: ...
class Agent(api.Agent):
    stochastic, on_policy = True, True
    def __init__(self, config, spec, device, seeds): self.spec, self.seen = spec, torch.zeros(4)
    def initial_state(self, n): return (torch.zeros(n), (torch.zeros(n, 4),))
    def act(self, ts, state, *, explore, generator=None):
        keep = (~ts.first).float()
        total, (trace,) = state
        total, trace = total * keep + ts.obs.sum(-1), trace * keep[:, None] + ts.obs
        noise = torch.rand(len(total), generator=generator)
        return Act(((total.abs() * 10 + noise) % 2).long(), (total, (trace,)), {})
    def observe(self, step): self.seen += step.state[1][0].sum(0)
    def state_dict(self): return {"seen": self.seen}
    def load_state_dict(self, state): self.seen.copy_(state["seen"])
'''


def test_an_agent_that_keeps_neither_its_spec_nor_its_settings_is_evaluated(small_run, tmp_path, monkeypatch):
    (tmp_path / "forgetting").mkdir()
    (tmp_path / "forgetting" / "agent.py").write_text(MEMORY_AGENT.replace("self.spec, self.seen = spec, ", "self.seen = "))
    monkeypatch.syspath_prepend(str(tmp_path))
    run = small_run(tmp_path / "r", 200, agent="forgetting.agent", eval_every=100)
    actor = arcturus.load(run.path, trust=("forgetting.agent",))
    assert actor.spec.env_id == "CartPole-v1"
    assert len(arcturus.evaluate(actor, "CartPole-v1", episodes=1, max_steps=20).scores) == 1


def test_an_actor_of_ones_own_needs_no_more_than_to_act():
    class Left:
        stochastic = False

        def initial_state(self, n):
            return ()

        def act(self, ts, state, *, explore, generator=None):
            return Act(torch.zeros(len(ts.reward), dtype=torch.int64), state, {})

    for env in ("CartPole-v1", "ALE/Pong-v5"):
        assert len(arcturus.evaluate(Left(), env, episodes=1, max_steps=20).scores) == 1


@pytest.mark.parametrize("step", [300, 500, 504])
def test_what_an_agent_remembers_is_saved(small_run, stop_at, tmp_path, monkeypatch, step):
    (tmp_path / "remembering").mkdir()
    (tmp_path / "remembering" / "__init__.py").touch()
    (tmp_path / "remembering" / "agent.py").write_text(MEMORY_AGENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = small_run(tmp_path / "whole", agent="remembering.agent", **OPTIONS)
    stop_at(step)
    run = small_run(tmp_path / "r", agent="remembering.agent", **OPTIONS)
    arcturus.resume(run, quiet=True, trust=("remembering.agent",))
    one, two = (sorted((r.path / "checkpoints").iterdir())[-1] / "tensors.safetensors" for r in (whole, run))
    assert one.read_bytes() == two.read_bytes()


def test_memory_keeps_its_nest():
    from typing import NamedTuple

    class Pair(NamedTuple):
        a: torch.Tensor
        b: tuple

    state = Pair(torch.ones(2), (torch.zeros(2, 3), torch.arange(2)))
    back = state_like(Pair(torch.zeros(2), (torch.zeros(2, 3), torch.arange(2))), state_leaves(state))
    assert isinstance(back, Pair)
    assert all(torch.equal(x, y) for x, y in zip(state_leaves(back), state_leaves(state), strict=True))
    assert state_leaves(()) == []
    assert state_like((), []) == ()


# -- what is not exact says so -----------------------------------------------------------------------------------------------


RESTLESS = '''
import time
import gymnasium as gym, numpy as np
class Restless(gym.Env):
    """No seed governs it."""
    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32); action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed); self.t = 0; return self._obs(), {}
    def _obs(self): return np.random.default_rng(time.perf_counter_ns()).normal(size=2).clip(-9, 9).astype(np.float32)
    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t == 30, False, {}
gym.register('Restless-v0', entry_point=Restless)
'''


def test_environments_that_do_not_come_back_are_told_and_their_last_row_is_cut(small_run, stop_at, tmp_path, monkeypatch, capsys):
    (tmp_path / "restless.py").write_text(RESTLESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    stop_at(300)
    run = small_run(tmp_path / "r", env="restless:Restless-v0", steps=600, agent_config={"capacity": 4000})
    assert arcturus.resume(run, quiet=True, trust=("restless:Restless-v0",)).status == "finished"
    assert "not an exact continuation" in capsys.readouterr().err
    from arcturus.envs import open_envs
    from arcturus.replay.ring import INTERRUPTED, LAST, TERMINATED, VALID, Ring
    from arcturus.runs.checkpoint import Checkpoints
    from arcturus.runs.files import read_json

    with open_envs(run.config(("restless:Restless-v0",)).env, 0, "cpu") as envs:
        ring, checkpoints = Ring(4000, envs.spec, "cpu"), Checkpoints(run.path)
        checkpoints.segments.load(ring, read_json(checkpoints.resumable()[-1] / "manifest.json")["replay"])
    seam = ring.flags[304 // 8 - 1]
    assert ((seam & LAST) != 0).all()
    assert ((seam & INTERRUPTED) != 0)[(seam & TERMINATED) == 0].all()
    assert ((seam & VALID) == 0).all()
    assert (ring.age[304 // 8] == 0).all()


def test_without_the_replay_a_resumed_run_fills_it_before_it_learns(small_run, stop_at, tmp_path, capsys):
    stop_at(600)
    run = small_run(tmp_path / "r", checkpoint_replay="none", agent_config={"learning_starts": 200})
    assert not (run.path / "replay").exists()
    before = arcturus.load(run).agent.updates
    stop_at(760)
    arcturus.resume(run, quiet=True)
    assert "replay was not saved" in capsys.readouterr().err
    agent = arcturus.load(run).agent
    assert before > 50
    assert agent.updates == int((760 - 200) * 0.5)  # those due while it filled are forgiven, not made up for at once
    assert arcturus.resume(run, quiet=True).status == "finished"


def test_a_run_killed_before_its_first_checkpoint_begins_again(small_run, tmp_path, unbroken, capsys):
    path = tmp_path / "r"
    run = small_run(path, agent_config=SETTINGS["dqn"], **OPTIONS)
    shutil.rmtree(path / "checkpoints")
    about = {k: v for k, v in run.about.items() if k != "checkpoint"} | {"status": "running"}
    (path / "run.json").write_text(json.dumps(about))
    arcturus.resume(path, quiet=True)
    assert "starts again" in capsys.readouterr().err
    assert digests(path) == unbroken("dqn")


# -- two processes, signals ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_second_interrupt_leaves_at_once(tmp_path, start, until):
    path = tmp_path / "r"
    flags = "--env CartPole-v1 --steps 400000 --heldout-states 0 --eval-every 0 --log-every 200 --device cpu".split()
    process = start("dqn", *flags, "--run-dir", path)
    until(lambda: (path / "metrics.jsonl").exists() and (path / "metrics.jsonl").stat().st_size > 500, process)
    second = start("resume", path)
    out = second.communicate(timeout=60)[0]
    assert second.returncode == 5, out
    assert f"another process (pid {process.pid})" in out
    assert Run(path).status == "running"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert Run(path).status == "preempted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, start, until):
    path = tmp_path / "r"
    flags = "--env CartPole-v1 --steps 400000 --heldout-states 0 --eval-every 0 --log-every 200 --device cpu".split()
    process = start("dqn", *flags, "--run-dir", path)
    until(lambda: (path / "metrics.jsonl").exists() and (path / "metrics.jsonl").stat().st_size > 500, process)
    process.send_signal(number)
    out = process.communicate(timeout=20)[0]
    assert process.returncode == 143, out
    assert "train-agent resume" in out
    run = Run(path)
    assert run.status == "preempted"
    assert run.about["checkpoint"] == run.about["steps"] > 0


def test_core_seconds_add_up_over_the_processes_of_a_run(tmp_path):
    run = arcturus.train("ppo", "CartPole-v1", steps=600, run_dir=tmp_path / "r", quiet=True, device="cpu", eval_every=0, heldout_states=0)
    first = run.about["core_seconds"]
    assert 0 < first < 60
    second = arcturus.resume(tmp_path / "r", steps=1200, quiet=True).about["core_seconds"]
    assert first < second < first + 60
    about = json.loads((tmp_path / "r" / "run.json").read_text())
    for nonsense in ("much", None, True, [3], 1e999):
        (tmp_path / "r" / "run.json").write_text(json.dumps(about | {"core_seconds": nonsense}))
        steps = arcturus.load(tmp_path / "r").step + 600
        assert 0 < arcturus.resume(tmp_path / "r", steps=steps, quiet=True).about["core_seconds"] < 60
