"""Learning from replay: what all agents that do it share.

Stored rows, minibatches drawn uniformly or by priority, how many updates are due, when the target network is copied, epsilon; and the
settings of all this.  The agent itself defines what is learnt from a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.api import ActedStep, EnvSpec, Metrics, Objective, State, map_state
from arcturus.config import Bounds
from arcturus.device import choose_device
from arcturus.losses import linear_schedule
from arcturus.replay.prioritised import Priorities
from arcturus.replay.records import SampleIndices, Sequence, SequenceSpan, Transition
from arcturus.replay.ring import Ring, uniform
from arcturus.seeding import Seeds
from arcturus.speed import Captured, captured, graphs_on

MOST_AT_ONCE = 8  # updates in one graph


@dataclass(frozen=True)
class ReplayConfig:
    """Numbers called steps are agent steps summed over environments (one decision is 4 emulator frames on Atari)."""

    gamma: Annotated[float, Bounds(0, 1)] = 0.99
    """Discount per agent step."""
    n_step: Annotated[int, Bounds(1, 100)] = 1
    """n of the n-step returns: rewards summed before bootstrapping."""
    target_period: Annotated[int, Bounds(0)] = 8_000
    """C: steps between copies to the target network; 0: no target network."""
    end_on_life_loss: bool = False
    """Treat a lost life as the end of the return (the game continues)."""
    reward_clip: Annotated[float, Bounds(0)] = 1.0
    """Clip rewards to [-x, x] for learning; 0: no clipping."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 6.25e-5
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1.5e-4
    """Epsilon of the optimiser: Adam adds it outside the square root, RMSProp inside."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.0
    """Clip the gradient's norm to this; 0: no clipping."""
    batch_size: Annotated[int, Bounds(1, 65_536)] = 32
    """Transitions per update; for agents with memory, sequences per update."""
    replay_ratio: Annotated[float, Bounds(0, 64)] = 0.25
    """Updates per agent step, for any number of environments."""
    capacity: Annotated[int, Bounds(2)] = 1_000_000
    """Capacity of the replay, in steps."""
    replay_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that stores the replay; auto: the network's device."""
    learning_starts: Annotated[int, Bounds(0)] = 20_000
    """Steps before the first update."""
    prioritised: bool = False
    """Prioritised replay: draw transitions by priority (Schaul et al. 2016)."""
    priority_exponent: Annotated[float, Bounds(0, 1)] = 0.5
    """alpha: exponent of the priorities; 0: uniform sampling."""
    importance_exponent: Annotated[float, Bounds(0, 1)] = 0.4
    """Initial beta: how strongly importance weights correct for the priorities."""
    importance_steps: Annotated[int, Bounds(-1)] = -1
    """Steps over which beta rises to 1; 0: it stays constant, -1: over the whole run."""

    @property
    def horizons(self) -> tuple[tuple[int, float], tuple[int, float]]:
        """The first and the last that horizon() gives; all others lie between them."""
        return (self.n_step, self.gamma), (self.n_step, self.gamma)

    def horizon(self, updates: int) -> tuple[int, float]:
        """n of the n-step returns, and gamma, of the update behind `updates` others since the network was new."""
        return self.n_step, self.gamma


@dataclass(frozen=True)
class EpsilonConfig(ReplayConfig):
    """ReplayConfig with the settings of an epsilon-greedy agent, which plays at random before learning_starts."""

    epsilon_initial: Annotated[float, Bounds(0, 1)] = 1.0
    epsilon_final: Annotated[float, Bounds(0, 1)] = 0.01
    epsilon_steps: Annotated[int, Bounds(0)] = 250_000
    """Steps over which epsilon falls from epsilon_initial to epsilon_final, counted from learning_starts."""

    def epsilon(self, step: int) -> float:
        return linear_schedule(step, self.epsilon_initial, self.epsilon_final, self.learning_starts, self.epsilon_steps)


