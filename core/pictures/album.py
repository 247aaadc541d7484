"""The pictures that fit an agent and its task: in files, and in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from arcturus.api import Actor
from arcturus.envs import EnvConfig
from arcturus.pictures.answers import ngrams, targets_and_outputs
from arcturus.pictures.curves import length_curves
from arcturus.pictures.gates import dnc_gates, ntm_gates
from arcturus.pictures.memory import memory_panel
from arcturus.pictures.sort import priorities
from arcturus.pictures.style import pixels, save
from arcturus.pictures.tapes import Tape, play_tape
from arcturus.scoring.sequences import LengthScore
from arcturus.seeding import Seeds


def pictures_of(tape: Tape) -> Iterator[tuple[str, Figure]]:
    """A name and a figure of each kind that is about one tape."""
    if tape.optimal is not None:
        yield "ngrams", ngrams(tape)
    if {"w_read", "w_write", "add", "reads"} <= tape.core.keys():
        yield "memory", memory_panel(tape)
        if type(tape.task).__name__ == "PrioritySort":
            yield "sort", priorities(tape)
    if {"read_gate", "write_gate", "read_shift"} <= tape.core.keys():
        yield "gates", ntm_gates(tape)
    if {"usage", "allocation", "allocation_gate", "free_gates"} <= tape.core.keys():
        yield "gates", dnc_gates(tape)


def write_pictures(
    folder: Path,
    actor: Actor,
    config: EnvConfig,
    scores: Sequence[LengthScore],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Path]:
    """Every picture that fits, at the lengths that were scored, into the folder; returns the files."""
    seeds = Seeds(seed).branch("pictures")
    tapes = [play_tape(actor, config, score.lengths, seeds, device) for score in scores]
    span = tapes[0].name if len(tapes) == 1 else f"{tapes[0].name}-to-{tapes[-1].name}"
    files = []
    if tapes[0].optimal is None:
        files.append(save(targets_and_outputs(tapes), folder / f"answers-{span}.png"))
    if len(tapes) > 1:
        known = [("agent", [score.to_json() for score in scores])]
        files.append(save(length_curves(known, tapes[0].task, config.id), folder / f"lengths-{span}.png"))
    for tape in tapes:
        files += [save(figure, folder / f"{kind}-{tape.name}.png") for kind, figure in pictures_of(tape)]
    return files


def panels(
    actor: Actor, config: EnvConfig, lengths: Sequence[int], seeds: Seeds, device: torch.device | str = "cpu"
) -> dict[str, np.ndarray]:
    """For watching training: targets and outputs, and what the memory did, on one tape; [H, W, 3] uint8 by name."""
    tape = play_tape(actor, config, lengths, seeds, device)
    figures = {"answers": ngrams(tape) if tape.optimal is not None else targets_and_outputs([tape])}
    if {"w_read", "w_write", "add", "reads"} <= tape.core.keys():
        figures["memory"] = memory_panel(tape)
    return {name: pixels(figure) for name, figure in figures.items()}
