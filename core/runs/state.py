"""The state of a run: everything that its further course depends on, besides its settings.  A checkpoint holds it, so that a run
stopped at any instant continues as if it had not been stopped.

Scheduled checkpoints are made at restarts of the environments; a signal's checkpoint at any row, with the actions that led there
(action_log.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from arcturus.api import Agent, Metrics, State, state_leaves, state_like
from arcturus.envs.vector import BadRow, Episode
from arcturus.errors import TrainingFailed
from arcturus.optimizers import culprit
from arcturus.runs.action_log import ActionLog
from arcturus.runs.monitor import check_state
from arcturus.runs.settings import RunConfig
from arcturus.seeding import Seeds
from arcturus.telling import say

MOST_WAITING = 10_000  # finished episodes that wait to be counted, all of which a checkpoint keeps
COUNTED = ("row", "longest", "finished", "broken_off")
LONGEST_STRETCH = 50_000  # rows after which environments restart at a checkpoint in any case
CLIPPED = 0.1  # probability beyond a support from which on a warning is given
LIMIT = 10  # bad rows between two scheduled checkpoints, or skipped updates in a row


def passed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` (0: there is none) lies in (before, now]."""
    return every > 0 and now // every > before // every


class Account:
    """Which of the finished episodes a mean return may count, though environments restart at checkpoints and long episodes end later.

    Of episodes played side by side, the short ones end first, and a restart breaks off the long ones: counting all that have ended by now
    would bias the mean towards short episodes.  So an episode counts once every other that began at the same time or earlier is over.  One
    that lasts more than twice as long as any before it delays no others (it may be stuck).

    Rows are counted over the whole run.
    """

    def __init__(self) -> None:
        self.row = 0
        self.longest = 0  # agent steps of the longest episode that ended
        self.finished = self.broken_off = 0
        self.waiting: list[list[float]] = []  # [row it began at, environment, score, length] of those that don't count yet

    def take(self, finished: list[Episode], playing: np.ndarray) -> list[Episode]:
        """Takes a row's finished episodes and the steps [N] taken by those under way (0: none is); returns the episodes that count from
        now on, in the order in which they began."""
        self.row += 1
        for e in finished:
            self.waiting.append([self.row - e.length, e.env, e.score, e.length])
            self.longest = max(self.longest, e.length)
        self.finished += len(finished)
        if not self.waiting:
            return []
        open_ = playing[(playing > 0) & (playing <= 2 * self.longest)]
        oldest = self.row - int(open_.max()) if len(open_) else self.row + 1
        self.waiting.sort()
        count = max(sum(entry[0] < oldest for entry in self.waiting), len(self.waiting) - MOST_WAITING)
        out, self.waiting = self.waiting[:count], self.waiting[count:]
        return [Episode(int(env), score, int(length)) for _, env, score, length in out]

    def may_restart(self, rows: int, playing: np.ndarray) -> bool:
        """Whether `rows` since the last restart were enough for two episodes as long as the longest so far."""
        return rows >= min(2 * max(self.longest, int(playing.max(initial=0))), LONGEST_STRETCH)

    def restart(self, playing: np.ndarray) -> None:
        """Every environment restarts: open episodes are broken off, and finished ones that still wait never count."""
        self.broken_off += int((playing > 0).sum())
        self.waiting.clear()

    def scalars(self) -> dict[str, float]:
        return {"charts/episodes": self.finished, "charts/episodes_broken_off": self.broken_off}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in COUNTED} | {"waiting": [list(entry) for entry in self.waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError for what state_dict() can't have given."""
        if not all(isinstance(e, list) and len(e) == 4 and all(type(x) in (int, float) for x in e) for e in state["waiting"]):
            raise ValueError("its record of episodes is invalid")
        for name in COUNTED:
            setattr(self, name, state[name])
        self.waiting = [list(entry) for entry in state["waiting"]]


class Health:
    """Numbers that are not finite are skipped where they arise; too many of them end the run.

    bad_rows: since the last scheduled checkpoint.
    """

    def __init__(self, env_id: str):
        self.env_id, self.bad_rows, self.told = env_id, 0, False

    def check_rows(self, bad: list[BadRow], started: int, steps: int) -> None:
        """bad: those that came in up to this step, since the environments were restarted at step `started`."""
        for row in bad:
            self.bad_rows += 1
            told = f"{self.env_id}: environment {row.env} gave a {row.what} that is not finite"
            if self.bad_rows == 1:
                say(f"warning: {told}; it is skipped, and the episode is not counted")
            if self.bad_rows >= LIMIT:
                raise TrainingFailed(f"{told}, the {self.bad_rows}th such row since step {started:,}", where=f"step {steps:,}")

    def check_updates(self, metrics: Metrics, agent: Any, steps: int, *, wait: bool) -> None:
        """wait: also for numbers that are still on a GPU."""
        clipped = metrics.get("health/clipped_mass")
        if wait and clipped is not None and not self.told and clipped > CLIPPED:
            self.told, c = True, agent.config
            say(
                f"warning: {100 * float(clipped):.0f}% of the probability of returns lies outside the support from {c.v_min:g} to "
                f"{c.v_max:g}, where returns can't be distinguished: widen it (--agent.v-min, --agent.v-max)"
            )
        skipped = metrics.get("health/skipped_updates")
        if skipped is not None and (wait or not skipped.is_cuda) and skipped >= LIMIT:
            raise TrainingFailed(
                f"{culprit(agent.network)} is not finite; {int(skipped)} updates in a row were skipped",
                where=f"step {steps:,}",
                fix="use a smaller learning rate; the newest checkpoint, if there is one, has finite weights (resume RUN --fork)",
            )


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
        new = replace(self, memory=self.agent.initial_state(self.config.env.num_envs))
        monitor = {"returns": [], "lengths": [], "episodes": 0, "metrics": [], "waiting": [], "files": []}
        return new.to_checkpoint(monitor, fingerprint="") | {"schedule": self.envs.schedule_now()}

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
