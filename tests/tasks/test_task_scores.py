"""Scores by length: bits against log-probabilities added up in plain Python, error bits, and whose tapes they are of."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from arcturus.actor_critic import Categoricals
from arcturus.api import Act
from arcturus.config import parse_options
from arcturus.envs import EnvConfig
from arcturus.envs.own import TASKS as NAMES
from arcturus.envs.tasks import task_of
from arcturus.envs.tasks.sequences import DynamicNGrams
from arcturus.errors import ConfigError
from arcturus.scoring.sequences import answer, check_lengths, parse_lengths, score_lengths, watched_lengths

SMALL = {
    "Copy": "high=4,width=3",
    "RepeatCopy": "high=3,repeats_high=3,width=2",
    "AssociativeRecall": "high=4,width=2,vectors=2",
    "DynamicNGrams": "low=3,high=9,n=3",
    "PrioritySort": "low=3,high=5,width=3,best=3",
}
MODES = {
    "bits": "",
    "symbol": ",actions=symbol",
    "serial": ",actions=serial",
    "quantised": ",actions=quantised,reward=logscore,levels=5",
}


def config(name, mode="bits", more=""):
    return EnvConfig(id=f"NTM/{name}-v0", options=SMALL[name] + MODES[mode] + more)


def longest(env):
    return task_of(env.id, parse_options(env.options))[0].longest


class Policy:
    """logits(ts, t) [N, L] at row t; keeps them and what it saw."""

    stochastic, network = True, None

    def __init__(self, env, logits):
        _, self.play = task_of(env.id, parse_options(env.options))
        self.actions, self.logits, self.given, self.seen = Categoricals(self.play.space), logits, [], []

    def initial_state(self, n):
        return ()

    def act(self, ts, state, *, explore, generator=None):
        assert not explore
        logits = self.logits(self, ts)
        self.given.append(logits)
        self.seen.append(ts.obs)
        return Act(self.actions.mode(logits), (), {"logits": logits})


def uniform(policy, ts):
    return torch.zeros(len(ts.reward), policy.actions.logits)


def arbitrary(policy, ts):
    """Of what is seen, and other at every row."""
    generator = torch.Generator().manual_seed(len(policy.seen))
    return ts.obs @ torch.randn(ts.obs.shape[1], policy.actions.logits, generator=generator) + torch.randn(
        policy.actions.logits, generator=generator
    )


def knowing(policy, ts):
    """Told the answer, and almost sure of it."""
    if policy.actions.binary:
        return 40.0 * (2 * ts.target - 1)
    return 40.0 * torch.nn.functional.one_hot(ts.target, policy.actions.logits)


# -- bits -------------------------------------------------------------------------------------------------------------------------


def plain_chances(logits, play):
    """Of one row's logits (a list) the probability of every bit's being 1."""

    def softmax(z):
        e = [math.exp(x - max(z)) for x in z]
        return [x / sum(e) for x in e]

    if play.actions == "bits":
        return [1 / (1 + math.exp(-z)) for z in logits]
    if play.actions == "serial":
        return [softmax(logits)[1]]
    n = play.levels
    parts = [softmax(logits[i : i + n]) for i in range(0, len(logits), n)]
    return [sum(p * (k + 0.5) / n for k, p in enumerate(part)) for part in parts]


def plain_cost(logits, y, play):
    """Bits of one row's answer y."""
    if play.actions == "symbol":
        top = max(logits)
        total = sum(math.exp(z - top) for z in logits)
        return -math.log2(math.exp(logits[sum(b << k for k, b in enumerate(y))] - top) / total)
    return -sum(math.log2(p if b else 1 - p) for p, b in zip(plain_chances(logits, play), y, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_bits_are_log_probabilities_of_the_answers_added_up(name, mode):
    env = config(name, mode)
    policy = Policy(env, arbitrary)
    lengths = longest(env)
    got = answer(policy, env, lengths, 3, torch.Generator().manual_seed(1), "cpu")
    assert len(policy.seen) == len(got.mask) == len(got.inputs)
    assert torch.equal(torch.stack(policy.seen), got.inputs)
    for i in range(3):
        cost = wrong = 0
        for t, asked in enumerate(got.mask.tolist()):
            y, logits = got.targets[t, i].tolist(), policy.given[t][i].tolist()
            if not asked:
                assert not got.wrong[t].any()
                assert not got.probability[t].any()
                continue
            cost += plain_cost(logits, y, policy.play)
            if mode != "symbol":
                assert got.probability[t, i].tolist() == pytest.approx(plain_chances(logits, policy.play), abs=1e-5)
            said = policy.play.decode(policy.actions.mode(policy.given[t]))[i].tolist()
            assert got.wrong[t, i].tolist() == [a != b for a, b in zip(said, y, strict=True)]
            wrong += sum(a != b for a, b in zip(said, y, strict=True))
        assert float(got.bits[i]) == pytest.approx(cost, abs=1e-4)
        assert int(got.wrong[:, i].sum()) == wrong


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_uniform_policy_pays_one_bit_for_each_that_is_asked_for(name, mode):
    env = config(name, mode)
    task, _ = task_of(env.id, {})
    (score,) = score_lengths(Policy(env, uniform), env, [longest(env)], 40)
    by_hand = {
        "Copy": 4 * 3,
        "RepeatCopy": (3 * 3 + 1) * 3,
        "AssociativeRecall": 2 * 2,
        "DynamicNGrams": 9,
        "PrioritySort": 3 * 3,
    }
    assert score.chance == by_hand[name]
    assert score.bits == pytest.approx(score.chance, abs=1e-4)
    assert 0.2 * score.chance < score.error_bits < 0.8 * score.chance  # its likeliest answer is always the same


@pytest.mark.parametrize("mode", ["bits", "symbol", "serial"])
@pytest.mark.parametrize("name", NAMES)
def test_who_knows_the_answers_has_no_error_bits_and_all_sequences_exact(name, mode):
    env = config(name, mode)
    (score,) = score_lengths(Policy(env, knowing), env, [longest(env)], 30)
    assert (score.error_bits, score.exact, score.sequences) == (0.0, 1.0, 30)
    assert 0 <= score.bits < 1e-5


@pytest.mark.parametrize("slips", [1, 2])
def test_wrong_bits_in_every_other_sequence_are_half_as_many_error_bits(slips):
    env = config("Copy")

    def slipping(policy, ts):
        logits = knowing(policy, ts)
        if int(ts.age[0]) == 5:  # the first row that asks
            logits[::2, :slips] *= -1
        return logits

    (score,) = score_lengths(Policy(env, slipping), env, [(4,)], 200)
    assert (score.error_bits, score.exact) == (slips / 2, 0.5)


def test_agents_without_a_policy_have_error_bits_only():
    env = config("Copy", "symbol")

    class Values(Policy):
        def act(self, ts, state, *, explore, generator=None):
            act = super().act(ts, state, explore=explore)
            return act._replace(extras={"q_values": act.extras["logits"]})

    (score,) = score_lengths(Values(env, knowing), env, [(4,)], 10)
    assert (score.bits, score.error_bits, score.exact) == (None, 0.0, 1.0)
    assert "bits" not in score.to_json()
    assert json.loads(json.dumps(score.to_json()))["lengths"] == [4]


# -- n-grams ------------------------------------------------------------------------------------------------------------------------


def counting(policy, ts):
    """The optimal observer, who has seen the bits up to the one before."""
    rows = [*policy.seen, ts.obs][1:] + [torch.zeros_like(ts.obs)]  # what the last bit is changes nothing of its chance
    return DynamicNGrams(low=3, n=3).optimal(torch.stack(rows)[..., 0].long())[-1].float().logit()[:, None]


def test_the_optimal_observer_is_not_in_excess_of_itself_and_guessing_is():
    env = config("DynamicNGrams")
    lengths = [(9,), (3,)]
    best = score_lengths(Policy(env, counting), env, lengths[:1], 40)[0]
    assert best.excess == pytest.approx(0, abs=1e-4)
    assert best.excess_error == pytest.approx(0, abs=1e-5)
    guess, short = score_lengths(Policy(env, uniform), env, lengths, 40)
    assert guess.excess == pytest.approx(9 - best.bits, abs=1e-4)  # on the same tapes
    assert guess.excess_error > 0
    assert (short.bits, short.excess) == (3.0, 0.0)  # a context has not been seen before


@pytest.mark.parametrize("mode", ["serial", "quantised"])
def test_excess_is_told_however_the_bits_are_forecast(mode):
    env = config("DynamicNGrams", mode)
    (score,) = score_lengths(Policy(env, uniform), env, [(9,)], 40)
    wanted = score_lengths(Policy(config("DynamicNGrams"), uniform), config("DynamicNGrams"), [(9,)], 40)[0]
    assert score.excess == pytest.approx(wanted.excess, abs=1e-4)


def test_one_sequence_has_no_standard_error():
    env = config("DynamicNGrams")
    (score,) = score_lengths(Policy(env, uniform), env, [(9,)], 1)
    assert score.excess is not None
    assert score.excess_error is None


# -- whose tapes ----------------------------------------------------------------------------------------------------------------------


def tapes_of(env, lengths, sequences=5, **kwargs):
    policy = Policy(env, kwargs.pop("logits", uniform))
    score_lengths(policy, env, lengths, sequences, **kwargs)
    return policy.seen


def test_tapes_are_the_same_for_every_agent_at_one_seed_and_length():
    env = config("RepeatCopy")
    one, two = tapes_of(env, [(3, 2)]), tapes_of(env, [(3, 2)], logits=arbitrary)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    after = tapes_of(env, [(1, 1), (3, 2)])[-len(one) :]  # whatever was scored before
    assert all(torch.equal(a, b) for a, b in zip(one, after, strict=True))
    for lengths, seed in [((3, 2), 1), ((4, 2), 0), ((3, 3), 0)]:
        other = tapes_of(env, [lengths], seed=seed)
        assert not all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    serial = torch.stack(tapes_of(config("RepeatCopy", "serial"), [(3, 2)]))  # 3 bits a row: rows that ask come three times
    assert torch.equal(serial[:4], torch.stack(one)[:4])


def test_more_sequences_than_a_batch_are_new_ones():
    env = config("Copy")
    seen = torch.cat([torch.stack(tapes_of(env, [(4,)], 300)[:9]), torch.stack(tapes_of(env, [(4,)], 300)[9:])], 1)
    assert seen.shape == (9, 300, 4)
    first, rest = seen[:4, :50, :3], seen[:4, 250:, :3]
    assert not torch.equal(first, rest)
    assert torch.equal(seen[:, :250], torch.stack(tapes_of(env, [(4,)], 250)))


def test_tasks_with_two_lengths_are_scored_by_both():
    env = config("RepeatCopy")
    scores = score_lengths(Policy(env, uniform), env, [(2, 3), (3, 2)], 4)
    assert [s.name for s in scores] == ["2x3", "3x2"]
    assert [s.chance for s in scores] == [7 * 3, 7 * 3]
    longer = score_lengths(Policy(env, uniform), env, parse_lengths("5x1,1x20"), 4)  # beyond those of training
    assert [s.chance for s in longer] == [6 * 3, 21 * 3]


@pytest.mark.parametrize("reward", ["exact", "sparse", "stop"])
def test_the_reward_an_agent_was_trained_by_doesn_t_change_its_score(reward):
    """Nor whether it can be scored: a stopped episode would tell nothing of the rows after it."""
    env, told = config("Copy"), config("Copy", more=f",reward={reward}")
    wanted = score_lengths(Policy(env, arbitrary), env, [(4,)], 20)
    assert score_lengths(Policy(told, arbitrary), told, [(4,)], 20) == wanted


# -- which lengths ----------------------------------------------------------------------------------------------------------------------


def test_lengths_are_read_as_they_are_written():
    assert parse_lengths("10,20") == [(10,), (20,)]
    assert parse_lengths("10x5, 20x10") == [(10, 5), (20, 10)]
    for text in ("", "x", "10,", "ten", "1.5", "3x", "1e3"):
        with pytest.raises(ConfigError, match="are not lengths") as e:
            parse_lengths(text)
        assert "--lengths" in str(e.value)


@pytest.mark.parametrize(("name", "lengths"), [
    ("Copy", (0,)), ("Copy", (3, 3)), ("Copy", (10**6,)), ("RepeatCopy", (3,)), ("AssociativeRecall", (1,)), ("PrioritySort", (2,)),
])  # fmt: skip
def test_lengths_that_can_t_be_are_refused_before_any_is_played(name, lengths):
    env = config(name)
    policy = Policy(env, uniform)
    with pytest.raises(ConfigError):
        score_lengths(policy, env, [longest(env), lengths], 2)
    assert policy.seen == []


def test_lengths_that_a_memory_has_no_room_for_are_refused_with_what_would_do():
    class Memory(torch.nn.Module):
        slots = 8

    env = config("Copy")
    policy = Policy(env, uniform)
    policy.network = torch.nn.ModuleList([Memory()])
    check_lengths(policy, env, [(8,)])
    with pytest.raises(ConfigError, match="8 slots") as e:
        check_lengths(policy, env, [(8,), (9,)])
    assert "--memory-slots 9" in str(e.value)


def test_an_environment_without_sequences_has_no_lengths():
    with pytest.raises(ConfigError, match="no sequences"):
        check_lengths(SimpleNamespace(network=None), EnvConfig(id="CartPole-v1"), [(3,)])
    assert watched_lengths(EnvConfig(id="CartPole-v1")) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_training_watches_up_to_five_lengths_from_the_smallest_to_the_largest(name):
    for env in (EnvConfig(id=f"NTM/{name}-v0"), config(name)):
        watched = watched_lengths(env)
        task, _ = task_of(env.id, parse_options(env.options))
        assert watched[0] == tuple(low for low, _ in task.ranges)
        assert watched[-1] == task.longest
        assert watched == sorted(set(watched))
        assert len(watched) == min(5, 1 + max(high - low for low, high in task.ranges))
        check_lengths(SimpleNamespace(network=None), env, watched)
