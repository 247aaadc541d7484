"""The network that plays, whichever agent trained it, and the check that an exported copy plays as it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arcturus.actor_critic import ActorCritic
from arcturus.api import EnvSpec, state_leaves, state_like
from arcturus.errors import ConfigError, EnvironmentProblem
from arcturus.networks import QNetwork

CHECKED = 64  # random observations that an export is tried on
TOLERANCE = 1e-4  # largest difference, as a part of the largest number (at least 1)


class Playing(nn.Module):
    """(obs [N, *obs_shape]) -> action-values [N, A]; or logits [N, L], and value [N] if there is a value head.

    With memory (obs, first [N] bool, *its tensors [N, ...]) -> the same, then its tensors afterwards.  Where first is true, the
    tensors' contents are ignored.
    """

    def __init__(self, network: QNetwork | ActorCritic):
        super().__init__()
        self.network = network
        self.like = network.initial_state(1)
        self.inputs, self.outputs = ["obs"], ["action_values"]
        if isinstance(network, ActorCritic):
            self.outputs = ["logits"] if network.value is None else ["logits", "value"]
        self.heads = len(self.outputs)  # how many outputs are not memory
        leaves = range(len(state_leaves(self.like)))
        if leaves:
            self.inputs += ["first", *(f"state_{i}" for i in leaves)]
            self.outputs += [f"next_state_{i}" for i in leaves]

    def forward(self, obs: Tensor, first: Tensor | None = None, *leaves: Tensor) -> tuple[Tensor, ...]:
        if first is None:
            first = torch.zeros_like(obs.flatten(1)[:, 0], dtype=torch.bool)
        *heads, state = self.network.unroll(obs[None], first[None], state_like(self.like, list(leaves)))
        return (*(y[0] for y in heads[: self.heads]), *state_leaves(state))

    def random_inputs(self, spec: EnvSpec, n: int) -> tuple[Tensor, ...]:
        """Inputs to try the network on, the same ones every time."""
        rng = torch.Generator().manual_seed(0)
        obs = torch.randn(n, *spec.obs_shape, generator=rng)
        if spec.obs_dtype == torch.uint8:
            obs = torch.randint(256, (n, *spec.obs_shape), generator=rng, dtype=torch.uint8)
        leaves = state_leaves(self.like)
        if not leaves:
            return (obs,)
        first = torch.rand(n, generator=rng) < 0.5
        return (obs, first, *(torch.randn(n, *x.shape[1:], generator=rng) for x in leaves))

    def greedy(self, scores: Tensor) -> Tensor:
        """[N, *action_shape] int64: the action of the highest value [N, A], or the likeliest by logits [N, L]."""
        return self.network.actions.mode(scores) if isinstance(self.network, ActorCritic) else scores.argmax(-1)

    def worth(self, scores: Tensor, action: Tensor) -> Tensor:
        """[N] the action's value, or its log-probability."""
        if isinstance(self.network, ActorCritic):
            return self.network.actions.log_prob(scores, action)
        return scores.gather(-1, action[:, None]).squeeze(-1)


def playing(agent: Any, agent_name: str) -> Playing:
    """The playing network of an agent on the CPU; a ConfigError for agents that play in another way."""
    network = agent.network
    if not isinstance(network, (QNetwork, ActorCritic)):
        raise ConfigError(
            f"{agent_name} has no network that can be exported",
            where="RUN",
            fix="export dqn, c51, qr_dqn, pqn, a2c, ppo, reinforce or sac, or an agent of your own that has a "
            "QNetwork or ActorCritic as its network",
        )
    return Playing(network)


def check(ours: list[Tensor], theirs: list[np.ndarray | Tensor], same: Tensor, by: str) -> str:
    """ours and theirs hold the same outputs, [N, ...] each; same [N, ...]: where the actions agree.  Returns a line on how close
    they are, or raises EnvironmentProblem.  The worth of both actions should be among the outputs: ties may be broken either way."""
    differences = []
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.double(), torch.as_tensor(b).double()
        difference = float((a - b).abs().max()) if a.shape == b.shape else float("inf")
        differences.append(difference / max(1.0, float(a.abs().max())))
    worst = float(np.max(differences))  # not a number, if one of them isn't
    if not worst <= TOLERANCE:
        raise EnvironmentProblem(
            f"in {by} the network gives other outputs than in the run (largest difference {worst:.1g}); nothing was written",
            where="--to",
            fix="if it contains a layer of your own, check whether that behaves differently there",
        )
    agree = int(same.flatten(1).all(1).sum()) if same.dim() > 1 else int(same.sum())
    return f"checked by {by} on random observations: the same action on {agree} of {len(same)}, numbers within {worst:.0e}"
