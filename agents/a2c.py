"""A2C: advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783, algorithm S3, its actors in step), with or without memory.

    R_t = r_{t+1} + gamma r_{t+2} + ... + gamma^k v(s_{t+k})                        the n-step return to the end of the rollout
    d theta = grad log pi(a_t|s_t) (R_t - v(s_t)) + beta grad H(pi(.|s_t)) - c_v grad (R_t - v(s_t))^2 / 2         (section 4)

with c_v as in OpenAI Baselines (the paper writes the squared error without a weight).

Algorithm S3, its steps marked in the code:
    (1) act for t_max rows              (3) accumulate the gradients of policy, entropy and value
    (2) R from the last row backwards   (4) one step of RMSProp

With lambda < 1, R - v is the generalized advantage estimate instead (Schulman et al. 2016, arXiv:1506.02438).  Rows that are not
valid are left out.  With memory, sequences are unrolled from the memory they were acted with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from arcturus.actor_critic import ActorCritic
from arcturus.agents._rollout import ReturnConfig, RolloutAgent
from arcturus.api import Loss, State, TimeStep
from arcturus.config import Bounds
from arcturus.losses import lambda_returns, masked_mean, normalised
from arcturus.optimizers import by_name
from arcturus.replay.rollout import Minibatch, Trajectory


@dataclass(frozen=True)
class Config(ReturnConfig):
    shared: bool = True
    """Policy and value share one torso and one memory core."""
    gae_lambda: Annotated[float, Bounds(0, 1)] = 1.0
    """lambda of generalised advantage estimation (GAE); 1: n-step returns, as published."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 5
    """t_max, the rollout length: rows between updates; 0: whole episodes, if all environments begin and end them together."""
    normalise: bool = False
    """Normalise advantages to mean 0 and standard deviation 1 over the rollout."""
    value_cost: Annotated[float, Bounds(0)] = 0.5
    """c_v."""
    entropy_cost: Annotated[float, Bounds(0)] = 0.01
    """beta."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """The paper's RMSProp (not centred), or Adam."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 7e-4
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-5
    """Epsilon of the optimiser: RMSProp adds it inside the square root, Adam outside."""
    mean_square: Annotated[float, Bounds(0, 1e6)] = 0.0
    """RMSProp: initial value of its running mean of squared gradients (in TensorFlow: 1)."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.5
    """Clip the gradient's norm to this; 0: no clipping."""
    bootstrap_truncated: bool = True
    """Bootstrap from the value when a time limit cuts an episode; False: treat a time limit as terminal, as published."""


def loss(network: ActorCritic, batch: Minibatch, c: Config) -> Loss:
    """The loss whose gradient is -d theta, over a rollout."""
    logits, v, _ = network.unroll(batch.obs, batch.first, batch.state)
    policy = -masked_mean(batch.advantage * network.actions.log_prob(logits, batch.action), batch.valid)
    value = 0.5 * masked_mean((batch.target - v).square(), batch.valid)
    entropy = masked_mean(network.actions.entropy(logits), batch.valid)
    metrics = {
        "losses/policy_loss": policy.detach(),
        "losses/value_loss": value.detach(),
        "losses/entropy": entropy.detach(),
    }
    return Loss(policy + c.value_cost * value - c.entropy_cost * entropy, metrics)  # (3) policy, entropy, value


class Agent(RolloutAgent):
    stochastic = True
    config: Config

    kept = {"value": ()}  # (1) act for t_max rows
    loss_fn = loss

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:  # (4) RMSProp
        c = self.config
        own = {"rho": 0.99, "centred": False, "mean_square": c.mean_square}
        return by_name(c.optimizer, parameters, c.learning_rate, c.optimizer_eps, **own)

    def targets(self, rows: Trajectory, ts: TimeStep, state: State) -> dict[str, Tensor]:
        """(2) The returns R from the last row backwards, and R - v."""
        c, v = self.config, self.rollout.kept("value")
        discount = rows.discounts(c.gamma, bootstrap_truncated=c.bootstrap_truncated, end_on_life_loss=c.end_on_life_loss)
        v_t = self.network.next_values(v, ts, state)
        target = lambda_returns(rows.rewards(c.reward_clip), discount, v_t, rows.last, c.gae_lambda)
        advantage = normalised(target - v, rows.valid) if c.normalise else target - v
        return {"target": target, "advantage": advantage, "value": v}
