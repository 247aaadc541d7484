"""Ground truth: small processes whose optimum is known exactly, and the agents that must find it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import arcturus
from arcturus.envs.mdp import chain, grid
from arcturus.envs.own import PROCESSES
from arcturus.errors import ConfigError
from arcturus.scoring.instruments import as_timestep
from benchmarks.exact import (
    expected_return,
    policy_gradient,
    policy_values,
    return_distributions,
    soft_value_iteration,
    value_iteration,
)

GAMMA = 0.95
WORLDS = {"chain": chain(), "grid": grid()}


@pytest.mark.parametrize("mdp", WORLDS.values(), ids=WORLDS)
def test_probabilities_are_probabilities(mdp):
    assert mdp.p.min() >= 0
    assert np.allclose(mdp.p.sum(-1), 1)
    assert mdp.start.sum() == 1
    assert not (mdp.start * mdp.terminal).any()


def test_value_iteration_gives_the_textbooks_utilities():
    """Russell & Norvig, section 17.1, the figure of utilities for gamma = 1 and -0.04 a step: 0.705 at the start ..."""
    v, q = value_iteration(grid(slip=0.2, step_reward=-0.04), 1.0)
    assert np.round(v, 3).tolist() == [0.812, 0.868, 0.918, 0, 0.762, 0.660, 0, 0.705, 0.655, 0.611, 0.388]
    names = "up right down left".split()
    assert [names[a] for a in q.argmax(-1)[[7, 8, 9, 10, 4, 0]]] == ["up", "left", "left", "left", "up", "right"]


@pytest.mark.parametrize("mdp", WORLDS.values(), ids=WORLDS)
def test_the_optimum_is_the_value_of_its_own_greedy_policy_and_no_policy_beats_it(mdp):
    v, q = value_iteration(mdp, GAMMA)
    greedy = np.eye(q.shape[1])[q.argmax(-1)]
    for mine, theirs in zip(policy_values(mdp, greedy, GAMMA), (v, q), strict=True):
        assert np.allclose(mine, theirs, atol=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(50):
        policy = rng.dirichlet(np.ones(q.shape[1]), len(q))
        assert (policy_values(mdp, policy, GAMMA)[0] <= v + 1e-9).all()


@pytest.mark.parametrize("mdp", WORLDS.values(), ids=WORLDS)
def test_the_soft_optimum_becomes_the_optimum_as_entropy_loses_its_worth(mdp):
    """V* <= V_soft <= V* + alpha log |A| / (1 - gamma), whatever alpha."""
    v, q = value_iteration(mdp, GAMMA)
    for alpha in (1.0, 0.1, 1e-3, 1e-9):
        soft_v, soft_q = soft_value_iteration(mdp, GAMMA, alpha)
        worth = alpha * np.log(q.shape[1]) / (1 - GAMMA)
        for more, less in ((soft_v, v), (soft_q, q)):
            assert (more >= less - 1e-9).all()
            assert (more <= less + worth + 1e-9).all()


@pytest.mark.parametrize("mdp", WORLDS.values(), ids=WORLDS)
def test_the_soft_optimum_is_the_value_of_its_softmax_and_no_policy_beats_it(mdp):
    """With alpha times the entropy as a reward of its own, by a linear system."""
    alpha, live = 0.1, ~mdp.terminal

    def value(policy):
        entropy = -(policy * np.log(policy)).sum(-1) * live
        onward = (policy[..., None] * mdp.onward).sum(1)
        reward = (policy * mdp.expected_reward).sum(-1) + alpha * entropy
        return np.linalg.solve(np.eye(len(onward)) - GAMMA * onward, reward)

    v, q = soft_value_iteration(mdp, GAMMA, alpha)
    policy = np.exp((q - q.max(-1, keepdims=True)) / alpha)
    assert np.allclose(value(policy / policy.sum(-1, keepdims=True)), v, atol=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert (value(rng.dirichlet(np.ones(q.shape[1]), len(q))) <= v + 1e-9).all()


@pytest.mark.parametrize("mdp", WORLDS.values(), ids=WORLDS)
def test_the_exact_policy_gradient_is_that_of_finite_differences(mdp):
    logits = torch.randn(mdp.p.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = policy_gradient(mdp, logits, GAMMA, 50)
    for s, a in [(0, 0), (1, 1), (4, 0), (5, 1)]:
        step = torch.zeros_like(logits)
        step[s, a] = 1e-6
        slope = (expected_return(mdp, logits + step, GAMMA, 50) - expected_return(mdp, logits - step, GAMMA, 50)) / 2e-6
        assert float(slope) == pytest.approx(float(exact[s, a]), abs=1e-8)
    policy = logits.softmax(-1).numpy()
    long = float(expected_return(mdp, logits, GAMMA, 2_000))
    assert long == pytest.approx(float(mdp.start @ policy_values(mdp, policy, GAMMA)[0]), abs=1e-9)


@pytest.mark.parametrize("mdp", WORLDS.values(), ids=WORLDS)
def test_the_exact_distribution_of_returns_has_the_exact_mean_and_is_that_of_played_returns(mdp):
    _, q = value_iteration(mdp, GAMMA)
    greedy = np.eye(q.shape[1])[q.argmax(-1)]
    support = np.linspace(-4, 4, 1601)
    p = return_distributions(mdp, greedy, GAMMA, support)
    assert np.allclose(p.sum(-1), 1)
    assert np.allclose((p @ support)[~mdp.terminal], q[~mdp.terminal], atol=1e-4)
    assert np.allclose(p[mdp.terminal] @ support, 0)
    rng, played = np.random.default_rng(0), []
    for _ in range(2_000):
        s, discount, total = int(rng.choice(len(mdp.start), p=mdp.start)), 1.0, 0.0
        while discount > 1e-3 and not mdp.terminal[s]:
            a = int(q[s].argmax())
            arrived = int(rng.choice(len(mdp.start), p=mdp.p[s, a]))
            total, discount, s = total + discount * mdp.r[s, a, arrived], discount * GAMMA, arrived
        played.append(total)
    s = int(mdp.start.argmax())
    assert distance(np.array(played), np.full(2_000, 1 / 2_000), p[s, q[s].argmax()], support) < 0.04


def distance(returns, probabilities, exact, support):
    """Between two distributions of returns: how far how much probability must be moved (Wasserstein's distance of order 1)."""
    below = np.array([probabilities[returns <= z + 1e-9].sum() for z in support])
    return np.abs(below - exact.cumsum()).sum() * (support[1] - support[0])


@pytest.mark.parametrize("env_id", PROCESSES)
@pytest.mark.filterwarnings("ignore")
def test_the_environments_are_gymnasiums(env_id):
    from stable_baselines3.common.env_checker import check_env as sb3_check

    check_env(gym.make(env_id, render_mode="rgb_array").unwrapped)
    sb3_check(gym.make(env_id).unwrapped)
    envs = gym.make_vec(env_id, 3)
    assert envs.reset(seed=0)[0].shape == (3,)
    drawn = gym.make(env_id, render_mode="rgb_array")
    drawn.reset(seed=0)
    before = drawn.render()
    for _ in range(5):
        drawn.step(1)
    assert before.dtype == np.uint8
    assert (drawn.render() != before).any()


@pytest.mark.parametrize("env_id", PROCESSES)
def test_the_environments_step_as_their_probabilities_say(env_id):
    env = gym.make(env_id).unwrapped
    mdp, seen = env.mdp, np.zeros(env.mdp.p.shape)
    env.reset(seed=0)
    for s in np.flatnonzero(~mdp.terminal):
        for a in range(mdp.p.shape[1]):
            for _ in range(400):
                env.state = int(s)
                s_next, reward, terminated, _, _ = env.step(a)
                seen[s, a, s_next] += 1
                assert reward == mdp.r[s, a, s_next]
                assert terminated == mdp.terminal[s_next]
    expected = 400 * mdp.p[~mdp.terminal]
    found = seen[~mdp.terminal]
    assert (found[expected == 0] == 0).all()
    z = (found - expected)[expected > 0] / np.sqrt(expected * (1 - mdp.p[~mdp.terminal]) + 1e-9)[expected > 0]
    assert np.abs(z[np.abs(found - expected)[expected > 0] > 0]).max() < 4.5


def learned(run, env_id):
    """The run's Q [S, A] of every state, and the exact optimum."""
    mdp = gym.make(env_id).unwrapped.mdp
    actor = arcturus.load(run)
    act = actor.act(as_timestep(torch.eye(len(mdp.start))), actor.initial_state(len(mdp.start)), explore=False)
    return act.extras["q_values"].double().numpy(), value_iteration(mdp, actor.config.agent.gamma)[1], mdp


@pytest.mark.slow
@pytest.mark.parametrize("env_id", PROCESSES)
@pytest.mark.parametrize(("agent", "tolerance"), [("q_learning", 0.02), ("dqn", 0.05), ("pqn", 0.05)])
def test_value_agents_find_the_exact_optimum(agent, tolerance, env_id, tmp_path):
    run = arcturus.train(agent, env_id, run_dir=tmp_path / "r", device="cpu", quiet=True, eval_every=0, heldout_states=0)
    q, best, mdp = learned(run, env_id)
    live = ~mdp.terminal
    error = np.abs(q - best)[live].mean()  # single entries are seldom visited
    print(f"{agent} on {env_id}: mean error {error:.4f}, largest {np.abs(q - best)[live].max():.4f}")
    assert error < tolerance
    gained = policy_values(mdp, np.eye(q.shape[1])[q.argmax(-1)], run.config().agent.gamma)[0]
    assert float(mdp.start @ gained) > float(mdp.start @ best.max(-1)) - 0.01


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("env_id", PROCESSES)
@pytest.mark.parametrize("agent", ["c51", "qr_dqn", "iqn"])
def test_distributional_agents_find_the_exact_distributions_of_returns(agent, env_id, tmp_path):
    """Of the best action in every state, on average over the states."""
    run = arcturus.train(agent, env_id, run_dir=tmp_path / "r", device="cpu", quiet=True, eval_every=0, heldout_states=0)
    mdp, actor, support = gym.make(env_id).unwrapped.mdp, arcturus.load(run), np.linspace(-4, 4, 1601)
    gamma, states = actor.config.agent.gamma, np.flatnonzero(~mdp.terminal)
    _, q = value_iteration(mdp, gamma)
    exact = return_distributions(mdp, np.eye(q.shape[1])[q.argmax(-1)], gamma, support)
    extras = actor.act(as_timestep(torch.eye(len(mdp.start))), (), explore=False).extras
    returns, p = extras["returns"].double().numpy(), extras["probabilities"].double().numpy()
    best = q.argmax(-1)
    apart = [distance(returns[s, best[s]], p[s, best[s]], exact[s, best[s]], support) for s in states]
    error = np.abs(extras["q_values"].double().numpy() - q)[states].mean()
    print(f"{agent} on {env_id}: distributions {np.mean(apart):.4f} apart (most {max(apart):.4f}), values {error:.4f}")
    assert np.mean(apart) < 0.1
    assert error < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("env_id", PROCESSES)
@pytest.mark.parametrize("agent", ["reinforce", "a2c", "ppo"])
def test_policy_agents_find_the_exact_optimum(agent, env_id, tmp_path):
    """The policy as it samples, under the discount it learnt with, and its critic against that policy's exact values."""
    run = arcturus.train(agent, env_id, run_dir=tmp_path / "r", device="cpu", quiet=True, eval_every=0, heldout_states=0)
    mdp, actor = gym.make(env_id).unwrapped.mdp, arcturus.load(run)
    gamma = actor.config.agent.gamma
    act = actor.act(as_timestep(torch.eye(len(mdp.start))), actor.initial_state(len(mdp.start)), explore=False)
    policy = act.extras["logits"].double().softmax(-1).numpy()
    v, best = policy_values(mdp, policy, gamma)[0], value_iteration(mdp, gamma)[0]
    visits = visited(mdp, policy, gamma)
    error = float(visits @ np.abs(act.extras["value"].double().numpy() - v))
    print(f"{agent} on {env_id}: {mdp.start @ v:.4f} of {mdp.start @ best:.4f}, critic's mean error where it goes {error:.4f}")
    assert mdp.start @ v > mdp.start @ best - 0.02
    assert error < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("env_id", PROCESSES)
def test_soft_actor_critic_finds_the_exact_soft_optimum(env_id, tmp_path):
    """Both critics, and the policy; at its temperature the soft optimum is farther from the optimum than the tolerance."""
    run = arcturus.train("sac", env_id, run_dir=tmp_path / "r", device="cpu", quiet=True, eval_every=0, heldout_states=0)
    mdp, agent = gym.make(env_id).unwrapped.mdp, arcturus.load(run).agent
    gamma, alpha, live = agent.config.gamma, agent.config.alpha, ~mdp.terminal
    v, best = soft_value_iteration(mdp, gamma, alpha)
    states = torch.eye(len(mdp.start))
    with torch.no_grad():
        q, policy = agent.critics(states).double().numpy(), agent.log_policy(states).exp().double().numpy()
    error = np.abs(q - best)[:, live].mean()
    astray = np.abs(policy - np.exp((best - v[:, None]) / alpha))[live].mean()
    print(f"sac on {env_id}: mean error {error:.4f}, largest {np.abs(q - best)[:, live].max():.4f}, of the policy {astray:.4f}")
    assert error < 0.05 < np.abs(value_iteration(mdp, gamma)[1] - best)[live].mean()
    assert astray < 0.1


def visited(mdp, policy, gamma):
    """[S] the discounted share of steps that a policy spends in each state."""
    p = (policy[..., None] * mdp.onward).sum(1)
    share = np.linalg.solve(np.eye(len(p)) - gamma * p.T, mdp.start)
    return share / share.sum()


def test_a_table_needs_states():
    with pytest.raises(ConfigError, match="no Discrete observations"):
        arcturus.train("q_learning", "CartPole-v1", steps=100, quiet=True)
    with pytest.raises(ConfigError, match="did you mean MDP/Grid-v0"):
        arcturus.make("MDP/Grit-v0")


def test_two_environments_at_the_same_entry_are_two_updates():
    from arcturus.agents import q_learning
    from arcturus.api import ActedStep, EnvSpec
    from arcturus.seeding import Seeds

    spec = EnvSpec("x", 2, (3,), torch.float32, gym.spaces.Discrete(2), states=3)
    agent = q_learning.Agent(q_learning.Config(omega=1.0, gamma=0.5), spec, "cpu", Seeds(0))
    agent.q[1] = torch.tensor([2.0, 4.0])

    def row(states, rewards, action, terminated=(False, False), valid=(True, True)):
        ts = as_timestep(torch.eye(3)[list(states)])._replace(
            reward=torch.tensor(rewards), terminated=torch.tensor(terminated), valid=torch.tensor(valid)
        )
        agent.observe(ActedStep(ts, (), torch.tensor(action), {}))
        return agent.learn()

    assert row((0, 0), (9.0, 9.0), (1, 1)) == {}
    row((1, 2), (1.0, 0.0), (0, 0), terminated=(False, True), valid=(True, False))
    assert agent.q[0].tolist() == [0.0, pytest.approx((1 + 0.5 * 4) / 2)]  # first target 3 with step 1, then 0 with step 1/2
    assert agent.visits[0].tolist() == [0, 2]
    row((2, 0), (0.0, 7.0), (0, 0))  # environment 1 opens an episode: its reward belongs to no action
    assert agent.visits.sum() == 3
