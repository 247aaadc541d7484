"""Names of version 0.1: settings saved under them are read under the present names, and that is reported in one line."""

from __future__ import annotations

from typing import Any

from arcturus import agents
from arcturus.telling import say

FIELDS = {"learn_start": ("learning_starts",), "life_loss": ("end_on_life_loss",), "lam": ("gae_lambda", "q_lambda")}
MEMORY_OF_DQN = ("core", "core_width", "core_options", "bptt", "burn_in")  # drqn's now
MEMORY_PRESETS = ("memory", "ntm", "tape")  # dqn's once, drqn's now
_said: set[str] = set()


def todays(values: dict[str, Any], agent_name: str = "") -> dict[str, Any]:
    """Settings as a run folder or a file holds them, {"agent": {"name": ...}, "env": ..., "run": ...}, by today's names.  agent_name: of a
    file that names none.  It imports the agent's module, so code of the user's own must be trusted before."""
    changes: list[str] = []
    out = dict(values)
    if isinstance(agent := values.get("agent"), dict):
        out["agent"] = _agent(dict(agent), str(agent.get("name", agent_name)), values.get("preset"), changes)
    if out.get("preset") == "distil":
        out["preset"] = "default"
        changes.append("preset distil is now default")
    if isinstance(env := values.get("env"), dict) and "groups" in env:
        out["env"] = {k: v for k, v in env.items() if k != "groups"}
        if env["groups"] != 1:
            changes.append(f"env.groups {str(env['groups'])[:20]} no longer exists and is ignored")
    line = ", ".join(changes)
    if line and line not in _said:
        _said.add(line)
        say(f"settings of version 0.1 have new names: {line}")
    return out


def _agent(agent: dict[str, Any], name: str, preset: object, changes: list[str]) -> dict[str, Any]:
    now = name
    if name == "dqn" and (agent.get("core", "none") != "none" or ("core" not in agent and preset in MEMORY_PRESETS)):
        now = "drqn"
        agent = _without(agent, ("munchausen", "temperature"))
    elif name == "dqn" and "core" in agent:
        agent = _without(agent, MEMORY_OF_DQN)
    elif name == "teacher":
        now = "distill" if agent.get("teachers") else "supervised"
        agent = _without(agent, ("play",) if now == "distill" else ("teachers", "temperature"))
    if now != name:
        agent["name"] = now
        changes.append(f"agent {name} is now {now}")
    if now:
        known = set(getattr(agents.load(now).Config, "__dataclass_fields__", ()))
        for old in [x for x in FIELDS if x in agent and x not in known]:
            for new in known.intersection(FIELDS[old]).difference(agent):
                agent[new] = agent.pop(old)
                changes.append(f"agent.{old} is now {new}")
    return agent


def _without(agent: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in agent.items() if k not in names}
