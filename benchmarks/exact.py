"""Exact solutions of small Markov decision processes (envs/mdp.py): what tests and benchmarks hold the agents against.

The optimum (value iteration), the optimum with an entropy bonus (soft value iteration), the values of any policy (a linear system),
the distributions of its returns, and the exact policy gradient.  All in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arcturus.envs.mdp import MDP


def value_iteration(mdp: MDP, gamma: float, tolerance: float = 1e-12) -> tuple[np.ndarray, np.ndarray]:
    """V* [S] and Q* [S, A] (Sutton & Barto, equation 4.10).  gamma = 1 needs a process in which every policy ends."""
    v = np.zeros(len(mdp.start))
    while True:
        q = mdp.expected_reward + gamma * mdp.onward @ v
        new = q.max(-1)
        if np.abs(new - v).max() < tolerance:
            return new, q
        v = new


def soft_value_iteration(mdp: MDP, gamma: float, alpha: float, tolerance: float = 1e-12) -> tuple[np.ndarray, np.ndarray]:
    """V [S] and Q [S, A] of the policy that is best when each step also gives alpha times its entropy: softmax(Q / alpha), with
    v(s) = alpha logsumexp(q(s, .) / alpha) (Haarnoja et al. 2017, arXiv:1702.08165, equations 4-6).  alpha -> 0: V* and Q*."""
    v = np.zeros(len(mdp.start))
    while True:
        q = mdp.expected_reward + gamma * mdp.onward @ v
        best = q.max(-1)
        new = (best + alpha * np.log(np.exp((q - best[:, None]) / alpha).sum(-1))) * ~mdp.terminal
        if np.abs(new - v).max() < tolerance:
            return new, q
        v = new


def policy_values(mdp: MDP, policy: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """V [S] and Q [S, A] of a policy [S, A] of probabilities, from Bellman's linear system (Sutton & Barto, equation 4.4)."""
    p = (policy[..., None] * mdp.onward).sum(1)
    v = np.linalg.solve(np.eye(len(p)) - gamma * p, (policy * mdp.expected_reward).sum(-1))
    return v, mdp.expected_reward + gamma * mdp.onward @ v


def return_distributions(mdp: MDP, policy: np.ndarray, gamma: float, support: np.ndarray) -> np.ndarray:
    """[S, A, K] probabilities, on an evenly spaced support [K], of the return of each action in each state when a policy [S, A]
    continues from there: the fixed point of the distributional Bellman equation (Bellemare et al. 2017, equation 5), each return
    shared by its two neighbours.  Means are exact if the support reaches far enough; the rest as the spacing goes to 0."""
    S, A, K = *mdp.p.shape[:2], len(support)
    dz, origin = support[1] - support[0], np.zeros(K)
    zero = -support[0] / dz
    for point, share in ((int(zero), 1 - zero % 1), (int(zero) + 1, zero % 1)):
        origin[min(point, K - 1)] += share
    arrivals = [(s, a, t) for s, a, t in np.argwhere(mdp.p > 0) if not mdp.terminal[s]]
    places = {}
    for r, discount in {(mdp.r[x], 0.0 if mdp.terminal[x[2]] else gamma) for x in arrivals}:
        to = (np.clip(r + discount * support, support[0], support[-1]) - support[0]) / dz
        below = np.minimum(to.astype(int), K - 2)
        places[r, discount] = below, to - below
    now = np.broadcast_to(origin, (S, A, K)).copy()
    while True:
        then, now = now, np.zeros((S, A, K))
        now[mdp.terminal] = origin
        onward = (policy[:, :, None] * then).sum(1)  # [S, K]
        for s, a, t in arrivals:
            below, share = places[mdp.r[s, a, t], 0.0 if mdp.terminal[t] else gamma]
            mass = mdp.p[s, a, t] * onward[t]
            now[s, a] += np.bincount(below, mass * (1 - share), K) + np.bincount(below + 1, mass * share, K)
        if np.abs(np.cumsum(now - then, -1)).sum(-1).max() * dz < 1e-6:  # the distance the mass has moved
            return now


def expected_return(mdp: MDP, logits: Tensor, gamma: float, horizon: int) -> Tensor:
    """J = E[sum_t gamma^t r_t] of the softmax policy of logits [S, A] over at most `horizon` steps; differentiable, so its
    gradient is the exact policy gradient.  The process's probabilities are in it, as they are in p(tau)."""
    policy, onward = logits.softmax(-1), torch.from_numpy(mdp.onward)
    reward = torch.from_numpy(mdp.expected_reward)
    v = torch.zeros(len(mdp.start), dtype=torch.float64)
    for _ in range(horizon):
        v = (policy * (reward + gamma * onward @ v)).sum(-1)
    return torch.from_numpy(mdp.start) @ v


def policy_gradient(mdp: MDP, logits: Tensor, gamma: float, horizon: int) -> Tensor:
    """dJ/dlogits [S, A], exactly."""
    leaf = logits.detach().double().requires_grad_()
    return torch.autograd.grad(expected_return(mdp, leaf, gamma, horizon), leaf)[0]
