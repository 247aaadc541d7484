"""PPO: proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), with or without memory.

    rho_t(theta) = pi(a_t|s_t; theta) / pi(a_t|s_t; theta_old)
    L_clip = E[ min(rho_t A_t, clip(rho_t, 1 - epsilon, 1 + epsilon) A_t) ]                                      (equation 7)
    L = L_clip - c_1 E[ (G_t - v(s_t))^2 ] + c_2 E[ H(pi(.|s_t)) ],   maximised                                  (equation 9)

Algorithm 1, its steps marked in the code:
    (1) N actors run pi_old for T rows                 (3) K epochs of minibatches: L's gradient
    (2) advantages A_1 ... A_T by GAE (Schulman et al. 2016, arXiv:1506.02438), targets G = A + v

Details as in Huang et al. 2022 ("The 37 implementation details of PPO"): half the squared error beside c_1, orthogonal initial
weights, Adam with epsilon 1e-5, advantages normalised per minibatch, the learning rate annealed to 0, the gradient's norm clipped.
Rows that are not valid are left out.  Without memory, single rows are shuffled into minibatches; with memory, whole sequences,
each unrolled from the memory it was acted with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from arcturus.actor_critic import ActorCritic
from arcturus.agents._rollout import ReturnConfig, RolloutAgent
from arcturus.api import Loss, State, TimeStep
from arcturus.config import Bounds
from arcturus.losses import clipped_surrogate, lambda_returns, masked_mean, normalised
from arcturus.replay.rollout import Minibatch, Trajectory


@dataclass(frozen=True)
class Config(ReturnConfig):
    shared: bool = True
    """Policy and value share one torso and one memory core."""
    gae_lambda: Annotated[float, Bounds(0, 1)] = 0.95
    """lambda of generalised advantage estimation (GAE); 1: returns to the end of the rollout."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 128
    """T, the rollout length: rows between updates; 0: whole episodes, if all environments begin and end them together."""
    epochs: Annotated[int, Bounds(1, 1_000)] = 4
    """K: epochs, the passes over each rollout."""
    minibatches: Annotated[int, Bounds(1, 100_000)] = 4
    """Minibatches per epoch; each makes one gradient step."""
    normalise: bool = True
    """Normalise advantages to mean 0 and standard deviation 1 over the minibatch; where little is left to learn, this amplifies noise."""
    clip: Annotated[float, Bounds(0, 1)] = 0.1
    """epsilon: the probability ratio is clipped to [1 - epsilon, 1 + epsilon]."""
    clip_value: bool = False
    """Also clip the change of the value (Huang et al. 2022, detail 9); there is no evidence that it helps."""
    value_cost: Annotated[float, Bounds(0)] = 0.5
    """c_1: weight of the value loss, which is half the squared error."""
    entropy_cost: Annotated[float, Bounds(0)] = 0.01
    """c_2."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 2.5e-4
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-5
    """Epsilon of Adam, added outside the square root."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.5
    """Clip the gradient's norm to this; 0: no clipping."""
    bootstrap_truncated: bool = True
    """Bootstrap from the value when a time limit cuts an episode; False: treat a time limit as terminal, as published."""


def loss(network: ActorCritic, batch: Minibatch, c: Config) -> Loss:
    """-L of equation 9 over a minibatch."""
    logits, v, _ = network.unroll(batch.obs, batch.first, batch.state)
    log_rho = network.actions.log_prob(logits, batch.action) - batch.log_prob
    rho = log_rho.exp()
    advantage = normalised(batch.advantage, batch.valid, correction=1) if c.normalise else batch.advantage
    policy = -masked_mean(clipped_surrogate(rho, advantage, c.clip), batch.valid)  # (7) clipped objective
    error = (batch.target - v).square()
    if c.clip_value:
        near = batch.value + (v - batch.value).clamp(-c.clip, c.clip)
        error = torch.maximum(error, (batch.target - near).square())
    value = 0.5 * masked_mean(error, batch.valid)
    entropy = masked_mean(network.actions.entropy(logits), batch.valid)
    with torch.no_grad():
        metrics = {
            "losses/policy_loss": policy.detach(),
            "losses/value_loss": value.detach(),
            "losses/entropy": entropy.detach(),
            "losses/approx_kl": masked_mean(rho - 1 - log_rho, batch.valid),
            "losses/clipfrac": masked_mean(((rho - 1).abs() > c.clip).float(), batch.valid),
        }
    return Loss(policy + c.value_cost * value - c.entropy_cost * entropy, metrics)  # (9) with value and entropy


class Agent(RolloutAgent):
    stochastic = True
    config: Config

    kept = {"log_prob": (), "value": ()}  # (1) what pi_old said; (3) is RolloutAgent's
    loss_fn = loss

    def targets(self, rows: Trajectory, ts: TimeStep, state: State) -> dict[str, Tensor]:
        """G and A, (2); with v and log pi of when it acted."""
        c, v = self.config, self.rollout.kept("value")
        discount = rows.discounts(c.gamma, bootstrap_truncated=c.bootstrap_truncated, end_on_life_loss=c.end_on_life_loss)
        v_t = self.network.next_values(v, ts, state)
        target = lambda_returns(rows.rewards(c.reward_clip), discount, v_t, rows.last, c.gae_lambda)
        return {"target": target, "advantage": target - v, "value": v, "log_prob": self.rollout.kept("log_prob")}
