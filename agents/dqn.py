"""DQN: deep Q-learning with experience replay (Mnih et al. 2013, arXiv:1312.5602; Mnih et al. 2015, Nature 518).

    L(theta) = E_{(s, a, r, s') ~ U(D)} [ ( y - Q(s, a; theta) )^2 ]                                       (2015, equation 2)

    (8) y = r + gamma max_a' Q(s', a'; theta-), or r at a terminal s'                                      (2015, algorithm 1)

The steps (1)-(10) of the algorithm are those of every value agent (agents/_value.py); (8) is DQN's own.

Switches of its own: Huber's loss (the clipped error of 2015), and Munchausen targets (Vieillard et al. 2020), in whose (8)

    y = r + alpha [tau log pi(a|s)] clipped to [-1, 0] + gamma sum_a' pi(a'|s') [Q(s', a') - tau log pi(a'|s')],  pi = softmax(Q / tau)

all Q are the target network's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from arcturus.agents._value import ValueAgent, ValueConfig, check_munchausen, q_network
from arcturus.api import EnvSpec, Loss
from arcturus.config import Bounds
from arcturus.losses import LOWEST_LOG_PI, munchausen_bonus, q_learning, soft_value, td_loss
from arcturus.networks import QNetwork
from arcturus.replay.records import Transition
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config(ValueConfig):
    huber: bool = False
    """Huber loss: clip the TD error's gradient to [-1, 1]."""
    munchausen: Annotated[float, Bounds(0, 1)] = 0.0
    """alpha of Munchausen DQN: weight of log pi in the reward, with soft targets (Vieillard et al. 2020: 0.9); 0: off."""
    temperature: Annotated[float, Bounds(1e-4, 100)] = 0.03
    """tau, the temperature of Munchausen's policy softmax(Q / tau)."""


def loss(network: QNetwork, target: QNetwork, batch: Transition, c: Config, noise: torch.Generator | None = None) -> Loss:
    """L over a minibatch, halved: its gradient is then the TD error.  Priorities [B] are TD errors.  noise: for noisy layers."""
    with torch.no_grad():
        q_t = target(batch.s_t, noise)  # [B, A]
        q_select_t = network(batch.s_t, noise) if c.double else None
    q_tm1 = network(batch.s_tm1, noise)
    if c.munchausen:
        with torch.no_grad():
            target_tm1 = target(batch.s_tm1, noise)
        td = munchausen_error(q_tm1, target_tm1, q_t, batch, c)
    else:
        td = q_learning(q_tm1, batch.a_tm1, batch.r_t, batch.discount_t, q_t, q_select_t)  # (8) y - Q(s, a)
    value = td_loss(td, batch.weight, huber=c.huber)
    return Loss(value, {"losses/q_values": q_tm1.detach().mean()}, td.detach())


def munchausen_error(q_tm1: Tensor, target_tm1: Tensor, target_t: Tensor, batch: Transition, c: Config) -> Tensor:
    """The TD error [B] of Munchausen's y.  q_tm1 [B, A]: of the online network; target_tm1, target_t [B, A]: of the target network."""
    with torch.no_grad():
        log_pi_tm1, _ = soft_value(target_tm1, c.temperature)
        _, v_t = soft_value(target_t, c.temperature)  # the sum over a'
        r_t = batch.r_t + munchausen_bonus(log_pi_tm1, batch.a_tm1, c.munchausen, c.temperature, LOWEST_LOG_PI)
        y = r_t + batch.discount_t * v_t
    return y - q_tm1.gather(-1, batch.a_tm1[:, None]).squeeze(-1)


class Agent(ValueAgent):
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        check_munchausen(config)
        super().__init__(config, spec, device, seeds, lambda: q_network(config, spec, "dqn"))
