"""The tasks of the Neural Turing Machine paper (Graves, Wayne & Danihelka 2014, arXiv:1410.5401, sections 4.1 to 4.5) as tapes:

    sample(generator, batch, lengths) -> inputs [T, B, inputs] float32, targets [T, B, outputs] uint8, mask [T] bool

One definition of each, from which every view of it is made (scalar.py, device.py, vector.py).  A batch shares its lengths, so all of
it begins and ends together; no input is shown while the answer is asked for (mask), but for the n-grams, whose next bit is asked
for at every step.

| task              | lengths         | rows                    | inputs                            | targets             |
|-------------------|-----------------|-------------------------|-----------------------------------|---------------------|
| Copy              | length L        | series (2 L + 1)        | bits, end flag                    | bits                |
| RepeatCopy        | length, repeats | L + 1 + R L + 1         | bits, end flag, repeats           | bits, end marker    |
| AssociativeRecall | items N         | (v + 1) N + 2 v + 3     | bits, item flag, query flag       | bits                |
| DynamicNGrams     | length L        | L                       | the bit before                    | the next bit        |
| PrioritySort      | items N         | N + 1 + best            | bits, end flag, priority          | bits, best first    |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

MOST = 100_000  # of any number of a task


class Tapes(NamedTuple):
    inputs: Tensor  # [T, B, inputs] float32
    targets: Tensor  # [T, B, outputs] uint8: bits; 0 outside the mask
    mask: Tensor  # [T] bool, on the host: rows whose answer counts


def random_bits(generator: torch.Generator, *shape: int) -> Tensor:
    """Fair coins, uint8, on the generator's device."""
    return torch.randint(2, shape, generator=generator, device=generator.device, dtype=torch.uint8)


def blank(generator: torch.Generator, rows: int, batch: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tapes' tensors to be filled: zeros, and a mask that asks for nothing."""
    device = generator.device
    return (
        torch.zeros(rows, batch, inputs, device=device),
        torch.zeros(rows, batch, outputs, dtype=torch.uint8, device=device),
        torch.zeros(rows, dtype=torch.bool),
    )


@dataclass(frozen=True)
class Task:
    """What the tasks have in common.  Every field is a whole number; low and high are the range of the first length.

    A subclass gives width (bits of a vector; else inputs and outputs), rows(), answers() and sample(); `ranges` and `names` if it has
    more lengths than one.
    """

    low: int = 1
    high: int = 20
    names: ClassVar[tuple[str, ...]] = ("length",)
    flags: ClassVar[tuple[str, ...]] = ("end",)  # the inputs after those that are bits of vectors
    markers: ClassVar[tuple[str, ...]] = ()  # the outputs after those
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)  # of inputs

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), self.least(field.name)
            if type(value) is not int or not least <= value <= MOST:
                raise ValueError(f"{field.name} is {value!r}, but must be a whole number from {least} to {MOST:,}")
        for name, (low, high) in zip(self.names, self.ranges, strict=True):
            if low > high:
                raise ValueError(f"the range of {name} is empty: from {low} to {high}")

    def least(self, name: str) -> int:
        """The smallest value a field may have."""
        return 1

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Smallest and largest of each length in training."""
        return ((self.low, self.high),)

    @property
    def longest(self) -> tuple[int, ...]:
        return tuple(high for _, high in self.ranges)

    @property
    def inputs(self) -> int:
        return self.width + len(self.flags)  # type: ignore[attr-defined]

    @property
    def outputs(self) -> int:
        return self.width + len(self.markers)  # type: ignore[attr-defined]

    def rows(self, lengths: Sequence[int]) -> int:
        """T."""
        raise NotImplementedError

    def answers(self, lengths: Sequence[int]) -> int:
        """Rows in the mask; times `outputs`, the bits that guessing costs."""
        raise NotImplementedError

    def remembered(self, lengths: Sequence[int]) -> int:
        """Vectors a memory must hold at once."""
        return lengths[0]

    def check(self, lengths: Sequence[int]) -> None:
        """ValueError if no tape of these lengths can be made."""
        wanted = len(self.names)
        if len(lengths) != wanted or any(type(n) is not int or not 1 <= n <= MOST for n in lengths):
            raise ValueError(f"{'x'.join(map(str, lengths))} is not a length: it must be {' x '.join(self.names)}, each at least 1")

    def sample(self, generator: torch.Generator, batch: int, lengths: Sequence[int]) -> Tapes:
        """`batch` tapes of these lengths, on the generator's device."""
        raise NotImplementedError


