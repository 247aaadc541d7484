"""One tape, as it is answered and remembered: what the pictures are made of.

The actor plays as usual; at every row the memory core repeats the same step by its trace(), which also returns what it did.  A check
that the two agree ensures that the picture shows the network that is scored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from arcturus.api import Actor
from arcturus.config import parse_options
from arcturus.envs import EnvConfig
from arcturus.envs.tasks import task_of
from arcturus.scoring.sequences import answer
from arcturus.seeding import Seeds

LARGE = ("memory", "link")  # kept after a few rows only
MOMENTS = 4


class Tape(NamedTuple):
    """T rows, all on the host.  bits: those of an answer, 1 of serial ones."""

    task: Any
    lengths: tuple[int, ...]
    inputs: np.ndarray  # [T, inputs] float32
    targets: np.ndarray  # [T, bits] uint8
    mask: np.ndarray  # [T] bool: rows that ask
    outputs: np.ndarray  # [T, bits] float32, the probability that the bit is 1; 0 or 1 of agents without one; 0 outside the mask
    wrong: np.ndarray  # [T, bits] bool
    cost: float | None  # bits
    optimal: np.ndarray | None  # [T] of n-grams: an optimal observer's probability
    core: dict[str, np.ndarray]  # what the core's trace() returned, [T, ...] each; {} for cores without one
    moments: dict[int, dict[str, np.ndarray]]  # after which rows its LARGE things were what

    @property
    def name(self) -> str:
        return "x".join(map(str, self.lengths))

    @property
    def title(self) -> str:
        """length 10; 10 repeats; 6 items."""
        sizes = zip(self.task.names, self.lengths, strict=True)
        return ", ".join(f"length {n}" if name == "length" else f"{n} {name}" for name, n in sizes)

    @property
    def caption(self) -> str:
        cost = "" if self.cost is None else f", {self.cost:.2f} bits"
        name, wrong = type(self.task).__name__, f"{self.wrong.sum()} of {self.wrong[self.mask].size} bits wrong"
        return f"{name}, {self.title}: {wrong}{cost}"

    def answers(self, values: np.ndarray) -> np.ndarray:
        """Of values [T, bits], the rows that ask: [outputs, answers], a column for each answer, serial ones put together."""
        return values[self.mask].reshape(-1, self.task.outputs).T


@contextmanager
def recording(core: nn.Module | None, moments: Collection[int]) -> Iterator[list[dict[str, np.ndarray]]]:
    """Every step of the core while the context lasts, as its trace() returns it for the first environment; LARGE entries only for
    steps among the moments.  RuntimeError if trace() differs from the step that was done."""
    rows: list[dict[str, np.ndarray]] = []

    def ask(module: nn.Module, args: tuple[Tensor, Any], output: tuple[Tensor, Any]) -> None:
        y, _, told = module.trace(*args)  # type: ignore[operator]
        if not torch.allclose(y, output[0], rtol=1e-4, atol=1e-5, equal_nan=True):
            raise RuntimeError(f"trace() of {type(module).__name__} computes another step than forward()")
        kept = [name for name in told if name not in LARGE or len(rows) in moments]
        rows.append({name: told[name][0].cpu().numpy() for name in kept})

    with nullcontext() if core is None else core.register_forward_hook(ask):
        yield rows


def choose_moments(mask: np.ndarray) -> list[int]:
    """The last rows of phases (where what is asked for changes) and of the tape; of many, MOMENTS."""
    ends = [*np.flatnonzero(mask[1:] != mask[:-1]), len(mask) - 1]
    chosen = np.linspace(0, len(ends) - 1, min(MOMENTS, len(ends)))
    return [int(ends[round(i)]) for i in chosen]


@torch.no_grad()
def play_tape(actor: Actor, config: EnvConfig, lengths: Sequence[int], seeds: Seeds, device: torch.device | str = "cpu") -> Tape:
    """A tape of these lengths, chosen by seeds and lengths alone.  Changes nothing in the actor."""
    task, play = task_of(config.id, parse_options(config.options))
    lengths = tuple(lengths)
    seeds = seeds.branch("x".join(map(str, lengths)))
    moments = choose_moments(play.lay_out(task.sample(torch.Generator(), 1, lengths)).mask.numpy())
    core = getattr(actor.network, "core", None)  # of a policy or of action-values
    with recording(core if hasattr(core, "trace") else None, moments) as rows:
        got = answer(actor, config, lengths, 1, seeds.torch(device), device)
    if rows and len(rows) != len(got.mask):
        raise RuntimeError(f"the core took {len(rows)} steps on a tape of {len(got.mask)} rows")
    return Tape(
        task=task,
        lengths=lengths,
        inputs=_first(got.inputs),
        targets=_first(got.targets),
        mask=got.mask.numpy(),
        outputs=_first(got.probability),
        wrong=_first(got.wrong),
        cost=None if got.bits is None else float(got.bits[0]),
        optimal=None if got.optimal is None else _first(got.optimal),
        core={name: np.stack([row[name] for row in rows]) for name in rows[0] if name not in LARGE} if rows else {},
        moments={t: {name: rows[t][name] for name in LARGE if name in rows[t]} for t in moments} if rows else {},
    )


def _first(values: Tensor) -> np.ndarray:
    """[T, B, ...] -> [T, ...] of the first sequence, on the host."""
    return values[:, 0].cpu().numpy()
