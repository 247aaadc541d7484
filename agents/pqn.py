"""PQN: parallelised Q-learning without replay or target network (Gallici et al. 2024, arXiv:2407.04811), with or without memory.

    (1) a_t = argmax_a Q(s_t, a; theta), or with probability epsilon any; in N environments side by side, for T rows
    (2) G_t = r_{t+1} + gamma [ (1 - lambda) max_a Q(s_{t+1}, a; theta) + lambda G_{t+1} ]        Q(lambda) of Peng & Williams 1994
    (3) L(theta) = E[ (G_t - Q(s_t, a_t; theta))^2 ] / 2,  by K epochs of shuffled minibatches, G held fixed

Many environments, and layer normalisation before every ReLU of Q, replace DQN's replay and target network.  Targets are computed
once per rollout, from the action-values of acting; no reward is added after the last row of an episode, and a time limit or an
interrupted row bootstraps.  For a fixed behaviour policy, Q becomes the value of following it with probability lambda and acting
greedily otherwise (Kozuno et al. 2021): the optimal value only if epsilon vanishes or lambda = 0.

As in the authors' code: rectified Adam, the gradient's norm clipped to 10.  Unlike there: normalisation is over all filters and
positions of a convolution (theirs: over the filters at each position), the torso's initial weights are orthogonal (theirs: He's normal
ones, of the same size), epsilon falls with every step (theirs: with every rollout), and time limits don't terminate.  Rows that are not
valid are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.agents._rollout import ReturnConfig, RolloutAgent
from arcturus.api import Act, Loss, State, TimeStep
from arcturus.config import Bounds
from arcturus.losses import lambda_returns, linear_schedule, td_loss
from arcturus.networks import QNetwork, Torso, TorsoOptions, epsilon_greedy, orthogonal
from arcturus.replay.rollout import Minibatch, Trajectory


@dataclass(frozen=True)
class Config(ReturnConfig):
    layer_norm: bool = True
    """Layer normalisation before every ReLU of the torso."""
    q_lambda: Annotated[float, Bounds(0, 1)] = 0.65
    """lambda of the targets; 0: one-step Q-learning, 1: returns to the end of the rollout."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 32
    """T, the rollout length: rows between updates; 0: whole episodes, if all environments begin and end them together."""
    epochs: Annotated[int, Bounds(1, 1_000)] = 2
    """K: epochs, the passes over each rollout."""
    minibatches: Annotated[int, Bounds(1, 100_000)] = 4
    """Minibatches per epoch; each makes one gradient step."""
    epsilon_initial: Annotated[float, Bounds(0, 1)] = 1.0
    epsilon_final: Annotated[float, Bounds(0, 1)] = 0.01
    epsilon_steps: Annotated[int, Bounds(0)] = 250_000
    """Steps over which epsilon falls from epsilon_initial to epsilon_final."""
    optimizer: Literal["radam", "adam"] = "radam"
    """Rectified Adam (Liu et al. 2020), or Adam."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 2.5e-4
    max_grad_norm: Annotated[float, Bounds(0)] = 10.0
    """Clip the gradient's norm to this; 0: no clipping."""

    def epsilon(self, step: int) -> float:
        return linear_schedule(step, self.epsilon_initial, self.epsilon_final, 0, self.epsilon_steps)


def q_lambda_targets(rows: Trajectory, q_t: Tensor, c: Config) -> Tensor:
    """G [T, N] of the rows of a rollout.  q_t [T, N, A]: the action-values of the row after each."""
    discount = rows.discounts(c.gamma, end_on_life_loss=c.end_on_life_loss)
    return lambda_returns(rows.rewards(c.reward_clip), discount, q_t.max(-1).values, rows.last, c.q_lambda)  # (2) backwards


def loss(network: QNetwork, batch: Minibatch, c: Config) -> Loss:
    """L over a minibatch."""
    q, _ = network.unroll(batch.obs, batch.first, batch.state)
    td = batch.target - q.gather(-1, batch.action[..., None]).squeeze(-1)
    value = td_loss(td, batch.valid.float(), huber=False)  # (3) half the squared error
    return Loss(value, {"losses/td_loss": value.detach(), "losses/q_values": q.detach().mean()})


class Agent(RolloutAgent):
    config: Config

    loss_fn = loss

    def make_network(self) -> QNetwork:
        c, actions = self.config, self.spec.discrete_actions("pqn")
        self.kept = {"q_values": (actions,)}
        core: dict[str, Any] = {"core": c.core, "core_width": c.core_width, "core_options": c.core_options}
        network = QNetwork(self.spec, actions, c.torso, TorsoOptions(layer_norm=c.layer_norm), **core)
        if isinstance(network.torso, Torso):  # a torso of the user's own keeps its initial weights
            orthogonal(network.torso, 2**0.5)
        return network

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A]."""
        out, state = self.network.act_fn(ts.obs[None], ts.first[None], state)
        q = out[0]
        action = epsilon_greedy(q, self.config.epsilon(self.steps), generator) if explore else q.argmax(-1)  # (1) epsilon-greedy
        return Act(action, state, {"q_values": q})

    @torch.no_grad()
    def targets(self, rows: Trajectory, ts: TimeStep, state: State) -> dict[str, Tensor]:
        q = self.rollout.kept("q_values")
        q_t = torch.cat([q[1:], self.network.unroll(ts.obs[None], ts.first[None], state)[0]])
        return {"target": q_lambda_targets(rows, q_t, self.config)}

    def scalars(self) -> dict[str, float]:
        return {"charts/epsilon": self.config.epsilon(self.steps)} | super().scalars()
