"""Starting from what another run has learnt, and freezing some of it (Yosinski et al. 2014, arXiv:1411.1792; Rusu et al.
2016, arXiv:1606.04671, section 4: fine-tuning as the baseline of progressive networks).

A network's parts are its modules: torso, core (memory), and the heads, for values or actions.  Torso and core are taken over by name
and shape, whichever agent learnt them; heads too, unless a new head is asked for, as another game's actions mean other things.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from arcturus.errors import CheckpointError, ConfigError
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.depending import opened
from arcturus.runs.listening import split_names

HEADS = ("head", "policy", "value", "expectation")
NETWORKS = ("network", "critics")  # in an agent's state


def begin_with(agent: Any, path: Path | str, new_head: bool) -> list[str]:
    """Sets an agent's networks to those of another run's checkpoint (runs/depending.py), the target network included, and returns the
    names of the parameters taken over.  ConfigError where something doesn't fit."""
    if agent.network is None or agent.own_loop:
        raise ConfigError("this agent has no network that can start from another run's weights", where="--init-from")
    run, checkpoint = opened(str(path))
    try:
        given = Checkpoints(run).weights(checkpoint)
    except CheckpointError as e:
        raise ConfigError(f"{run} has no weights that can be read: {e.what}", where="--init-from", fix=e.fix) from e
    state = agent.state_dict()
    taken = []
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
        taken += [f"{section}/{name}" for name in wanted]
    if "target" in state:
        state["target"] = state["critics"] if "critics" in state else state["network"]
    agent.load_state_dict(state)
    return taken


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
