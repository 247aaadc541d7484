"""A run folder with only what playing needs: small enough to give away, and evaluate-agent scores and films it like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from arcturus.runs.building import playing_state
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.depending import DEPENDING
from arcturus.runs.folder import Run


def write_policy(actor: Any, folder: Path) -> int:
    """Writes the folder of a loaded actor; returns its checkpoint's size in bytes.  Training can't be resumed from it."""
    alone = {DEPENDING["agent"]: ""} if hasattr(actor.config.agent, DEPENDING["agent"]) else {}
    agent, options = replace(actor.config.agent, **alone), replace(actor.config.run, run_dir=str(folder), init_from="")
    run = Run.create(replace(actor.config, agent=agent, run=options), ["export-agent", "--to", "policy", folder.name])
    checkpoints = Checkpoints(run.path)
    state = {"agent": playing_state(actor.agent.state_dict()), "steps": actor.step}
    with run.locked():
        path = checkpoints.write(checkpoints.snapshot(actor.step, state))
        run.update(status="finished", steps=actor.step, checkpoint=actor.step)
    return sum(file.stat().st_size for file in path.iterdir())
