"""Code of your own by dotted path: an agent, a torso, a memory core, a listener, an environment; and that none runs untrusted."""

from __future__ import annotations

import inspect
import json
import re
import sys

import gymnasium as gym
import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.errors import ConfigError

PARTS = '''
import json
import torch
from torch import nn


class Flat(nn.Module):
    """A torso."""
    width = 12

    def __init__(self, spec):
        super().__init__()
        self.layer = nn.Linear(spec.obs_shape[0], 12)

    def forward(self, obs):
        return self.layer(obs).tanh()


class Leaky(nn.Module):
    """A core whose state is a nest."""

    def __init__(self, inputs, width):
        super().__init__()
        self.outputs, self.layer = width, nn.Linear(inputs, width)

    def initial_state(self, n):
        zeros = self.layer.weight.new_zeros
        return (zeros(n, self.outputs), (zeros(n, 2, 3), zeros(n, dtype=torch.int64)))

    def forward(self, x, state):
        trace, (matrix, count) = state
        trace = 0.9 * trace + self.layer(x)
        return trace, (trace, (matrix + 1, count + 1))


class Counter:
    """A listener."""

    def __init__(self, config, folder):
        self.file, self.rows, self.id = folder / "heard.json", 0, config.env.id

    def __call__(self, row):
        self.rows += 1
        self.steps = row.steps

    def close(self):
        self.file.write_text(json.dumps([self.rows, self.steps, self.id]))
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package `mine` with an agent of its own and parts of one."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "parts.py").write_text(PARTS)
    (tmp_path / "mine" / "still.py").write_text(inspect.getsource(agents.load("constant")))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    # the next test's package of this name is another
    for name in [n for n in sys.modules if n.split(".")[0] == "mine"]:
        del sys.modules[name]


SETTINGS = {"torso": "mine.parts.Flat", "core": "mine.parts.Leaky", "core_width": 5, "shared": True}
TRUST = ("mine.parts.Flat", "mine.parts.Leaky", "mine.parts.Counter")


def test_a_torso_a_core_and_a_listener_of_your_own(mine, small_run):
    run = small_run(mine / "r", 400, "ppo", agent_config={**SETTINGS, "horizon": 10}, listeners="mine.parts.Counter")
    assert json.loads((run.path / "heard.json").read_text()) == [50, 400, "CartPole-v1"]
    network = arcturus.load(run, trust=TRUST).network
    assert type(network.torso).__name__ == "Flat"
    assert type(network.core).__name__ == "Leaky"


def test_a_torso_of_your_own_begins_as_you_made_it(mine, counter):
    from arcturus.actor_critic import ActorCritic
    from arcturus.api import EnvSpec

    spec = EnvSpec("x", 1, (4,), torch.float32, gym.spaces.Discrete(2))
    torch.manual_seed(3)
    network = ActorCritic(spec, torso="mine.parts.Flat")
    torch.manual_seed(3)
    assert torch.equal(network.torso.layer.weight, type(network.torso)(spec).layer.weight)


@pytest.mark.parametrize("agent", ["dqn", "a2c", "reinforce"])
def test_every_agent_takes_them(agent, mine, small_run):
    settings = {k: v for k, v in SETTINGS.items() if k in agents.load(agent).Config.__dataclass_fields__}
    assert small_run(mine / "r", 400, agent, agent_config=settings).status == "finished"


def test_an_agent_of_your_own(mine, small_run):
    run = small_run(mine / "r", 200, "mine.still")
    assert arcturus.load(run, trust=("mine.still",)).config.agent_name == "mine.still"


@pytest.mark.parametrize("missing", TRUST)
def test_nothing_of_it_runs_on_resume_or_evaluation_without_trust(missing, mine, small_run):
    run = small_run(mine / "r", 400, "ppo", agent_config={**SETTINGS, "horizon": 10}, listeners="mine.parts.Counter")
    (mine / "mine" / "parts.py").write_text("raise SystemExit('it ran')")
    for name in [n for n in sys.modules if n.split(".")[0] == "mine"]:
        del sys.modules[name]
    others = tuple(t for t in TRUST if t != missing)
    with pytest.raises(ConfigError, match=f"--trust|{missing}"):
        arcturus.load(run, trust=others)
    with pytest.raises(ConfigError, match=missing):
        arcturus.resume(run, steps=800, trust=others)


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        ("torso", {"agent_config": {"torso": "mine.parts.Round"}}),
        ("core", {"agent_config": {"core": "mine.nothing.Core"}}),
        ("core", {"agent_config": {"core": "mine.parts.Flat"}}),
        ("listeners", {"listeners": "mine.parts.Deaf"}),
    ],
)
def test_what_is_not_there_is_said_before_a_run_begins(where, settings, mine, small_run):
    with pytest.raises(ConfigError) as e:
        small_run(mine / "r", 400, "ppo", **settings)
    assert where in e.value.where
    assert not (mine / "r").exists()


def test_words_in_the_options_of_other_peoples_environments_need_trust(tmp_path, small_run):
    """GymV26Environment-v0 imports what its env_id names; numbers name nothing."""
    run = small_run(tmp_path / "r", 200, "ppo", env_config={"options": "sutton_barto_reward=true"}, agent_config={"horizon": 10})
    arcturus.load(run)
    file = run.path / "config.yaml"
    for options in ("env_id=os:path", "x=[1, {y: 2}]", "x=!!binary L2V0Yw==", "x=!!set {w}", "x=2020-01-01"):
        file.write_text(re.sub("options: .*", f'options: "{options}"', file.read_text()))
        with pytest.raises(ConfigError, match="--trust CartPole-v1"):
            arcturus.load(run)
    bomb = "a=&a [1,1,1,1,1,1,1,1,1], b=&b [*a,*a,*a,*a,*a,*a,*a,*a]"
    for options in (bomb, "x=" + "[" * 900, "x=2020-13-45", "=3", "x=" + "1" * 3000):
        file.write_text(re.sub("options: .*", f'options: "{options}"', file.read_text()))
        with pytest.raises(ConfigError, match="is not a setting|the options are too long"):
            arcturus.load(run)


@pytest.mark.parametrize(("name", "says"), [
    ("os.system", "can't be called with a run's settings and folder"), ("builtins.print", "makes NoneType, which can't be called"),
    ("collections.OrderedDict", "can't be called with"), ("builtins.__name__", "can't be called with"),
])  # fmt: skip
def test_what_is_no_listener_is_named_and_not_called_our_fault(name, says, tmp_path):
    with pytest.raises(ConfigError, match=says) as e:
        arcturus.train("uniform", "CartPole-v1", steps=64, run_dir=tmp_path / "r", listeners=name, quiet=True, eval_every=0)
    assert name in str(e.value)
