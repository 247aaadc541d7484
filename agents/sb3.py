"""The yardstick: stable-baselines3's own DQN, A2C and PPO (Raffin et al. 2021), trained, logged, scored and filmed like ours.

The algorithm, its networks and its training loop are the library's; environments, evaluation, tags and run folders are
arcturus's.  A run keeps only the policy, as safetensors: it can be scored at any time but not resumed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from arcturus import api
from arcturus.actor_critic import Categoricals
from arcturus.api import Act, ActedStep, EnvSpec, LoopOutput, Metrics, Objective, State, TimeStep
from arcturus.config import Bounds
from arcturus.envs import parse_options
from arcturus.envs.vecenv import SB3VecEnv
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import ConfigError, nearest
from arcturus.networks import make_torso
from arcturus.seeding import Seeds

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}


@dataclass(frozen=True)
class Config:
    """Settings not listed here have the library's defaults."""

    algorithm: Literal["ppo", "a2c", "dqn"] = "ppo"
    """Which algorithm of stable-baselines3."""
    settings: str = ""
    """Constructor arguments that override the preset's, as name=value,name=value; lin_X falls linearly from X to 0."""
    torso: str = ""
    """One of our networks (nature, small, mlp, auto ...) in place of the library's own; empty: the library's."""
    zoo: bool = False
    """Start from RL Zoo's hyperparameters for Atari."""
    reward_clip: Annotated[float, Bounds(0)] = 0.0
    """Clip rewards to [-x, x] for learning; 0: no clipping."""
    end_on_life_loss: bool = False
    """Treat a lost life as the end of the return (the game continues)."""


ZOO: dict[str, dict[str, Any]] = {
    "ppo": {
        "n_steps": 128, "n_epochs": 4, "batch_size": 256, "learning_rate": "lin_2.5e-4", "clip_range": "lin_0.1",
        "vf_coef": 0.5, "ent_coef": 0.01,
    },
    "a2c": {
        "ent_coef": 0.01, "vf_coef": 0.25, "policy_kwargs": {"optimizer_class": "RMSpropTFLike", "optimizer_kwargs": {"eps": 1e-5}}
    },
    "dqn": {
        "buffer_size": 100_000, "learning_rate": 1e-4, "batch_size": 32, "learning_starts": 100_000,
        "target_update_interval": 1_000, "exploration_fraction": 0.1, "exploration_final_eps": 0.01,
    },
}  # fmt: skip
OURS = {"policy", "env", "device", "seed", "tensorboard_log", "verbose", "_init_setup_model"}  # arguments that are set here
TAGS = {
    "train/loss": "losses/loss",
    "train/policy_loss": "losses/policy_loss",
    "train/policy_gradient_loss": "losses/policy_loss",
    "train/value_loss": "losses/value_loss",
    "train/approx_kl": "losses/approx_kl",
    "train/clip_fraction": "losses/clipfrac",
    "train/explained_variance": "losses/explained_variance",
    "train/n_updates": "charts/updates",
    "train/learning_rate": "charts/learning_rate",
    "rollout/exploration_rate": "charts/epsilon",
}  # its tags -> ours


