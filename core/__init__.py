"""Arcturus: reinforcement learning on Atari and on algorithmic tasks; agents to read in an afternoon, runs that are never lost.

    run = arcturus.train("dqn", "CartPole-v1", steps=50_000)
    actor = arcturus.load(run)
    score = arcturus.evaluate(actor, "CartPole-v1", episodes=20).mean

Importing it registers NTM/, Tape/, Memory/ and MDP/ with Gymnasium.  Nothing here imports torch until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arcturus.envs.own import register

__version__ = "0.2.0"
__all__ = ["Run", "evaluate", "load", "make", "read_metrics", "resume", "train"]

if TYPE_CHECKING:
    from arcturus.envs import make
    from arcturus.runs.folder import Run, read_metrics
    from arcturus.runs.library import load, resume, train
    from arcturus.scoring.evaluation import evaluate

_HOMES = {
    "make": "arcturus.envs",
    "Run": "arcturus.runs.folder",
    "read_metrics": "arcturus.runs.folder",
    "train": "arcturus.runs.library",
    "resume": "arcturus.runs.library",
    "load": "arcturus.runs.library",
    "evaluate": "arcturus.scoring.evaluation",
}


register()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
