"""How frail a trained agent is: its score when what it sees is disturbed by at most `strength`, of a picture from 0 to 1.

noise: every number of the observation goes up or down by strength, by a fair coin.
fgsm: every number moves in the direction that makes the agent's own best action look worse (the fast gradient sign method against
policies: Huang et al. 2017, arXiv:1702.02284, sections 3 and 4, the norm l_inf, with the network known):

    x + strength * sign(grad_x J(x, a*)),   J = -log pi(a*|x),   a* = argmax_a pi(a|x)

with softmax(Q) for pi if the agent has action-values.  For a single choice the log-odds against a* are differentiated instead: their
gradient has the same sign, and is not lost in rounding where pi(a*|x) is nearly 1.  The gradient is to be compared with noise of the
same strength.  All frames of a stack are disturbed again at every step, as floats (values between two bytes, which no screen could
show).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from arcturus.api import Act, Actor, EnvSpec, State, TimeStep
from arcturus.errors import ConfigError, nearest
from arcturus.scoring.explain import as_float, check_explanation
from arcturus.scoring.instruments import as_timestep

ATTACKS = ("noise", "fgsm")
INSTEAD = "attack an agent that has a network and sees pictures: dqn, c51, a2c, ppo ..."


class Attacked:
    """An Actor that sees disturbed observations.  It has its own random numbers, so every strength is scored on the same episodes."""

    def __init__(self, actor: Any, attack: str, strength: float, seed: int = 0):
        self.actor, self.attack, self.strength = actor, attack, strength
        self.stochastic, self.network, self.objective, self.spec = actor.stochastic, actor.network, actor.objective, actor.spec
        self.initial_state = actor.initial_state
        self.config = actor.config
        self.coins = torch.Generator().manual_seed(seed)

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        obs = as_float(ts.obs)
        if self.attack == "noise":
            coin = torch.randint(2, obs.shape, generator=self.coins, dtype=torch.int8).to(obs.device)
            direction = 2 * coin - 1
        else:
            direction = worse(self.network, ts, state).sign()
        disturbed = (obs + self.strength * direction).clamp(0, 1)
        return self.actor.act(ts._replace(obs=disturbed), state, explore=explore, generator=generator)


def worse(network: Any, ts: TimeStep, state: State) -> Tensor:
    """The gradient of J at obs [N, *obs_shape], as float32 pictures from 0 to 1."""
    with torch.enable_grad():
        x = as_float(ts.obs).requires_grad_()
        outputs = network.unroll(x[None], ts.first[None], state)[0][0]  # logits or action-values, [N, L]
        actions = getattr(network, "actions", None)
        if actions is not None and (actions.binary or len(actions.choices) > 1):
            loss = -actions.log_prob(outputs, actions.mode(outputs))
        else:
            best = torch.zeros_like(outputs, dtype=torch.bool).scatter_(-1, outputs.argmax(-1, keepdim=True), True)
            loss = outputs.masked_fill(best, -torch.inf).logsumexp(-1) - outputs[best]
        return torch.autograd.grad(loss.sum(), x)[0]


def check_attack(attack: str, strengths: list[float], actor: Actor, spec: EnvSpec, device: torch.device | str = "cpu") -> None:
    """ConfigError if there is no such attack on this actor in this environment."""
    if attack not in ATTACKS:
        raise ConfigError(f"unknown attack {attack!r}", where="--attack", fix=nearest(attack, ATTACKS, "attacks"))
    if any(not 0 <= x <= 1 for x in strengths):
        raise ConfigError("a strength must be from 0 to 1, where 1 is the range from black to white", where="--strength", fix="try 0.01")
    try:
        check_explanation("saliency", actor, spec, device)  # needs as much of a network
        picture = torch.zeros(1, *spec.obs_shape, dtype=torch.uint8, device=device)
        Attacked(actor, attack, 0.1).act(as_timestep(picture), actor.initial_state(1), explore=False)
    except ConfigError as e:
        raise ConfigError(e.what, where="--attack", fix=INSTEAD) from e
    except (AttributeError, ValueError, RuntimeError, TypeError) as e:
        raise ConfigError(f"this attack doesn't work on this agent: {e}", where="--attack", fix=INSTEAD) from e
