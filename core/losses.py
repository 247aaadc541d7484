"""Targets and losses as pure functions of tensors; subscripts as in the papers (act at t-1, arrive at t).

Of value agents, over a batch of transitions:

| symbol     | shape  | meaning                                                            |
|------------|--------|--------------------------------------------------------------------|
| q_tm1      | [B, A] | action-values at t-1 of the network that learns                    |
| a_tm1      | [B]    | int64, the action taken                                            |
| r_t        | [B]    | (n-step) reward                                                    |
| discount_t | [B]    | gamma^n; 0 after termination, gamma^k after a truncation at step k |
| q_t        | [B, A] | action-values at t that are bootstrapped from                      |

Of policy agents, over the rows t = 1 ... T of a rollout (row 0 only acts):

| symbol     | shape  | meaning                                                                             |
|------------|--------|-------------------------------------------------------------------------------------|
| r_t        | [T, N] | reward on arriving at row t                                                         |
| discount_t | [T, N] | gamma; 0 where row t ends its episode without bootstrapping                         |
| v_t        | [T, N] | value of row t                                                                      |
| last_t     | [T, N] | bool: row t closes its episode: nothing beyond it belongs to what came before       |
| mask       | [T, N] | bool: row t - 1 is valid; other rows (autoreset rows among them) are left out            |
"""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST_LOG_PI = -1.0  # what Munchausen's log-probability is clipped to (Vieillard et al. 2020, section 4)


def q_learning(
    q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor, q_select_t: Tensor | None = None
) -> Tensor:
    """The TD error [B]: r_t + discount_t max_a q_t[a] - q_tm1[a_tm1] (Mnih et al. 2015, equation 1).

    With q_select_t [B, A] the bootstrap action is its argmax instead (double Q-learning, van Hasselt et al. 2016, equation 4).
    The gradient flows through q_tm1 only.
    """
    with torch.no_grad():
        best = (q_t if q_select_t is None else q_select_t).argmax(-1, keepdim=True)
        target = r_t + discount_t * q_t.gather(-1, best).squeeze(-1)
    return target - q_tm1.gather(-1, a_tm1[:, None]).squeeze(-1)


def td_loss(td: Tensor, weight: Tensor, *, huber: bool) -> Tensor:
    """The weighted mean over a batch of 1/2 td^2, or of its Huber form, whose gradient is the TD error clipped to [-1, 1]
    (Mnih et al. 2015, Methods)."""
    half_square = 0.5 * td.square()
    if huber:
        error = td.abs()
        half_square = torch.where(error <= 1.0, half_square, error - 0.5)
    return weighted_mean(half_square, weight)


def weighted_mean(loss: Tensor, weight: Tensor) -> Tensor:
    """sum of weight * loss over the number of rows [B] whose weight isn't 0.  Weights are importance weights, or 1; rows of weight 0
    (they are not valid) count neither in the sum nor in the number."""
    return (weight * loss).sum() / weight.ne(0).sum().clamp_min(1)


def soft_value(q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log pi [..., A] of the policy softmax(q / temperature), and its soft value [...], sum_a pi(a) (q(a) - temperature log pi(a))
    = temperature logsumexp(q / temperature)."""
    logits = q / temperature
    return logits.log_softmax(-1), temperature * logits.logsumexp(-1)


def expected_soft_value(log_pi: Tensor, q: Tensor, alpha: Tensor | float) -> Tensor:
    """sum_a pi(a) (q(a) - alpha log pi(a)) [...], the soft value of any policy, log pi [..., A] (Christodoulou 2019,
    arXiv:1910.07207): its expected action-value and alpha times its entropy."""
    return (log_pi.exp() * (q - alpha * log_pi)).sum(-1)


def munchausen_bonus(log_pi: Tensor, a_tm1: Tensor, alpha: float, temperature: float, lowest: float) -> Tensor:
    """alpha [temperature log pi(a_tm1)] clipped to [lowest, 0], [B]: what is added to the reward (Vieillard et al. 2020,
    arXiv:2007.14430, equation 1 and section 4).  log_pi [B, A] at t-1."""
    return alpha * (temperature * log_pi.gather(-1, a_tm1[:, None]).squeeze(-1)).clamp(lowest, 0.0)


def lambda_returns(r_t: Tensor, discount_t: Tensor, v_t: Tensor, last_t: Tensor, lambda_: float) -> Tensor:
    """G_{t-1} = r_t + discount_t [ (1 - lambda) v_t + lambda G_t ], where G_t = v_t at the last row of an episode and of the rollout; [T, N].

    lambda = 1: the n-step return to the end of the rollout (Mnih et al. 2016), or the whole return of an episode that ends in it.
    G - v is the generalized advantage estimate of parameter lambda (Schulman et al. 2016, equation 16).
    """
    bootstrap = discount_t * v_t
    onward = lambda_ * discount_t * ~last_t
    fixed = r_t + bootstrap - onward * v_t
    G, out = v_t[-1], []
    for t in reversed(range(len(r_t))):
        G = fixed[t] + onward[t] * G
        out.append(G)
    return torch.stack(out[::-1])


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x where the mask is true; 0 if it is true nowhere."""
    return torch.where(mask, x, 0).sum() / mask.sum().clamp_min(1)


def normalised(x: Tensor, mask: Tensor, correction: int = 0) -> Tensor:
    """x with mean 0 and standard deviation 1 over the rows of the mask.  correction: 1 divides the squares by one row less (the unbiased
    variance), as CleanRL's and stable-baselines3's PPO do."""
    centred = x - masked_mean(x, mask)
    if not correction:
        return centred / (masked_mean(centred.square(), mask).sqrt() + 1e-8)
    variance = torch.where(mask, centred.square(), 0).sum() / (mask.sum() - correction).clamp_min(1)
    return centred / (variance.sqrt() + 1e-8)


def clipped_surrogate(rho: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(rho A, clip(rho, 1 - clip, 1 + clip) A), of rho = pi(a|s) / pi_old(a|s) (Schulman et al. 2017, equation 7)."""
    return torch.minimum(rho * advantage, rho.clamp(1 - clip, 1 + clip) * advantage)


def explained_variance(v: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - Var[target - v] / Var[target] over the rows of the mask: 1 is a perfect value function, 0 as good as a constant."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    return 1 - variance(target - v) / variance(target).clamp_min(1e-12)


def annealed(learning_rate: float, step: int, steps: int) -> float:
    """learning_rate, falling linearly to 0 at `steps`; steps 0: constant."""
    return linear_schedule(step, learning_rate, 0.0, 0, steps) if steps > 0 else learning_rate


def linear_schedule(step: int, initial: float, final: float, start: int, duration: int) -> float:
    """initial until `start`, then linear to final over `duration` more steps, and constant after that."""
    if step <= start:
        return initial
    if step >= start + duration:
        return final
    return initial + (final - initial) * (step - start) / duration


def cross_entropy(log_pi: Tensor, answer: Tensor, valid: Tensor) -> Tensor:
    """[N], in nats: - sum over rows that ask, components and choices of answer * log pi.

    log_pi [T, N, k, choices] (-inf where there is no such choice); answer [T, N, k, choices] probabilities; valid [T, N] bool.
    """
    each = torch.where(answer > 0, answer * log_pi, 0).sum((-2, -1))
    return -torch.where(valid, each, 0).sum(0)
