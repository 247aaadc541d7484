"""export-agent: writes a trained agent for other programs, as a stable-baselines3 model or an ONNX graph; or as a run folder that
holds only the policy."""

from __future__ import annotations

import argparse
from typing import Any

from arcturus.scripts.frontend import command  # first: it sets what must be set before torch is imported
from arcturus.telling import tell, typed

# isort: split
from arcturus.config import user_path
from arcturus.exporting import SUFFIXES, check_packages, check_target
from arcturus.outputs import written_beside


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="export-agent", description=__doc__, allow_abbrev=False)
    p.add_argument("run", type=user_path, help="the run folder")
    p.add_argument(
        "--to", required=True, choices=list(SUFFIXES), help="stable-baselines3 (FILE.zip), ONNX (FILE.onnx), or a run folder"
    )
    p.add_argument("file", type=user_path, metavar="FILE", help="the file to write; with --to policy, the folder")
    p.add_argument("--checkpoint", default="last", help="last, best (by evaluation during training), or a step (default last)")
    p.add_argument("--trust", action="append", default=[], metavar="NAME", help="import this agent or environment from outside arcturus")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    import torch

    from arcturus.runs.files import write_file
    from arcturus.runs.folder import Run
    from arcturus.runs.library import load

    torch.set_num_threads(1)
    run = Run(args.run)
    check_target(args.file, args.to)
    check_packages(args.to)
    actor = load(run, args.checkpoint, "cpu", tuple(args.trust))
    if args.to == "policy":
        from arcturus.exporting.card import write_card
        from arcturus.exporting.policy import write_policy

        size = write_policy(actor, args.file)
        write_card(run, actor, args.file)
        told = f"{args.file}: {actor.config.agent_name} at step {actor.step:,}, {size:,} bytes, with MODEL_CARD.md"
        tell(f"{told}; evaluate-agent {typed(args.file)} plays it")
        return 0
    kind, data, notes = convert(actor, args.to)
    written_beside(args.file, lambda beside: write_file(beside, data))
    tell(f"{args.file}: {kind} of {actor.config.agent_name} at step {actor.step:,}, {len(data):,} bytes")
    tell("\n".join(notes))
    return 0


def convert(actor: Any, to: str) -> tuple[str, bytes, list[str]]:
    """Converts an actor: a description, the file's bytes, and lines to print."""
    name = actor.config.agent_name
    own_observations, own_actions = own_spaces(actor.config.env)
    if to == "onnx":
        from arcturus.exporting.onnx_graph import to_onnx

        kind = "ONNX graph"
        data, notes = to_onnx(actor.agent, name)
    else:
        from arcturus.exporting.stable_baselines import to_bytes, to_stable_baselines

        model, notes = to_stable_baselines(actor.agent, name, own_observations)
        kind, data = f"stable-baselines3 {type(model).__name__}", to_bytes(model)
    spec = actor.agent.spec
    seen = f"observations as arcturus.make gives them: {str(spec.obs_dtype).removeprefix('torch.')} {list(spec.obs_shape)}"
    return kind, data, [*notes, seen, *first_action(spec.env_id, own_actions)]


def own_spaces(config: Any) -> tuple[Any, Any]:
    """The environment's own observation and action space; (None, None) on Atari, whose frames are stacked here."""
    from arcturus.envs import is_atari, parse_options
    from arcturus.envs.opening import open_one

    if is_atari(config.id):
        return None, None
    env = open_one(config.id, **parse_options(config.options))
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()


def first_action(env_id: str, space: Any) -> list[str]:
    import numpy as np

    start = np.asarray(getattr(space, "start", 0))
    return [f"actions are counted from 0; {env_id} counts from {start.tolist()}: add that to each action"] if start.any() else []


cli = command(main)

if __name__ == "__main__":
    cli()
