"""How much memory a replay needs, checked before it is allocated."""

from __future__ import annotations

import torch

from arcturus.api import EnvSpec
from arcturus.errors import ConfigError


def row_bytes(spec: EnvSpec, memory: int = 0) -> int:
    """Bytes of one stored agent step; memory: the numbers an agent remembers."""
    frame = int(torch.tensor(spec.frame_shape).prod()) * spec.obs_dtype.itemsize
    return frame + spec.action_dtype.itemsize + 4 + 1 + 1 + 4 * memory


def check_memory(
    capacity: int,
    spec: EnvSpec,
    device: torch.device,
    available: int,
    n_step: int = 1,
    flag: str = "--agent.capacity",
    memory: int = 0,
) -> None:
    """One clear line before training starts, instead of a killed process hours later.  available: bytes."""
    rows = spec.frame_stack + n_step  # fewer could never hold a transition with its whole stack once they wrap
    if capacity < rows * spec.num_envs:
        raise ConfigError(
            f"a replay of {capacity:,} steps is too small: {spec.num_envs} environments, stacks of {spec.frame_stack} and "
            f"{n_step}-step returns need {rows} rows",
            where="--agent.capacity",
            fix=f"use at least {rows * spec.num_envs:,}",
        )
    each = row_bytes(spec, memory)
    need = each * capacity
    if need > available:
        raise ConfigError(
            f"{capacity:,} steps need {need / 1e9:.2f} GB on {device}, where {available / 1e9:.2f} GB are free",
            where=flag,
            fix=f"use at most {int(available * 0.9) // each:,} steps, or keep the replay in host memory: --agent.replay-device cpu",
        )
