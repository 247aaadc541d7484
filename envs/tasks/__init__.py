"""The algorithmic tasks of the Neural Turing Machine paper, once defined and seen three ways (sequences.py; scalar.py, vector.py,
device.py).

The defaults can be learned: a reward for every row, and nothing an action does changes what is seen next, so a discount of 0 is
right.  The hard variants have ids of their own: Exact (a row counts whole), Sparse (one reward at the end), Stop (the first wrong row
is the last).  Importing this registers the ids and nothing else: no torch.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

NAMES = ("Copy", "RepeatCopy", "AssociativeRecall", "DynamicNGrams", "PrioritySort")
VARIANTS = {"Exact": "exact", "Sparse": "sparse", "Stop": "stop"}

ENVIRONMENTS: dict[str, dict[str, Any]] = {f"NTM/{task}-v0": {"task": task} for task in NAMES}
for _task in NAMES:
    if _task != "DynamicNGrams":  # its bits can't be known
        ENVIRONMENTS |= {f"NTM/{_task}{v}-v0": {"task": _task, "reward": reward} for v, reward in VARIANTS.items()}
ENVIRONMENTS["NTM/CopySeries-v0"] = {"task": "Copy", "series": 10, "low": 5, "high": 5, "width": 6}

for _id, _settings in ENVIRONMENTS.items():
    if _id not in gym.registry:
        gym.register(
            _id,
            entry_point="arcturus.envs.tasks.scalar:TaskEnv",
            vector_entry_point=None if _settings.get("reward") == "stop" else "arcturus.envs.tasks.vector:TaskVectorEnv",
            kwargs=_settings,
        )


def task_of(env_id: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The task and the way of playing it (sequences.py, playing.Play) that an id names, with options on top of its own settings."""
    from arcturus.envs.tasks.scalar import split_settings
    from arcturus.envs.tasks.sequences import TASKS

    settings = dict(ENVIRONMENTS[env_id])
    return split_settings(TASKS[settings.pop("task")], settings | options)
