"""stable-baselines3 as the yardstick: its conventions over our environments, its algorithms behind our commands."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

import arcturus
from arcturus.agents import sb3
from arcturus.api import EnvSpec
from arcturus.envs.vecenv import SB3VecEnv
from arcturus.errors import ConfigError
from arcturus.scoring.instruments import as_timestep
from arcturus.seeding import Seeds


def bound(envs, **options):
    env = SB3VecEnv(envs.spec, **options)
    env.bind(envs, Seeds(0))
    return env


def test_a_finished_environment_begins_again_in_the_same_step(counter):
    """The counter's even environments end by termination, its odd ones by truncation; episodes last 2 to 7 steps."""
    envs = counter(4)
    env = bound(envs)
    obs, seen = env.reset(), {"terminated": 0, "truncated": 0}
    scores, episode_rewards = np.zeros(4), []
    for _ in range(60):
        before = obs
        env.step_async(np.zeros(4, np.int64))
        obs, reward, done, infos = env.step_wait()
        scores += reward
        for i in range(4):
            if not done[i]:
                assert infos[i] == {}
                assert obs[i, -2, 0, 0] == before[i, -1, 0, 0]  # the stack moves on by one frame
                continue
            last = infos[i]["terminal_observation"]
            assert last[-2, 0, 0] == before[i, -1, 0, 0]
            assert (obs[i, :-1] == 0).all()  # a new episode: no older frames
            assert (obs[i, -1] != last[-1]).any()
            assert infos[i]["TimeLimit.truncated"] == (i % 2 == 1)
            assert infos[i]["episode"]["r"] == scores[i]
            seen["truncated" if i % 2 else "terminated"] += 1
            episode_rewards.append(scores[i])
            scores[i] = 0
    assert min(seen.values()) > 5
    assert len(set(episode_rewards)) > 2


def test_its_wrappers_clipping_and_lives_are_ours(counter):
    envs = counter(4)
    env = bound(envs, reward_clip=1.0, end_on_life_loss=True)
    env.reset()
    lost = 0
    for _ in range(30):
        obs, reward, done, infos = env.step(np.zeros(4, np.int64))
        assert np.abs(reward).max() <= 1
        for i in np.flatnonzero(envs.host.life_lost):
            lost += 1
            assert done[i]
            assert (infos[i]["terminal_observation"] == obs[i]).all()  # the game goes on
            assert not infos[i]["TimeLimit.truncated"]
    assert lost


def test_the_library_accepts_it_as_any_other():
    with arcturus.make("CartPole-v1", 3) as envs:
        env = VecMonitor(bound(envs))
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(200)
        assert model.num_timesteps >= 200
        assert env.get_attr("render_mode") == [None] * 3


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn"])
def test_its_algorithms_train_log_and_score_behind_our_commands(algorithm, tmp_path):
    settings = {"ppo": "n_steps=64,batch_size=64", "a2c": "n_steps=8", "dqn": "learning_starts=100,buffer_size=500"}[algorithm]
    config = {"algorithm": algorithm, "settings": settings}
    run = arcturus.train("sb3", "CartPole-v1", steps=1200, run_dir=tmp_path / "r", agent_config=config, quiet=True, device="cpu",
                         eval_every=600, eval_episodes=2, log_every=200, heldout_states=16)  # fmt: skip
    rows = arcturus.read_metrics(run)
    tags = {k for row in rows for k in row}
    assert {"charts/episodic_return", "charts/SPS", "eval/episodic_return_mean", "charts/updates"} <= tags
    assert {"losses/value_loss", "losses/policy_loss", "losses/entropy"} <= tags if algorithm != "dqn" else "losses/loss" in tags
    assert (run.status, run.about["steps"]) == ("finished", 1200)
    actor = arcturus.load(run)
    assert arcturus.evaluate(actor, "CartPole-v1", episodes=2).mean > 0
    again = arcturus.load(run, "best")
    assert actor.stochastic == (algorithm != "dqn") == again.stochastic
    with pytest.raises(ConfigError, match="can't be resumed: only its policy is saved"):
        arcturus.resume(run)


def test_the_policy_that_is_scored_is_the_one_it_trained(tmp_path):
    seen = {}
    fit = sb3.Agent.fit

    def watched(self, envs, steps, read):
        fit(self, envs, steps, read)
        obs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        seen["model"] = self.model.predict(obs.numpy(), deterministic=True)[0]

    sb3.Agent.fit = watched
    try:
        run = arcturus.train("sb3", "CartPole-v1", steps=2000, run_dir=tmp_path / "r", quiet=True, device="cpu", eval_every=0,
                             heldout_states=0, agent_config={"settings": "n_steps=64,learning_rate=lin_1e-2"})  # fmt: skip
    finally:
        sb3.Agent.fit = fit
    obs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    act = arcturus.load(run).act(as_timestep(obs), (), explore=False)
    assert 0 < act.action.sum() < 50
    assert act.action.tolist() == seen["model"].tolist()


