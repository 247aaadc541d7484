"""IQN: implicit quantile networks (Dabney et al. 2018, arXiv:1806.06923).

The network is also a function of a probability tau, and gives the return's tau-quantile Z_tau(s, a):

    (1) phi_j(tau) = ReLU( sum_{i=0}^{n-1} cos(pi i tau) w_ij + b_j ),  n = 64                                       (equation 4)
    (2) Z_tau(s, a) = f( psi(s) * phi(tau) )_a,  psi the torso, * element by element
    (3) Q(s, a) = 1/K sum_k Z_tau_k(s, a),  tau_k ~ U(0, 1)                                                          (equation 2)
    (4) a* = argmax_a Q(s', a), of the target network; with `double` of the online one
    (5) delta_ij = r + gamma Z_tau'_j(s', a*; theta-) - Z_tau_i(s, a; theta),  tau_i, tau'_j ~ U(0, 1)
    (6) L(theta) = sum_{i=1}^{N} 1/N' sum_{j=1}^{N'} rho_tau_i(delta_ij),  rho the quantile Huber loss               (equation 3)

When it plays without exploring, tau_k in (3) are the K midpoints of equal parts of [0, 1] instead, so that play is deterministic.

Munchausen-IQN (Vieillard et al. 2020, arXiv:2007.14430) is a switch: to r is added alpha [tau log pi(a|s)] clipped to [-1, 0], and in (5)
Z_tau'(s', a*) is sum_a' pi(a'|s') [Z_tau'(s', a') - tau log pi(a'|s')], where pi = softmax(Q / tau) of the target network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from arcturus.agents._value import ValueAgent, ValueConfig, check_munchausen, torso_options
from arcturus.api import EnvSpec, Loss, State
from arcturus.config import Bounds
from arcturus.losses import LOWEST_LOG_PI, munchausen_bonus, soft_value, weighted_mean
from arcturus.networks import make_torso
from arcturus.replay.records import Transition
from arcturus.return_distributions import midpoints, quantile_huber
from arcturus.seeding import Seeds
from arcturus.value_heads import ValueHead


@dataclass(frozen=True)
class Config(ValueConfig):
    samples: Annotated[int, Bounds(1, 1000)] = 64
    """N: quantile fractions sampled for each prediction."""
    target_samples: Annotated[int, Bounds(1, 1000)] = 64
    """N': quantile fractions sampled for each target."""
    policy_samples: Annotated[int, Bounds(1, 1000)] = 32
    """K: quantile fractions sampled to estimate an action-value."""
    cosines: Annotated[int, Bounds(1, 1000)] = 64
    """n: number of cosines that embed a quantile fraction."""
    kappa: Annotated[float, Bounds(0, 1e6)] = 1.0
    """kappa, the Huber threshold: the loss is squared for errors up to it; 0: plain quantile loss."""
    munchausen: Annotated[float, Bounds(0, 1)] = 0.0
    """alpha of Munchausen IQN: weight of log pi in the reward, with soft targets (Vieillard et al. 2020: 0.9); 0: off."""
    temperature: Annotated[float, Bounds(1e-4, 100)] = 0.03
    """tau, the temperature of Munchausen's policy softmax(Q / tau)."""


class Network(nn.Module):
    """obs [B, *obs_shape], generator or None -> action-values [B, A]."""

    i: Tensor

    def __init__(self, spec: EnvSpec, actions: int, config: Config):
        super().__init__()
        self.policy_samples = config.policy_samples
        self.torso = make_torso(spec, config.torso, torso_options(config), trunk=True)  # psi
        width: int = self.torso.width  # type: ignore[assignment]
        self.register_buffer("i", torch.arange(config.cosines) * torch.pi, persistent=False)
        self.phi = nn.Sequential(nn.Linear(config.cosines, width), nn.ReLU())
        hidden = getattr(self.torso, "hidden", 0)
        self.head = ValueHead(width, actions, hidden=hidden, dueling=config.dueling, noisy=config.noisy)  # f

    def returns(self, obs: Tensor, tau: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Z [B, N, A] of probabilities tau [B, N]."""
        phi = self.phi(torch.cos(tau[..., None] * self.i))  # (1) embed tau
        return self.head(self.torso(obs)[:, None] * phi, noise).squeeze(-1)  # (2) returns at tau

    def probabilities(self, n: int, batch: int, generator: torch.Generator | None) -> Tensor:
        """tau [batch, n]."""
        if generator is None:
            return midpoints(n, self.i.device).expand(batch, n)
        return torch.rand(batch, n, device=self.i.device, generator=generator)

    def forward(self, obs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        tau = self.probabilities(self.policy_samples, len(obs), generator)
        return self.returns(obs, tau, generator).mean(1)  # (3) mean returns

    def initial_state(self, n: int) -> State:
        return ()

    def score(self, obs: Tensor, first: Tensor, state: State, action: Tensor) -> Tensor:
        """[N] the value of an action [N]: what --explain explains."""
        return self(obs).gather(-1, action[:, None]).squeeze(-1)


def loss(network: Network, target: Network, batch: Transition, c: Config, noise: torch.Generator) -> Loss:
    """L over a minibatch; priorities [B] are the losses.  noise: where probabilities tau and noisy layers are drawn from."""
    B = len(batch.a_tm1)
    row = torch.arange(B, device=batch.a_tm1.device)
    with torch.no_grad():
        z_t = target.returns(batch.s_t, target.probabilities(c.target_samples, B, noise), noise)  # [B, N', A]
        r_t = batch.r_t
        if c.munchausen:
            log_pi_t, _ = soft_value(target(batch.s_t, noise), c.temperature)
            log_pi_tm1, _ = soft_value(target(batch.s_tm1, noise), c.temperature)
            r_t = r_t + munchausen_bonus(log_pi_tm1, batch.a_tm1, c.munchausen, c.temperature, LOWEST_LOG_PI)
            log_pi_t = log_pi_t[:, None]
            later = (log_pi_t.exp() * (z_t - c.temperature * log_pi_t)).sum(-1)  # [B, N']
        else:
            best = (network if c.double else target)(batch.s_t, noise).argmax(-1)  # (4) the best action a*
            later = z_t[row, :, best]
        goal = r_t[:, None] + batch.discount_t[:, None] * later
    tau = network.probabilities(c.samples, B, noise)
    z_tm1 = network.returns(batch.s_tm1, tau, noise)[row, :, batch.a_tm1]  # [B, N]
    each = quantile_huber(z_tm1, goal, tau, c.kappa)  # (5) errors of all pairs, (6) their quantile Huber loss
    return Loss(weighted_mean(each, batch.weight), {"losses/q_values": z_tm1.detach().mean()}, each.detach())


class Agent(ValueAgent):
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        check_munchausen(config)
        actions = spec.discrete_actions("iqn")
        super().__init__(config, spec, device, seeds, lambda: Network(spec, actions, config))

    def draws(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        return (self.network.probabilities(self.config.policy_samples, n, generator),)

    def predict(self, obs: Tensor, *drawn: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return self.network.returns(obs, *drawn, noise)

    def q_values(self, predicted: Tensor) -> Tensor:
        return predicted.mean(1)  # (3) mean returns

    def film_extras(self, predicted: Tensor) -> dict[str, Tensor]:
        z = predicted.transpose(1, 2)
        return {"returns": z, "probabilities": torch.full_like(z, 1 / self.config.policy_samples)}
