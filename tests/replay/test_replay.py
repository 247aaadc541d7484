"""Replay: what is drawn is what was seen.  Forbids the frame-stack, boundary and n-step bugs of the field."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from gymnasium.spaces import Discrete
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arcturus.api import ActedStep, EnvSpec, Objective, TimeStep
from arcturus.errors import ConfigError
from arcturus.replay.ring import Ring, uniform
from arcturus.replay.rollout import Rollout


def expected(rows, t, n, n_step, gamma, clip, end_on_life_loss):
    """The n-step transition from row t of environment n, by its definition, from the rows as the actor saw them."""
    reward, discount, i = 0.0, 1.0, t
    for _ in range(n_step):
        i += 1
        ts = rows[i].timestep
        r = ts.reward[n].item()
        reward += discount * (max(-clip, min(clip, r)) if clip else r)
        discount *= gamma
        if ts.terminated[n] or (end_on_life_loss and ts.life_lost[n]):
            discount = 0.0
            break
        if ts.truncated[n] or ts.interrupted[n]:
            break
    return rows[t].timestep.obs[n], rows[t].action[n], reward, discount, rows[i].timestep.obs[n]


@pytest.mark.parametrize(
    ("stack", "n_step", "clip", "end_on_life_loss", "cut_every"),
    [(4, 1, 0.0, False, 0), (4, 3, 1.0, True, 11), (1, 2, 2.0, False, 7), (5, 5, 0.0, True, 13)],
)
def test_replay_rebuilds_exactly_what_the_actor_saw(counter, random_actor, stack, n_step, clip, end_on_life_loss, cut_every, played):
    envs = counter(3, stack)
    rows = played(envs, random_actor(), 137, cut_every)
    for kept in (40, 137):  # wrapped more than three times; never wrapped
        ring = Ring(kept * 3, envs.spec, "cpu")
        for step in rows:
            ring.append(step)
        pairs = list(itertools.product(range(ring.oldest, ring.count - n_step), range(3)))
        t, n = (torch.tensor(x) for x in zip(*pairs, strict=True))
        batch = ring.transitions(t, n, n_step, Objective(0.9, clip, end_on_life_loss))
        assert len(pairs) > 50
        for j, (tt, nn) in enumerate(pairs):
            void = bool(rows[tt].timestep.last[nn])
            assert batch.weight[j] == float(not void)
            assert torch.equal(batch.s_tm1[j], rows[tt].timestep.obs[nn])
            if void:
                continue
            s, a, r, d, s_next = expected(rows, tt, nn, n_step, 0.9, clip, end_on_life_loss)
            assert torch.equal(batch.s_tm1[j], s)
            assert batch.a_tm1[j] == a
            assert math.isclose(batch.r_t[j].item(), r, rel_tol=1e-5)
            assert math.isclose(batch.discount_t[j].item(), d, rel_tol=1e-5, abs_tol=1e-9)
            assert torch.equal(batch.s_t[j], s_next)


def test_a_stack_never_mixes_episodes(counter, random_actor, played):
    for step in played(counter(), random_actor(), 90, 10):
        shown = step.timestep.obs[:, :, 0, 0].long()
        for n, age in enumerate(step.timestep.age.tolist()):
            frames = shown[n].tolist()
            assert frames[: max(0, 3 - age)] == [0] * max(0, 3 - age)
            present = frames[max(0, 3 - age) :]
            assert all(b - a == 1 or a == 250 for a, b in itertools.pairwise(present))


def test_what_was_handed_out_never_changes(counter, random_actor, played):
    envs, kept = counter(), []
    for step in played(envs, random_actor(), 40):
        kept.append((step.timestep.obs, step.timestep.obs.clone()))
    assert all(torch.equal(now, then) for now, then in kept)


def test_uniform_draws_reach_every_row_and_only_stored_ones():
    t, n = uniform(20_000, 5, 25, 3, torch.Generator().manual_seed(0))
    assert set(t.tolist()) == set(range(5, 25))
    assert set(n.tolist()) == {0, 1, 2}


def test_checkpointed_rows_come_back_into_their_places(counter, random_actor, played):
    envs = counter()
    rows = played(envs, random_actor(), 60)
    ring, twin = Ring(75, envs.spec, "cpu"), Ring(75, envs.spec, "cpu")
    for step in rows:
        ring.append(step)
    first = ring.count - ring.rows
    twin.write_rows(first, ring.read_rows(first, first + 10))
    twin.write_rows(first + 10, ring.read_rows(first + 10, ring.count))
    twin.count = ring.count
    for name in ("frame", "action", "reward", "flags", "age"):
        assert torch.equal(getattr(ring, name), getattr(twin, name)), name


def spec_of(shape=(84, 84), stack=4, actions=6, n=8):
    return EnvSpec("x", n, (stack, *shape), torch.uint8, Discrete(actions), stack)


def test_a_step_of_atari_takes_7063_bytes():
    ring = Ring(8_000, spec_of(), "cpu")
    assert sum(getattr(ring, name).nbytes for name in ring.names) == 8_000 * 7_063 + 84 * 84  # and one blank frame


def test_too_large_a_replay_is_refused_with_the_largest_that_fits(monkeypatch):
    monkeypatch.setattr("arcturus.replay.ring.available_bytes", lambda device: 10_000_000)
    with pytest.raises(ConfigError, match="use at most 1,2") as e:
        Ring(1_000_000, spec_of(), "cpu")
    assert e.value.exit_code == 2
    with pytest.raises(ConfigError, match="at least 40"):
        Ring(8, spec_of(), "cpu")


class RingMachine(RuleBasedStateMachine):
    """Any sequence of rows, ends and cuts, against a plain list."""

    N, K, ROWS = 2, 3, 12

    def __init__(self):
        super().__init__()
        self.spec = EnvSpec("x", self.N, (self.K, 2), torch.float32, Discrete(4), self.K, True)
        self.ring, self.rows, self.open = Ring(self.ROWS * self.N, self.spec, "cpu"), [], [True] * self.N
        self.history = [[] for _ in range(self.N)]
        self.age = [0] * self.N

    @rule(
        ends=st.lists(st.sampled_from(["go", "go", "go", "terminated", "truncated", "interrupted"]), min_size=2, max_size=2),
        lost=st.lists(st.booleans(), min_size=2, max_size=2),
        reward=st.floats(-9, 9, width=32),
        action=st.integers(0, 3),
    )
    def append(self, ends, lost, reward, action):
        obs = torch.zeros(self.N, self.K, 2)
        for n in range(self.N):
            if self.open[n]:
                self.history[n], self.age[n] = [], 0
            else:
                self.age[n] = min(self.age[n] + 1, 255)
            self.history[n].append(torch.full((2,), float(len(self.rows) * 10 + n + 1)))
            window = self.history[n][-self.K :]
            obs[n, self.K - len(window) :] = torch.stack(window)
            self.open[n] = ends[n] != "go"
        flag = lambda name: torch.tensor([e == name for e in ends])  # noqa: E731
        last = flag("terminated") | flag("truncated") | flag("interrupted")
        ts = TimeStep(
            obs,
            torch.full((self.N,), reward),
            torch.tensor(self.age, dtype=torch.uint8),
            flag("terminated"),
            flag("truncated"),
            torch.tensor(lost) & ~last,
            ~last,
            flag("interrupted"),
        )
        step = ActedStep(ts, (), torch.full((self.N,), action), {})
        self.ring.append(step)
        self.rows.append(step)

    @rule(n_step=st.integers(1, 4), clip=st.sampled_from([0.0, 1.0]), end_on_life_loss=st.booleans(), seed=st.integers(0, 99))
    def sample(self, n_step, clip, end_on_life_loss, seed):
        if not self.ring.ready(n_step):
            assert self.ring.count - n_step <= self.ring.oldest
            return
        where = uniform(16, self.ring.oldest, self.ring.count - n_step, self.N, torch.Generator().manual_seed(seed))
        b = self.ring.transitions(*where, n_step, Objective(0.9, clip, end_on_life_loss))
        for j, (t, n) in enumerate(zip(*(x.tolist() for x in where), strict=True)):
            assert len(self.rows) - self.ROWS <= t < len(self.rows)
            assert b.weight[j] == float(self.rows[t].timestep.valid[n])
            if not b.weight[j]:
                continue
            s, a, r, d, s_next = expected(self.rows, t, n, n_step, 0.9, clip, end_on_life_loss)
            assert torch.equal(b.s_tm1[j], s)
            assert torch.equal(b.s_t[j], s_next)
            assert b.a_tm1[j] == a
            assert math.isclose(b.r_t[j].item(), r, rel_tol=1e-4, abs_tol=1e-5)
            assert math.isclose(b.discount_t[j].item(), d, rel_tol=1e-4, abs_tol=1e-9)

    @invariant()
    def size_is_what_is_stored(self):
        assert self.ring.size == min(len(self.rows), self.ROWS) * self.N


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=60, stateful_step_count=60)


def test_a_saved_rollout_has_its_frames_row_by_row(counter, random_actor, played):
    """Wherever they stand in memory: a checkpoint outlives the layout."""
    envs = counter(3, 4)
    rollout = Rollout(8, envs.spec, torch.device("cpu"), extras={}, state=(), every=1)
    rows = played(envs, random_actor(), 8)
    for step in rows:
        rollout.append(step._replace(extras={}))
    saved = rollout.state_dict()
    frames = torch.stack([step.timestep.obs[:, -1] for step in rows])
    kept = saved["rows"]["frame"]
    assert torch.equal(kept[: frames.shape[0] * 3].view(frames.shape), frames)
    assert (kept[-1] == 0).all()
    other = Rollout(8, envs.spec, torch.device("cpu"), extras={}, state=(), every=1)
    other.load_state_dict(saved)
    t, n = torch.arange(4, 8), torch.tensor([0, 1, 2, 0])
    assert torch.equal(other.obs(t, n), rollout.obs(t, n))
    assert torch.equal(other.ring.frame, rollout.ring.frame)
