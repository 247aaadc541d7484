"""The algorithmic tasks of the Neural Turing Machine paper: one definition (sequences.py) and three views (scalar.py, vector.py,
device.py).

The defaults can be learned: a reward for every row, and nothing an action does changes what is seen next, so a discount of 0 is
right.  The hard variants have their own ids: Exact (a row counts only if all of it is right), Sparse (one reward at the end), Stop (the
first wrong row is the last).  Ids are in own.py; register_task() is for the user's own task, opened as module:NTM/Name-v0.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym

from arcturus.envs.opening import registered
from arcturus.envs.own import TURING, task_entry

OWN_NAME = re.compile(r"NTM/[\w.-]+-v\d+")


def registered_settings(env_id: str) -> dict[str, Any] | None:
    """The settings a task's id was registered with, its module imported first; None for environments that are not tasks."""
    if env_id in TURING:
        return dict(TURING[env_id]["kwargs"])
    module, _, name = env_id.rpartition(":")
    if not module or not name.startswith("NTM/"):
        return None
    spec = gym.registry.get(registered(env_id))
    return dict(spec.kwargs) if spec is not None and spec.entry_point == task_entry({})["entry_point"] else None


def task_of(env_id: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The task and the way of playing it (sequences.py, playing.Play) that an id names, with options on top of its own settings."""
    from arcturus.envs.tasks.scalar import split_settings

    settings = registered_settings(env_id)
    if settings is None:
        raise ValueError(f"{env_id} is not a task")
    return split_settings(settings.pop("task"), settings | options)


def register_task(env_id: str, kind: type, **settings: Any) -> None:
    """Registers the user's own task (a subclass of sequences.Task) with Gymnasium, as NTM/Name-v0.

    settings: the task's fields and Play's (actions, reward, levels), where they differ from their defaults.

    If the same class registers again, as in a notebook, the newer one counts.

    Raises ValueError for an id of another form or of another task, and for a task whose tapes don't match its own description.
    """
    from arcturus.envs.tasks.scalar import split_settings
    from arcturus.envs.tasks.sequences import Task, check_task

    if not (isinstance(env_id, str) and OWN_NAME.fullmatch(env_id)) or env_id in TURING:
        raise ValueError(f"{env_id!r} can't be the id of your own task: use NTM/Name-v0, with a name that is not one of arcturus's tasks")
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"{kind!r} is not a subclass of arcturus.envs.tasks.sequences.Task")
    check_task(split_settings(kind, settings)[0])
    if (before := gym.registry.get(env_id)) is not None:
        there = before.kwargs.get("task")
        if getattr(there, "__qualname__", "") != kind.__qualname__ or before.kwargs != {"task": there, **settings}:
            raise ValueError(f"{env_id} is registered already, as {before.kwargs}")
        del gym.registry[env_id]
    gym.register(env_id, **task_entry({"task": kind, **settings}))
