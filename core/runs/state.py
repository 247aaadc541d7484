"""The state of a run: everything that its further course depends on, besides its settings.  A checkpoint holds it, so that a run
stopped at any instant continues as if it had not been stopped.

Scheduled checkpoints are made at restarts of the environments; a signal's checkpoint at any row, with the actions that led there
(action_log.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from arcturus.api import Agent, State
from arcturus.nests import state_leaves, state_like
from arcturus.runs.action_log import ActionLog
from arcturus.runs.episodes import Account
from arcturus.runs.health import Health
from arcturus.runs.monitor import check_state
from arcturus.runs.settings import RunConfig
from arcturus.seeding import Seeds


def passed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` (0: there is none) lies in (before, now]."""
    return every > 0 and now // every > before // every


@dataclass
class RunState:
    config: RunConfig
    seeds: Seeds
    agent: Agent
    envs: ActionLog
    generator: torch.Generator  # of the actions
    health: Health
    account: Account = field(default_factory=Account)
    steps: int = 0  # agent steps so far, summed over environments
    started: int = 0  # the step at which the environments were last restarted
    best: float = -math.inf  # the best mean of an evaluation
    eval_pending: bool = False  # an evaluation at this step is due, or was broken off by a signal
    memory: State = ()  # the agent's, after the newest row

    def restart_seeds(self) -> np.ndarray:
        """Of the environments' newest restart, int64 [N]."""
        return self.seeds.branch("env", self.started).environments(self.config.env.num_envs)

    def to_checkpoint(self, monitor: dict[str, Any], fingerprint: str | None) -> dict[str, Any]:
        """What a checkpoint holds.  fingerprint: the newest row's, if the environments continue from it; None if they restart now."""
        state = {
            "agent": self.agent.state_dict(),
            "memory": {str(i): leaf for i, leaf in enumerate(state_leaves(self.memory))},
            "policy_rng": self.generator.get_state(),
            "steps": self.steps,
            "best": self.best if math.isfinite(self.best) else None,
            "owed": self.eval_pending,
            "bad_rows": 0 if fingerprint is None else self.health.bad_rows,
            "config": json.dumps(self.config.to_mapping()),
            "monitor": monitor,
            "schedule": self.envs.schedule_now() if fingerprint is None else self.envs.schedule,
            "account": self.account.state_dict(),
        }
        if fingerprint is not None:
            actions = self.envs.actions()
            state["course"] = {"started": self.started, "seen": fingerprint, "rows": len(actions), "actions": actions}
        return state

    def template(self) -> dict[str, Any]:
        """The same names, kinds and shapes, of an agent that has done nothing."""
        memory = state_leaves(self.agent.initial_state(self.config.env.num_envs))
        return {
            "agent": self.agent.state_dict(),
            "memory": {str(i): leaf for i, leaf in enumerate(memory)},
            "policy_rng": self.generator.get_state(),
            "steps": 0,
            "best": None,
            "owed": False,
            "bad_rows": 0,
            "config": "",
            "monitor": {"returns": [], "lengths": [], "episodes": 0, "metrics": [], "waiting": [], "files": []},
            "schedule": self.envs.schedule_now(),
            "account": Account().state_dict(),
            "course": {"started": 0, "seen": "", "rows": 0, "actions": self.envs.actions()},
        }

    def load(self, state: dict[str, Any], *, best_is_kept: bool) -> None:
        """Loads what to_checkpoint() returned; ValueError for what it can't have returned.  best_is_kept: the best weights are there."""
        check_state(state["monitor"])
        course = state.get("course")
        if course is not None and not (len(course["actions"]) == course["rows"] and course["started"] <= state["steps"]):
            raise ValueError("its course makes no sense")
        if "account" in state:  # older runs have none
            self.account.load_state_dict(state["account"])
        self.steps = state["steps"]
        self.eval_pending = state["owed"]
        self.health.bad_rows = state["bad_rows"]
        self.best = float(state["best"]) if state["best"] is not None and best_is_kept else -math.inf
        like = self.agent.initial_state(self.config.env.num_envs)
        leaves = [state["memory"][str(i)] for i in range(len(state_leaves(like)))]
        self.memory = state_like(like, leaves)
        if self.envs.envs.schedule is not None:
            self.envs.envs.schedule.load_state_dict(state["schedule"])
        self.agent.load_state_dict(state["agent"])
        self.generator.set_state(state["policy_rng"])
