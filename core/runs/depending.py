"""A run that depends on another (a teacher, an initial network) records which of its checkpoints it uses, and that one's digest.

In settings: RUN as the user wrote it; RUN#step-000000002000:DIGEST, absolute, once the run has begun.  The other run may then continue,
and the dependent run is resumed with the checkpoint it began with, or not at all.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from arcturus.config import split_names, user_path
from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.files import digest
from arcturus.runs.folder import trained_already
from arcturus.telling import say

PINNED = re.compile(r"(?P<run>.+)#(?P<checkpoint>(?:step|best)-\d{12}):(?P<digest>[0-9a-f]{40})")
DEPENDING = {"agent": "teachers", "run": "init_from"}  # settings that name runs: one, or several with commas between


def pinned(config: Any) -> Any:
    """A RunConfig with every run it names pinned to its present checkpoint.  ConfigError for one that can't be read."""
    for part, name in DEPENDING.items():
        settings, flag = getattr(config, part), f"--{'agent.' * (part == 'agent')}{name.replace('_', '-')}"
        if runs := getattr(settings, name, ""):
            runs = ",".join(_pin(one, flag) for one in split_names(runs))
            config = replace(config, **{part: replace(settings, **{name: runs})})
    return config


def with_pins(config: Any, before: Any) -> Any:
    """config with the runs that it names pinned as they are in `before`, where these are the same runs."""
    for part, name in DEPENDING.items():
        settings, old = getattr(config, part), getattr(getattr(before, part), name, "")
        if old and _unpinned(getattr(settings, name, "")) == _unpinned(old):
            config = replace(config, **{part: replace(settings, **{name: old})})
    return config


def _unpinned(runs: str) -> list[Path]:
    """The folders of these runs."""
    names = [(m["run"] if (m := PINNED.fullmatch(one)) else one) for one in split_names(runs)]
    return [trained_already(user_path(name)).resolve() for name in names]


def _pin(text: str, where: str) -> str:
    if PINNED.fullmatch(text):
        return text
    run = trained_already(user_path(text)).resolve()
    if not (run / "checkpoints").is_dir():
        raise ConfigError(f"{text} is not a run folder", where=where, fix="give a folder that train-agent made")
    try:
        checkpoint = Checkpoints(run).find()
    except CheckpointError as e:
        raise ConfigError(f"{text} has no checkpoint yet", where=where, fix=e.fix) from e
    if any(c in str(run) for c in ",#"):
        raise ConfigError(f"{run} has a comma or # in its name", where=where, fix="rename the folder")
    return f"{run}#{checkpoint.name}:{_digest(checkpoint)}"


def shown(runs: str) -> str:
    """Runs that are kept, in a few letters: name, checkpoint, and the beginning of the digest."""
    found = [(one, PINNED.fullmatch(one)) for one in split_names(runs)]
    return ",".join(f"{Path(m['run']).name}#{m['checkpoint']}:{m['digest'][:8]}" if m else one for one, m in found)


def _digest(checkpoint: Path) -> str:
    """Of its manifest, which holds the digests of everything in it."""
    try:
        return digest((checkpoint / "manifest.json").read_bytes())
    except OSError:
        return "0" * 40


def opened(text: str) -> tuple[Path, Path]:
    """The run folder and the checkpoint that a setting names.  CheckpointError if that is gone or has changed."""
    match = PINNED.fullmatch(text)
    if match is None:  # of a run that was begun before they were kept
        run = user_path(text)
        say(f"warning: this run did not record which checkpoint of {run} it depends on; the newest one is used")
        return run, Checkpoints(run).find()
    run, checkpoint = Path(match["run"]), Path(match["run"]) / "checkpoints" / match["checkpoint"]
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"this run depends on {match['checkpoint']} of {run}, which no longer exists",
            where=str(run),
            fix="restore that folder",
        )
    if _digest(checkpoint) != match["digest"]:
        raise CheckpointError(
            f"this run depends on {match['checkpoint']} of {run}, which has changed since the run began", where=str(run)
        )
    return run, checkpoint


