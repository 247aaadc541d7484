"""How well a task's answers are known, by length: for every kind of agent, on tapes not used in training.

What a task shows doesn't depend on the answers, so one pass over a tape gives the exact probability of each answer under a policy:

    bits        - sum log2 pi(y_t | x_1 ... x_t)  over the rows that ask: Graves et al. 2014's cost, in bits per sequence
    error bits  wrong bits per sequence of the likeliest answers
    exact       share of sequences without one

Agents trained by reward are not calibrated: while a policy is right more and more often, it may give the right answers less and less
probability where it is wrong.  Agents without a policy (action-values) have no bits.  For n-grams, whose bits can't be known, the
excess over the optimal observer on the same tapes is reported too (the cost of single sequences varies by 36 bits).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arcturus.actor_critic import Categoricals
from arcturus.api import Actor
from arcturus.config import parse_options
from arcturus.envs import EnvConfig, family, is_own
from arcturus.errors import ConfigError
from arcturus.seeding import Seeds

BATCH = 250  # sequences side by side
SEQUENCES_LIMIT = 1_000_000  # of each length


class Answers(NamedTuple):
    """An actor's answers to B tapes of T rows, as they are played."""

    inputs: Tensor  # [T, B, inputs]
    targets: Tensor  # [T, B, bits] uint8
    mask: Tensor  # [T] bool
    probability: Tensor  # [T, B, bits] that the bit is 1, as the policy has it; 0 or 1 of agents without one; 0 outside the mask
    wrong: Tensor  # [T, B, bits] bool, of the likeliest answers
    bits: Tensor | None  # [B] cost of each sequence
    optimal: Tensor | None  # [T, B] of n-grams: an optimal observer's probability


@dataclass(frozen=True)
class LengthScore:
    lengths: tuple[int, ...]
    sequences: int
    bits: float | None  # per sequence, a mean
    error_bits: float
    exact: float
    chance: int  # bits per sequence of guessing, which are also the bits that are asked for
    excess: float | None = None  # of n-grams: bits over the optimal observer's, a mean over the same tapes
    excess_error: float | None = None  # its standard error

    @property
    def name(self) -> str:
        return "x".join(map(str, self.lengths))

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if v is not None}


def parse_lengths(text: str) -> list[tuple[int, ...]]:
    """10,20,30 or, of tasks with two, 10x5,20x10."""
    try:
        return [tuple(int(n) for n in part.split("x")) for part in text.split(",")]
    except ValueError as e:
        raise ConfigError(f"{text!r} are not lengths", where="--lengths", fix="write 10,20,30; or length x repeats: 10x5,20x10") from e


def check_lengths(actor: Any, config: EnvConfig, lengths: Sequence[tuple[int, ...]]) -> None:
    """Before anything runs: checks that tapes of these lengths exist, and that the memory can hold them."""
    task, _ = _task(config)
    modules = actor.network.modules() if actor.network is not None else ()
    slots = min((m.slots for m in modules if hasattr(m, "slots")), default=0)  # of the memory that is addressed
    for each in lengths:
        try:
            task.check(each)
        except ValueError as e:
            raise ConfigError(f"{config.id}: {e}", where="--lengths") from e
        if slots and task.remembered(each) > slots:
            raise ConfigError(
                f"length {'x'.join(map(str, each))} has {task.remembered(each)} vectors to remember, but the memory has only {slots} slots",
                where="--lengths",
                fix=f"add --memory-slots {task.remembered(each)} or more",
            )


def _task(config: EnvConfig) -> tuple[Any, Any]:
    from arcturus.envs.tasks import registered_settings, task_of

    if registered_settings(config.id) is None:
        raise ConfigError(f"{config.id} has no sequences to score by length", where="--lengths", fix="use a run on an NTM/ task")
    return task_of(config.id, parse_options(config.options))


