"""Plain PPO over a vector environment of NumPy arrays, as people write it in one file over EnvPool: the peer of agents/ppo.py.

Algorithm 1 of Schulman et al. 2017 with the details of Huang et al. 2022: the Nature network with orthogonal initial weights, shared
by policy and value; advantages by GAE, normalised per minibatch; Adam with epsilon 1e-5; the gradient's norm clipped to 0.5.
Rewards are clipped to [-1, 1].  Nothing is annealed, as for the others here.  It takes the row that opens an episode for a step like
any other, as such loops do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

GAMMA, LAMBDA, CLIP, VALUE_COST, ENTROPY_COST, LEARNING_RATE, MAX_NORM = 0.99, 0.95, 0.1, 0.5, 0.01, 2.5e-4, 0.5
EPOCHS, MINIBATCHES = 4, 4


def orthogonal(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Network(nn.Module):
    """obs [B, 4, 84, 84] uint8 -> logits [B, A], value [B]."""

    def __init__(self, actions: int):
        super().__init__()
        self.torso = nn.Sequential(
            orthogonal(nn.Conv2d(4, 32, 8, 4)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(32, 64, 4, 2)),
            nn.ReLU(),
            orthogonal(nn.Conv2d(64, 64, 3, 1)),
            nn.ReLU(),
            nn.Flatten(),
            orthogonal(nn.Linear(64 * 7 * 7, 512)),
            nn.ReLU(),
        )
        self.policy, self.value = orthogonal(nn.Linear(512, actions), 0.01), orthogonal(nn.Linear(512, 1), 1.0)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        x = self.torso(obs / 255.0)
        return self.policy(x), self.value(x).squeeze(-1)


def advantages(reward: Tensor, value: Tensor, done: Tensor, last_value: Tensor, last_done: Tensor) -> Tensor:
    """GAE, [T, N].  reward[t] is that of the action at t; done[t] says that row t came after an episode's end."""
    out, ahead = torch.zeros_like(reward), torch.zeros_like(last_value)
    for t in reversed(range(len(reward))):
        goes_on = 1 - (last_done if t == len(reward) - 1 else done[t + 1])
        next_value = last_value if t == len(reward) - 1 else value[t + 1]
        delta = reward[t] + GAMMA * next_value * goes_on - value[t]
        out[t] = ahead = delta + GAMMA * LAMBDA * goes_on * ahead
    return out


class PlainPPO:
    """envs: Gymnasium's vector shape, NumPy; num_envs, horizon: rows of a rollout."""

    def __init__(self, envs: Any, num_envs: int, horizon: int, actions: int, device: torch.device | str):
        torch.manual_seed(0)
        self.envs, self.device = envs, device
        self.network = Network(actions).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, eps=1e-5)
        first, _ = envs.reset()
        self.next_obs, self.next_done = self.tensor(first), torch.zeros(num_envs, device=device)
        shape = (horizon, num_envs)
        self.obs = torch.zeros(shape + first.shape[1:], dtype=torch.uint8, device=device)
        self.action = torch.zeros(shape, dtype=torch.int64, device=device)
        self.log_prob, self.reward, self.done, self.value = (torch.zeros(shape, device=device) for _ in range(4))
        self.steps = 0

    def tensor(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, device=self.device)

    def step(self) -> int:
        """One rollout with its updates; the steps it took."""
        self.play()
        with torch.no_grad():
            _, last_value = self.network(self.next_obs)
        advantage = advantages(self.reward, self.value, self.done, last_value, self.next_done)
        self.learn(advantage)
        self.steps += self.action.numel()
        return self.action.numel()

    @torch.no_grad()
    def play(self) -> None:
        for t in range(len(self.action)):
            self.obs[t], self.done[t] = self.next_obs, self.next_done
            logits, self.value[t] = self.network(self.next_obs)
            policy = Categorical(logits=logits)
            self.action[t] = action = policy.sample()
            self.log_prob[t] = policy.log_prob(action)
            obs, reward, terminated, truncated, _ = self.envs.step(action.cpu().numpy())
            self.reward[t] = self.tensor(reward).clamp(-1, 1)
            self.next_obs, self.next_done = self.tensor(obs), self.tensor(terminated | truncated).float()

    def learn(self, advantage: Tensor) -> None:
        target = (advantage + self.value).flatten()
        obs, action, log_prob, advantage = (x.flatten(0, 1) for x in (self.obs, self.action, self.log_prob, advantage))
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(action), device=self.device).chunk(MINIBATCHES):
                logits, value = self.network(obs[rows])
                policy, A = Categorical(logits=logits), advantage[rows]
                A = (A - A.mean()) / (A.std() + 1e-8)
                ratio = (policy.log_prob(action[rows]) - log_prob[rows]).exp()
                surrogate = torch.min(ratio * A, ratio.clamp(1 - CLIP, 1 + CLIP) * A).mean()
                error = 0.5 * (target[rows] - value).square().mean()
                loss = -surrogate + VALUE_COST * error - ENTROPY_COST * policy.entropy().mean()
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
                self.optimizer.step()

    @property
    def updates(self) -> int:
        """Counted by the optimiser."""
        return int(next(iter(self.optimizer.state.values()))["step"])

    def note(self) -> str:
        return f"{1000 * self.updates / self.steps:.2f} updates per 1,000 steps"