def arguments(c: Config, num_envs: int) -> dict[str, Any]:
    """The arguments of the algorithm's constructor."""
    given = parse_options(c.settings, "--agent.settings")
    known = inspect.signature(ALGORITHMS[c.algorithm]).parameters
    for name, value in given.items():
        if name not in known:
            fix = nearest(name, known, "arguments")
            raise ConfigError(f"{c.algorithm} has no argument {name!r}", where="--agent.settings", fix=fix)
        number = isinstance(known[name].default, (int, float)) and not isinstance(known[name].default, bool)
        if number and isinstance(value, str) and not value.startswith("lin_"):
            raise ConfigError(f"{name} is {value!r}, not a number", where="--agent.settings")
    if taken := OURS & given.keys():
        raise ConfigError(
            f"{', '.join(sorted(taken))} can't be set here: the run sets it", where="--agent.settings", fix="leave it out"
        )
    out = (dict(ZOO[c.algorithm]) if c.zoo else {}) | given
    for name, value in out.items():
        if isinstance(value, str) and value.startswith("lin_"):
            out[name] = _linear(name, value[4:])
    if c.algorithm == "dqn" and c.zoo:  # one update for every 4 agent steps, however many environments step at once
        out = {"train_freq": max(4 // num_envs, 1), "gradient_steps": max(num_envs // 4, 1)} | out
    kwargs = out.get("policy_kwargs", {})
    if isinstance(kwargs, dict) and kwargs.get("optimizer_class") == "RMSpropTFLike":
        from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

        out["policy_kwargs"] = kwargs | {"optimizer_class": RMSpropTFLike}
    return out


def _linear(name: str, number: str) -> Callable[[float], float]:
    try:
        initial = float(number)
    except ValueError:
        raise ConfigError(f"{name}=lin_{number} is not a schedule", where="--agent.settings", fix="write lin_2.5e-4") from None
    return lambda remaining: remaining * initial


class OurTorso(BaseFeaturesExtractor):
    """Our torso as the library's features extractor, so that both learn with the same network."""

    def __init__(self, observation_space: gym.Space, spec: EnvSpec, torso: str):
        made: Any = make_torso(spec, torso)
        super().__init__(observation_space, made.width)
        self.torso = made

    def forward(self, obs: Tensor) -> Tensor:
        return self.torso(obs)


def with_torso(given: dict[str, Any], spec: EnvSpec, torso: str) -> dict[str, Any]:
    """Constructor arguments with our torso as the whole network before the heads."""
    theirs = given.get("policy_kwargs", {})
    if not isinstance(theirs, dict):
        return given  # the library's own complaint is clear
    if taken := sorted(name for name in theirs if name == "net_arch" or name.startswith("features_extractor_")):
        problem = f"{', '.join(taken)} and torso both say what the network is"
        raise ConfigError(problem, where="--agent.settings", fix="leave one of them out")
    ours = {"features_extractor_class": OurTorso, "features_extractor_kwargs": {"spec": spec, "torso": torso}, "net_arch": []}
    return given | {"policy_kwargs": theirs | ours}


class Agent(api.Agent):
    resumable, own_loop = False, True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.seeds = config, spec, seeds
        self.stochastic = config.algorithm != "dqn"
        if config.algorithm == "dqn":
            spec.discrete_actions("stable-baselines3's dqn")
        self.env = SB3VecEnv(spec, config.reward_clip, config.end_on_life_loss and spec.has_lives)
        given = arguments(config, spec.num_envs)
        self.buffer_size = int(given.pop("buffer_size", 1_000_000)) if config.algorithm == "dqn" else 0
        kwargs = given | ({"buffer_size": 1} if self.buffer_size else {})  # none is needed to play
        if config.torso:
            kwargs = with_torso(kwargs, spec, config.torso)
        image = spec.obs_dtype == torch.uint8
        self.seed = int(seeds.branch("init").environments(1)[0])
        with torch.random.fork_rng(devices=[]):
            try:
                self.model = ALGORITHMS[config.algorithm](
                    "CnnPolicy" if image else "MlpPolicy", self.env, device=str(device), seed=self.seed, **kwargs
                )
            except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, MemoryError) as e:
                raise ConfigError(
                    f"stable-baselines3's {config.algorithm} refuses its settings: {e}", where="--agent.settings"
                ) from e
        self.network: nn.Module = self.model.policy
        self.objective = Objective(self.model.gamma, config.reward_clip, self.env.end_on_life_loss)
        self.actions = Categoricals(spec.action_space, spec.env_id)

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A]; or value [N], log_prob [N] and logits [N, L]."""
        obs = ts.obs.reshape(len(ts.obs), *self.env.observation_space.shape)  # type: ignore[misc]
        if not self.stochastic:
            q = self.model.q_net(obs)
            return Act(q.argmax(-1), (), {"q_values": q})
        self.network.set_training_mode(False)  # type: ignore[operator]
        logits = _logits(self.model.policy.get_distribution(obs))
        action = self.actions.sample(logits, generator) if explore else self.actions.mode(logits)
        value = self.model.policy.predict_values(obs).squeeze(-1)
        return Act(action, (), {"value": value, "log_prob": self.actions.log_prob(logits, action), "logits": logits})

    def fit(self, envs: DeviceEnvs, steps: int, read: Callable[[LoopOutput], bool]) -> None:
        """The library's own loop, for `steps` agent steps; read is called with every row, and returns whether to stop."""
        self.env.bind(envs, self.seeds.branch("env"))
        if self.buffer_size:
            m = self.model
            m.buffer_size = self.buffer_size
            m.replay_buffer = m.replay_buffer_class(
                m.buffer_size,
                m.observation_space,
                m.action_space,
                device=m.device,
                n_envs=m.n_envs,
                optimize_memory_usage=m.optimize_memory_usage,
                **m.replay_buffer_kwargs,
            )
        self.model.set_random_seed(self.seed)  # seeds the global generators, the only ones it uses
        self.model.learn(steps, callback=Reader(self.env, read), log_interval=10**9)

    def state_dict(self) -> dict[str, Any]:
        return {"policy": self.model.policy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.policy.load_state_dict(state["policy"])


def _logits(distribution: Any) -> Tensor:
    """[N, L] as Categoricals reads them: the choices of each component side by side, one of each bit."""
    inner = distribution.distribution
    if isinstance(distribution, MultiCategoricalDistribution):
        return torch.cat([part.logits for part in inner], -1)
    return inner.logits


class Reader(BaseCallback):
    """Passes every row to arcturus's trainer, with the metrics of the newest update."""

    def __init__(self, env: SB3VecEnv, read: Callable[[LoopOutput], bool]):
        super().__init__()
        self.env, self.read, self.told = env, read, -1.0

    def _on_step(self) -> bool:
        metrics: Metrics = {}
        values = self.logger.name_to_value
        if (updates := float(values.get("train/n_updates", -1))) != self.told:
            self.told = updates
            metrics = {ours: torch.tensor(float(values[theirs])) for theirs, ours in TAGS.items() if theirs in values}
            if "train/entropy_loss" in values:
                metrics["losses/entropy"] = torch.tensor(-float(values["train/entropy_loss"]))
        row = LoopOutput(
            self.num_timesteps, ActedStep(self.env.row, (), torch.as_tensor(self.locals["actions"]), {}), metrics, ()
        )
        return not self.read(row)
