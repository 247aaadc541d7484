"""export-agent: what other programs load plays as the agent does."""

from __future__ import annotations

import io
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO

import arcturus
from arcturus import agents
from arcturus.api import EnvSpec, TimeStep, state_leaves
from arcturus.errors import ConfigError, EnvironmentProblem
from arcturus.exporting.onnx_graph import to_onnx
from arcturus.exporting.playing import check
from arcturus.exporting.stable_baselines import observation_space, to_bytes, to_stable_baselines
from arcturus.scripts.export_agent import first_action, main
from arcturus.scripts.frontend import guarded
from arcturus.seeding import Seeds

KINDS = {"dqn": DQN, "a2c": A2C, "ppo": PPO, "reinforce": A2C}
SMALL = {"dqn": {"capacity": 600}, "a2c": {}, "ppo": {}, "reinforce": {"horizon": 64}}
SHAPES = {"mlp": (4,), "nature": (4, 84, 84), "small": (4, 42, 42), "impala": (2, 24, 24)}


def make(name, torso, space=None, **config):
    """An agent of random weights whose scores have mean 0 and standard deviation 1 over observations, so that its actions differ."""
    shape = SHAPES[torso]
    dtype = torch.uint8 if len(shape) > 1 else torch.float32
    spec = EnvSpec("test/Random", 1, shape, dtype, spaces.Discrete(5) if space is None else space)
    agent = agents.load(name).Agent(agents.load(name).Config(torso=torso, **SMALL[name], **config), spec, "cpu", Seeds(3))
    rng = torch.Generator().manual_seed(1)
    head = agent.network.head if name == "dqn" else agent.network.policy
    with torch.no_grad():
        for p in agent.network.parameters():
            p.add_(torch.randn(p.shape, generator=rng), alpha=0.02)
        scores = play(agent, observations(spec, 64)).extras["q_values" if name == "dqn" else "logits"]
        head.bias.sub_(scores.mean(0))
        for p in head.parameters():
            p.div_(scores.std(0).view(-1, *[1] * (p.dim() - 1)))
    return agent


