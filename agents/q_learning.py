"""Tabular Q-learning (Watkins 1989; Watkins & Dayan 1992; Sutton & Barto, equation 6.8).

    Q(s, a) <- Q(s, a) + alpha_n [ r + gamma max_a' Q(s', a') - Q(s, a) ],    alpha_n = n(s, a)^-omega, or always the same alpha

n(s, a) counts the updates of that entry; with 1/2 < omega <= 1 and every entry visited forever, Q goes to Q* with probability 1.  A
constant alpha never converges if rewards or moves are random, but forgets early values fast, which matters more in larger tables.
For environments with Discrete observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch

from arcturus import api
from arcturus.api import Act, ActedStep, EnvSpec, Metrics, Objective, State, TimeStep
from arcturus.config import Bounds
from arcturus.errors import ConfigError
from arcturus.losses import linear_schedule
from arcturus.networks import epsilon_greedy
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config:
    """Numbers called steps are agent steps summed over environments."""

    gamma: Annotated[float, Bounds(0, 1)] = 0.95
    """Discount per agent step."""
    omega: Annotated[float, Bounds(0.5, 1)] = 0.8
    """omega: the n-th update of a table entry has step size n to the power of -omega."""
    alpha: Annotated[float, Bounds(0, 1)] = 0.0
    """Constant step size, used instead of omega; 0: not used."""
    epsilon_initial: Annotated[float, Bounds(0, 1)] = 1.0
    epsilon_final: Annotated[float, Bounds(0, 1)] = 0.1
    epsilon_steps: Annotated[int, Bounds(0)] = 20_000
    """Steps over which epsilon falls from epsilon_initial to epsilon_final."""


class Agent(api.Agent):
    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        if not spec.states:
            raise ConfigError(
                f"q_learning needs Discrete observations (its table has a row for every state); {spec.env_id} has no Discrete observations",
                where="--env",
                fix="for example --env MDP/Grid-v0 or FrozenLake-v1; dqn learns from other observations",
            )
        self.config, self.spec, n = config, spec, spec.num_envs
        self.q = torch.zeros((spec.states, spec.discrete_actions("q_learning")), dtype=torch.float64)  # tables stay on the host
        self.visits = torch.zeros_like(self.q, dtype=torch.int64)
        self.objective = Objective(config.gamma)
        self.steps = 0
        self.s_tm1 = torch.zeros(n, dtype=torch.int64)
        self.a_tm1 = torch.zeros(n, dtype=torch.int64)
        self.decided = torch.zeros(n, dtype=torch.bool)  # whether a_tm1 was valid
        self.row: ActedStep | None = None

    @property
    def epsilon(self) -> float:
        c = self.config
        return linear_schedule(self.steps, c.epsilon_initial, c.epsilon_final, 0, c.epsilon_steps)

    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A]."""
        q = self.q.to(ts.obs.device)[ts.obs.argmax(-1)]
        action = epsilon_greedy(q, self.epsilon, generator) if explore else q.argmax(-1)
        return Act(action, state, {"q_values": q.float()})

    def observe(self, step: ActedStep) -> None:
        self.row = step
        self.steps += len(step.action)

    def learn(self) -> Metrics:
        if self.row is None:
            return {}
        ts, action = self.row.timestep, self.row.action.cpu()
        s_t, r_t, errors = ts.obs.argmax(-1).cpu(), ts.reward.cpu().double(), []
        bootstraps = (~ts.terminated).cpu()
        for i in self.decided.nonzero()[:, 0].tolist():  # one after another: two environments may visit the same entry
            s, a = self.s_tm1[i], self.a_tm1[i]
            self.visits[s, a] += 1
            error = r_t[i] + self.config.gamma * bootstraps[i] * self.q[s_t[i]].max() - self.q[s, a]
            self.q[s, a] += (self.config.alpha or float(self.visits[s, a]) ** -self.config.omega) * error
            errors.append(error)
        self.s_tm1.copy_(s_t), self.a_tm1.copy_(action), self.decided.copy_(ts.valid)
        return {"losses/td_error": torch.stack(errors).abs().mean()} if errors else {}

    def scalars(self) -> dict[str, float]:
        return {"charts/epsilon": self.epsilon, "health/visited": float(self.visits.gt(0).double().mean())}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("q", "visits", "steps", "s_tm1", "a_tm1", "decided")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name in ("q", "visits", "s_tm1", "a_tm1", "decided"):
            getattr(self, name).copy_(state[name])
