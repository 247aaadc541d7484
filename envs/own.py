"""Arcturus's own environments by their ids, registered with Gymnasium by `import arcturus`; their modules are loaded by whoever makes one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

TASKS = ("Copy", "RepeatCopy", "AssociativeRecall", "DynamicNGrams", "PrioritySort")
VARIANTS = {"Exact": "exact", "Sparse": "sparse", "Stop": "stop"}  # part of an id -> what is rewarded

# id -> where it is made, and what it is registered with
PROCESSES: dict[str, dict[str, Any]] = {
    "MDP/Chain-v0": {"entry_point": "arcturus.envs.mdp:make_chain", "max_episode_steps": 100},
    "MDP/Grid-v0": {"entry_point": "arcturus.envs.mdp:make_grid", "max_episode_steps": 100},
}
MEMORY: dict[str, dict[str, Any]] = {"Memory/Recall-v0": {"entry_point": "arcturus.envs.recall:Recall"}}
TAPES: dict[str, dict[str, Any]] = {  # thresholds: Gym's
    f"Tape/{name}": {"entry_point": f"arcturus.envs.tapes:{kind}", "reward_threshold": threshold}
    for name, kind, threshold in (
        ("Copy-v0", "Copy", 25.0),
        ("DuplicatedInput-v0", "DuplicatedInput", 9.0),
        ("RepeatCopy-v0", "RepeatCopy", 75.0),
        ("Reverse-v0", "Reverse", 25.0),
        ("ReversedAddition-v0", "ReversedAddition", 25.0),
        ("ReversedAddition3-v0", "ReversedAddition3", 25.0),
        ("ReversedAddition3-v1", "ReversedAddition3InTime", 25.0),
    )
}


def task_entry(settings: dict[str, Any]) -> dict[str, Any]:
    """What a task with these settings is registered with."""
    return {
        "entry_point": "arcturus.envs.tasks.scalar:TaskEnv",
        "vector_entry_point": None if settings.get("reward") == "stop" else "arcturus.envs.tasks.vector:TaskVectorEnv",
        "kwargs": settings,
    }


def _turing() -> dict[str, dict[str, Any]]:
    """The tasks of the Neural Turing Machine paper with their settings (tasks/__init__.py).  What a Stop episode shows depends on its
    answers, so those are not made as one batch."""
    settings: dict[str, dict[str, Any]] = {f"NTM/{task}-v0": {"task": task} for task in TASKS}
    for task in TASKS:
        if task != "DynamicNGrams":  # its bits can't be known
            settings |= {f"NTM/{task}{v}-v0": {"task": task, "reward": reward} for v, reward in VARIANTS.items()}
    settings["NTM/CopySeries-v0"] = {"task": "Copy", "series": 10, "low": 5, "high": 5, "width": 6}
    return {env_id: task_entry(given) for env_id, given in settings.items()}


TURING = _turing()
OWN = PROCESSES | MEMORY | TURING | TAPES


def register() -> None:
    for env_id, given in OWN.items():
        if env_id not in gym.registry:
            gym.register(env_id, **given)