@pytest.mark.parametrize("space", [gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(3)])
def test_policies_over_several_actions_read_the_same_either_way(space):
    agent = sb3.Agent(
        sb3.Config(settings="n_steps=8,batch_size=16"), EnvSpec("x", 2, (4,), torch.float32, space), "cpu", Seeds(0)
    )
    ts = as_timestep(torch.randn(6, 4))
    act = agent.act(ts, (), explore=True, generator=torch.Generator().manual_seed(0))
    _, log_prob, _ = agent.model.policy.evaluate_actions(ts.obs, act.action.float())
    assert torch.allclose(log_prob, act.extras["log_prob"], atol=1e-5)


@pytest.mark.parametrize("stack", [1, 4])
def test_pictures_are_read_as_pictures_whatever_the_stack(stack, counter, monkeypatch):
    """Frames without a stack have no axis of channels; they are scaled all the same."""
    from stable_baselines3.common.torch_layers import NatureCNN

    monkeypatch.setattr(NatureCNN, "__init__", small_cnn)
    agent = sb3.Agent(sb3.Config(settings="n_steps=8,batch_size=16"), counter(2, stack).spec, "cpu", Seeds(0))
    assert agent.model.policy_class.__name__ == "ActorCriticCnnPolicy"
    seen = []
    agent.model.policy.features_extractor.cnn.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    ts = counter(2, stack).restart(np.arange(2))
    agent.act(ts._replace(obs=torch.full_like(ts.obs, 255)), (), explore=False)
    assert seen[0].shape == (2, stack, 9, 9)
    assert seen[0].max() == 1


def small_cnn(self, observation_space, features_dim=8, normalized_image=False):
    torch.nn.Module.__init__(self)
    self._observation_space, self._features_dim = observation_space, 8
    self.cnn = torch.nn.Flatten()
    self.linear = torch.nn.Linear(int(np.prod(observation_space.shape)), 8)


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn"])
def test_its_network_is_ours_if_asked_for_and_comes_back_with_the_run(algorithm, tmp_path):
    settings = {"ppo": "n_steps=64,batch_size=64", "a2c": "n_steps=8", "dqn": "learning_starts=100,buffer_size=500"}[algorithm]
    config = {"algorithm": algorithm, "settings": settings, "torso": "mlp"}
    run = arcturus.train("sb3", "CartPole-v1", steps=300, run_dir=tmp_path / "r", agent_config=config, quiet=True, device="cpu")
    network = arcturus.load(run).agent.network
    shapes = {tuple(p.shape) for p in network.parameters()}
    assert {(128, 4), (128, 128), (2, 128)} <= shapes
    assert not {(64, 4), (64, 64)} & shapes  # the library's own


def test_settings_it_does_not_know_are_one_clear_error(tmp_path):
    for settings, told in (
        ("n_stepz=3", "n_stepz"),
        ("tensorboard_log=/x", "can't be set here"),
        ("gamma=foo", "not a number"),
        ("learning_rate=lin_fast", "not a schedule"),
        ("policy_kwargs=3", "refuses its settings"),
    ):
        with pytest.raises(ConfigError, match=told):
            arcturus.train(
                "sb3", "CartPole-v1", steps=100, run_dir=tmp_path / "r", agent_config={"settings": settings}, quiet=True
            )
    with pytest.raises(ConfigError, match="refuses its settings"):
        sb3.Agent(
            sb3.Config(torso="mlp", settings="policy_kwargs=3"),
            EnvSpec("x", 2, (4,), torch.float32, gym.spaces.Discrete(2)),
            "cpu",
            Seeds(0),
        )
    config = sb3.Config(torso="mlp", settings="policy_kwargs={net_arch: [32]}")
    with pytest.raises(ConfigError, match="net_arch and torso both say"):
        sb3.Agent(config, EnvSpec("x", 2, (4,), torch.float32, gym.spaces.Discrete(2)), "cpu", Seeds(0))
    with pytest.raises(ConfigError, match="unknown torso"):
        sb3.Agent(sb3.Config(torso="smal"), EnvSpec("x", 2, (4,), torch.float32, gym.spaces.Discrete(2)), "cpu", Seeds(0))
    spec = EnvSpec("x", 2, (4,), torch.float32, gym.spaces.MultiBinary(2))
    with pytest.raises(ConfigError, match="one discrete action"):
        sb3.Agent(sb3.Config(algorithm="dqn"), spec, "cpu", Seeds(0))