@dataclass(frozen=True)
class Copy(Task):
    """Section 4.1.  series > 1: so many sequences one after another, each asked for before the next is shown (Graves et al. 2016,
    extended data figure 1)."""

    width: int = 8
    series: int = 1

    def rows(self, lengths: Sequence[int]) -> int:
        return self.series * (2 * lengths[0] + 1)

    def answers(self, lengths: Sequence[int]) -> int:
        return self.series * lengths[0]

    def sample(self, generator: torch.Generator, batch: int, lengths: Sequence[int]) -> Tapes:
        (L,) = lengths
        x, y, mask = blank(generator, self.rows(lengths), batch, self.inputs, self.outputs)
        for start in range(0, len(x), 2 * L + 1):
            shown = random_bits(generator, L, batch, self.width)
            x[start : start + L, :, : self.width] = shown
            x[start + L, :, self.width] = 1
            y[start + L + 1 : start + 2 * L + 1] = shown
            mask[start + L + 1 : start + 2 * L + 1] = True
        return Tapes(x, y, mask)


@dataclass(frozen=True)
class RepeatCopy(Task):
    """Section 4.2.  The number of repeats is shown with mean 0 and variance 1 over its range in training; after the last repeat the
    end marker, the last output, must be given alone."""

    high: int = 10
    repeats_low: int = 1
    repeats_high: int = 10
    width: int = 8
    names: ClassVar[tuple[str, ...]] = ("length", "repeats")
    flags: ClassVar[tuple[str, ...]] = ("end", "repeats")
    markers: ClassVar[tuple[str, ...]] = ("end",)
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        return ((self.low, self.high), (self.repeats_low, self.repeats_high))

    def rows(self, lengths: Sequence[int]) -> int:
        return lengths[0] + 1 + self.answers(lengths)

    def answers(self, lengths: Sequence[int]) -> int:
        return lengths[0] * lengths[1] + 1

    def sample(self, generator: torch.Generator, batch: int, lengths: Sequence[int]) -> Tapes:
        L, R = lengths
        x, y, mask = blank(generator, self.rows(lengths), batch, self.inputs, self.outputs)
        shown = random_bits(generator, L, batch, self.width)
        x[:L, :, : self.width] = shown
        x[L, :, self.width] = 1
        count = self.repeats_high - self.repeats_low + 1
        deviation = ((count**2 - 1) / 12) ** 0.5 or 1.0
        x[L, :, self.width + 1] = (R - (self.repeats_low + self.repeats_high) / 2) / deviation
        y[L + 1 : -1, :, : self.width] = shown.repeat(R, 1, 1)
        y[-1, :, self.width] = 1
        mask[L + 1 :] = True
        return Tapes(x, y, mask)


