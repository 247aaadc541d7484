"""Learning from few steps: augmentation, resets, annealed horizons, and the torsos that came with them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from arcturus.agents import _data_efficient, _value, dqn, drqn, iqn
from arcturus.agents._data_efficient import renew
from arcturus.api import EnvSpec
from arcturus.augmentation import random_intensity, random_shift, shifted
from arcturus.errors import ConfigError
from arcturus.loop import run
from arcturus.networks import QNetwork, TorsoOptions
from arcturus.replay import learner
from arcturus.replay.records import Transition
from arcturus.replay.ring import Ring
from arcturus.scoring.explain import as_float
from arcturus.seeding import Seeds

IMAGES = EnvSpec("test/Images", 2, (4, 42, 42), torch.uint8, Discrete(3), frame_stack=4)
VECTORS = EnvSpec("test/Vectors", 2, (4,), torch.float32, Discrete(3))


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 12), st.integers(0, 2**31),
    st.sampled_from([torch.uint8, torch.float32]),
)  # fmt: skip
def test_a_shift_is_padding_by_replication_and_a_crop(batch, frames, height, width, pixels, seed, dtype):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (batch, frames, height, width), generator=g).to(dtype)
    move = torch.randint(-pixels, pixels + 1, (2, batch), generator=g)
    padded = F.pad(images.double(), (pixels,) * 4, mode="replicate")
    for fast in (False, True):
        moved = shifted(images, *move, fast)
        assert moved.dtype == dtype
        for b, (down, right) in enumerate(move.T.tolist()):
            top, left = pixels - down, pixels - right
            assert torch.equal(moved[b].double(), padded[b, :, top : top + height, left : left + width])


def test_shifts_leave_the_replays_memory_alone_and_read_views():
    rows = torch.arange(2 * 5 * 6 * 6, dtype=torch.uint8).view(2, 5, 6, 6)
    before = rows.clone()
    for fast in (False, True):
        g = torch.Generator().manual_seed(0)
        moved = random_shift(rows[:, :4], 2, g, fast)
        assert torch.equal(rows, before)
        assert not torch.equal(moved, rows[:, :4])
        assert moved.shape == (2, 4, 6, 6)


def test_shifts_reach_every_place_equally_often():
    g = torch.Generator().manual_seed(0)
    image = torch.arange(7 * 7, dtype=torch.float32).view(1, 1, 7, 7).expand(20_000, -1, -1, -1)
    middle = random_shift(image, 1, g)[:, 0, 3, 3].unique(return_counts=True)
    assert middle[0].tolist() == [16, 17, 18, 23, 24, 25, 30, 31, 32]
    assert ((middle[1] / 20_000 - 1 / 9).abs() < 0.01).all()


def test_brightness_is_one_number_an_image_and_bytes_stay_bytes():
    g = torch.Generator().manual_seed(1)
    images = torch.full((500, 2, 3, 3), 200, dtype=torch.uint8)
    out = random_intensity(images, 0.05, g)
    assert out.dtype == torch.uint8
    assert (out.flatten(1) == out[:, 0, 0, :1]).all()
    assert 180 <= int(out.min()) < 200 < int(out.max()) <= 220  # clipped at two standard deviations
    assert int(random_intensity(torch.full((500, 1), 255, dtype=torch.uint8), 0.5, g).max()) == 255
    assert random_intensity(images.float(), 0.05, g).dtype == torch.float32


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.floats(0, 1), st.integers(1, 1000))
def test_the_horizon_goes_from_its_first_to_its_last_and_never_beyond(first, last, gamma, final, updates):
    c = dqn.Config(n_step=last, initial_n_step=first, gamma=final, initial_gamma=gamma, anneal_updates=updates)
    assert c.horizon(0) == (first, pytest.approx(gamma))
    assert c.horizon(updates) == c.horizon(5 * updates) == (last, final)
    assert c.horizons == ((first, gamma), (last, final))
    seen = [c.horizon(u) for u in range(updates + 1)]
    assert all(min(first, last) <= n <= max(first, last) for n, _ in seen)
    for values in zip(*[(n, round(gamma, 9)) for n, gamma in seen], strict=True):
        up = sorted(values)
        assert list(values) in (up, up[::-1])


def trained(counter, agent=dqn, rows=60, **settings):
    envs = counter(4)
    small = {"capacity": 400, "learning_starts": 16, "batch_size": 8, "torso": "mlp", "replay_ratio": 1.0}
    made = agent.Agent(agent.Config(**small | settings), envs.spec, "cpu", Seeds(0))
    seeds = Seeds(0).branch("env")
    for _ in run(envs, made, steps=rows * 4, seeds=lambda: seeds.environments(4), generator=Seeds(0).torch("cpu")):
        pass
    return made


def test_what_is_learnt_from_has_the_horizon_of_its_update(counter, monkeypatch):
    """Not that of the settings, nor of the update before; and behind a reset that of a new network."""
    c = {"anneal_updates": 20, "initial_n_step": 5, "n_step": 2, "initial_gamma": 0.5, "gamma": 0.9, "reset_period": 41}
    asked, transitions = [], Ring.transitions

    def spying(ring, t, n, n_step, goal):
        asked.append((n_step, goal.gamma))
        return transitions(ring, t, n, n_step, goal)

    monkeypatch.setattr(Ring, "transitions", spying)
    agent = trained(counter, **c)
    new = [k for k in range(1, len(asked)) if asked[k] == (5, 0.5)]  # updates at which the network was new again
    assert [b - a for a, b in itertools.pairwise([0, *new])] == [44] * len(new)  # a row makes 4 updates, and a reset comes behind it
    assert len(new) >= 3
    begun = [max(k for k in (0, *new) if k <= u) for u in range(len(asked))]
    assert asked == [agent.config.horizon(u - b) for u, b in enumerate(begun)]


def test_every_period_of_resets_leaves_annealing_out_of_a_recorded_graph(counter, monkeypatch):
    """A graph has one n; a period of a power of two once made the first and the 2**62nd horizon the same."""
    monkeypatch.setattr(learner, "graphs_on", lambda device: True)
    alike = {"anneal_updates": 8, "initial_n_step": 1, "initial_gamma": 0.99}
    for more, inside in (({}, True), ({"anneal_updates": 8}, False), (alike, True)):
        for period in (0, 64, 75):
            config = dqn.Config(capacity=400, learning_starts=16, torso="mlp", reset_period=period, **more)
            assert dqn.Agent(config, counter(4).spec, "cpu", Seeds(0)).learner.in_graph == inside


def test_a_reset_renews_connected_layers_keeps_half_of_convolutions_and_forgets_the_moments():
    old, fresh = (QNetwork(IMAGES, 3, "small") for _ in range(2))
    before = {name: p.clone() for name, p in old.named_parameters()}
    renew(old, fresh, 0.25)
    for (name, p), new in zip(old.named_parameters(), fresh.parameters(), strict=True):
        expected = 0.25 * before[name] + 0.75 * new if ".conv" in name else new
        torch.testing.assert_close(p, expected)
    assert any(".conv" in name for name in before)


def test_frozen_weights_stay_through_a_reset():
    old, fresh = (QNetwork(IMAGES, 3, "small") for _ in range(2))
    old.torso.requires_grad_(False)
    before = [p.clone() for p in old.parameters()]
    renew(old, fresh, 0.5)
    same = [torch.equal(a, b) for a, b in zip(before, old.parameters(), strict=True)]
    assert same == [not p.requires_grad for p in old.parameters()]
    assert {True, False} == set(same)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_new_weights_are_divided_by_their_own_largest_singular_value(counter, keep):
    """Not by one along the old weights' singular vectors: the values were of the order of 1e12."""
    envs = counter(4)
    agent = dqn.Agent(dqn.Config(torso="impala", spectral_norm=True, reset_period=1, reset_keep=keep, capacity=400, learning_starts=0,
                                 target_period=100), envs.spec, "cpu", Seeds(0))  # fmt: skip
    agent.learner.updates = 1
    _data_efficient.reset_if_due(agent)
    for network in (agent.network, agent.target):
        found = [torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2) for m in network.modules() if parametrize.is_parametrized(m)]
        assert len(found) == 12
        assert all(0.8 < float(x) < 1.3 for x in found), found
    assert not agent.network.training


