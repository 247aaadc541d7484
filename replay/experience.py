"""Learning from replay: what all agents that do it share.

Stored rows, minibatches drawn uniformly or by priority, how many updates are due, when the target network is copied, epsilon; and the
settings of all this.  What is learnt from a minibatch is the agent's own affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.api import EnvSpec, State, Step, map_state
from arcturus.config import Bounds
from arcturus.device import choose_device
from arcturus.losses import linear_schedule
from arcturus.replay.prioritised import Priorities
from arcturus.replay.records import Drawn, Sequence, Transition
from arcturus.replay.ring import Ring, uniform
from arcturus.seeding import Seeds
from arcturus.speed import fast

MOST_AT_ONCE = 8  # updates in one graph


@dataclass(frozen=True)
class ReplayConfig:
    """Numbers called steps are agent steps summed over environments (one decision is 4 emulator frames on Atari)."""

    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """Discount per agent step."""
    n_step: Annotated[int, Bounds(1, 100)] = 1
    """Steps of reward before bootstrapping."""
    target_period: Annotated[int, Bounds(0)] = 8_000
    """C: steps between copies to the target network; 0: no target network."""
    life_loss: bool = False
    """Losing a life ends the return (the game goes on)."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Learn from rewards clipped to [-x, x]; 0: raw."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 6.25e-5
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1.5e-4
    """Adam: beside the root; RMSProp: inside it."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.0
    """Clip the gradient's norm; 0: don't."""
    batch_size: Annotated[int, Bounds(1, 65_536)] = 32
    """Transitions per update; with memory, sequences."""
    replay_ratio: Annotated[float, Bounds(0, 64)] = 0.25
    """Updates per agent step, whatever the number of environments."""
    capacity: Annotated[int, Bounds(2)] = 1_000_000
    """Steps the replay holds."""
    replay_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where replay lives; auto: where the network does."""
    learn_start: Annotated[int, Bounds(0)] = 20_000
    """Steps before the first update."""
    prioritised: bool = False
    """Draw by priority (Schaul et al. 2016)."""
    priority_exponent: Annotated[float, Bounds(0, 1)] = 0.5
    """alpha: how much priority counts; 0: not at all."""
    importance_exponent: Annotated[float, Bounds(0, 1)] = 0.4
    """beta at the beginning: how far importance weights make up for the priorities."""
    importance_steps: Annotated[int, Bounds(-1)] = -1
    """Steps in which beta rises to 1; 0: it stays, -1: all of the run's."""


@dataclass(frozen=True)
class EpsilonConfig(ReplayConfig):
    """And those of an epsilon-greedy agent, which plays at random before learn_start."""

    epsilon_initial: Annotated[float, Bounds(0, 1)] = 1.0
    epsilon_final: Annotated[float, Bounds(0, 1)] = 0.01
    epsilon_steps: Annotated[int, Bounds(0)] = 250_000
    """Steps over which epsilon falls from initial to final, counted from learn_start."""

    def epsilon(self, step: int) -> float:
        return linear_schedule(step, self.epsilon_initial, self.epsilon_final, self.learn_start, self.epsilon_steps)


