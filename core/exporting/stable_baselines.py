"""An agent as stable-baselines3's DQN, A2C or PPO.

The torsos `nature` (its NatureCNN) and `mlp` (its MlpExtractor) are layers of its own, so that such a file loads where arcturus
isn't installed.  The others are wrapped in TorsoExtractor, which the file names: loading it imports arcturus.  Any
stable-baselines3 file can run code when it is loaded, so whoever receives one must trust its maker.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from arcturus.actor_critic import ActorCritic
from arcturus.api import EnvSpec
from arcturus.errors import ConfigError
from arcturus.exporting.playing import CHECKED, Playing, check, playing
from arcturus.memory import NoMemory
from arcturus.networks import QNetwork, Torso, TorsoOptions, make_torso

REPLAY = 1_000  # transitions a loaded DQN has room for: it makes its whole replay on loading; DQN.load(FILE, buffer_size=...)

# what continued learning would use: its argument -> our Config's field
SETTINGS: dict[type[BaseAlgorithm], dict[str, str]] = {
    DQN: {"gamma": "gamma", "learning_rate": "learning_rate", "batch_size": "batch_size", "n_steps": "n_step"},
    A2C: {"gamma": "gamma", "learning_rate": "learning_rate", "n_steps": "horizon", "gae_lambda": "gae_lambda",
          "ent_coef": "entropy_cost", "vf_coef": "value_cost"},
    PPO: {"gamma": "gamma", "learning_rate": "learning_rate", "n_steps": "horizon", "gae_lambda": "gae_lambda",
          "ent_coef": "entropy_cost", "vf_coef": "value_cost", "n_epochs": "epochs", "clip_range": "clip"},
}  # fmt: skip


class TorsoExtractor(BaseFeaturesExtractor):
    """A torso of ours as a features extractor.  It wants images unscaled (normalize_images=False)."""

    def __init__(
        self, observation_space: gym.Space, spec: EnvSpec, torso: str, average_pool: bool = False, options: Sequence[Any] = ()
    ):
        """average_pool: of files that were exported before there were options."""
        made = make_torso(spec, torso, TorsoOptions(*options) if options else TorsoOptions(average_pool=average_pool))
        super().__init__(observation_space, made.width)  # type: ignore[arg-type]
        self.torso, self.obs_dtype = made, spec.obs_dtype

    def forward(self, obs: Tensor) -> Tensor:
        return self.torso(obs.to(self.obs_dtype))  # stable-baselines3 has made floats of the bytes


def is_native(torso: nn.Module, spec: EnvSpec) -> bool:
    """Whether stable-baselines3 has the same layers, and scales such observations as we do."""
    if not isinstance(torso, Torso):
        return False
    if torso.options != TorsoOptions():
        return False
    scaled = spec.obs_dtype == torch.uint8 and len(spec.obs_shape) == 3
    return (torso.name == "nature" and scaled) or (torso.name == "mlp" and (scaled or spec.obs_dtype == torch.float32))


def observation_space(spec: EnvSpec, original: gym.Space | None = None) -> spaces.Box:
    """The environment's own space where the agent sees what that describes; else one of the spec's shape and dtype."""
    if spec.obs_dtype == torch.uint8:
        return spaces.Box(0, 255, spec.obs_shape, np.uint8)
    if isinstance(original, spaces.Box) and original.shape == spec.obs_shape and original.dtype == np.float32:
        return spaces.Box(original.low, original.high, dtype=np.float32)
    return spaces.Box(-np.inf, np.inf, spec.obs_shape, np.float32)


def action_space(spec: EnvSpec) -> gym.Space:
    """A new space, counted from 0: the run's space may carry a random state."""
    space = spec.action_space
    if len(space.shape or ()) > 1:
        raise ConfigError(
            f"{spec.env_id} has actions of shape {space.shape}; stable-baselines3 supports only vectors of actions", where="--to"
        )
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec)
    return spaces.MultiBinary(math.prod(space.shape or ()))


def to_stable_baselines(agent: Any, agent_name: str, original: gym.Space | None = None) -> tuple[BaseAlgorithm, list[str]]:
    """The model, and notes for the user.  original: the environment's own observation space.

    A ConfigError for agents with memory, without a value function, or of another kind.
    """
    player = playing(agent, agent_name)
    network, spec = player.network, agent.spec
    if not isinstance(network.core, NoMemory):
        raise ConfigError(
            f"this {agent_name} has memory ({agent.config.core}); stable-baselines3 has no recurrent policies",
            where="--to",
            fix="use --to onnx: its inputs and outputs hold the memory",
        )
    if isinstance(network, ActorCritic) and network.value is None:
        raise ConfigError(
            f"this {agent_name} has no learned value function, which stable-baselines3's policies need",
            where="--to",
            fix="use --to onnx" + ("; or train it with --agent.baseline learned" if agent_name == "reinforce" else ""),
        )
    if isinstance(network, QNetwork) and (getattr(network.torso, "layer_norm", False) or not isinstance(network.head, nn.Linear)):
        raise ConfigError(
            f"this {agent_name}'s network has parts (dueling, noisy, distributional or layer-normalised) that stable-baselines3's "
            "DQN doesn't have",
            where="--to",
            fix="use --to onnx",
        )
    kind: type[BaseAlgorithm] = DQN if isinstance(network, QNetwork) else PPO if hasattr(agent.config, "clip") else A2C
    model = _empty(kind, agent, observation_space(spec, original))
    if isinstance(network, QNetwork):
        _fill_q(model.policy.q_net, network, is_native(network.torso, spec))
        _fill_q(model.policy.q_net_target, getattr(agent, "target", network), is_native(network.torso, spec))
    else:
        _fill_policy(model.policy, network, is_native(network.torso, spec))
    return model, [_checked(model, player, spec), *_notes(network, spec)]


