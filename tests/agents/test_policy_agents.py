"""REINFORCE, A2C and PPO: what they train on, and by which gradient."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import arcturus
from arcturus.agents import a2c, ppo, reinforce
from arcturus.api import EnvSpec, state_leaves
from arcturus.errors import ConfigError
from arcturus.loop import run
from arcturus.replay.rollout import Minibatch, Rollout
from arcturus.seeding import Seeds

SMALL = {"torso": "mlp", "core_width": 8}
ON_POLICY = {
    "reinforce": lambda **c: reinforce.Config(**{"episodes": 5, "horizon": 40, **SMALL, **c}),
    "a2c": lambda **c: a2c.Config(**SMALL, **c),
    "ppo": lambda **c: ppo.Config(**{"horizon": 8, "minibatches": 2, "epochs": 2, **SMALL, **c}),
}
MODULES = {"reinforce": reinforce, "a2c": a2c, "ppo": ppo}


def build(name, envs, **changes):
    return MODULES[name].Agent(ON_POLICY[name](**changes), envs.spec, "cpu", Seeds(0))


def rows_of(agent, envs, rows):
    g = torch.Generator().manual_seed(0)
    return run(envs, agent, steps=rows * envs.num_envs, seeds=lambda: np.arange(envs.num_envs), generator=g)


# -- the rollout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("horizon", "stack"), [(1, 1), (1, 4), (3, 2), (5, 4), (8, 1)])
def test_a_rollout_gives_back_what_was_acted_on(horizon, stack, counter, random_actor):
    envs = counter(3, stack)
    rollout, seen = Rollout(horizon, envs.spec, "cpu"), []
    for i, row in enumerate(rows_of(random_actor(), envs, 40)):
        if rollout.full:
            ts, read = row.step.timestep, rollout.read(row.step.timestep)
            rows = [s.timestep for s in seen[-horizon:]]
            later = [*rows[1:], ts]
            for t in range(horizon):
                assert torch.equal(rollout.obs(torch.full((3,), t), torch.arange(3)), rows[t].obs)
                for name in ("first", "valid"):
                    assert torch.equal(getattr(read, name)[t], getattr(rows[t], name))
                for name in ("reward", "terminated", "truncated", "life_lost", "last"):
                    assert torch.equal(getattr(read, name)[t], getattr(later[t], name))
                assert torch.equal(read.action[t], seen[i - horizon + t].action)
            rollout.restart()
        rollout.append(row.step)
        seen.append(row.step)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.integers(0, 100))
def test_minibatches_hold_every_row_once_and_whole_sequences(every, count, seed):
    spec = EnvSpec("x", 4, (2,), torch.float32, gym.spaces.Discrete(2))
    rollout = Rollout(8, spec, "cpu", every=every, state=torch.zeros(4, 1))
    rollout.states = torch.arange(8 // every * 4).view(8 // every, 4, 1).float()
    seen = torch.zeros(8, 4, dtype=torch.int64)
    for t, n, state in rollout.pieces(count, torch.Generator().manual_seed(seed)):
        assert t.shape == n.shape == (every, 32 // every // count)
        seen[t, n] += 1
        assert (t.diff(dim=0) == 1).all()
        assert (n == n[0]).all()
        assert torch.equal(state[:, 0], (t[0] // every * 4 + n[0]).float())
    assert (seen == 1).all()


def test_what_does_not_divide_is_refused_before_training(counter):
    with pytest.raises(ConfigError, match="32 sequences .* can't be divided into 7 minibatches"):
        build("ppo", counter(4), minibatches=7)
    with pytest.raises(ConfigError, match="4 sequences .* can't be divided into 8 minibatches"):
        build("ppo", counter(4), minibatches=8, core="lstm")
    with pytest.raises(ConfigError, match="of only one row each"):
        build("ppo", counter(4), minibatches=32)
    with pytest.raises(ConfigError, match="8 rows can't be unrolled in pieces of 3"):
        build("ppo", counter(4), bptt=3, core="lstm")
    with pytest.raises(ConfigError, match="reaches 0 at step 500, before the run ends at step 1,000"):
        arcturus.train("ppo", "CartPole-v1", steps=1000, agent_config={"anneal_steps": 500}, quiet=True)
    with pytest.raises(ConfigError, match="whole trajectory"):
        build("reinforce", counter(4), reward_to_go=False, end_on_life_loss=True)


# -- on-policy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["none", "lstm"])
@pytest.mark.parametrize("name", ON_POLICY)
def test_no_row_is_trained_on_that_an_older_policy_acted(name, core, counter, monkeypatch):
    """At every update, before it, the network gives each row that counts the log-probability it acted with."""
    envs = counter(4)
    agent, updates = build(name, envs, core=core), []
    acted: dict[tuple[int, int], float] = {}
    read = Rollout.read

    def watched(self, ts):
        batch, T, N = read(self, ts), self.count, 4
        every = torch.arange(T)[:, None].expand(T, N)
        n = torch.arange(N).expand(T, N)
        begin = self.begin
        state = agent.states_seen[begin]
        with torch.no_grad():
            logits, _, _ = agent.network.unroll(self.obs(every, n), batch.first, state)
        log_prob = agent.network.actions.log_prob(logits, batch.action)
        for t in range(T):
            for i in range(N):
                assert float(log_prob[t, i]) == pytest.approx(acted[begin + t, i], abs=1e-5)
        updates.append(T)
        return batch

    monkeypatch.setattr(Rollout, "read", watched)
    agent.states_seen = {}
    observe = agent.observe

    def noted(step):
        t = agent.rollout.ring.count
        agent.states_seen[t] = step.state
        acted.update({(t, i): float(p) for i, p in enumerate(step.extras["log_prob"])})
        observe(step)

    agent.observe = noted
    before = [p.clone() for p in agent.network.parameters()]
    list(rows_of(agent, envs, 70))
    assert len(updates) >= 2
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.network.parameters(), strict=True))


@pytest.mark.parametrize("name", ON_POLICY)
def test_void_rows_train_nothing(name, counter):
    """Poisoned numbers in rows where nothing is decided change no weight."""

    def weights(poison):
        envs = counter(4)
        agent = build(name, envs)
        observe = agent.observe

        def poisoned(step):
            void = ~step.timestep.valid
            step.extras["log_prob"][void] += poison
            if "value" in step.extras and not step.timestep.truncated.any():
                step.extras["value"][void & step.timestep.terminated] += poison
            observe(step._replace(action=torch.where(void, (step.action + int(poison)) % 3, step.action)))

        agent.observe = poisoned
        list(rows_of(agent, envs, 60))
        return [p.clone() for p in agent.network.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(0.0), weights(7.0), strict=True))


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_time_limits_bootstrap_unless_told_otherwise(name, counter, monkeypatch):
    """The counter's odd environments are truncated, its even ones terminated."""
    module, seen = MODULES[name], {}

    def returns(bootstrap):
        envs, targets = counter(4), []
        agent = build(name, envs, bootstrap_truncated=bootstrap, gae_lambda=0.0, gamma=0.5, reward_clip=0.0, horizon=8)
        lambda_returns = module.lambda_returns

        def watched(r, discount, v, last, lam):
            targets.append((r, discount, v, last))
            return lambda_returns(r, discount, v, last, lam)

        monkeypatch.setattr(module, "lambda_returns", watched)
        list(rows_of(agent, envs, 30))
        monkeypatch.undo()
        return targets

    for bootstrap in (True, False):
        for _, discount, _, last in returns(bootstrap):
            assert (discount[:, ::2][last[:, ::2]] == 0).all()
            ended = last[:, 1::2][:-1]  # the run's very last row is cut, and bootstraps in any case
            assert (discount[:, 1::2][:-1][ended] == (0.5 if bootstrap else 0.0)).all()
            seen[bootstrap] = int(ended.sum())
    assert min(seen.values()) > 0


