"""Scores under attack: never more disturbed than said, the gradient's way is worse than chance's, nothing else changes."""

from __future__ import annotations

import json

import gymnasium as gym
import pytest
import torch

from arcturus.actor_critic import ActorCritic
from arcturus.api import Act, EnvSpec
from arcturus.errors import ConfigError
from arcturus.networks import QNetwork
from arcturus.scoring.attack import Attacked, check_attack, worse
from arcturus.scoring.instruments import as_timestep
from arcturus.scripts.evaluate_agent import main

SPEC = EnvSpec("test", 8, (4, 42, 42), torch.uint8, gym.spaces.Discrete(5), frame_stack=4)


class Watcher:
    """Keeps what it is shown."""

    stochastic, objective, config, spec = True, None, None, None

    def __init__(self, network):
        self.network = network

    def initial_state(self, n):
        return self.network.initial_state(n)

    def act(self, ts, state, *, explore, generator=None):
        self.seen = ts.obs
        return Act(torch.zeros(len(ts.obs), dtype=torch.int64), state, {})


def networks():
    torch.manual_seed(0)
    return [QNetwork(SPEC, 5), ActorCritic(SPEC)]


def pictures(seed=0):
    obs = torch.randint(256, (8, 4, 42, 42), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return as_timestep(obs)


@pytest.mark.parametrize("network", networks(), ids=["values", "policy"])
@pytest.mark.parametrize("attack", ["noise", "fgsm"])
def test_no_pixel_moves_further_than_said(network, attack):
    ts, watcher = pictures(), Watcher(network)
    Attacked(watcher, attack, 0.03).act(ts, network.initial_state(8), explore=False)
    moved = (watcher.seen - ts.obs.float() / 255).abs()
    assert moved.max() <= 0.03 + 1e-6
    assert watcher.seen.min() >= 0
    assert watcher.seen.max() <= 1
    assert (moved > 0.029).float().mean() > 0.8  # strides leave the edges unread, and some pixels are black or white
    assert ts.obs.dtype == torch.uint8  # what others hold is as it was


@pytest.mark.parametrize("network", networks(), ids=["values", "policy"])
def test_the_gradient_makes_the_best_action_look_worse_than_noise_does(network):
    ts, state = pictures(1), network.initial_state(8)

    def log_pi(obs):
        out = network.unroll(obs[None], ts.first[None], state)[0][0]
        return out.log_softmax(-1)

    best = log_pi(ts.obs).argmax(-1, keepdim=True)
    watcher, left = Watcher(network), {}
    for attack in ("noise", "fgsm"):
        Attacked(watcher, attack, 0.01).act(ts, state, explore=False)
        left[attack] = log_pi(watcher.seen).gather(-1, best).squeeze(-1)
    assert (left["fgsm"] < left["noise"]).all()
    assert all(p.grad is None for p in network.parameters())


def test_the_gradient_is_that_of_finite_differences():
    network, ts = networks()[0].double(), pictures(2)
    ts, state = ts._replace(obs=ts.obs.double() / 255), network.initial_state(8)
    gradient = worse_in_float64(network, ts, state)
    step = torch.zeros_like(ts.obs)
    step[:, 3, 20, 20] = 1e-6
    up, here, down = (loss_of(network, ts.obs + sign * step, ts.first) for sign in (1, 0, -1))
    of_j = (1 - (-here).exp()) * gradient[:, 3, 20, 20]  # the log-odds' gradient is 1 / (1 - pi) times J's
    assert torch.allclose(of_j, (up - down) / 2e-6, rtol=1e-4, atol=1e-7)


def test_a_sure_agent_is_attacked_all_the_same():
    """Where pi(a*) rounds to 1 the gradient of log pi(a*) is 0, and the agent would look robust."""
    network, ts = networks()[0], pictures(3)
    with torch.no_grad():
        network.head.weight.mul_(1e4)
    assert (loss_of(network, ts.obs, ts.first) == 0).any()
    direction = worse(network, ts, network.initial_state(8)).sign()
    assert (direction != 0).float().mean() > 0.8


def loss_of(network, obs, first):
    return -network.unroll(obs[None], first[None], ())[0][0].log_softmax(-1).amax(-1)


def worse_in_float64(network, ts, state):
    import arcturus.scoring.attack as module

    as_float, module.as_float = module.as_float, lambda obs: obs.clone()
    try:
        return worse(network, ts, state)
    finally:
        module.as_float = as_float


def test_what_cannot_be_attacked_is_refused():
    actor = Watcher(QNetwork(SPEC, 5))
    check_attack("fgsm", [0.1], actor, SPEC)
    for attack, strengths, said in (
        ("punch", [0.1], "unknown attack"),
        ("noise", [2.0], "0 to 1"),
        ("noise", [float("nan")], "0 to 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_attack(attack, strengths, actor, SPEC)
    numbers = EnvSpec("x", 1, (3,), torch.float32, gym.spaces.Discrete(5))
    with pytest.raises(ConfigError, match="not a picture"):
        check_attack("noise", [0.1], actor, numbers)


@pytest.mark.slow
def test_the_command_scores_the_same_episodes_under_every_strength(small_run, tmp_path, capsys):
    run = small_run(tmp_path / "r", 200, env="ALE/Pong-v5", eval_every=0, heldout_states=0,
                    env_config={"frame_size": 42}, agent_config={"learning_starts": 5000})  # fmt: skip
    arguments = [str(run.path), "--attack", "noise", "--strength", "0.2", "--episodes", "1", "--json"]
    assert main(arguments) == 0
    reports = json.loads(capsys.readouterr().out)
    assert "attack" not in reports[0]
    assert reports[1]["attack"] == {"how": "noise", "strength": 0.2}
    assert reports[0]["per_episode"][0]["seed"] == reports[1]["per_episode"][0]["seed"]
    assert len(list((run.path / "evaluations").iterdir())) == 2
    for wrong in (["--attack", "noise"], ["--strength", "0.1"], ["--attack", "noise", "--strength", "x"],
                  ["--attack", "noise", "--strength", "0.1", "--video", "x.mp4"]):  # fmt: skip
        with pytest.raises(ConfigError):
            main([str(run.path), *wrong])
