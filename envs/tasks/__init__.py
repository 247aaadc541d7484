"""The algorithmic tasks of the Neural Turing Machine paper, once defined and seen three ways (sequences.py; scalar.py, vector.py,
device.py).

The defaults can be learned: a reward for every row, and nothing an action does changes what is seen next, so a discount of 0 is
right.  The hard variants have ids of their own: Exact (a row counts whole), Sparse (one reward at the end), Stop (the first wrong row
is the last).  Their ids are in own.py; register_task() is for a task of one's own, which is opened as module:NTM/Name-v0.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym

from arcturus.envs.opening import registered
from arcturus.envs.own import TURING, task_entry

OWN_NAME = re.compile(r"NTM/[\w.-]+-v\d+")


def registered_settings(env_id: str) -> dict[str, Any] | None:
    """What a task's id was registered with, its module imported first; None of environments that are no tasks."""
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
    from arcturus.envs.tasks.sequences import kind_of

    settings = registered_settings(env_id)
    if settings is None:
        raise ValueError(f"{env_id} is not a task")
    return split_settings(kind_of(settings.pop("task")), settings | options)


def register_task(env_id: str, kind: type, **settings: Any) -> None:
    """Registers a task of one's own (a subclass of sequences.Task) with Gymnasium, as NTM/Name-v0.

    settings: the task's fields and Play's (actions, reward, levels), where they differ from their defaults.

    Registered again by the same class, the newer one counts, as in a notebook.

    Raises ValueError for an id of another kind or of another's task, and for a task whose tapes are not what it says of them.
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
