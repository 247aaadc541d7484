"""Names of version 0.1: settings saved under them are read under the present names, and that is reported in one line."""

from __future__ import annotations

from typing import Any

from arcturus.telling import say

AGENT_FIELDS = {"learn_start": "learning_starts", "life_loss": "end_on_life_loss"}
LAMBDA = {"a2c": "gae_lambda", "ppo": "gae_lambda", "pqn": "q_lambda"}  # what `lam` was
MEMORY_OF_DQN = ("core", "core_width", "core_options", "bptt", "burn_in")  # drqn's now
_said: set[str] = set()


def todays(values: dict[str, Any], agent_name: str = "") -> dict[str, Any]:
    """Settings as a run folder or a file holds them, {"agent": {"name": ...}, "env": ..., "run": ...}, by today's names.  agent_name: of a
    file that names none."""
    agent, env = values.get("agent"), values.get("env")
    changes: list[str] = []
    out = dict(values)
    if isinstance(agent, dict):
        out["agent"] = _agent(dict(agent), str(agent.get("name", agent_name)), changes)
    if isinstance(env, dict) and "groups" in env:
        out["env"] = {k: v for k, v in env.items() if k != "groups"}
        if env["groups"] != 1:
            changes.append(f"env.groups {str(env['groups'])[:20]} no longer exists, so the run will continue differently")
    line = ", ".join(changes)
    if line and line not in _said:
        _said.add(line)
        say(f"settings of version 0.1 have new names: {line}")
    return out


def _agent(agent: dict[str, Any], name: str, changes: list[str]) -> dict[str, Any]:
    renamed = AGENT_FIELDS | ({"lam": LAMBDA[name]} if name in LAMBDA else {})
    for old, new in renamed.items():
        if old in agent and new not in agent:
            agent[new] = agent.pop(old)
            changes.append(f"agent.{old} is now {new}")
    now = name
    if name == "dqn":
        now = "drqn" if agent.get("core", "none") != "none" else "dqn"
        agent = _without(agent, ("munchausen", "temperature") if now == "drqn" else MEMORY_OF_DQN)
    elif name == "teacher":
        now = "distill" if agent.get("teachers") else "supervised"
        agent = _without(agent, ("play",) if now == "distill" else ("teachers", "temperature"))
    if now != name:
        agent["name"] = now
        changes.append(f"agent {name} is now {now}")
    return agent


def _without(agent: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in agent.items() if k not in names}
