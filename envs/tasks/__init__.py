"""The algorithmic tasks of the Neural Turing Machine paper, once defined and seen three ways (sequences.py; scalar.py, vector.py,
device.py).

The defaults can be learned: a reward for every row, and nothing an action does changes what is seen next, so a discount of 0 is
right.  The hard variants have ids of their own: Exact (a row counts whole), Sparse (one reward at the end), Stop (the first wrong row
is the last).  Their ids are in own.py.
"""

from __future__ import annotations

from typing import Any

from arcturus.envs.own import TURING


def task_of(env_id: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The task and the way of playing it (sequences.py, playing.Play) that an id names, with options on top of its own settings."""
    from arcturus.envs.tasks.scalar import split_settings
    from arcturus.envs.tasks.sequences import TASKS

    settings = dict(TURING[env_id]["kwargs"])
    return split_settings(TASKS[settings.pop("task")], settings | options)
