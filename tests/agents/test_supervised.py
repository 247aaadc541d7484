"""Learning from answers (supervised) and from other agents' policies (distill); whole sequences; what counts and what doesn't."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import arcturus
from arcturus import agents
from arcturus.api import ActedStep
from arcturus.errors import ConfigError
from arcturus.losses import cross_entropy
from arcturus.memory import make_core
from arcturus.seeding import Seeds

SMALL = {"torso": "none", "core": "lstm", "core_width": 8}
COPY = {"options": "width=2,low=2,high=4"}


def make(name, envs, **config):
    module = agents.load(name)
    return module.Agent(module.Config(**(SMALL | config)), envs.spec, "cpu", Seeds(0))


def play(agent, envs, rows, change=lambda ts, action: action, seed=0):
    """Like the loop, with a say in the actions; what each learn() told."""
    generator, told = torch.Generator().manual_seed(seed), []
    ts, state = envs.restart(np.arange(envs.num_envs)), agent.initial_state(envs.num_envs)
    for _ in range(rows):
        told.append(agent.learn_from_rollout(ts, state) if agent.on_policy else {})
        act = agent.act(ts, state, explore=True, generator=generator)
        action = change(ts, act.action)
        envs.send(action)
        agent.observe(ActedStep(ts, state, action, act.extras))
        if not agent.on_policy:
            told[-1] = agent.learn()
        ts, state = envs.recv(), act.state
    return told


def weights(agent):
    return torch.cat([p.detach().flatten() for p in agent.network.parameters()])


# -- the loss ------------------------------------------------------------------------------------------------------------------


def test_the_cost_is_what_the_answers_surprise_the_policy_by():
    """Against a plain sum over sequences, rows and bits."""
    g = torch.Generator().manual_seed(0)
    logits, answer = torch.randn(5, 3, 2, generator=g, dtype=torch.float64), torch.randint(2, (5, 3, 2), generator=g)
    asked = torch.randint(2, (5, 3), generator=g).bool()
    log_pi = torch.stack([torch.nn.functional.logsigmoid(-logits), torch.nn.functional.logsigmoid(logits)], -1)
    got = cross_entropy(log_pi, torch.nn.functional.one_hot(answer, 2).double(), asked)
    for n in range(3):
        plain = 0.0
        for t in range(5):
            for bit in range(2):
                p = 1 / (1 + math.exp(-float(logits[t, n, bit])))
                plain -= bool(asked[t, n]) * math.log(p if answer[t, n, bit] else 1 - p)
        assert float(got[n]) == pytest.approx(plain)


def test_choices_that_do_not_exist_cost_nothing():
    log_pi = torch.tensor([[[[-0.5, -1.0, -torch.inf]]]], requires_grad=True)
    cost = cross_entropy(log_pi, torch.tensor([[[[0.25, 0.75, 0.0]]]]), torch.ones(1, 1, dtype=torch.bool))
    cost.sum().backward()
    assert cost.item() == pytest.approx(0.875)
    assert torch.isfinite(log_pi.grad).all()


def test_an_update_is_one_batch_of_whole_sequences():
    envs = arcturus.make("NTM/Copy-v0", 4, **COPY)
    agent = make("supervised", envs)
    told = play(agent, envs, 60)
    lengths, envs = [], arcturus.make("NTM/Copy-v0", 4, **COPY)
    ts = envs.restart(np.arange(4))
    for row in range(60):
        if bool(ts.last.all()):
            lengths.append(row)
        envs.send(torch.zeros(4, 2, dtype=torch.int64))
        ts = envs.recv()
    assert [i for i, m in enumerate(told) if m] == lengths
    assert agent.updates == len(lengths)
    assert agent.sequences == 4 * len(lengths)
    first = next(m for m in told if m)
    assert float(first["task/bits_per_sequence"]) == pytest.approx(float(first["losses/cross_entropy"]) / math.log(2), rel=1e-5)


def test_without_memory_sequences_are_counted_whole_too():
    """Not as so many sequences of one row."""
    envs = arcturus.make("NTM/Copy-v0", 4, options="width=2,low=3,high=3")
    agent = make("supervised", envs, core="none", core_options="", torso="none", learning_rate=0.0)
    torch.nn.init.zeros_(agent.network.policy.weight)
    ts = envs.restart(np.arange(4))
    for _ in range(7):
        act = agent.act(ts, agent.initial_state(4), explore=True)
        agent.observe(ActedStep(ts, agent.initial_state(4), act.action, act.extras))
        envs.send(act.action)
        ts = envs.recv()
    told = agent.learn_from_rollout(ts, agent.initial_state(4))
    assert float(told["task/bits_per_sequence"]) == pytest.approx(6)  # a coin for each of 3 x 2 bits
    assert float(told["task/exact"]) < 0.5


def test_a_checkpoint_at_the_first_row_costs_the_next_sequence_nothing():
    """The row that was cut is void: it doesn't stand in the place of the last that asks."""
    envs = arcturus.make("NTM/Copy-v0", 4, options="width=2,low=3,high=3")
    agent = make("supervised", envs)
    state = agent.initial_state(4)

    def observe(ts):
        act = agent.act(ts, state, explore=True)
        agent.observe(ActedStep(ts, state, act.action, act.extras))
        return act.action

    observe(envs.restart(np.arange(4)).as_interrupted())
    ts = envs.restart(np.arange(4))
    for _ in range(7):
        assert not agent.learn_from_rollout(ts, state)
        envs.send(observe(ts))
        ts = envs.recv()
    assert int(agent.rollout.read(ts).valid.sum()) == 4 * 3
    assert agent.learn_from_rollout(ts, state)