@dataclass(frozen=True)
class AssociativeRecall(Task):
    """Section 4.3.  An item is `vectors` vectors; before each item and after the last stands the item flag; then one item, never the
    last, between two query flags: the item that followed it is the answer."""

    low: int = 2
    high: int = 6
    width: int = 6
    vectors: int = 3
    names: ClassVar[tuple[str, ...]] = ("items",)
    flags: ClassVar[tuple[str, ...]] = ("item", "query")

    def least(self, name: str) -> int:
        return 2 if name in ("low", "high") else 1

    def check(self, lengths: Sequence[int]) -> None:
        super().check(lengths)
        if lengths[0] < 2:
            raise ValueError("at least 2 items are needed: the answer is the item after the queried one")

    def rows(self, lengths: Sequence[int]) -> int:
        return (self.vectors + 1) * lengths[0] + 1 + (self.vectors + 2) + self.vectors

    def answers(self, lengths: Sequence[int]) -> int:
        return self.vectors

    def sample(self, generator: torch.Generator, batch: int, lengths: Sequence[int]) -> Tapes:
        (N,), V, W = lengths, self.vectors, self.width
        x, y, mask = blank(generator, self.rows(lengths), batch, self.inputs, self.outputs)
        items = random_bits(generator, N, V, batch, W)
        asked = torch.randint(N - 1, (batch,), generator=generator, device=generator.device)
        every = torch.arange(batch, device=generator.device)
        shown = x[: N * (V + 1)].view(N, V + 1, batch, W + 2)
        shown[:, 0, :, W] = 1
        shown[:, 1:, :, :W] = items
        x[N * (V + 1), :, W] = 1
        query = x[N * (V + 1) + 1 :]
        query[0, :, W + 1] = query[V + 1, :, W + 1] = 1
        query[1 : V + 1, :, :W] = items[asked, :, every].transpose(0, 1)
        y[-V:] = items[asked + 1, :, every].transpose(0, 1)
        mask[-V:] = True
        return Tapes(x, y, mask)


@dataclass(frozen=True)
class DynamicNGrams(Task):
    """Section 4.4: bits of an n-gram source, whose table of 2^(n - 1) probabilities, Beta(1/2, 1/2), is new on every tape; the first
    n - 1 bits are fair coins.  Row t shows bit t - 1 (row 0: 0) and asks for bit t."""

    low: int = 200
    high: int = 200
    n: int = 6
    width: ClassVar[int] = 1
    flags: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n > 16:
            raise ValueError(f"{self.n}-grams have {2 ** (self.n - 1):,} contexts: n may be at most 16")

    def rows(self, lengths: Sequence[int]) -> int:
        return lengths[0]

    def answers(self, lengths: Sequence[int]) -> int:
        return lengths[0]

    def remembered(self, lengths: Sequence[int]) -> int:
        return 2 ** (self.n - 1)

    def sample(self, generator: torch.Generator, batch: int, lengths: Sequence[int]) -> Tapes:
        (L,), device = lengths, generator.device
        coins = torch.rand(2, batch, 2 ** (self.n - 1), generator=generator, device=device)
        table = (coins[0] * (torch.pi / 2)).sin().square()  # Beta(1/2, 1/2) is the arcsine law
        coins = torch.rand(L, batch, generator=generator, device=device)
        y = torch.empty(L, batch, dtype=torch.uint8, device=device)
        context = torch.zeros(batch, dtype=torch.int64, device=device)
        for t in range(L):
            chance = table.gather(1, context[:, None]).squeeze(1) if t >= self.n - 1 else 0.5
            y[t] = coins[t] < chance
            context = (2 * context + y[t]) % 2 ** (self.n - 1)
        x = torch.zeros(L, batch, 1, device=device)
        x[1:, :, 0] = y[:-1]
        return Tapes(x, y[..., None], torch.ones(L, dtype=torch.bool))

    def optimal(self, bits: Tensor) -> Tensor:
        """bits [L, B] -> the probability [L, B] that an optimal observer gives each of being 1 (equation 10, Murphy 2012):
        (N1 + 1/2) / (N0 + N1 + 1) of the counts in the same context; 1/2 for the first n - 1."""
        L, batch = bits.shape
        counts = torch.zeros(batch, 2 ** (self.n - 1), 2, dtype=torch.float64, device=bits.device)
        every, out = torch.arange(batch, device=bits.device), []
        context, bits = torch.zeros(batch, dtype=torch.int64, device=bits.device), bits.long()
        for t in range(L):
            seen = counts[every, context]
            known = t >= self.n - 1
            out.append((seen[:, 1] + 0.5) / (seen.sum(1) + 1) if known else torch.full_like(seen[:, 1], 0.5))
            if known:
                counts[every, context, bits[t]] += 1
            context = (2 * context + bits[t]) % 2 ** (self.n - 1)
        return torch.stack(out)


