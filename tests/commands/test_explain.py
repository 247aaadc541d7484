"""Heat maps of what an action hangs on: on networks that are known to read one patch, and on the real ones."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from arcturus import agents, load
from arcturus.actor_critic import ActorCritic
from arcturus.api import Act, EnvSpec
from arcturus.envs import EnvConfig, open_backend, open_envs
from arcturus.errors import ConfigError
from arcturus.networks import QNetwork
from arcturus.scoring.evaluation import evaluate
from arcturus.scoring.explain import EXPLANATIONS, as_float, check_explanation, guided, guided_relus, occlusion, patches, saliency
from arcturus.scoring.film import bars_of, replay, write_film
from arcturus.scripts.evaluate_agent import main
from arcturus.seeding import Seeds

PONG = EnvConfig(id="ALE/Pong-v5", frame_size=42, num_envs=1)
SPEC = EnvSpec("test", 1, (4, 42, 42), torch.uint8, gym.spaces.Discrete(5), frame_stack=4)
FIRST, ACTION = torch.ones(1, dtype=torch.bool), torch.tensor([3])
PLANTED, ELSEWHERE = (slice(12, 18), slice(25, 31)), (slice(30, 36), slice(6, 12))


class Reader(nn.Module):
    """Reads a 6x6 patch of the newest frame; and, if `against`, another one, which speaks against the action."""

    def __init__(self, at, against=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 42, 42))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight, patch in zip(self.weight, (at, against), strict=True):
                if patch:
                    weight[patch] = 0.2 + torch.rand(6, 6, generator=generator)
        self.relu = nn.ReLU()

    def score(self, obs, first, state, action):
        x = obs[:, -1] * (1 / 255) if obs.dtype == torch.uint8 else obs[:, -1]
        up, down = self.relu((x[:, None] * self.weight).sum((-2, -1))).unbind(-1)
        return up - down


def build(name, config, **settings):
    module = agents.load(name)
    with open_envs(config, 0, "cpu") as envs:
        return module.Agent(module.Config(**settings), envs.spec, "cpu", Seeds(0)), envs.spec


def picture(seed=0):
    return torch.randint(256, (1, 4, 42, 42), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def real_networks():
    torch.manual_seed(0)
    yield QNetwork(SPEC, 5), ()
    yield QNetwork(SPEC, 5, torso="impala"), ()  # ReLUs inside residual blocks
    for shared in (True, False):
        network = ActorCritic(SPEC, core="lstm", core_width=16, shared=shared)
        with torch.no_grad():
            network.policy.weight.mul_(100)  # initial policies hang on nothing
        yield network, network.initial_state(1)


def share(heat, patch, margin=0):
    rows, columns = (slice(s.start - margin, s.stop + margin) for s in patch)
    return float(heat[rows, columns].sum() / heat.sum())


@pytest.mark.parametrize("name", EXPLANATIONS)
@pytest.mark.parametrize(("at", "other"), [(PLANTED, ELSEWHERE), (ELSEWHERE, PLANTED)])
def test_a_map_shows_the_patch_that_is_read_and_not_another(name, at, other):
    heat = EXPLANATIONS[name](Reader(at), picture(), FIRST, (), ACTION)
    assert heat.shape == (42, 42)
    assert heat.dtype == torch.float32
    assert (heat >= 0).all()
    assert share(heat, at, 5 if name == "occlusion" else 0) > 0.999  # a painted patch of 6 reaches 5 pixels beyond
    row, column = divmod(int(heat.argmax()), 42)
    assert at[0].start <= row < at[0].stop
    assert at[1].start <= column < at[1].stop
    assert share(heat, other) == 0


def test_guided_maps_leave_out_what_speaks_against_the_action():
    network = Reader(PLANTED, against=ELSEWHERE)
    plain, heat = (f(network, picture(), FIRST, (), ACTION) for f in (saliency, guided))
    assert share(plain, ELSEWHERE) > 0.3
    assert share(heat, ELSEWHERE) == 0
    assert share(heat, PLANTED) == 1


def test_maps_are_of_the_action_that_was_played():
    network = QNetwork(SPEC, 5)
    for explain in EXPLANATIONS.values():
        one, other = (explain(network, picture(), FIRST, (), torch.tensor([a])) for a in (0, 4))
        assert not torch.allclose(one, other, rtol=1e-2)


def test_maps_of_real_networks_are_finite_and_leave_no_trace():
    for network, state in real_networks():
        obs, before = picture(), network.score(picture(), FIRST, state, ACTION)
        asked = [p.requires_grad for p in network.parameters()]
        maps = {}
        with torch.no_grad():  # as in a film
            for name, explain in EXPLANATIONS.items():
                maps[name] = explain(network, obs, FIRST, state, ACTION)
                assert maps[name].shape == (42, 42)
                assert maps[name].isfinite().all()
                assert maps[name].max() > 0
                assert not maps[name].requires_grad
        assert not torch.allclose(maps["saliency"], maps["guided"])
        assert torch.equal(saliency(network, obs, FIRST, state, ACTION), maps["saliency"])  # gradients are whole again
        assert torch.equal(network.score(obs, FIRST, state, ACTION), before)
        assert torch.equal(obs, picture())
        assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())
        assert all(p.grad is None for p in network.parameters())
        assert [p.requires_grad for p in network.parameters()] == asked


def test_hooks_go_when_a_network_raises_and_in_place_relus_are_guided_too():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
    with pytest.raises(RuntimeError), guided_relus(network):
        network(torch.zeros(7))
    assert not any(m._forward_hooks for m in network.modules())
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3)), network[0].bias.fill_(1.0), network[2].weight.copy_(torch.tensor([[2.0, -1, 3]]))
    x = torch.zeros(1, 3, requires_grad=True)
    with guided_relus(network):
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
    assert gradient.tolist() == [[2, 0, 3]]


def test_the_float_copy_is_the_same_picture_to_every_network():
    for network, state in real_networks():
        one, other = (network.score(x, FIRST, state, ACTION) for x in (picture(), as_float(picture())))
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_is_painted_over_carries_no_signal_of_its_own():
    """On an even picture nothing changes, wherever a patch is: grey patches would be seen."""
    for level in (0, 7, 255):
        heat = occlusion(QNetwork(SPEC, 5), torch.full((1, 4, 42, 42), level, dtype=torch.uint8), FIRST, (), ACTION)
        assert heat.abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(42, 42), (84, 84), (50, 31), (9, 9), (3, 5)])
def test_patches_cover_pictures_of_any_size_to_their_edges(shape):
    masks = patches(*shape)
    assert masks.shape[1:] == shape
    assert masks.any(0).all()
    assert len(set(masks.flatten(1).sum(1).tolist())) == 1


def test_what_has_no_picture_or_no_score_is_refused_before_it_plays(small_run, tmp_path):
    vector, spec = build("dqn", EnvConfig(id="CartPole-v1", num_envs=1), capacity=10)
    floor, atari = build("uniform", PONG)
    dqn, _ = build("dqn", PONG, capacity=10, torso="small")
    for actor, world, name, words in (
        (vector, spec, "saliency", "not a picture"),
        (floor, atari, "occlusion", "no network"),
        (dqn, atari, "saliensy", "unknown explanation"),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            check_explanation(name, actor, world)
        assert error.value.where == "--explain"
        assert error.value.fix
    run = small_run(tmp_path / "r", steps=200)
    for flags, words in ((["--explain", "guided"], "with --video"), (["--explain", "guided", "--video", "f.mp4"], "not a picture")):
        with pytest.raises(ConfigError, match=words):
            main([str(run.path), "--episodes", "1", *flags])
    assert not (run.path / "evaluations").exists()


def test_a_torso_that_scales_floats_too_is_refused_for_gradients_only():
    class Twice(Reader):
        network = property(lambda self: self)

        def initial_state(self, n):
            return ()

        def score(self, obs, first, state, action):
            return super().score(obs.float() / 255, first, state, action)

    for name in ("saliency", "guided"):
        with pytest.raises(ConfigError, match="differently from its bytes"):
            check_explanation(name, Twice(PLANTED), SPEC)
    check_explanation("occlusion", Twice(PLANTED), SPEC)


def test_the_frame_that_is_explained_is_the_whole_screen_scaled():
    """Else a map stretched over the picture would lie beside what it means."""
    rows = []
    for colour in (False, True):
        backend = open_backend(replace(PONG, threads=1), colour=colour)
        try:
            backend.reset(np.array([3]), None)
            for _ in range(30):
                backend.send(np.array([0]))
                obs = backend.recv().obs[0]
            rows.append(obs)
        finally:
            backend.close()
    seen = rows[0].astype(float)
    scaled = np.asarray(Image.fromarray(rows[1]).convert("L").resize((42, 42), Image.Resampling.BOX), float)
    assert np.corrcoef(seen.ravel(), scaled.ravel())[0, 1] > 0.99
    assert np.corrcoef(seen.ravel(), np.roll(scaled, 2, 0).ravel())[0, 1] < 0.95


@pytest.mark.slow
def test_films_of_a_run_show_the_map_and_the_policy(small_run, tmp_path):
    import av

    run = small_run(tmp_path / "r", steps=512, agent="ppo", env="ALE/Pong-v5", eval_every=0)
    actor = load(run)
    config = replace(actor.config.env, num_envs=1)
    episode = evaluate(actor, config, 1).episodes[0]
    films = {}
    for name in (None, *EXPLANATIONS):
        path = tmp_path / f"{name}.mp4"
        assert write_film(path, actor, config, episode, steps=6, explain=name) == 6
        with av.open(str(path)) as film:
            films[name] = np.stack([f.to_ndarray(format="rgb24") for f in film.decode(video=0)]).astype(int)
    for name in EXPLANATIONS:
        game = np.abs(films[name] - films[None])[:, :420, :320]
        assert game.mean() > 2
    assert np.abs(films["saliency"] - films["occlusion"])[:, :420, :320].mean() > 1
    moment = next(replay(actor, config, episode, explain="guided"))
    assert moment.bars.what == "policy"
    assert abs(moment.bars.numbers.sum() - 1) < 1e-5
    assert len(moment.bars.numbers) == 6
    assert moment.heat.shape == (42, 42)


def test_only_policies_over_one_choice_have_bars():
    act = Act(torch.zeros(1, 2, dtype=torch.int64), (), {"logits": torch.zeros(1, 5)})
    assert bars_of(act, gym.spaces.MultiDiscrete([2, 3])) is None
