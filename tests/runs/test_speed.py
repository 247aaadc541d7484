"""Speed changes nothing but rounding: fast and eager agents learn the same from the same minibatches, and a recorded graph does what the
function does."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import gymnasium as gym
import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.agents._value import ValueAgent
from arcturus.api import ActedStep, EnvSpec, state_leaves
from arcturus.device import torch_settings
from arcturus.errors import TrainingFailed
from arcturus.optimizers import GradientStep, adam
from arcturus.runs.files import flatten
from arcturus.scoring.instruments import as_timestep
from arcturus.seeding import Seeds
from arcturus.speed import Captured, eagerly, in_bf16

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: parity of graphs is open")
    ),
]
REPLAY = {
    "capacity": 800,
    "learning_starts": 200,
    "batch_size": 16,
    "replay_ratio": 0.25,
    "learning_rate": 6.25e-5,
    "target_period": 200,
}
RECURRENT = {"core": "lstm", "core_width": 16, "bptt": 4}
AGENTS = {
    "dqn": REPLAY | {"double": True, "n_step": 3},
    "c51": REPLAY | {"dueling": True, "noisy": 0.5},
    "qr_dqn": REPLAY,
    "iqn": REPLAY,
    "dqn annealed": REPLAY | {"anneal_updates": 30, "random_shift": 3, "random_intensity": 0.1, "reset_period": 75, "anneal_steps": 10**9},
    "sac": REPLAY,
    "drqn": REPLAY | RECURRENT | {"burn_in": 2},
    "dqn rmsprop": REPLAY | {"optimizer": "rmsprop", "optimizer_eps": 0.01},
    # at 1e-4 a row comes to stand at the clip's kink, where rounding decides on which side
    "ppo lstm": RECURRENT | {"horizon": 16, "epochs": 4, "minibatches": 4, "learning_rate": 5e-5},
    "ppo": {"horizon": 16, "epochs": 4, "minibatches": 4, "learning_rate": 1e-4},
    "a2c": {"horizon": 5, "learning_rate": 5e-5},
    "pqn": {"horizon": 16, "epochs": 2, "minibatches": 4, "optimizer": "adam", "learning_rate": 6.25e-5},
}


def learnt(name, device, eager, updates, **settings):
    """An agent after so many updates on a stream that doesn't depend on it."""
    spec = EnvSpec("x", 8, (4, 42, 42), torch.uint8, gym.spaces.Discrete(5), 4)
    module = agents.load(name.split()[0])
    context = eagerly() if eager else nullcontext()
    with context:
        agent = module.Agent(module.Config(torso="small", **AGENTS[name], **settings), spec, torch.device(device), Seeds(3))
    stream = torch.Generator().manual_seed(1)
    frames = torch.randint(256, (8, 4, 42, 42), generator=stream, dtype=torch.uint8)
    state, start = agent.initial_state(8), agent.updates
    while agent.updates - start < updates:
        newest = torch.randint(256, (8, 1, 42, 42), generator=stream, dtype=torch.uint8)
        frames = torch.cat([frames[:, 1:], newest], 1)
        ts = as_timestep(frames.to(device))
        ts = ts._replace(reward=torch.randn(8, generator=stream).to(device), age=torch.full_like(ts.age, 200))
        if agent.on_policy:
            agent.learn_from_rollout(ts, state)
        act = agent.act(ts, state, explore=True, generator=torch.Generator(device).manual_seed(0))
        action = torch.randint(5, (8,), generator=stream).to(device)
        extras = {k: torch.randn(v.shape, generator=stream).to(device) for k, v in sorted(act.extras.items())}
        agent.observe(ActedStep(ts, state, action, extras))
        if not agent.on_policy:
            agent.learn()
    return agent


def weights_of(*learners):
    return [agent.network.state_dict() for agent in learners]


def captured_of(agent):
    return agent.captured if agent.on_policy else agent.learner.captured


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name", [name if name in ("dqn", "ppo") else pytest.param(name, marks=pytest.mark.slow) for name in AGENTS]
)
def test_fast_and_eager_agree_after_a_hundred_updates(name, device):
    fast, eager = (learnt(name, device, eager, 100) for eager in (False, True))
    begun = learnt(name, device, True, 0).network.state_dict()
    assert fast.updates == eager.updates >= 100
    if device == "cuda":
        assert captured_of(fast).recorded
    start, there, here = (torch.cat([w.flatten().double() for w in each.values()]) for each in (begun, *weights_of(eager, fast)))
    assert float((there - start).abs().max()) > 1e-3
    assert float((here - there).norm()) < 0.05 * float((there - start).norm())  # rounding alone decides at a kink (a clip, a ReLU)