# -- fine-tuning
# Starting from what another run has learnt, and freezing some of it (Yosinski et al. 2014, arXiv:1411.1792; Rusu et al.
# 2016, arXiv:1606.04671, section 4: fine-tuning as the baseline of progressive networks).
#
# A network's parts are its modules: torso, core (memory), and the heads, for values or actions.  Torso and core are taken over by name
# and shape, whichever agent learnt them; heads too, unless a new head is asked for, as another game's actions mean other things.
#

HEADS = ("head", "policy", "value", "expectation")
NETWORKS = ("network", "critics")  # in an agent's state


def begin_with(agent: Any, path: Path | str, new_head: bool) -> None:
    """Sets an agent's networks to those of another run's checkpoint (runs/depending.py), the target network included.  ConfigError
    where something doesn't fit."""
    if agent.network is None or agent.own_loop:
        raise ConfigError("this agent has no network that can start from another run's weights", where="--init-from")
    run, checkpoint = opened(str(path))
    try:
        given = Checkpoints(run).weights(checkpoint)
    except CheckpointError as e:
        raise ConfigError(f"{run} has no weights that can be read: {e.what}", where="--init-from", fix=e.fix) from e
    state = agent.state_dict()
    for section in NETWORKS:
        own: dict[str, Tensor] = state.get(section, {})
        if section != "network" and not any(name.startswith(f"{section}/") for name in given):
            continue  # critics keep their initial weights if the other had none
        source = {name: given[there] for name in own if (there := _found(f"{section}/{name}", given))}
        wanted = {name: x for name, x in own.items() if not (new_head and part_of(name) in HEADS)}
        for name, x in wanted.items():
            if name not in source or source[name].shape != x.shape:
                _refuse(name, x, source.get(name), run)
        state[section] = own | {name: source[name] for name in wanted}
    if "target" in state:
        state["target"] = state["critics"] if "critics" in state else state["network"]
    agent.load_state_dict(state)


def part_of(name: str) -> str:
    """torso of torso.layers.conv1.weight, and of both.0.torso.layers.conv1.weight."""
    return next((word for word in name.split(".") if word != "both" and not word.isdecimal()), name)


def _found(name: str, given: dict[str, Tensor]) -> str:
    """Its name in the other run; a value function with its own torso may start from the only one there."""
    return next((n for n in (name, name.replace("/value_", "/")) if n in given), "")


def _refuse(name: str, own: Tensor, other: Tensor | None, path: Path | str) -> None:
    theirs = "does not exist" if other is None else f"has shape {list(other.shape)}"
    part = part_of(name)
    fix = (
        "add --new-head: the head starts from scratch, all other weights are copied"
        if part in HEADS
        else f"use the torso, core and frame size that {path} was trained with (see its config.yaml)"
    )
    raise ConfigError(f"{name} has shape {list(own.shape)} here, but {theirs} in {path}", where="--init-from", fix=fix)


def freeze(agent: Any, parts: str) -> None:
    """Leaves the parts named (torso,core) out of learning: their weights stay as they are."""
    for part in split_names(parts):
        modules = [
            module
            for owner in vars(agent).values()
            if isinstance(owner, nn.Module)
            for name, module in owner.named_modules()
            if name.rsplit(".", 1)[-1] in (part, f"value_{part}") and any(True for _ in module.parameters())
        ]
        if not modules:
            raise ConfigError(
                f"this agent's network has no {part} with weights", where="--freeze", fix="use torso, core, or torso,core"
            )
        for module in modules:
            module.requires_grad_(False)
    if parts and not any(p.requires_grad for p in agent.network.parameters()):
        raise ConfigError("this freezes the whole network, so nothing can be learned", where="--freeze", fix="freeze fewer parts")