# -- each one's own ----------------------------------------------------------------------------------------------------


def test_ppo_normalises_over_the_rows_that_count_in_each_minibatch():
    spec = EnvSpec("x", 4, (3,), torch.float32, gym.spaces.Discrete(2))
    agent = ppo.Agent(ppo.Config(horizon=4, minibatches=1, entropy_cost=0.0, value_cost=0.0), spec, "cpu", Seeds(0))
    obs, action = torch.randn(1, 6, 3), torch.tensor([[0, 1, 0, 1, 0, 1]])
    logits, v, _ = agent.network.unroll(obs, torch.ones(1, 6, dtype=torch.bool), agent.initial_state(6))
    advantage = torch.tensor([[1.0, 2.0, -3.0, 0.5, 1e6, -1e6]])
    valid = torch.tensor([[True, True, True, True, False, False]])
    log_prob = agent.network.actions.log_prob(logits, action).detach()
    first = torch.ones(1, 6, dtype=torch.bool)
    batch = Minibatch(obs, first, agent.initial_state(6), action, valid, v, v, advantage, log_prob)
    value, metrics, _ = ppo.loss(agent.network, batch, agent.config)
    grads = torch.autograd.grad(value, list(agent.network.policy.parameters()))
    four = advantage[:, :4]
    weight = (four - four.mean()) / four.std()  # by n - 1
    logits = agent.network.unroll(obs[:, :4], torch.ones(1, 4, dtype=torch.bool), agent.initial_state(4))[0]
    plain = -(
        weight * agent.network.actions.log_prob(logits, action[:, :4])
    ).mean()  # at rho = 1 the gradient is the policy gradient
    for mine, theirs in zip(grads, torch.autograd.grad(plain, list(agent.network.policy.parameters())), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert metrics["losses/approx_kl"].abs() < 1e-6
    assert metrics["losses/clipfrac"] == 0


def test_ppo_stops_paying_beyond_the_clip():
    spec = EnvSpec("x", 2, (3,), torch.float32, gym.spaces.Discrete(2))
    agent = ppo.Agent(ppo.Config(horizon=2, minibatches=1, entropy_cost=0.0, value_cost=0.0, clip=0.1), spec, "cpu", Seeds(0))
    obs, first = torch.randn(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)
    action, on = torch.tensor([[0, 0]]), torch.ones(1, 2, dtype=torch.bool)
    logits, v, _ = agent.network.unroll(obs, first, agent.initial_state(2))
    old = agent.network.actions.log_prob(logits, action).detach() - torch.log(torch.tensor([[1.5, 0.5]]))  # rho = 1.5 and 0.5
    batch = Minibatch(obs, first, agent.initial_state(2), action, on, v, v, torch.tensor([[1.0, -1.0]]), old)
    value, metrics, _ = ppo.loss(agent.network, batch, agent.config)
    assert all((g == 0).all() for g in torch.autograd.grad(value, list(agent.network.policy.parameters())))
    assert metrics["losses/clipfrac"] == 1


def test_a_ratio_that_overflows_is_skipped_and_counted():
    """exp(100,000) is infinite; the update that would follow changes no weight, and ten in a row end a run."""
    spec = EnvSpec("x", 2, (3,), torch.float32, gym.spaces.Discrete(2))
    agent = ppo.Agent(ppo.Config(horizon=2, minibatches=1), spec, "cpu", Seeds(0))
    obs, on = torch.randn(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)
    old, advantage = torch.full((1, 2), -1e5), torch.tensor([[1.0, -1.0]])
    batch = Minibatch(obs, on, agent.initial_state(2), torch.zeros(1, 2, dtype=torch.int64), on, old, old, advantage, old)
    before = [p.clone() for p in agent.network.parameters()]
    for i in (1, 2):
        value, *_ = ppo.loss(agent.network, batch, agent.config)
        assert agent.gradient_step(value)["health/skipped_updates"] == i
    assert all(torch.equal(a, b) for a, b in zip(before, agent.network.parameters(), strict=True))


def test_a2cs_gradient_is_the_papers():
    """d theta = grad log pi (R - v) + beta grad H - c_v grad (R - v)^2 / 2, averaged over rows, by hand."""
    spec = EnvSpec("x", 2, (3,), torch.float32, gym.spaces.Discrete(3))
    c = a2c.Config(value_cost=0.3, entropy_cost=0.2)
    network = a2c.Agent(c, spec, "cpu", Seeds(0)).network
    obs, first = torch.randn(4, 2, 3), torch.zeros(4, 2, dtype=torch.bool)
    action, target = torch.randint(3, (4, 2)), torch.randn(4, 2)
    logits, v, _ = network.unroll(obs, first, network.initial_state(2))
    valid = torch.ones(4, 2, dtype=torch.bool)
    batch = Minibatch(obs, first, network.initial_state(2), action, valid, target, advantage=(target - v).detach())
    value, *_ = a2c.loss(network, batch, c)
    grads = torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
    p = logits.softmax(-1)
    chosen = p.gather(-1, action[..., None])[..., 0].log()
    rows = chosen * (target - v).detach() - 0.2 * (p * p.log()).sum(-1) - 0.3 * 0.5 * (target - v) ** 2
    for mine, theirs in zip(grads, torch.autograd.grad(-rows.mean(), list(network.parameters())), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


# -- action spaces, memory, resuming -----------------------------------------------------------------------------------


class Bits(gym.Env):
    """Wants the bits and the digit that it shows."""

    observation_space = gym.spaces.MultiBinary(4)

    def __init__(self, binary: bool = True):
        self.action_space = gym.spaces.MultiBinary(4) if binary else gym.spaces.MultiDiscrete([2, 2, 2, 2])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bits, self.t = self.np_random.integers(2, size=4).astype(np.int8), 0
        return self.bits, {}

    def step(self, action):
        reward, self.t = float((np.asarray(action) == self.bits).mean()), self.t + 1
        self.bits = self.np_random.integers(2, size=4).astype(np.int8)
        return self.bits, reward, self.t >= 8, False, {}


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ON_POLICY)
def test_several_actions_at_once_are_learnt(name, binary, tmp_path):
    if "test/Bits-v0" not in gym.registry:
        gym.register("test/Bits-v0", entry_point=Bits)
    steps = {"reinforce": 40_000, "a2c": 60_000, "ppo": 15_000}[name]
    scale = {"optimizer_eps": 1e-8} if name == "reinforce" else {}  # rewards here are a hundredth of those its preset is made for
    done = arcturus.train(
        name, "test/Bits-v0", steps=steps, run_dir=tmp_path / "r", device="cpu", quiet=True, eval_every=0, heldout_states=0,
        agent_config={"gamma": 0.0, **scale}, env_config={"options": f"binary={binary}"},
    )  # fmt: skip
    assert arcturus.evaluate(arcturus.load(done), "test/Bits-v0", episodes=20, seed=1).mean > 7.2  # chance is 4 of 8


def test_dqn_says_that_it_plays_one_action_at_a_time(tmp_path):
    if "test/Bits-v0" not in gym.registry:
        gym.register("test/Bits-v0", entry_point=Bits)
    with pytest.raises(ConfigError, match="dqn plays one discrete action at a time"):
        arcturus.train("dqn", "test/Bits-v0", steps=100, run_dir=tmp_path / "r", quiet=True)
    assert not (tmp_path / "r").exists()


def test_a_rollout_that_is_loaded_is_a_copy(counter):
    one, two = (build("ppo", counter(4), core="lstm", bptt=4) for _ in range(2))
    list(rows_of(one, counter(4), 7))
    two.load_state_dict(one.state_dict())
    before = [leaf.clone() for leaf in state_leaves(two.rollout.states)]
    for leaf in state_leaves(one.rollout.states):
        leaf.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, state_leaves(two.rollout.states), strict=True))