@torch.no_grad()
def answer(
    actor: Actor, config: EnvConfig, lengths: tuple[int, ...], batch: int, generator: torch.Generator, device: torch.device | str
) -> Answers:
    """`batch` tapes of these lengths, answered."""
    from arcturus.envs.tasks.device import TaskEnvs

    task, play = _task(config)
    if play.reward == "stop":  # here a wrong answer doesn't end the tape
        play = replace(play, reward="exact")
    with TaskEnvs(config.id, task, play, batch, device) as envs:
        tapes = task.sample(generator, batch, lengths)
        ts, state = envs.open(tapes), actor.initial_state(batch)
        actions = Categoricals(play.space, config.id)
        probability = torch.zeros_like(envs.tapes.targets, dtype=torch.float32)
        wrong = torch.zeros_like(envs.tapes.targets, dtype=torch.bool)
        bits: Tensor | None = torch.zeros(batch, device=device)
        for t, asked in enumerate(envs.tapes.mask.tolist()):
            act = actor.act(ts, state, explore=False)
            if asked:
                said, y = play.decode(act.action), envs.tapes.targets[t]
                probability[t], wrong[t] = said.float(), said != y
                if "logits" not in act.extras:
                    bits = None
                elif bits is not None:
                    probability[t] = play.chances(actions.log_probs(act.extras["logits"]).exp())
                    if ts.target is None:
                        bits = bits - torch.where(y.bool(), probability[t], 1 - probability[t]).log2().sum(-1)
                    else:
                        bits = bits - actions.log_prob(act.extras["logits"], ts.target) / math.log(2)
            envs.send(act.action)
            ts, state = envs.recv(), act.state
        optimal = task.optimal(tapes.targets[..., 0]) if hasattr(task, "optimal") else None
        return Answers(*envs.tapes, probability, wrong, bits, optimal)


def score_lengths(
    actor: Actor,
    config: EnvConfig,
    lengths: Sequence[tuple[int, ...]],
    sequences: int = 1_000,
    *,
    seed: int | Seeds = 0,
    device: torch.device | str = "cpu",
) -> list[LengthScore]:
    """`sequences` tapes of each of the lengths.  Which tapes they are depends on seed and length alone."""
    check_lengths(actor, config, lengths)
    branch, out = seed if isinstance(seed, Seeds) else Seeds(seed).branch("sequences"), []
    task, _ = _task(config)
    for each in lengths:
        generator = branch.branch("x".join(map(str, each))).torch(device)
        costs: list[Tensor] = []
        excess: list[Tensor] = []
        error_bits = exact = 0.0
        for start in range(0, sequences, BATCH):
            got = answer(actor, config, each, min(BATCH, sequences - start), generator, device)
            error_bits += float(got.wrong.sum())
            exact += float((~got.wrong.any(-1).any(0)).sum())
            if got.bits is not None:
                costs.append(got.bits)
                if got.optimal is not None:
                    y = got.targets[..., 0].bool()
                    excess.append(got.bits + torch.where(y, got.optimal, 1 - got.optimal).log2().sum(0))
        bits = float(torch.cat(costs).mean()) if costs else None
        guessing = task.answers(each) * task.outputs
        score = LengthScore(each, sequences, bits, error_bits / sequences, exact / sequences, guessing)
        if excess:
            over = torch.cat(excess)
            error = float(over.std() / len(over) ** 0.5) if len(over) > 1 else None
            score = replace(score, excess=float(over.mean()), excess_error=error)
        out.append(score)
    return out


def watched_lengths(config: EnvConfig) -> list[tuple[int, ...]]:
    """Up to five lengths over a task's whole range, for watching its training; none of other environments."""
    if family(config.id) != "ntm" or not is_own(config.id):
        return []
    task, _ = _task(config)
    steps = min(max(high - low for low, high in task.ranges), 4)
    spread = [tuple(low + round(i * (high - low) / max(steps, 1)) for low, high in task.ranges) for i in range(steps + 1)]
    return list(dict.fromkeys(spread))