class Experience:
    """reach: rows a sample reaches beyond its first (n_step, if nothing else is said).  state: an agent's memory to keep with each
    row.  Minibatches come on `device`, wherever the replay lives."""

    def __init__(
        self,
        config: ReplayConfig,
        spec: EnvSpec,
        device: torch.device,
        seeds: Seeds,
        *,
        reach: int | None = None,
        state: State = (),
    ):
        self.config, self.spec, self.device = config, spec, device
        self.reach = reach or config.n_step
        named = config.replay_device
        where = device if named == "auto" else torch.device(choose_device(named, "--agent.replay-device"))
        self.ring = Ring(config.capacity, spec, where, self.reach, state=state)
        self.generator = seeds.branch("replay").torch(where)
        self.priorities = Priorities(self.ring, config.priority_exponent, self.reach) if config.prioritised else None
        self.inside = fast() and where.type == "cuda" == device.type  # minibatches are gathered within the update, and its graph
        self.drawn: Tensor | None = None  # places of the newest minibatch
        self.steps = self.updates = self.copies = 0

    def append(self, step: Step) -> None:
        self.ring.append(step)
        self.steps += self.spec.num_envs

    @property
    def due(self) -> int:
        """Updates that should have been made by now."""
        return int((self.steps - self.config.learn_start) * self.config.replay_ratio)

    def update_due(self) -> bool:
        """Whether to make one more update now."""
        if self.ring.size < min(self.config.learn_start, self.ring.capacity):  # also after a resume without its replay:
            self.updates = max(self.updates, self.due)  # what was due meanwhile is forgiven
        return self.updates < self.due and self.ring.ready(self.reach)

    def copy_due(self) -> bool:
        """Whether to copy the network to its target now; asked after the updates."""
        period = self.config.target_period
        if not period or self.steps // period <= self.copies:
            return False
        self.copies = self.steps // period
        return True

    @property
    def beta(self) -> float:
        c = self.config
        return (
            linear_schedule(self.steps, c.importance_exponent, 1.0, 0, c.importance_steps)
            if c.importance_steps
            else c.importance_exponent
        )

    def samples(self) -> tuple[Transition | Drawn, ...]:
        """The minibatches of the next updates, to be gathered() there: where a graph is recorded of them, those of all that are due at
        once (but by priority, which each update changes for the next)."""
        batches = [self.sample()]
        while self.inside and self.priorities is None and len(batches) < MOST_AT_ONCE and self.update_due():
            batches.append(self.sample())
        return tuple(batches)

    def sample(self) -> Transition | Drawn:
        """The minibatch of one update."""
        c, n, weight = self.config, self.spec.num_envs, None
        self.updates += 1
        if self.priorities is None:
            rows, env = uniform(c.batch_size, self.ring.oldest, self.ring.count - c.n_step, n, self.generator)
        else:
            self.drawn, weight = self.priorities.draw(c.batch_size, self.generator, self.beta)
            rows, env = self.drawn // n, self.drawn % n
        drawn = Drawn(rows, env, weight)
        return drawn if self.inside else self._here(self.gathered(drawn))

    def gathered(self, batch: Transition | Drawn) -> Transition:
        """The transitions, gathered now if they weren't yet."""
        if isinstance(batch, Transition):
            return batch
        c = self.config
        found = self.ring.transitions(batch.t, batch.n, c.n_step, c.gamma, c.reward_clip, c.life_loss)
        return found if batch.weight is None else found._replace(weight=batch.weight)  # 0 where nothing was decided, as the other

    def sample_sequences(self, burn_in: int, length: int, whole: bool) -> Sequence:
        """The same of sequences, always drawn uniformly."""
        c = self.config
        self.updates += 1
        return self._here(
            self.ring.sequences(
                c.batch_size,
                self.generator,
                burn_in=burn_in,
                length=length,
                n_step=c.n_step,
                gamma=c.gamma,
                reward_clip=c.reward_clip,
                life_loss=c.life_loss,
                whole=whole,
            )
        )

    def _here(self, batch: Any) -> Any:
        if self.ring.device == self.device:
            return batch
        return map_state(lambda x: x.to(self.device, non_blocking=self.device.type == "cuda"), batch)

    def set_priorities(self, errors: Tensor) -> None:
        """The errors [B] of the newest minibatch, if it was drawn by priority."""
        if self.priorities is not None and self.drawn is not None:
            self.priorities.set(self.drawn, errors.detach().to(self.ring.device))

    def scalars(self) -> dict[str, float]:
        """What the monitor shows of it; plain numbers the host knows."""
        shown = {"charts/updates": self.updates, "health/replay_fill": self.ring.size / self.ring.capacity}
        return shown | ({} if self.priorities is None else {"charts/importance_exponent": self.beta})

    def state_dict(self) -> dict[str, Any]:
        saved = {"replay_rng": self.generator.get_state(), "steps": self.steps, "updates": self.updates, "copies": self.copies}
        return saved | ({} if self.priorities is None else {"priorities": self.priorities.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "replay_rng" in state:  # a policy saved for playing only has none
            self.generator.set_state(state["replay_rng"])
            if self.priorities is not None:
                self.priorities.load_state_dict(state["priorities"])
        self.steps, self.updates, self.copies = state["steps"], state["updates"], state["copies"]
        slack = (self.reach + self.spec.frame_stack + 1) * self.spec.num_envs * self.config.replay_ratio + 1
        if self.due - self.updates > slack:
            raise ValueError(f"{self.updates:,} updates are too few for {self.steps:,} steps")
