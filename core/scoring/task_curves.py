"""Runs on one NTM/ task beside each other, for compare-runs --bits and --lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from arcturus.config import parse_options
from arcturus.envs import family, is_own
from arcturus.envs.tasks import task_of
from arcturus.errors import CheckpointError, ConfigError
from arcturus.pictures.curves import learning_curves, length_curves
from arcturus.runs.files import read_json
from arcturus.runs.folder import Run, read_metrics
from arcturus.runs.groups import memory_of
from arcturus.scoring.keeping import LENGTHS, kept
from arcturus.telling import typed


def _names(runs: Sequence[Path], configs: list[Any]) -> list[str]:
    """Agent, memory and seed; with the folder's name where two are alike."""
    names = [", ".join(part for part in (c.agent_name, memory_of(c), f"seed {c.run.seed}") if part) for c in configs]
    return [name if names.count(name) == 1 else f"{name}, {run.name}" for name, run in zip(names, runs, strict=True)]


def task_curves(runs: Sequence[Path], where: str, trust: tuple[str, ...] = ()) -> Figure:
    """where: --bits, bits per sequence against sequences seen; or --lengths, the newest scores by length.  ConfigError for runs on
    different tasks, and for runs without such scores."""
    folders = [Run(path) for path in runs]
    configs = [run.config(trust) for run in folders]
    env = configs[0].env
    tasks = [task_of(c.env.id, parse_options(c.env.options))[0] for c in configs if family(c.env.id) == "ntm" and is_own(c.env.id)]
    if len(tasks) < len(configs) or len(set(tasks)) > 1:
        raise ConfigError("these runs are not on the same NTM/ task", where=where, fix="give runs with the same --env and lengths")
    names, title = _names(runs, configs), f"{env.id} {env.options}".strip()
    if where == "--bits":
        metrics = [read_metrics(run) for run in folders]
        tags = {tag for rows in metrics for row in rows for tag in row}
        if not tags & {"task/bits_per_sequence", "eval/bits_per_sequence"}:
            raise ConfigError("no bits per sequence were logged", where=where, fix="use runs of an agent with a policy")
        return learning_curves(list(zip(names, metrics, strict=True)), tasks[0], title)
    scores: list[Any] = []
    for run in folders:
        found = kept(run.path, LENGTHS)
        if not found:
            fix = f"run evaluate-agent {typed(run.path)} --lengths 10,20"
            raise ConfigError(f"{run.path} has no scores by length", where=where, fix=fix)
        scores.append(read_json(found[-1]).get("lengths"))
    try:
        return length_curves(list(zip(names, scores, strict=True)), tasks[0], title)
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"these scores by length can't be read: {e!r}", where=where) from e
