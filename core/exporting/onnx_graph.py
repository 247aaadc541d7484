"""An agent's playing network as an ONNX graph; its memory goes in and comes out as tensors."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnxruntime
import torch

from arcturus.errors import ConfigError
from arcturus.exporting.playing import CHECKED, Playing, check, playing


def to_onnx(agent: Any, agent_name: str) -> tuple[bytes, list[str]]:
    """The graph, and notes for the user.  Inputs and outputs are those of Playing, for any number N of environments."""
    player = playing(agent, agent_name)
    inputs = player.random_inputs(agent.spec, 2)  # torch.export takes sizes of 0 and 1 for constants
    shapes = {"obs": {0: "batch"}}
    if len(inputs) > 1:
        shapes |= {"first": {0: "batch"}, "leaves": tuple({0: "batch"} for _ in inputs[2:])}  # type: ignore[dict-item]
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                player,
                inputs,
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=player.inputs,
                output_names=player.outputs,
                dynamic_shapes=shapes,
            )
    except torch.onnx.errors.OnnxExporterError as e:
        cause = str(e.__cause__ or e).strip().splitlines()[0]
        fix = "if it contains a layer of your own, write that so that torch.export can trace it"
        raise ConfigError(f"this {agent_name}'s network can't be exported to ONNX: {cause}", where="--to", fix=fix) from e
    assert program is not None
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return data, [_checked(session, player, agent.spec), *_notes(session, player)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporter's warnings about what it lacks (torchvision) and about axes that share a name, which is intended."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def _checked(session: onnxruntime.InferenceSession, player: Playing, spec: Any) -> str:
    inputs = player.random_inputs(spec, CHECKED)
    ours = list(player(*inputs))
    theirs = session.run(player.outputs, {name: x.numpy() for name, x in zip(player.inputs, inputs, strict=True)})
    best, chosen = player.greedy(ours[0]), player.greedy(torch.as_tensor(theirs[0]))
    worth = [player.worth(ours[0], action) for action in (best, chosen)]
    return check([*ours, worth[0]], [*theirs, worth[1]], best == chosen, "onnxruntime")


def _notes(session: onnxruntime.InferenceSession, player: Playing) -> list[str]:
    notes = []
    for title, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for node in nodes:
            dtype = node.type.removeprefix("tensor(").removesuffix(")")
            notes.append(f"{title:7s}{node.name:14s} {dtype:6s} [{', '.join(map(str, node.shape))}]")
    if len(player.inputs) > 1:
        notes.append("set first to true where an episode begins: the memory given there (zeros are fine) is then reset")
    return notes
