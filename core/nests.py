"""What an agent remembers is a nest of tensors: (named) tuples, dicts and None in any depth, leading dimension [n]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = Any  # such a nest; () if nothing


def state_leaves(state: State) -> list[Tensor]:
    """The tensors of an agent's memory, in a fixed order."""
    if state is None:
        return []
    parts = state.values() if isinstance(state, dict) else state
    return [state] if isinstance(state, Tensor) else [leaf for part in parts for leaf in state_leaves(part)]


def state_like(like: State, leaves: list[Tensor]) -> State:
    """Undoes state_leaves: the leaves in the nest of `like`, on its devices."""
    rest = iter(leaves)

    def build(part: State) -> State:
        if isinstance(part, Tensor):
            return next(rest).to(part.device)
        parts = [build(p) for p in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)

    return build(like)


def map_state(f: Callable[..., Tensor], *states: State) -> State:
    """f over the tensors of one nest, or of several of the same structure (dicts and None included), which the result has too."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return f(*states)
    if isinstance(first, dict):
        return {k: map_state(f, *(state[k] for state in states)) for k in first}
    parts = [map_state(f, *part) for part in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def where_first(first: Tensor, fresh: State, state: State) -> State:
    """`fresh` in the environments that open an episode (first [N] bool), `state` in the others: the only place where memory is
    reset."""
    return map_state(lambda new, old: torch.where(first.view(-1, *[1] * (old.dim() - 1)), new, old), fresh, state)