def test_a_transition_is_shifted_and_its_two_observations_each_on_their_own(counter, monkeypatch):
    given, seen = [], []
    monkeypatch.setattr(dqn.Agent, "loss_fn", lambda net, target, batch, *rest: seen.append(batch) or dqn.loss(net, target, batch, *rest))
    monkeypatch.setattr(_value, "augmented", lambda batch, *rest: given.append(batch) or _data_efficient.augmented(batch, *rest))
    envs = pixels(4)
    agent = dqn.Agent(dqn.Config(capacity=400, learning_starts=16, batch_size=32, torso="small", random_shift=3), envs, "cpu", Seeds(0))
    obs = torch.randint(256, (2, 32, 4, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(32)
    agent.update(Transition(obs[0], zeros.long(), zeros, zeros, obs[0].clone(), zeros + 1))
    (batch,), (before,) = seen, given
    assert torch.equal(before.s_tm1, before.s_t)
    moved = [not torch.equal(a, b) for a, b in zip(batch.s_tm1, batch.s_t, strict=True)]
    assert sum(moved) > 24  # one in 49 moves alike
    assert sum(not torch.equal(a, b) for a, b in zip(batch.s_tm1, before.s_tm1, strict=True)) > 24


def pixels(n):
    return EnvSpec("test/Pixels", n, (4, 20, 20), torch.uint8, Discrete(3), frame_stack=4)


def test_resets_come_every_period_and_each_is_another(counter, monkeypatch):
    seen = []

    def noted(network, fresh, keep):
        seen.append([p.clone() for p in fresh.parameters()])
        renew(network, fresh, keep)

    monkeypatch.setattr(_data_efficient, "renew", noted)
    agent = trained(counter, reset_period=50, target_period=1_000_000)
    assert len(seen) == agent.updates // 52 >= 4  # behind the row of 4 updates that reaches 50
    assert not any(torch.equal(a[0], b[0]) for i, a in enumerate(seen) for b in seen[:i])
    seen.clear()
    agent = trained(counter, rows=4 + 13, reset_period=50, target_period=1_000_000)  # one row behind the first reset
    assert len(seen) == 1
    assert 50 <= agent.updates < 54
    for mine, target in zip(agent.network.parameters(), agent.target.parameters(), strict=True):
        assert torch.equal(mine, target)
    assert all(not x.any() for moments in agent.gradient_step.optimizer.state.values() for x in moments.values())


def test_without_resets_nothing_is_renewed(counter, monkeypatch):
    monkeypatch.setattr(_data_efficient, "renew", lambda *_: pytest.fail("renewed"))
    assert trained(counter).updates > 100


def test_augmentation_changes_what_is_learnt_but_not_what_is_drawn(counter):
    plain, bright, again = (trained(counter, rows=20, random_intensity=scale) for scale in (0, 0.2, 0.2))
    w = [torch.cat([p.detach().flatten() for p in agent.network.parameters()]) for agent in (plain, bright, again)]
    assert torch.equal(w[1], w[2])
    assert not torch.equal(w[0], w[1])
    assert torch.equal(plain.learner.generator.get_state(), bright.learner.generator.get_state())


def test_all_rows_of_a_sequence_move_alike(counter, monkeypatch):
    seen = []
    monkeypatch.setattr(_data_efficient, "random_shift", lambda images, *_: seen.append(images.shape) or images)
    agent = trained(counter, drqn, bptt=4, burn_in=2, core_width=8, random_shift=2)
    assert agent.updates == len(seen) > 0
    assert set(seen) == {(8, 7, *agent.spec.obs_shape)}  # [B, rows, ...]: one shift for each of the batch


# -- torsos ------------------------------------------------------------------------------------------------------------


def network(name, side=84, **options):
    spec = replace(IMAGES, obs_shape=(4, side, side))
    return QNetwork(spec, 3, name, TorsoOptions(**options)).eval(), torch.zeros(2, 4, side, side, dtype=torch.uint8)


def test_the_data_efficient_torso_has_the_papers_sizes():
    net, obs = network("data_efficient")
    sizes = [sum(p.numel() for p in m.parameters(False)) for m in net.modules() if list(m.parameters(False))]
    assert sizes == [32 * 4 * 25 + 32, 64 * 32 * 25 + 64, 576 * 256 + 256, 256 * 3 + 3]
    assert net(obs).shape == (2, 3)


def test_the_grid_torso_reads_numbers_as_they_are_whether_bytes_or_floats():
    """An object's number 5 is not 5/255; where an instrument gives a byte's picture as floats from 0 to 1, it is the same picture."""
    spec = EnvSpec("test/Grid", 2, (3, 7, 7), torch.uint8, Discrete(3))
    obs = torch.randint(11, (2, 3, 7, 7), dtype=torch.uint8)
    net, floats = QNetwork(spec, 3, "grid"), QNetwork(replace(spec, obs_dtype=torch.float32), 3, "grid")
    floats.load_state_dict(net.state_dict())
    assert [m.weight.shape for m in net.torso.layers if hasattr(m, "weight")] == [(16, 3, 3, 3), (128, 16 * 25)]
    torch.testing.assert_close(net(obs), floats(obs.float()))
    torch.testing.assert_close(net(obs), net(as_float(obs)))


def test_width_multiplies_every_convolution_and_hidden_is_the_last_layer():
    for name in ("nature", "impala", "small", "mnih2013", "data_efficient"):
        thin, wide = (
            [m.out_channels for m in network(name, torso_width=width)[0].modules() if isinstance(m, nn.Conv2d)] for width in (1, 3)
        )
        assert [3 * x for x in thin] == wide, name
        net, obs = network(name, torso_hidden=40)
        assert net.torso.width == net.head.in_features == 40
        assert net(obs).shape == (2, 3)


def test_max_pooling_leaves_so_many_places_whatever_the_frames():
    for side in (42, 84, 128):
        net, obs = network("impala", side, max_pool=6, torso_width=2)
        assert net.torso.layers.fc.in_features == 2 * 32 * 6 * 6
        assert net(obs).shape == (2, 3)


def test_spectral_norm_bounds_the_residual_convolutions_and_leaves_the_rest():
    net, _ = network("impala", 42, spectral_norm=True)
    blocks = [m for m in net.modules() if type(m).__name__ == "ResidualBlock"]
    assert len(blocks) == 6
    net.train().requires_grad_(False)
    for _ in range(60):
        net(torch.randint(256, (1, 4, 42, 42), dtype=torch.uint8))
    for block in blocks:
        for layer in (block.conv1, block.conv2):
            assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(1.0, abs=2e-2)
    assert abs(float(torch.linalg.matrix_norm(net.torso.layers.conv1.weight.flatten(1), 2)) - 1) > 0.02


def test_playing_makes_no_power_iteration_and_learning_does(counter):
    """Otherwise an evaluation would move training."""
    agent = trained(counter, iqn, rows=12, torso="impala", spectral_norm=True, samples=4, target_samples=4, policy_samples=4)
    before = {name: x.clone() for name, x in agent.network.named_buffers()}
    assert any(name.endswith("_u") for name in before)
    obs = torch.randint(256, (4, *agent.spec.obs_shape), dtype=torch.uint8)
    for _ in range(3):
        agent.predict(obs, *agent.draws(4, None))
    assert all(torch.equal(x, before[name]) for name, x in agent.network.named_buffers())
    agent.learner.update_once()
    assert any(not torch.equal(x, before[name]) for name, x in agent.network.named_buffers())


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (VECTORS, {"random_shift": 2}, r"random_shift is for images; observations of test/Vectors have shape \(4,\) and type float32"),
        (VECTORS, {"random_intensity": 0.1}, "random_intensity is for images"),
        (IMAGES, {"random_shift": 42}, "move a whole image of 42x42 out of sight"),
        (IMAGES, {"reset_period": 500, "anneal_updates": 500, "learning_starts": 0}, "must be more than the 500 over which n and gamma"),
        (IMAGES, {"reset_period": 1_000, "learning_starts": 2_000, "replay_ratio": 1.0}, "more than the 2,000 that the 2,000 steps"),
        (IMAGES, {"replay_ratio": 4.0, "learning_starts": 2}, "4 updates a step would begin with 2 stored steps"),
        (IMAGES, {"max_pool": 6, "torso": "nature"}, "the nature torso has no max_pool"),
        (IMAGES, {"spectral_norm": True}, "the small torso has no spectral_norm"),
        (VECTORS, {"torso_width": 2}, "the mlp torso has no torso_width"),
        (IMAGES, {"munchausen": 0.9, "double": True}, "no best action"),
    ],
)
def test_switches_that_cannot_work_are_refused_in_one_line(spec, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        dqn.Agent(dqn.Config(**{"capacity": 4_000} | settings), spec, "cpu", Seeds(0))
    assert "\n" not in caught.value.what
    assert caught.value.fix


def test_sequences_are_not_annealed():
    with pytest.raises(ConfigError, match="one n and one gamma"):
        drqn.Agent(drqn.Config(capacity=4_000, anneal_updates=10), VECTORS, "cpu", Seeds(0))
