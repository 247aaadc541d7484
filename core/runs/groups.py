"""How runs are named in comparisons, and which of them are one experiment repeated with other seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from arcturus.envs import family
from arcturus.runs.depending import DEPENDING, shown
from arcturus.runs.settings import RunConfig

WORDS = 3  # settings that a name tells; the rest are counted
STEPS_APART = 0.1  # runs of one group were scored at steps that differ by at most this share of the fewest
ELSEWHERE = ("id", "options", "threads")  # of env: where it was run, not how the agent was trained


def kind_of(config: RunConfig) -> str:
    """What a run's agent is called among others: by its preset where that names an algorithm (c51's rainbow)."""
    if config.agent_name == "sb3":
        return f"stable-baselines3 {config.agent.algorithm}"
    return "rainbow" if config.preset.startswith("rainbow") else config.agent_name


def memory_of(config: RunConfig) -> str:
    """The memory core and, of those with slots, a feedforward controller; empty without a core."""
    core = getattr(config.agent, "core", "")
    kind = "feedforward " if "controller=feedforward" in getattr(config.agent, "core_options", "") else ""
    return "" if core == "none" else kind + core


def environment_of(config: RunConfig) -> str:
    return f"{config.env.id} {config.env.options}".strip()


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Everything that training depends on except seed and environment; settings of where and how long it is computed, and of what
    is logged, are left out.  A schedule over the whole run (-1) is given in steps."""
    plain = config.to_mapping()
    agent, env = plain["agent"], {k: v for k, v in plain["env"].items() if k not in ELSEWHERE}
    if agent.get("anneal_steps") == -1:
        agent["anneal_steps"] = config.run.steps
    if not agent.get("prioritised"):
        agent.pop("importance_steps", None)
    elif agent.get("importance_steps") == -1:
        agent["importance_steps"] = config.run.steps
    run = {"checkpoint_every": config.checkpoint_every}
    run |= {k: getattr(config.run, k) for k in ("deterministic", "eager", "init_from", "new_head", "freeze")}
    told = {"preset": config.preset, **agent, **env, **run}
    return told | {name: shown(told[name]) for name in DEPENDING.values() if told.get(name)}


def grouped(runs: Sequence[Any]) -> list[tuple[str, dict[str, Any], list[int]]]:
    """Runs (with a config, and the step at which they were scored) that differ only in seed and environment: (name, what differs from
    other groups of its kind, indices in `runs`), in the order in which they were given.

    Runs scored at steps further apart than STEPS_APART allows are not repetitions of each other.
    """
    alike: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        alike.setdefault(json.dumps(settings_of(run.config)), []).append(i)
    groups: list[tuple[dict[str, Any], list[int]]] = []
    for places in alike.values():
        parts: list[list[int]] = []
        for i in sorted(places, key=lambda i: runs[i].step):
            if not parts or runs[i].step > (1 + STEPS_APART) * runs[parts[-1][0]].step:
                parts.append([])
            parts[-1].append(i)
        for part in parts:
            told = {"steps": f"{runs[part[0]].step:,}"} if len(parts) > 1 else {}
            groups.append((told | settings_of(runs[part[0]].config), sorted(part)))
    groups.sort(key=lambda group: group[1][0])
    return _named(runs, groups)


def _named(
    runs: Sequence[Any], groups: Sequence[tuple[dict[str, Any], list[int]]]
) -> list[tuple[str, dict[str, Any], list[int]]]:
    """Kind and memory, and the settings in which groups of them differ within a family of environments."""
    heads = []
    for _, places in groups:
        config = runs[places[0]].config
        name = ", ".join(part for part in (kind_of(config), memory_of(config)) if part)
        heads.append((name, family(config.env.id)))
    out: list[tuple[str, dict[str, Any], list[int]]] = []
    seen = Counter[tuple[str, str]]()
    for (settings, places), (kind, of) in zip(groups, heads, strict=True):
        rivals = [other for (other, _), head in zip(groups, heads, strict=True) if head == (kind, of)]
        differs = {k: v for k, v in settings.items() if any(other.get(k) != v for other in rivals)}
        told = [f"{v} steps" if k == "steps" else f"{k} {_short(v)}" for k, v in list(differs.items())[:WORDS]]
        more = [f"{len(differs) - WORDS} more"] if len(differs) > WORDS else []
        name = ", ".join([kind, *told, *more])
        seen[name, of] += 1
        again = seen[name, of]  # where the settings that are told are alike
        out.append((name if again == 1 else f"{name} ({again})", differs, places))
    return out


def _short(value: Any) -> str:
    """A setting's value in a name."""
    return f"{value:.4g}" if isinstance(value, float) else "none" if value == "" else str(value)
