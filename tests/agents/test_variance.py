"""REINFORCE's estimate against the exact gradient of a process that slips, and the ladder of variance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import arcturus
from arcturus.agents import reinforce
from arcturus.envs.mdp import chain
from arcturus.replay.rollout import Rollout
from arcturus.seeding import Seeds
from benchmarks import variance
from benchmarks.exact import policy_gradient, policy_values

pytestmark = pytest.mark.slow
EPISODES, BATCH = 12_800, 8
WORLD = variance.World(
    {},
    reinforce.Config(
        torso="benchmarks.variance.Table",
        gamma=1.0,
        reward_clip=0.0,
        bootstrap_truncated=False,
        average_rate=0.0,
    ),
    rows=variance.LIMIT + 1,
    policy=("policy.weight",),
    batch=BATCH,
    rounds=EPISODES // 128,
    mdp=chain(slip=0.2, distraction=0.3),
)
RUNGS = {rung.name: rung for rung in (*variance.RUNGS[:2], variance.RUNGS[3], variance.EXACT)}
AVERAGE = 2.0  # a constant near the mean return; any leaves the estimate unbiased


def drop_last_reward(played):
    reward = played.rows.reward.masked_fill(played.rows.last, 0.0)
    return played._replace(rows=played.rows._replace(reward=reward))


def shift_rewards(played):
    reward = torch.cat([torch.zeros_like(played.rows.reward[:1]), played.rows.reward[:-1]])
    return played._replace(rows=played.rows._replace(reward=reward))


@pytest.fixture(scope="module")
def sampled():
    """The exact gradient [A * S], and of every rung and every spoilt variant of reward-to-go the estimates [batches, A * S]."""
    with arcturus.make("MDP/Chain-v0", 128, options="slip=0.2,distraction=0.3") as envs:
        network = variance.new_policy(WORLD, envs.spec, Seeds(0))
        rollout = Rollout(WORLD.rows, envs.spec, "cpu", extras={"value": ()})
        logits = network.policy.weight.detach().T.double()
        v = torch.from_numpy(policy_values(WORLD.mdp, logits.softmax(-1).numpy(), 1.0)[0]).float()
        found = []
        for i in range(WORLD.rounds):
            played = variance.play(envs, network, rollout, 1, Seeds(0).branch("round", i))
            t, n = (x.flatten() for x in torch.meshgrid(*map(torch.arange, played.value.shape), indexing="ij"))
            exact = (rollout.obs(t, n) @ v).view_as(played.value)
            beside = [variance.weights(rung, played, WORLD, AVERAGE, exact) for rung in RUNGS.values()]
            c = replace(WORLD.config, reward_to_go=True)
            spoilt = [
                reinforce.returns(mutant(played).rows, played.next_value, c) for mutant in (drop_last_reward, shift_rewards)
            ]
            found.append(variance.estimates(network, played, beside + spoilt, BATCH, WORLD.policy))
    true = policy_gradient(WORLD.mdp, logits, 1.0, variance.LIMIT).T.flatten()
    return true, dict(zip([*RUNGS, "last reward dropped", "rewards shifted"], torch.cat(found).unbind(1), strict=True))


def errors(estimates, true):
    """[A * S] in standard errors of the mean; components that are 0 in every estimate have none."""
    deviation = estimates.std(0) / len(estimates) ** 0.5
    live = deviation > 0
    assert torch.equal(true[~live], torch.zeros_like(true[~live]))
    return ((estimates.mean(0) - true) / deviation)[live]


@pytest.mark.parametrize("rung", RUNGS)
def test_the_estimate_is_the_exact_gradient_on_average(sampled, rung):
    """The process slips, so its probabilities stand in p(tau).  The exact gradient is a derivative of the expected return with
    them in it; the estimate is a sum of grad log pi alone, and agrees: they don't depend on the policy, and drop out."""
    true, found = sampled
    assert len(found[rung]) == EPISODES // BATCH
    assert errors(found[rung], true).abs().max() < 4


@pytest.mark.parametrize("mistake", ["last reward dropped", "rewards shifted"])
def test_a_misplaced_reward_would_show(sampled, mistake):
    true, found = sampled
    assert errors(found[mistake], true).abs().max() > 8


def test_a_wrong_count_of_episodes_would_show(sampled):
    true, found = sampled
    assert errors(found["reward-to-go less exact v(s)"] * BATCH / (BATCH - 1), true).abs().max() > 5


def test_each_rung_of_the_ladder_has_less_variance(sampled):
    trace = [found.var(0).sum() for name, found in sampled[1].items() if name in RUNGS]
    print("variance:", [f"{t:.2f}" for t in trace])
    assert trace[0] > 2 * trace[1]
    assert trace[1] > 2 * trace[2]
    assert trace[2] > trace[3]