def test_the_flag_is_heard_by_every_part_and_only_while_it_lasts(small_run, tmp_path):
    eager = small_run(tmp_path / "e", 400, eager=True, eval_every=0)
    assert eager.config().run.eager
    with eagerly():
        agent = learnt("dqn", "cpu", True, 1, prioritised=True)
        gradient_step = GradientStep(adam([torch.nn.Parameter(torch.zeros(2))], 0.1, 1e-8))
        assert not gradient_step.optimizer.defaults["fused"]
    assert not agent.replay.compiled
    assert not agent.learner.priorities.tree.compiled
    assert agent.network.torso.layers.conv2.weight.is_contiguous()
    fast = learnt("dqn", "cpu", False, 1)
    assert fast.replay.compiled
    assert fast.gradient_step.optimizer.defaults["fused"]
    assert fast.network.torso.layers.conv2.weight.is_contiguous(memory_format=torch.channels_last)


class Recorder:
    """Enough of torch.cuda to record and play graphs without a GPU: a replay calls the function again, on the same memory."""

    def __init__(self, monkeypatch, *captured, fails=False):
        self.captured, self.fails, self.mode, self.replays = captured, fails, 0, 0
        self.Stream = self.current_stream = lambda: SimpleNamespace(wait_stream=lambda other: None)
        self.stream = self.device = lambda which: nullcontext()
        self.get_sync_debug_mode = lambda: self.mode
        for name in (
            "Stream",
            "current_stream",
            "stream",
            "device",
            "CUDAGraph",
            "graph",
            "get_sync_debug_mode",
            "set_sync_debug_mode",
        ):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def set_sync_debug_mode(self, mode):
        self.mode = mode

    def CUDAGraph(self):
        graph = SimpleNamespace(generators=[])
        graph.register_generator_state = graph.generators.append

        def replay():
            self.replays += 1
            of, recorded = next((c, r) for c in self.captured for r in c.recorded.values() if r.graph is graph)
            again = state_leaves(of.function(*recorded.inputs))
            for mine, new in zip(state_leaves(recorded.outputs), again, strict=True):
                mine.detach().copy_(new)

        graph.replay = replay
        return graph

    @contextmanager
    def graph(self, graph, capture_error_mode):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield


def descending(monkeypatch, fails=False, recording=True, waits=False):
    """Gradient steps on a moving target with noise, captured."""
    weight = torch.nn.Parameter(torch.zeros(3))
    gradient_step, generator = GradientStep(adam([weight], 0.1, 1e-8)), torch.Generator().manual_seed(5)

    def step(x, shift):
        if waits and torch.cuda.get_sync_debug_mode() == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        gradient_step(((weight - x - shift[0].sum()) ** 2).sum() + torch.rand(3, generator=generator) @ weight)
        return (weight.detach().clone(),)

    if not recording:
        return step, weight
    captured = Captured(step, torch.device("cpu"), [generator, None], gradient_step.remember)
    Recorder(monkeypatch, captured, fails=fails)
    return captured, weight


def inputs():
    g = torch.Generator().manual_seed(7)
    return [(torch.randn(3, generator=g), (torch.randn(n, generator=g),)) for n in (1, 1, 2, 1, 2, 2, 1)]


RECORDED = {
    "dqn": REPLAY | {"replay_ratio": 0.5, "n_step": 3},  # 4 updates a row, in one graph
    "dqn prioritised": REPLAY | {"prioritised": True},
    "c51": REPLAY | {"noisy": 0.5, "prioritised": True},
    "iqn": REPLAY,
    "dqn annealed": REPLAY | {"anneal_updates": 30, "random_shift": 3, "random_intensity": 0.1, "reset_period": 75, "anneal_steps": 10**9},
    "sac": REPLAY | {"prioritised": True, "autotune": True},
    "ppo": AGENTS["ppo"],
    "ppo lstm": AGENTS["ppo lstm"],
    "a2c": AGENTS["a2c"] | {"anneal_steps": 2_000},
    "pqn": AGENTS["pqn"],
}