class ReplayLearner:
    """An agent's replay, and the updates it makes of it.

    update: one gradient step on a minibatch -> its metrics and the transitions' new priorities [B].  learn() calls it as often as
    replay_ratio asks for, with minibatches on `device`, wherever the replay is.  generators, remember: speed.Captured's.
    span: to learn from sequences, of an agent whose memory `state` [N, ...] is stored with each row.
    """

    def __init__(
        self,
        config: ReplayConfig,
        spec: EnvSpec,
        device: torch.device,
        seeds: Seeds,
        update: Callable[[Any], tuple[Metrics, Tensor | None]],
        *,
        generators: Iterable[torch.Generator | None] = (),
        remember: Callable[[], Callable[[], None]] = lambda: lambda: None,
        span: SequenceSpan | None = None,
        state: State = (),
    ):
        self.config, self.spec, self.device, self.span, self.update = config, spec, device, span, update
        self.reach = self.longest = max(n for n, _ in config.horizons)  # rows a sample reaches beyond its first
        if span is not None:
            self.reach += span.burn_in + span.length - 1 + (spec.episode_rows if span.whole else 0)
        named = config.replay_device
        where = device if named == "auto" else torch.device(choose_device(named, "--agent.replay-device"))
        self.ring = Ring(config.capacity, spec, where, self.reach, state=state)
        self.generator = seeds.branch("replay").torch(where)
        self.priorities = Priorities(self.ring, config.priority_exponent, self.reach) if config.prioritised else None
        fixed = config.horizons[0] == config.horizons[1]
        self.in_graph = graphs_on(device) and where.type == device.type and fixed  # minibatches are gathered within the update's graph
        self.captured = captured(self._update_all, device, generators=generators, remember=remember)
        self.objective = Objective(config.gamma, config.reward_clip, config.end_on_life_loss and spec.has_lives)
        self.steps = self.updates = self.copies = self.new_at = 0  # new_at: updates made when the network was new

    def append(self, step: ActedStep) -> None:
        self.ring.append(step)
        self.steps += self.spec.num_envs
        if self.ring.size < min(self.config.learning_starts, self.ring.capacity):  # also after a resume without its replay:
            self.updates = max(self.updates, self.due)  # updates due until then are dropped

    @property
    def due(self) -> int:
        """Updates that should have been made by now."""
        return int((self.steps - self.config.learning_starts) * self.config.replay_ratio)

    def learn(self) -> Metrics:
        """All updates that are due; the newest one's metrics, {} if there was none."""
        metrics: Metrics = {}
        while self.updates < self.due and self.ring.ready(self.reach):
            metrics = self._learn_from(*self._draw())
        return self.captured.latest(metrics) if isinstance(self.captured, Captured) else metrics

    def update_once(self) -> Metrics:
        """One update, due or not."""
        return self._learn_from(*self._draw(1))

    def _learn_from(self, indices: SampleIndices | None, batches: tuple[Any, ...]) -> Metrics:
        metrics, priority = self.captured(*batches)
        self.updates += len(batches)
        if self.priorities is not None and indices is not None and priority is not None:
            places = indices.t * self.spec.num_envs + indices.n
            self.priorities.set(places, priority.detach().to(self.ring.device))
        return metrics

    def copy_due(self) -> bool:
        """Whether the target network is older than target_period allows."""
        period = self.config.target_period
        return period > 0 and self.steps // period > self.copies

    def copied(self) -> None:
        """The target network is the network as it is now."""
        self.copies = self.steps // self.config.target_period

    @property
    def beta(self) -> float:
        first, steps = self.config.importance_exponent, self.config.importance_steps
        return linear_schedule(self.steps, first, 1.0, 0, steps) if steps else first

    def _draw(self, most: int = MOST_AT_ONCE) -> tuple[SampleIndices | None, tuple[Any, ...]]:
        """The indices of the next update's transitions (None for sequences), and the minibatches of the next updates.

        In a graph, the minibatches of all due updates are gathered at once, except those drawn by priority, as each update changes the
        priorities for the next.
        """
        if self.span is not None:
            return None, (self.sample_sequences(),)
        if not self.in_graph:
            indices = self.sample()
            return indices, (self._here(self.materialise(indices)),)
        count = 1 if self.priorities is not None else max(min(self.due - self.updates, most), 1)
        drawn = tuple(self.sample() for _ in range(count))
        return drawn[0], drawn

    def _update_all(self, *batches: Any) -> tuple[Metrics, Tensor | None]:
        for given in batches:
            out = self.update(self.materialise(given) if isinstance(given, SampleIndices) else given)
        return out

    def sample(self) -> SampleIndices:
        """Where the transitions of one minibatch begin: drawn uniformly, or by priority."""
        c, n = self.config, self.spec.num_envs
        if self.priorities is None:
            return SampleIndices(*uniform(c.batch_size, self.ring.oldest, self.ring.count - self.longest, n, self.generator), None)
        places, weight = self.priorities.draw(c.batch_size, self.generator, self.beta)
        return SampleIndices(places // n, places % n, weight)

    def materialise(self, indices: SampleIndices) -> Transition:
        """The transitions themselves, on the replay's device."""
        n_step, gamma = self.config.horizon(self.updates - self.new_at)
        found = self.ring.transitions(indices.t, indices.n, n_step, replace(self.objective, gamma=gamma))
        return found if indices.weight is None else found._replace(weight=indices.weight)  # 0 at autoreset rows, as the other

    def sample_sequences(self) -> Sequence:
        """One minibatch of sequences, drawn uniformly."""
        if self.span is None:
            raise ValueError("this learner draws transitions: it was made without a span")
        return self._here(self.ring.sequences(self.config.batch_size, self.generator, self.span, self.config.n_step, self.objective))

    def _here(self, batch: Any) -> Any:
        if self.ring.device == self.device:
            return batch
        return map_state(lambda x: x.to(self.device, non_blocking=self.device.type == "cuda"), batch)

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