def test_told_the_answers_it_needs_not_play(monkeypatch):
    envs = arcturus.make("NTM/Copy-v0", 4, **COPY)
    agent = make("supervised", envs)
    monkeypatch.setattr(agent.network, "act", lambda *a: pytest.fail("the network was asked"))
    play(agent, envs, 30)
    assert agent.updates
    assert not agent.plays
    playing = make("supervised", envs, play=True)
    play(playing, envs, 30)
    assert playing.plays
    assert torch.equal(weights(playing), weights(agent))  # what is played makes no difference to what is learnt


@pytest.mark.parametrize(("width", "inputs", "outputs", "published"), [
    (256, 10, 9, 1_352_969), (512, 8, 7, 5_312_007), (256, 8, 6, 1_344_518), (128, 1, 1, 331_905),
])  # fmt: skip
def test_the_lstm_baseline_has_the_published_number_of_weights(width, inputs, outputs, published):
    """Graves et al. 2014, table 3, which counts one bias for each gate where torch's cells have two."""
    core = make_core("deep_lstm", inputs, width)
    head = torch.nn.Linear(core.outputs, outputs)
    count = sum(p.numel() for m in (core, head) for p in m.parameters())
    assert count - 3 * 4 * width == published


# -- other agents as teachers ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_student_comes_to_do_what_its_teacher_does(small_run, tmp_path):
    teacher = small_run(tmp_path / "t", agent_config={"learning_rate": 1e-3})  # after 1,200 steps its values differ enough
    settings = {"teachers": str(teacher.path), "temperature": 0.05, "learning_rate": 3e-3}
    run = small_run(tmp_path / "r", 8_000, "distill", agent_config=settings, eval_every=0)
    agreed = [row["losses/agreement"] for row in arcturus.read_metrics(run) if "losses/agreement" in row]
    assert np.mean(agreed[-5:]) > 0.9 > agreed[0]
    actor = arcturus.load(run)  # to play it needs no teacher
    assert actor.agent.teachers == []


def test_whole_sequences_are_distilled_as_sequences_and_those_that_a_checkpoint_broke_off_are_not(small_run, tmp_path):
    settings = {"env": "NTM/Copy-v0", "env_config": {"options": "width=2,low=3,high=3"}, "eval_every": 0}
    teacher = small_run(tmp_path / "t", 200, "supervised", agent_config=SMALL | {"core_options": ""}, **settings)
    envs = arcturus.make("NTM/Copy-v0", 4, options="width=2,low=3,high=3")
    agent = make("distill", envs, teachers=str(teacher.path), horizon=0, learning_rate=0.0, temperature=1e4)
    torch.nn.init.zeros_(agent.network.policy.weight)
    (told,) = [m for m in play(agent, envs, 8) if m]
    assert float(told["losses/cross_entropy"]) == pytest.approx(6 * math.log(2), rel=1e-3)  # a coin for each of 3 x 2 bits
    agent.rollout.restart()
    ts, state = envs.restart(np.arange(4)), agent.initial_state(4)
    for _ in range(3):
        act = agent.act(ts, state, explore=True, generator=torch.Generator())
        agent.observe(ActedStep(ts, state, act.action, act.extras))
        envs.send(act.action)
        ts, state = envs.recv(), act.state
    assert agent.learn_from_rollout(ts.as_interrupted(), state) == {}
    assert agent.rollout.count == 0


def test_several_teachers_are_averaged(finished, counter):
    envs = arcturus.make("CartPole-v1", 3)
    config = {"torso": "mlp", "core": "none", "horizon": 4}
    one = make("distill", envs, **config, teachers=str(finished.path))
    hot = make("distill", envs, **config, teachers=str(finished.path), temperature=1e4)
    both = make("distill", envs, **config, teachers=f"{finished.path},{finished.path}")
    ts = envs.restart(np.arange(3))
    sharp, flat, mean = (a.act(ts, a.initial_state(3), explore=True).extras["answer"] for a in (one, hot, both))
    assert torch.allclose(sharp, mean)
    assert torch.allclose(flat, torch.full_like(flat, 0.5), atol=1e-3)
    assert torch.allclose(sharp.sum(-1), torch.ones(3, 1))
    q = one.teachers[0].actor.act(ts, (), explore=False).extras["q_values"]
    assert torch.allclose(sharp[:, 0], q.softmax(-1))