def _empty(kind: type[BaseAlgorithm], agent: Any, space: spaces.Box) -> BaseAlgorithm:
    """A model with the right layers, made without an environment: it needs only the spaces and the number of environments."""
    c = agent.config
    more = {name: getattr(c, field) for name, field in SETTINGS[kind].items() if hasattr(c, field)}
    more["max_grad_norm"] = getattr(c, "max_grad_norm", 0) or math.inf
    if kind is DQN:
        more["buffer_size"] = REPLAY
    elif kind is A2C:
        more["use_rms_prop"] = getattr(c, "optimizer", "adam") == "rmsprop"
    else:
        more["batch_size"] = max(2, c.horizon * agent.spec.num_envs // c.minibatches)
    policy, layers = _layers(agent)
    model = kind(policy, env=None, policy_kwargs=layers, device="cpu", _init_setup_model=False, **more)  # type: ignore[call-arg]
    model.observation_space, model.action_space, model.n_envs = space, action_space(agent.spec), 1
    model._setup_model()
    if isinstance(model, DQN):
        model.replay_buffer_class = None  # the one just chosen, which loading would mistake for the user's choice
    return model


def _layers(agent: Any) -> tuple[str, dict[str, Any]]:
    """The policy's name and arguments."""
    network, spec, c = agent.network, agent.spec, agent.config
    torso, actor_critic = network.torso, isinstance(network, ActorCritic)
    shared = {"share_features_extractor": network.value_torso is None} if actor_critic else {}
    if not is_native(torso, spec):
        name = torso.name if isinstance(torso, Torso) else c.torso
        options = list(torso.options) if isinstance(torso, Torso) else []
        inner = {"spec": spec, "torso": name, "options": options}
        outer = {"features_extractor_class": TorsoExtractor, "features_extractor_kwargs": inner, "normalize_images": False}
        return "MlpPolicy", {"net_arch": [], **outer, **shared}
    if torso.name == "nature":
        return "CnnPolicy", {"net_arch": [], **shared}
    widths = [layer.out_features for layer in torso.layers if isinstance(layer, nn.Linear)]
    return "MlpPolicy", {"net_arch": {"pi": widths, "vf": widths} if actor_critic else widths, "activation_fn": nn.ReLU}


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Layers of the same kind in the same order, under other names."""
    target.load_state_dict(dict(zip(target.state_dict(), source.state_dict().values(), strict=True)))


def _fill_q(target: Any, network: QNetwork, native: bool) -> None:
    if native and network.torso.name == "mlp":
        _copy(nn.Sequential(network.torso, network.head), target.q_net)
    else:
        _copy(network.torso, target.features_extractor)
        _copy(network.head, target.q_net)


def _fill_policy(target: Any, network: ActorCritic, native: bool) -> None:
    value_torso = network.torso if network.value_torso is None else network.value_torso
    if native and network.torso.name == "mlp":
        places = target.mlp_extractor.policy_net, target.mlp_extractor.value_net
    else:
        places = target.pi_features_extractor, target.vf_features_extractor
    _copy(network.torso, places[0])
    _copy(value_torso, places[1])
    _copy(network.policy, target.action_net)
    assert network.value is not None
    _copy(network.value, target.value_net)


@torch.no_grad()
def _checked(model: BaseAlgorithm, player: Playing, spec: EnvSpec) -> str:
    """Checks the model against our network, on random observations."""
    (obs,) = player.random_inputs(spec, CHECKED)
    scores, *rest = player(obs)
    predicted, _ = model.predict(obs.numpy(), deterministic=True)
    best, chosen = player.greedy(scores), torch.as_tensor(predicted).long()
    worth = player.worth(scores, chosen)
    seen = model.policy.obs_to_tensor(obs.numpy())[0]
    if isinstance(model, DQN):
        ours, theirs = [scores], [model.q_net(seen)]
    else:
        values, log_prob, _ = model.policy.evaluate_actions(seen, torch.as_tensor(predicted))  # type: ignore[operator]
        ours, theirs = [worth, *rest], [log_prob, values.squeeze(-1)]
    return check([player.worth(scores, best), *ours], [worth, *theirs], best == chosen, "stable-baselines3")


def _notes(network: QNetwork | ActorCritic, spec: EnvSpec) -> list[str]:
    name = getattr(network.torso, "name", type(network.torso).__name__)
    if not is_native(network.torso, spec):
        return [f"loading it needs arcturus: stable-baselines3 has no {name} torso of its own for such observations"]
    notes = ["loads without arcturus: every layer is stable-baselines3's own"]
    if isinstance(network, ActorCritic) and name == "mlp" and network.value_torso is None:
        notes.append("the torso shared by policy and value is stored twice: further training would train the two copies separately")
    return notes


def to_bytes(model: BaseAlgorithm) -> bytes:
    """What model.save() writes."""
    out = io.BytesIO()
    model.save(out)
    return out.getvalue()