def test_an_agent_with_long_sequences_can_be_loaded(tmp_path):
    settings = {
        "core": "gru",
        "core_width": 4,
        "bptt": 600,
        "burn_in": 0,
        "capacity": 5_000,
        "learning_starts": 1_300,
        "batch_size": 2,
        "replay_ratio": 0.02,
    }
    done = arcturus.train("drqn", "CartPole-v1", steps=1_400, run_dir=tmp_path / "r", quiet=True, eval_every=0, heldout_states=0,
                          agent_config=settings, env_config={"num_envs": 2}, device="cpu")  # fmt: skip
    assert arcturus.load(done).config.agent.bptt == 600


@pytest.mark.parametrize("options", ["delay=3.5", "delay=-1", "cues=2000000", "depth=3", "render_mode=human", "delay=2020-13-45"])
def test_options_an_environment_can_not_have(options):
    with pytest.raises(ConfigError):
        arcturus.make("Memory/Recall-v0", 1, options=options)


def test_the_loop_hands_memory_on_and_the_rollout_keeps_what_it_opened_with(counter):
    envs = counter(4)
    agent = build("ppo", envs, core="lstm", bptt=4)
    rows = list(rows_of(agent, envs, 7))
    for before, after in zip(rows, rows[1:], strict=False):
        assert all(torch.equal(a, b) for a, b in zip(state_leaves(before.state), state_leaves(after.step.state), strict=True))
    for piece in (0, 1):
        kept = agent.rollout.state(torch.full((4,), piece), torch.arange(4))
        seen = rows[4 * piece].step.state
        assert all(torch.equal(a, b) for a, b in zip(state_leaves(kept), state_leaves(seen), strict=True))