def test_a_teacher_of_another_world_is_refused(finished):
    with pytest.raises(ConfigError, match="observations or actions differ"):
        make("distill", arcturus.make("Acrobot-v1", 2), teachers=str(finished.path), horizon=4)


# -- agents by reward on whole sequences ---------------------------------------------------------------------------------------------

BY_REWARD = {
    "ppo": {"horizon": 0, "gamma": 0.0, "minibatches": 2, "epochs": 2},
    "a2c": {"horizon": 0, "gamma": 0.0, "normalise": True},
    "reinforce": {"episodes": 6, "horizon": 64, "gamma": 0.0, "shared": True, "normalise": True},
}


@pytest.mark.parametrize("core", ["lstm", "gru", "ntm", "dnc"])
@pytest.mark.parametrize("name", BY_REWARD)
def test_what_is_done_while_the_task_is_shown_counts_for_nothing(name, core):
    """Neither in the policy's loss, nor in the entropy, nor in the advantages' mean and deviation."""
    options = "slots=6,word=4" if core in ("ntm", "dnc") else ""

    def learnt(change):
        envs = arcturus.make("NTM/Copy-v0", 6, **COPY)
        agent = make(name, envs, **BY_REWARD[name], core=core, core_options=options, entropy_cost=0.1)
        play(agent, envs, 40, change)
        assert agent.updates > 1
        return weights(agent)

    def otherwise(ts, action):
        return torch.where(ts.valid[:, None], action, 1 - action)

    as_it_was = learnt(lambda ts, action: action)
    assert torch.equal(as_it_was, learnt(otherwise))
    wrong = learnt(lambda ts, action: torch.where(ts.valid[:, None], 1 - action, action))
    assert not torch.equal(as_it_was, wrong)


@pytest.mark.parametrize(
    ("name", "settings"), [("ppo", {"horizon": 8}), ("a2c", {"horizon": 8}), ("reinforce", BY_REWARD["reinforce"])]
)
def test_nor_where_the_first_wrong_row_is_the_last(name, settings):
    """Environments that stop by themselves are stepped one by one, and know which rows ask, too."""

    def learnt(change):
        envs = arcturus.make("NTM/CopyStop-v0", 6, **COPY)
        agent = make(name, envs, **BY_REWARD[name] | settings, core="lstm", entropy_cost=0.1)
        play(agent, envs, 60, change)
        assert agent.updates > 1
        return weights(agent)

    as_it_was = learnt(lambda ts, action: action)
    assert torch.equal(as_it_was, learnt(lambda ts, action: torch.where(ts.obs.any(-1)[:, None], 1 - action, action)))


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_a_rollout_of_whole_episodes_ends_with_them(name):
    envs = arcturus.make("NTM/Copy-v0", 4, **COPY)
    agent = make(name, envs, **BY_REWARD[name])
    ts, state = envs.restart(np.arange(4)), agent.initial_state(4)
    for _ in range(50):
        ended = bool(ts.last.all())
        if ended:
            assert bool(agent.rollout.read(ts).first[0].all())
            assert not bool(agent.rollout.read(ts).first[1:].any())
        assert bool(agent.learn_from_rollout(ts, state)) == ended
        act = agent.act(ts, state, explore=True, generator=torch.Generator().manual_seed(0))
        envs.send(act.action)
        agent.observe(ActedStep(ts, state, act.action, act.extras))
        ts, state = envs.recv(), act.state


def test_sequences_drawn_whole_begin_where_an_episode_does():
    envs = arcturus.make("NTM/Copy-v0", 4, options="width=2,low=1,high=4,actions=symbol")
    agent = make("drqn", envs, bptt=0, gamma=0.0, capacity=400, learning_starts=200, batch_size=64)
    play(agent, envs, 90)
    batch = agent.learner.sample_sequences()
    assert bool(batch.first[0].all())
    assert len(batch.a_tm1) == envs.spec.episode_rows
    assert agent.replay.memory.shape[-1] == 0  # no memory needs to be stored
    assert agent.updates


@pytest.mark.parametrize("name", ["ppo", "a2c", "drqn"])
def test_whole_episodes_are_asked_of_tasks_only(name):
    config = {"bptt": 0} if name == "drqn" else {"horizon": 0}
    with pytest.raises(ConfigError, match="begin and end"):
        make(name, arcturus.make("CartPole-v1", 2), torso="mlp", **config)
