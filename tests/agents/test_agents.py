"""Every file in agents/ keeps the contract, whoever wrote it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.errors import ConfigError
from arcturus.loop import run
from arcturus.runs.files import flatten, shapes_of
from arcturus.scoring.instruments import as_timestep
from arcturus.seeding import Seeds

OURS = [name for name in agents.names() if name not in ("sb3", "distill")]  # they have tests of their own, test_sb3.py, test_supervised.py
WORLDS = {"q_learning": "MDP/Grid-v0", "supervised": "NTM/Copy-v0"}  # for agents that ask for more than pixels
REPLAY = {"capacity": 300, "learning_starts": 8, "n_step": 3, "torso": "mlp", "batch_size": 8}
SMALL = {
    "dqn": REPLAY,
    "drqn": REPLAY | {"core_width": 8, "bptt": 4, "burn_in": 2},
    "a2c": {"torso": "mlp"},
    "ppo": {"torso": "mlp", "horizon": 8, "epochs": 2, "minibatches": 2},
    "pqn": {"torso": "mlp", "horizon": 8, "epochs": 2, "minibatches": 2},
    "reinforce": {"torso": "mlp", "episodes": 4, "horizon": 30},
    "supervised": {"core_width": 8, "core_options": "slots=20,word=4"},
    "c51": REPLAY | {"double": True, "dueling": True, "noisy": 0.5, "prioritised": True},  # Rainbow
    "qr_dqn": REPLAY | {"quantiles": 5},
    "iqn": REPLAY | {"samples": 4, "target_samples": 4, "policy_samples": 4},
    "sac": REPLAY | {"prioritised": True},
}


def build(name, envs, seed=0):
    module = agents.load(name)
    return module.Agent(module.Config(**SMALL.get(name, {})), envs.spec, "cpu", Seeds(seed))


def train(agent, envs, rows=40):
    g = torch.Generator().manual_seed(0)
    return list(run(envs, agent, steps=rows * envs.num_envs, seeds=lambda: np.arange(envs.num_envs), generator=g))


@pytest.fixture
def world(counter):
    """world(name): 4 environments that agent can play."""
    return lambda name: arcturus.make(WORLDS[name], 4) if name in WORLDS else counter(4)


@pytest.mark.parametrize("name", OURS)
def test_contract(name, world):
    envs = world(name)
    agent = build(name, envs)
    rows, learnt = train(agent, envs), 0
    for row in rows:
        assert row.step.action.dtype == torch.int64
        assert row.step.action.shape == (4, *(envs.spec.action_space.shape or ()))
        learnt += bool(row.metrics)
        assert all(v.dim() == 0 and torch.isfinite(v) for v in row.metrics.values())
    assert learnt or agent.network is None
    clone = build(name, envs, seed=1)
    clone.load_state_dict(agent.state_dict())
    ts = as_timestep(rows[-1].step.timestep.obs)
    if name != "uniform":
        one, two = (a.act(ts, a.initial_state(4), explore=False).action for a in (agent, clone))
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", OURS)
def test_the_same_seed_trains_the_same_agent(name, world):
    def weights():
        envs = world(name)
        agent = build(name, envs)
        train(agent, envs)
        return list(flatten(agent.state_dict())[0].values())

    torch.manual_seed(1)
    first = weights()
    torch.manual_seed(2)  # the global generator plays no part
    assert all(torch.equal(a, b) for a, b in zip(first, weights(), strict=True))


@pytest.mark.parametrize("name", OURS)
def test_one_file_one_algorithm(name):
    module = agents.load(name)
    source = inspect.getsource(module)
    assert not re.search(r"arcturus\.agents(\.[a-z]| import [a-z])", source)  # what is shared has a name with an underscore
    assert source.count("\nclass ") <= 3
    assert len(source.splitlines()) <= {"reinforce": 250, "sac": 165}.get(name, 150)


@pytest.mark.parametrize("name", OURS)
def test_the_states_names_and_shapes_never_change(name, world):
    """A checkpoint is compared with the state of an agent that has done nothing."""
    envs = world(name)
    agent = build(name, envs)
    before = flatten(agent.state_dict())
    train(agent, envs)
    after = flatten(agent.state_dict())
    assert shapes_of(before[0]) == shapes_of(after[0])
    assert {k: type(v) for k, v in before[1].items()} == {k: type(v) for k, v in after[1].items()}


def test_unknown_agents_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean uniform"):
        agents.load("unifrom")
    with pytest.raises(ConfigError, match="can't be imported"):
        agents.load("no_such.module")
    with pytest.raises(ConfigError, match="is not an agent module"):
        agents.load("json.decoder")


def test_one_copy_of_the_code():
    """From the repository's root `import agents` works too, and would be a second copy with other classes."""
    assert not {"agents", "envs", "replay", "core", "scripts"} & set(sys.modules)


@pytest.mark.parametrize("argv", [["--help"], ["list", "agents"], ["list", "presets"], ["dqnn"], ["--version"]])
def test_looking_around_does_not_import_torch(argv):
    code = (
        "import sys\nfrom arcturus.scripts.frontend import guarded\nfrom arcturus.scripts.train_agent import main\n"
        f"guarded(main, {argv!r})\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
