"""DQN: losses against plain definitions, and the schedules that the field gets wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete

import arcturus
from arcturus import agents
from arcturus.agents import dqn
from arcturus.api import EnvSpec
from arcturus.errors import ConfigError
from arcturus.losses import linear_schedule, q_learning, td_loss
from arcturus.networks import TORSOS, QNetwork, TorsoOptions
from arcturus.optimizers import RMSProp, load_optimizer_tensors, optimizer_tensors
from arcturus.replay.records import Transition
from arcturus.runs.settings import resolve
from arcturus.scoring.instruments import as_timestep
from arcturus.seeding import Seeds


def spec(shape=(4, 84, 84), actions=4, n=2, stack=4):
    dtype = torch.uint8 if len(shape) > 1 else torch.float32
    return EnvSpec("test/X", n, shape, dtype, Discrete(actions), stack if len(shape) > 1 else 1, True)


def agent(n=2, shape=(3,), **settings):
    c = dqn.Config(**{"capacity": 1000, "learning_starts": 20, **settings})
    return dqn.Agent(c, spec(shape, n=n), "cpu", Seeds(0))


def feed(a, rows, shape=(3,)):
    """rows rows of one-decision-per-row experience through act, observe, learn."""
    from arcturus.api import ActedStep

    generator, metrics = torch.Generator().manual_seed(0), []
    for t in range(rows):
        obs = torch.randn(a.spec.num_envs, *shape, generator=torch.Generator().manual_seed(t))
        ts = as_timestep(obs)._replace(age=torch.full((a.spec.num_envs,), min(t, 255), dtype=torch.uint8))
        act = a.act(ts, (), explore=True, generator=generator)
        a.observe(ActedStep(ts, (), act.action, act.extras))
        metrics.append(a.learn())
    return metrics


def test_td_error_agrees_with_its_definition():
    g = torch.Generator().manual_seed(0)
    q_tm1, q_t, select = (torch.randn(50, 5, generator=g, dtype=torch.float64) for _ in range(3))
    a, r, d = (
        torch.randint(5, (50,), generator=g),
        torch.randn(50, generator=g, dtype=torch.float64),
        torch.rand(50, generator=g, dtype=torch.float64),
    )
    plain, double = q_learning(q_tm1, a, r, d, q_t), q_learning(q_tm1, a, r, d, q_t, select)
    for i in range(50):
        best = max(range(5), key=lambda j: select[i, j].item())
        want = r[i] + d[i] * max(q_t[i].tolist()) - q_tm1[i, a[i]]
        assert math.isclose(plain[i], want, rel_tol=1e-9)
        assert math.isclose(double[i], r[i] + d[i] * q_t[i, best] - q_tm1[i, a[i]], rel_tol=1e-9)


def test_the_gradient_flows_through_the_prediction_only():
    q = torch.randn(3, 2, requires_grad=True)
    q_learning(q, torch.zeros(3, dtype=torch.int64), torch.zeros(3), torch.ones(3), q).sum().backward()
    assert q.grad.tolist() == [[-1.0, 0.0]] * 3


@pytest.mark.parametrize("huber", [False, True])
def test_the_weight_multiplies_every_loss_and_void_rows_change_nothing(huber):
    td = torch.tensor([0.5, -3.0, 100.0], requires_grad=True)
    loss = td_loss(td, torch.tensor([1.0, 1.0, 0.0]), huber=huber)
    want = [0.125, 2.5] if huber else [0.125, 4.5]
    assert math.isclose(loss.item(), sum(want) / 2, rel_tol=1e-6)
    loss.backward()
    assert td.grad.tolist() == [0.25, -0.5 if huber else -1.5, 0.0]
    assert td_loss(torch.ones(2), torch.zeros(2), huber=huber) == 0


def test_huber_clips_the_errors_gradient_to_one():
    td = torch.tensor([-5.0, -0.3, 0.3, 5.0], requires_grad=True)
    td_loss(td, torch.ones(4), huber=True).backward()
    torch.testing.assert_close(td.grad * 4, torch.tensor([-1.0, -0.3, 0.3, 1.0]))


def test_epsilon_starts_where_it_should_passes_the_middle_and_ends():
    """An annealing that never moves looks like one that has ended."""
    at = [linear_schedule(t, 1.0, 0.1, 50, 100) for t in (0, 50, 100, 150, 10_000)]
    assert at == pytest.approx([1.0, 1.0, 0.55, 0.1, 0.1])
    assert linear_schedule(51, 1.0, 0.1, 50, 0) == 0.1


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
def test_updates_per_agent_step_hold_for_any_number_of_environments(n, ratio):
    a = agent(n, replay_ratio=ratio, learning_starts=16)
    feed(a, 96 // n)
    assert a.updates == int((96 - 16) * ratio)
    if a.config.optimizer == "adam":
        assert int(next(iter(a.gradient_step.optimizer.state.values()))["step"]) == a.updates


def test_every_environment_throws_its_own_coin():
    a = agent(64, epsilon_initial=0.5, epsilon_final=0.5, capacity=1000)
    ts = as_timestep(torch.zeros(64, 3))
    greedy = a.act(ts, (), explore=False).action
    g = torch.Generator().manual_seed(0)
    differs = torch.stack([a.act(ts, (), explore=True, generator=g).action != greedy for _ in range(20)]).float()
    assert 0.2 < differs.mean() < 0.55  # 0.5 * 3/4
    assert (differs.std(1) > 0.3).all()  # within one row some explore and some don't


def test_the_target_network_moves_only_at_its_period():
    a, moves, before = agent(2, target_period=40, learning_starts=4), [], None
    for t in range(60):
        feed(a, 1)
        now = a.target.head.weight.clone()
        if before is not None and not torch.equal(now, before):
            moves.append(a.steps)
        before = now
    assert moves == [40, 80, 120]


def test_without_a_target_network_the_network_is_its_own():
    a = agent(2, target_period=0)
    assert a.target is a.network
    feed(a, 30)
    assert a.network.head.weight.requires_grad


def test_nothing_is_learnt_before_learn_start():
    a = agent(2, learning_starts=50)
    assert not any(feed(a, 25))
    assert any(feed(a, 10))


def test_the_loss_ignores_void_rows():
    a = agent(2, double=True, huber=True)
    g = torch.Generator().manual_seed(1)
    good = Transition(torch.randn(4, 3, generator=g), torch.tensor([0, 1, 2, 3]), torch.ones(4), torch.full((4,), 0.9),
                      torch.randn(4, 3, generator=g), torch.ones(4))  # fmt: skip
    void = Transition(*(torch.cat([x, x * 0 + 7]) if x.is_floating_point() else torch.cat([x, x]) for x in good))
    void = void._replace(weight=torch.cat([torch.ones(4), torch.zeros(4)]), a_tm1=torch.cat([good.a_tm1] * 2))
    one, two = dqn.loss(a.network, a.target, good, a.config)[0], dqn.loss(a.network, a.target, void, a.config)[0]
    torch.testing.assert_close(one, two)


def test_presets_are_the_papers():
    for preset in agents.presets("dqn").named:
        assert resolve("dqn", preset=preset).agent.torso in TORSOS
    nature = resolve("dqn", preset="nature").agent
    assert (nature.optimizer, nature.learning_rate, nature.optimizer_eps, nature.huber) == ("rmsprop", 2.5e-4, 0.01 / 32**2, True)
    assert resolve("dqn", preset="mnih2013").agent.target_period == 0


@pytest.mark.parametrize(
    ("torso", "size", "layers"),
    [
        ("nature", 84, [8_224, 32_832, 36_928, 1_606_144, 2_052]),
        ("mnih2013", 84, [4_112, 8_224, 663_808, 1_028]),
        ("small", 42, None),
        ("impala", 84, None),
        ("data_efficient", 84, None),
    ],
)
def test_torsos_have_the_papers_sizes_and_named_relus(torso, size, layers):
    net = QNetwork(spec((4, size, size)), 4, torso)
    if layers:
        assert [sum(p.numel() for p in m.parameters(False)) for m in net.modules() if list(m.parameters(False))] == layers
    assert net(torch.zeros(2, 4, size, size, dtype=torch.uint8)).shape == (2, 4)
    assert [name for name, m in net.named_modules() if isinstance(m, torch.nn.ReLU)]


def test_average_pooling_shrinks_the_impala_torso():
    pooled, whole = QNetwork(spec(), 4, "impala", TorsoOptions(average_pool=True)), QNetwork(spec(), 4, "impala")
    assert sum(p.numel() for p in pooled.parameters()) < sum(p.numel() for p in whole.parameters()) / 5


def test_impossible_networks_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="too small"):
        QNetwork(spec((4, 20, 20)), 4, "nature")
    with pytest.raises(ConfigError, match="reads images"):
        QNetwork(spec((3,)), 4, "nature")
    with pytest.raises(ConfigError, match="did you mean nature"):
        QNetwork(spec(), 4, "natur")
    with pytest.raises(ConfigError, match="one discrete action"):
        dqn.Agent(dqn.Config(capacity=100), replace(spec((3,)), action_space=MultiDiscrete([2, 2])), "cpu", Seeds(0))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("centred", [True, False])
def test_rmsprop_is_the_papers(centred, momentum):
    """With the mean as in Mnih et al. 2015, without as in Mnih et al. 2016."""
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    opt = RMSProp([w], lr=0.1, rho=0.95, eps=0.01, momentum=momentum, centred=centred)
    g, g2, delta, theta = 0.0, 0.0, 0.0, 1.0
    for grad in (0.3, -0.2, 0.5):
        w.grad = torch.tensor([grad, 0.0])
        opt.step()
        g, g2 = 0.95 * g + 0.05 * grad, 0.95 * g2 + 0.05 * grad**2
        delta = momentum * delta - 0.1 * grad / math.sqrt(g2 - (g**2 if centred else 0.0) + 0.01)
        theta += delta
    assert math.isclose(w[0].item(), theta, rel_tol=1e-5)
    assert w[1].item() == -2.0


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_restored_agent_goes_on_exactly_as_the_saved_one(optimizer):
    """Contiguous moments on channels_last parameters make fused Adam silently wrong."""
    shape = (4, 20, 20)
    make = lambda: agent(2, shape=shape, torso="small", optimizer=optimizer, learning_starts=4, capacity=200)  # noqa: E731
    first = make()
    b = lambda k: Transition(  # noqa: E731
        torch.randint(255, (8, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(k)), torch.zeros(8).long(),
        torch.ones(8), torch.ones(8) * 0.9, torch.randint(255, (8, *shape), dtype=torch.uint8), torch.ones(8),
    )  # fmt: skip
    torch.manual_seed(0)
    batches = [b(k) for k in range(8)]
    for batch in batches[:4]:
        first.update(batch)
    second = make()
    second.load_state_dict({k: v for k, v in first.state_dict().items()})
    for batch in batches[4:]:
        first.update(batch), second.update(batch)
    for p, q in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(p, q)


def test_optimizer_state_survives_as_plain_tensors():
    w = torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    opt = torch.optim.Adam([w], fused=True)
    w.grad = torch.randn_like(w)
    opt.step()
    saved = optimizer_tensors(opt)
    assert all(v.is_contiguous() for v in saved.values())
    load_optimizer_tensors(opt, saved)
    assert opt.state[w]["exp_avg"].stride() == w.stride()


def test_restored_counters_live_where_their_parameters_do():
    """Fused Adam on a GPU wants its step counter there; a checkpoint is read on the host."""
    w = torch.nn.Parameter(torch.zeros(2, device="meta"))
    opt = torch.optim.Adam([w])
    load_optimizer_tensors(opt, {"0:step": torch.tensor(3.0), "0:exp_avg": torch.zeros(2)})
    assert {v.device.type for v in opt.state[w].values()} == {"meta"}


@pytest.mark.parametrize(("n_step", "rows"), [(1, 5), (3, 7)])
def test_a_replay_too_small_to_ever_hold_a_transition_is_refused(n_step, rows):
    make = lambda rows: dqn.Agent(dqn.Config(capacity=rows * 2, n_step=n_step), spec((4, 84, 84)), "cpu", Seeds(0))  # noqa: E731
    with pytest.raises(ConfigError, match=f"need {rows} rows"):
        make(rows - 1)
    a = make(rows)
    a.replay.count = 100
    assert a.replay.ready(n_step)


def test_a_device_that_is_not_there_is_an_environments_problem():
    from arcturus.errors import EnvironmentProblem

    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(EnvironmentProblem, match="no CUDA device"):
        agent(2, replay_device="cuda")


@pytest.mark.parametrize("name", ["dqn", "c51", "qr_dqn", "iqn", "drqn"])
def test_the_learning_rate_falls_to_nothing_over_the_run_if_it_is_to(name, tmp_path):
    settings = {"learning_starts": 100, "capacity": 400, "batch_size": 8, "learning_rate": 0.01, "anneal_steps": -1}
    run = arcturus.train(name, "CartPole-v1", seed=0, steps=1024, run_dir=tmp_path / "r", quiet=True, device="cpu", eval_every=0,
                         heldout_states=0, log_every=256, agent_config=settings)  # fmt: skip
    rates = [row["charts/learning_rate"] for row in arcturus.read_metrics(run) if "charts/learning_rate" in row]
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0.0])