@dataclass(frozen=True)
class PrioritySort(Task):
    """Section 4.5: vectors with priorities from [-1, 1]; the answer is the `best` highest, highest first."""

    low: int = 20
    high: int = 20
    width: int = 8
    best: int = 16
    names: ClassVar[tuple[str, ...]] = ("items",)
    flags: ClassVar[tuple[str, ...]] = ("end", "priority")
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check((self.low,))

    def check(self, lengths: Sequence[int]) -> None:
        super().check(lengths)
        if lengths[0] < self.best:
            raise ValueError(f"{lengths[0]} items are too few: the task asks for the best {self.best}")

    def rows(self, lengths: Sequence[int]) -> int:
        return lengths[0] + 1 + self.best

    def answers(self, lengths: Sequence[int]) -> int:
        return self.best

    def sample(self, generator: torch.Generator, batch: int, lengths: Sequence[int]) -> Tapes:
        (N,), W = lengths, self.width
        x, y, mask = blank(generator, self.rows(lengths), batch, self.inputs, self.outputs)
        shown = random_bits(generator, N, batch, W)
        priority = torch.rand(N, batch, generator=generator, device=generator.device) * 2 - 1
        x[:N, :, :W] = shown
        x[:N, :, W + 1] = priority
        x[N, :, W] = 1
        best = priority.argsort(0, descending=True)[: self.best]
        y[N + 1 :] = shown.gather(0, best[..., None].expand(-1, -1, W))
        mask[N + 1 :] = True
        return Tapes(x, y, mask)


TASKS: dict[str, type[Any]] = {t.__name__: t for t in (Copy, RepeatCopy, AssociativeRecall, DynamicNGrams, PrioritySort)}


def check_task(task: Task) -> None:
    """ValueError if a task's shortest and longest tapes don't match its own description."""
    for lengths in (tuple(low for low, _ in task.ranges), task.longest):
        task.check(lengths)
        tapes, again = (task.sample(torch.Generator().manual_seed(0), 2, lengths) for _ in range(2))
        check_tapes(task, tapes, 2, lengths)
        if not all(map(torch.equal, tapes, again)):
            raise ValueError(f"{type(task).__name__}: generators with the same seed make different tapes: draw only from the generator")


def check_tapes(task: Task, tapes: Tapes, batch: int, lengths: Sequence[int]) -> None:
    """ValueError if tapes of these lengths don't have the rows, numbers and answers that the task describes."""
    x, y, mask = tapes
    T, (low, high) = task.rows(lengths), task.bounds
    length = f"{type(task).__name__}, length {'x'.join(map(str, lengths))}"
    for what, tensor, shape, dtype in (
        ("inputs", x, (T, batch, task.inputs), torch.float32),
        ("targets", y, (T, batch, task.outputs), torch.uint8),
        ("mask", mask, (T,), torch.bool),
    ):
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(f"{length}: {what} are {list(tensor.shape)} {tensor.dtype}, not {list(shape)} {dtype}")
    if int(mask.sum()) != task.answers(lengths):
        raise ValueError(f"{length}: {int(mask.sum())} rows ask for an answer, but answers() says {task.answers(lengths)}")
    if int(y.max()) > 1 or bool(y[~mask.to(y.device)].any()):
        raise ValueError(f"{length}: targets must be 0 or 1, and 0 in rows that ask for no answer")
    if not bool((x.isfinite() & (x >= low) & (x <= high)).all()):
        raise ValueError(f"{length}: inputs must be finite, and from {low:g} to {high:g} as `bounds` says")
