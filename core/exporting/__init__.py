"""Trained agents to give away: as files for other programs (stable-baselines3's zip, ONNX), or as a run folder that only plays.
Nothing here imports torch until it is used."""

from __future__ import annotations

import importlib
from pathlib import Path

from arcturus.errors import ConfigError, EnvironmentProblem
from arcturus.outputs import check_output

SUFFIXES = {"sb3": ".zip", "onnx": ".onnx", "policy": ""}  # what an agent can be exported to -> the file's suffix
PACKAGES = {"sb3": ("stable_baselines3",), "onnx": ("onnx", "onnxscript", "onnxruntime"), "policy": ()}


def check_target(path: Path, to: str) -> None:
    """Before any work: a file of the right name, in a folder (made if need be) that can be written to."""
    if SUFFIXES[to] and path.suffix != SUFFIXES[to]:
        raise ConfigError(f"--to {to} writes a {SUFFIXES[to]} file, not {path.name!r}", where="FILE")
    check_output(path if SUFFIXES[to] else path / "run.json", "FILE")


def check_packages(to: str) -> None:
    for name in PACKAGES[to]:
        try:
            importlib.import_module(name)
        except ImportError as e:
            fix = f"pip install {' '.join(PACKAGES[to]).replace('_', '-')}"
            raise EnvironmentProblem(f"--to {to} needs {name}, which can't be imported: {e}", where="--to", fix=fix) from e
