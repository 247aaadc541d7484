"""MODEL_CARD.md: what an exported policy is, how it was trained, what it scores beside the floors, and a picture of its play."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from arcturus.errors import ArcturusError
from arcturus.runs.files import write_atomically
from arcturus.runs.folder import Run, seconds_in
from arcturus.scoring.keeping import episode_of, whole
from arcturus.telling import plain, say, typed

STILL = "still.png"
HEADS = ["| | mean | median | std | lowest | highest | episodes |", "|---|---:|---:|---:|---:|---:|---:|"]


def write_card(run: Run, actor: Any, folder: Path) -> None:
    """Into the folder of an exported policy; run: the run that it is from."""
    path, report = scored(run, actor.step)
    shown = path is not None and write_still(run, actor, path, report, folder / STILL)
    config = actor.config
    lines = [f"# {plain(folder.name)}", "", f"`{config.agent_name}` on `{plain(config.env.id)}`, a policy that only plays.", ""]
    lines += ["## Training", "", *training(run, actor), "", "## Scores", "", *scores(report), ""]
    lines += [f"![The median episode, half way]({STILL})", ""] if shown else []
    lines += ["## Use", "", "```", f"evaluate-agent {typed(folder)} --episodes 10 --video film.mp4", "```", ""]
    write_atomically(folder / "MODEL_CARD.md", "\n".join(lines))


def scored(run: Run, step: int) -> tuple[Path | None, dict[str, Any]]:
    """The newest whole evaluation of this checkpoint, and its file."""
    of_it = ((path, report) for path, report in whole(run.path) if report.get("checkpoint") == step and "memory_slots" not in report)
    return next(of_it, (None, {}))


def training(run: Run, actor: Any) -> list[str]:
    about, config = run.known, actor.config
    spent = seconds_in(about)
    told = {
        "command": ", then ".join(f"`{plain(shlex.join(map(str, words)))}`" for words in commands(about, actor.step)),
        "preset": config.preset or "none",
        "seed": config.run.seed,
        "agent steps": f"{actor.step:,}",
        "core-seconds": "not counted" if spent is None else f"{spent:,.0f}",
        "machine": plain(f"{about.get('device', 'unknown')} on {about.get('machine', 'unknown')}"),
        "versions": plain(", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())),
        "settings that are not the defaults": ", ".join(f"`{name} {value}`" for name, value in changed(config)) or "none",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in told.items())]


def commands(about: dict[str, Any], step: int) -> list[list[str]]:
    """Of every start of the run that came before this step."""
    starts = about.get("starts") or [about]
    return [start.get("command", []) for start in starts if start.get("step", 0) < step]


def changed(config: Any) -> list[tuple[str, Any]]:
    """Settings of agent and environment that differ from the defaults."""
    out = []
    for part, values in (("agent", config.agent), ("env", config.env)):
        plainly = type(values)()
        for one in fields(values):
            if one.name != "id" and getattr(values, one.name) != getattr(plainly, one.name):
                out.append((f"{part}.{one.name}", plain(str(getattr(values, one.name)))))
    return out


def scores(report: dict[str, Any]) -> list[str]:
    if not report:
        return ["This checkpoint was not scored before it was exported: `evaluate-agent RUN --floors` does it."]
    rows = {str(report.get("agent", "policy")): report["score"]}
    for name, floor in report.get("floors", {}).items():
        rows["random play" if name == "random" else f"best constant action ({floor['action']})"] = floor
    lines = list(HEADS)
    for name, s in rows.items():
        interval = f"{s['mean']:.2f} [{s['ci95_low']:.2f}, {s['ci95_high']:.2f}]"
        lines.append(f"| {name} | {interval} | {s['median']:g} | {s['std']:.2f} | {s['min']:g} | {s['max']:g} | {s['episodes']} |")
    rules = f"Protocol `{report['protocol']}`, policy {report['policy']}; 95% bootstrap intervals over episodes."
    if "floors" not in report:
        rules += " The floors (random play, the best constant action) were not measured: `evaluate-agent RUN --floors` does it."
    if report.get("human_normalised") is not None:
        rules += f" Human-normalised: {100 * report['human_normalised']:.1f}%."
    return [*lines, "", rules]


def write_still(run: Run, actor: Any, kept: Path, report: dict[str, Any], path: Path) -> bool:
    """A picture of the film of the median episode, half way through; False where it can't be filmed."""
    from arcturus.pictures.moments import Canvas
    from arcturus.scoring.film import check_screen, frames_per_second, replay

    by_score = sorted(range(len(report["per_episode"])), key=lambda i: report["per_episode"][i]["score"])
    try:
        episode, _, rules, _ = episode_of(run.path, by_score[len(by_score) // 2], kept)
        env = actor.config.env
        env = replace(env, protocol=rules if rules != "-" else env.protocol)
        check_screen(env)
        canvas = Canvas(env, f"{env.id}  {actor.config.agent_name}", float(1 / frames_per_second(env)), None)
        for moment in islice(replay(actor, env, episode), len(episode.actions) // 2 + 1):
            picture = canvas.draw(moment)
        picture.save(path)
    except ArcturusError as e:
        say(f"no picture: {e.what}")
        return False
    return True