@pytest.mark.parametrize("name", RECORDED)
def test_an_agent_whose_calls_are_recorded_learns_what_it_learns_without(name, monkeypatch):
    """Drawing by priority, gathering, learning, setting priorities and acting, each a graph, as on CUDA: bit by bit the same."""
    monkeypatch.setitem(AGENTS, name, RECORDED[name])
    with eagerly():  # tensor operations, as on CUDA
        whole = learnt(name, "cpu", True, 40)
        monkeypatch.setattr("arcturus.speed.graphs_on", lambda device: True)
        agent = learnt(name, "cpu", True, 0)
    captured = [captured_of(agent)]
    if not getattr(agent.config, "noisy", 0):  # which acts with noise of the moment
        captured.append(agent.act_fn if isinstance(agent, ValueAgent) else agent.network.act_fn)
    if not agent.on_policy:
        agent.learner.in_graph = not getattr(agent.config, "anneal_updates", 0)  # a graph has one n
        if agent.learner.priorities is not None:
            captured += [agent.learner.priorities._drawn, agent.learner.priorities._set]
    cuda = Recorder(monkeypatch, *captured)
    monkeypatch.setattr(agents.load(name.split()[0]), "Agent", lambda *_: agent)
    learnt(name, "cpu", True, 40)
    assert agent.updates == whole.updates
    assert all(each.recorded for each in captured)
    assert cuda.replays >= 40 / 4
    for (key, value), other in zip(flatten(whole.state_dict())[0].items(), flatten(agent.state_dict())[0].values(), strict=True):
        assert torch.equal(value, other), key


@pytest.mark.parametrize("waits", [False, True], ids=["recorded", "waits for the host"])
def test_recording_leaves_no_trace_and_replays_are_the_function(monkeypatch, capsys, waits):
    """Warming up must not have learnt anything, nor drawn; one graph a shape; what waits for the host is called as it is."""
    plain, expected = descending(monkeypatch, recording=False)
    captured, weight = descending(monkeypatch, waits=waits)
    for x, shift in inputs():
        (want,), (got,) = plain(x, shift), captured(x, shift)
        assert torch.equal(got, want)
        assert torch.equal(weight, expected)
    assert len(captured.recorded) == (0 if waits else 2)
    assert ("it waits for the host" in capsys.readouterr().err) == waits
    assert torch.cuda.get_sync_debug_mode() == 0


def test_a_recording_that_fails_ends_the_run_and_says_how_to_go_on(monkeypatch):
    captured, weight = descending(monkeypatch, fails=True)
    with pytest.raises(TrainingFailed, match="--eager"):
        captured(*inputs()[0])
    assert (weight == 0).all()


def test_graphs_are_not_recorded_without_end(monkeypatch):
    monkeypatch.setattr("arcturus.speed.MOST_GRAPHS", 1)
    plain, expected = descending(monkeypatch, recording=False)
    captured, weight = descending(monkeypatch)
    for x, shift in inputs():
        plain(x, shift), captured(x, shift)
    assert torch.equal(weight, expected)
    assert len(captured.recorded) == 1


def test_kept_metrics_do_not_change_with_the_next_replay(monkeypatch):
    captured, _ = descending(monkeypatch)
    (x, shift), (y, more) = inputs()[:2]
    kept = captured.latest({"weight": captured(x, shift)[0]})["weight"]
    before = kept.clone()
    captured(y, more)
    assert torch.equal(kept, before)


def test_a_run_may_be_eager_from_the_command_line_and_says_so(tmp_path):
    run = arcturus.train("dqn", "CartPole-v1", steps=200, run_dir=tmp_path / "r", quiet=True, eager=True, eval_every=0)
    assert "eager: true" in (run.path / "config.yaml").read_text()


def test_bfloat16_is_of_torsos_alone_and_near_float32():
    spec = EnvSpec("x", 8, (4, 42, 42), torch.uint8, gym.spaces.Discrete(5), 4)
    seen = torch.randint(256, (16, 4, 42, 42), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    def gradient(yes):
        module = agents.load("dqn")
        with in_bf16(yes):
            network = module.Agent(module.Config(torso="small", **REPLAY), spec, "cpu", Seeds(3)).network
        q = network(seen)
        q.square().sum().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in network.parameters())
        assert q.dtype == torch.float32
        return q.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])

    (q, g), (rounded, coarse) = gradient(False), gradient(True)
    assert not torch.equal(q, rounded)
    torch.testing.assert_close(rounded, q, rtol=0.05, atol=0.01)
    assert torch.nn.functional.cosine_similarity(g, coarse, dim=0) > 0.999


def test_a_run_may_learn_in_bfloat16_and_its_policy_plays_in_float32(small_run, tmp_path):
    env = {"env": "ALE/Pong-v5", "env_config": {"frame_size": 36, "num_envs": 2}, "eval_every": 0}
    run = small_run(tmp_path / "r", 200, agent_config={"torso": "small", "capacity": 200}, bf16=True, **env)
    assert run.config().run.bf16
    assert not arcturus.load(run.path).agent.network.torso.bf16


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_what_a_run_asks_for_and_only_while_it_lasts(tf32):
    """The wish was overwritten by what had been before."""
    flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark)  # noqa: E731
    before = flags()
    with torch_settings(1, not tf32, tf32):
        assert flags() == (tf32, tf32, tf32)
    assert flags() == before