def observations(spec, n=1_000, seed=5):
    """Noise, of a brightness of its own in each picture: the features of plain noise are all the same."""
    rng = np.random.default_rng(seed)
    if spec.obs_dtype == torch.uint8:
        brightness = rng.integers(1, 257, (n, spec.obs_shape[0], 1, 1))
        return (rng.integers(0, 256, (n, *spec.obs_shape)) * brightness // 256).astype(np.uint8)
    return rng.normal(size=(n, *spec.obs_shape)).astype(np.float32)


def row(obs, first=None):
    no = torch.zeros(len(obs), dtype=torch.bool)
    age = (~(no if first is None else first)).to(torch.uint8)
    return TimeStep(torch.as_tensor(obs), torch.zeros(len(obs)), age, no, no, no, ~no, no)


def play(agent, obs):
    return agent.act(row(obs), agent.initial_state(len(obs)), explore=False)


def reloaded(name, data):
    return KINDS[name].load(io.BytesIO(data), device="cpu")


def assert_sb3_plays_as(model, agent, obs):
    act = play(agent, obs)
    actions, _ = model.predict(obs, deterministic=True)
    assert len(np.unique(actions, axis=0)) > 1
    np.testing.assert_array_equal(actions, act.action.numpy())
    seen = model.policy.obs_to_tensor(obs)[0]
    with torch.no_grad():
        if isinstance(model, DQN):
            torch.testing.assert_close(model.q_net(seen), act.extras["q_values"], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(model.q_net_target(seen[:9]), agent.target(seen[:9]), rtol=1e-4, atol=1e-4)
        else:
            value, log_prob, _ = model.policy.evaluate_actions(seen, torch.as_tensor(actions))
            torch.testing.assert_close(log_prob, act.extras["log_prob"], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(value[:, 0], act.extras["value"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "torso", "config"), [
    ("dqn", "mlp", {}), ("dqn", "nature", {}), ("dqn", "small", {"target_period": 0}), ("dqn", "impala", {"average_pool": True}),
    ("a2c", "mlp", {"shared": True}), ("a2c", "mlp", {"shared": False, "max_grad_norm": 0.0}), ("a2c", "small", {}),
    ("ppo", "mlp", {"shared": False}), ("ppo", "nature", {"shared": False}),
    ("ppo", "small", {"shared": False}), ("reinforce", "mlp", {}),
    ("ppo", "mlp", {"space": spaces.MultiDiscrete([3, 2, 4])}), ("a2c", "mlp", {"space": spaces.MultiDiscrete([3, 3])}),
    ("ppo", "mlp", {"space": spaces.MultiBinary(4)}), ("a2c", "small", {"space": spaces.MultiBinary([3])}),
])  # fmt: skip
def test_stable_baselines_plays_the_same(name, torso, config):
    agent = make(name, torso, **config)
    model, notes = to_stable_baselines(agent, name)
    assert "the same action on 64 of 64" in notes[0]
    assert ("without arcturus" in notes[1]) == (torso in ("mlp", "nature"))
    assert_sb3_plays_as(reloaded(name, to_bytes(model)), agent, observations(agent.spec))


def test_a_target_network_of_its_own_comes_along():
    agent = make("dqn", "mlp")
    model, _ = to_stable_baselines(agent, "dqn")
    (head, theirs), obs = (agent.target.head, model.q_net_target), torch.randn(3, 4)
    assert not torch.equal(head.weight, agent.network.head.weight)
    torch.testing.assert_close(theirs(obs), agent.target(obs))


ALONE = """
import sys
sys.modules["arcturus"] = None
import numpy as np, stable_baselines3
given, out = np.load("given.npz"), {}
for name in given:
    kind, _, torso = name.partition("-")
    model = getattr(stable_baselines3, {"reinforce": "A2C"}.get(kind, kind.upper())).load(name + ".zip", device="cpu")
    out[name] = model.predict(given[name], deterministic=True)[0]
try:
    import arcturus
except ImportError:
    np.savez("played.npz", **out)
"""


@pytest.mark.slow
def test_native_files_load_where_arcturus_is_not(tmp_path):
    made = {f"{name}-{torso}": make(name, torso) for name in ("dqn", "a2c", "ppo") for torso in ("mlp", "nature")}
    given = {name: observations(agent.spec, 100) for name, agent in made.items()}
    for name, agent in made.items():
        (tmp_path / f"{name}.zip").write_bytes(to_bytes(to_stable_baselines(agent, name.partition("-")[0])[0]))
    np.savez(tmp_path / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    played = np.load(tmp_path / "played.npz")
    for name, agent in made.items():
        np.testing.assert_array_equal(played[name], play(agent, given[name]).action.numpy())


@pytest.fixture(scope="module")
def runs(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("dqn", "a2c", "ppo", "uniform"):
        small_run(folder / name, 300, agent=name, eval_every=0)
    small_run(folder / "lstm", 300, agent="a2c", env="Memory/Recall-v0", agent_config={"core": "lstm"}, eval_every=0)
    return folder


@pytest.mark.parametrize("name", ["dqn", "a2c", "ppo"])
def test_a_run_is_exported_and_goes_on_learning_there(runs, name, tmp_path, capsys, recwarn):
    path = tmp_path / "new" / "agent.zip"
    assert main([str(runs / name), "--to", "sb3", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"stable-baselines3 {KINDS[name].__name__} of {name} at step " in out
    assert [p.name for p in path.parent.iterdir()] == ["agent.zip"]
    actor, obs = arcturus.load(runs / name), observations(EnvSpec("", 1, (4,), torch.float32, spaces.Discrete(2)))
    model = KINDS[name].load(path, env=gym.make("CartPole-v1"), device="cpu")
    act, (actions, _) = play(actor, obs), model.predict(obs, deterministic=True)
    scores = act.extras["logits" if name != "dqn" else "q_values"]
    clear = ((scores[:, 0] - scores[:, 1]).abs() > 1e-5).numpy()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(actions[clear], act.action.numpy()[clear])
    model.learn(64)
    assert not [w for w in recwarn if "n_steps" in str(w.message)]


@pytest.mark.parametrize(("name", "torso", "config"), [
    ("dqn", "mlp", {}), ("dqn", "nature", {}), ("a2c", "mlp", {"shared": False}), ("ppo", "nature", {}), ("ppo", "small", {}),
    ("dqn", "impala", {}), ("reinforce", "mlp", {"baseline": "none"}), ("a2c", "mlp", {"space": spaces.MultiDiscrete([3, 2, 4])}),
])  # fmt: skip
def test_onnxruntime_plays_the_same(name, torso, config):
    agent = make(name, torso, **config)
    data, notes = to_onnx(agent, name)
    assert "the same action on 64 of 64" in notes[0]
    obs = observations(agent.spec)
    act, out = play(agent, obs), session(data).run(None, {"obs": obs})
    np.testing.assert_allclose(out[0], act.extras["q_values" if name == "dqn" else "logits"], rtol=1e-4, atol=1e-4)
    if "value" in act.extras:
        np.testing.assert_allclose(out[1], act.extras["value"], rtol=1e-4, atol=1e-4)
    assert len(session(data).run(None, {"obs": obs[:1]})[0]) == 1
    if isinstance(agent.spec.action_space, spaces.Discrete):
        np.testing.assert_array_equal(out[0].argmax(-1), act.action.numpy())


@pytest.mark.parametrize(("name", "config"), [
    ("c51", {"dueling": True, "noisy": 0.5}), ("qr_dqn", {"quantiles": 5}), ("dqn", {"dueling": True}),
])  # fmt: skip
def test_streams_and_distributions_go_to_onnx_and_not_to_stable_baselines(name, config):
    spec = EnvSpec("test/Random", 1, (4,), torch.float32, spaces.Discrete(5))
    module = agents.load(name)
    agent = module.Agent(module.Config(capacity=600, **config), spec, "cpu", Seeds(3))
    obs = observations(spec)
    out = session(to_onnx(agent, name)[0]).run(None, {"obs": obs})[0]
    np.testing.assert_allclose(out, play(agent, obs).extras["q_values"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="stable-baselines3's DQN doesn't have"):
        to_stable_baselines(agent, name)


def session(data):
    import onnxruntime

    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("core", "torso", "shared"), [
    ("lstm", "mlp", False), ("lstm", "small", True), ("gru", "mlp", True), ("rnn", "small", False),
])  # fmt: skip
def test_onnxruntime_remembers_the_same(core, torso, shared):
    agent = make("a2c", torso, core=core, core_width=24, shared=shared)
    graph = session(to_onnx(agent, "a2c")[0])
    names = [i.name for i in graph.get_inputs()][2:]
    state, before = agent.initial_state(3), None
    theirs = [x.numpy() for x in state_leaves(state)]
    for t in range(10):
        obs = observations(agent.spec, 3, seed=t)
        first = torch.tensor([t == 0, t in (0, 5), t in (0, 6)])
        act = agent.act(row(obs, first), state, explore=False)
        logits, value, *theirs = graph.run(None, {"obs": obs, "first": first.numpy(), **dict(zip(names, theirs, strict=True))})
        state = act.state
        np.testing.assert_array_equal(logits.argmax(-1), act.action.numpy())
        np.testing.assert_allclose(logits, act.extras["logits"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(value, act.extras["value"], rtol=1e-4, atol=1e-4)
        for ours, leaf in zip(state_leaves(state), theirs, strict=True):
            np.testing.assert_allclose(leaf, ours, rtol=1e-4, atol=1e-4)
        assert before is None or not np.allclose(before, theirs[0])
        before = theirs[0]


def test_a_run_with_memory_becomes_a_graph(runs, tmp_path, capsys):
    assert main([str(runs / "lstm"), "--to", "onnx", str(tmp_path / "a.onnx")]) == 0
    out = capsys.readouterr().out
    assert "input  state_1        float  [batch, 64]" in out or "input  state_1        float  [batch, 128]" in out
    assert "output next_state_0" in out
    assert "first" in out
    session((tmp_path / "a.onnx").read_bytes())


@pytest.mark.parametrize(("argv", "code", "says"), [
    (["{r}/ppo", "--to", "sb3", "{t}/a.onnx"], 2, "writes a .zip file"), (["{r}/ppo", "--to", "onnx", "{t}/a"], 2, "writes a .onnx"),
    (["{r}/uniform", "--to", "sb3", "{t}/a.zip"], 2, "no network that can be exported"),
    (["{r}/uniform", "--to", "onnx", "{t}/a.onnx"], 2, "no network that can be exported"),
    (["{r}/lstm", "--to", "sb3", "{t}/a.zip"], 2, "no recurrent policies"), (["{r}/none", "--to", "sb3", "{t}/a.zip"], 2, "a run folder"),
    (["{r}/ppo", "--to", "sb3", "{t}/good.zip/a.zip"], 5, "can't be written"), (["{r}/ppo", "--to", "sb3", "{t}/f.zip"], 5, "folder"),
    (["{r}/ppo", "--to", "sb3", "{t}/a.zip", "--checkpoint", "7"], 5, "step-"),
])  # fmt: skip
def test_what_cannot_be_exported_is_told(runs, tmp_path, capsys, argv, code, says):
    (tmp_path / "good.zip").write_text("good")
    (tmp_path / "f.zip").mkdir()
    assert guarded(main, [a.format(r=runs, t=tmp_path) for a in argv]) == code
    err = capsys.readouterr().err
    assert says in err
    assert "fault of arcturus" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.zip", "good.zip"]


def test_a_missing_package_is_named(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert guarded(main, [str(runs / "ppo"), "--to", "onnx", str(tmp_path / "a.onnx")]) == 3
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_good_file(runs, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.zip").write_text("good")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert guarded(main, [str(runs / "ppo"), "--to", "sb3", str(tmp_path / "a.zip")]) == 5
    assert "No space left" in capsys.readouterr().err
    assert [p.read_text() for p in tmp_path.iterdir()] == ["good"]


def test_other_refusals():
    with pytest.raises(ConfigError, match="no learned value function"):
        to_stable_baselines(make("reinforce", "mlp", baseline="none"), "reinforce")
    with pytest.raises(ConfigError, match="supports only vectors"):
        to_stable_baselines(make("ppo", "mlp", space=spaces.MultiDiscrete([[2, 2], [3, 3]])), "ppo")
    same = torch.ones(2, dtype=torch.bool)
    with pytest.raises(EnvironmentProblem, match="nothing was written"):
        check([torch.zeros(2)], [np.array([0.0, 0.1])], same, "nobody")
    with pytest.raises(EnvironmentProblem, match="nothing was written"):
        check([torch.zeros(2)], [np.array([0.0, np.nan])], same, "nobody")


class OwnTorso(torch.nn.Module):
    """One that no graph can follow: what it does depends on a number in a tensor."""

    def __init__(self, spec):
        super().__init__()
        self.width, self.fc = 16, torch.nn.Linear(4, 16)

    def forward(self, obs):
        return self.fc(obs) if float(obs.sum()) > 0 else -self.fc(obs)


def test_a_torso_of_ones_own_is_wrapped_and_may_have_no_graph(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_torsos", sys.modules[__name__])
    monkeypatch.setitem(SHAPES, "own_torsos.OwnTorso", (4,))
    agent = make("a2c", "own_torsos.OwnTorso")
    model, notes = to_stable_baselines(agent, "a2c")
    assert "loading it needs arcturus" in notes[1]
    obs = observations(agent.spec, 50)
    np.testing.assert_array_equal(reloaded("a2c", to_bytes(model)).predict(obs, deterministic=True)[0], play(agent, obs).action)
    with pytest.raises(ConfigError, match="can't be exported to ONNX"):
        to_onnx(agent, "a2c")


def test_spaces():
    spec = EnvSpec("", 1, (2,), torch.float32, spaces.Discrete(2))
    own = spaces.Box(-1, 2, (2,), np.float32)
    assert observation_space(spec, own) == own
    assert observation_space(spec, spaces.Box(-1, 2, (2, 1), np.float32)) == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert first_action("x", spaces.Discrete(3, start=1)) == ["actions are counted from 0; x counts from 1: add that to each action"]
    assert first_action("x", spaces.Discrete(3)) == first_action("x", None) == []


def test_help_is_quick():
    code = (
        "import sys; from arcturus.scripts.export_agent import parser; parser().format_help(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
