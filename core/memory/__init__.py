"""Memory cores: what an agent remembers from step to step.

A core is an nn.Module, made from (inputs, width) and options of its own, with

    outputs: int                                              the width of its output
    initial_state(n) -> State                                 a nest of tensors [n, ...]; learned parameters may be in it
    forward(x [N, inputs], state) -> (y [N, outputs], state)  one step

The caller owns the state.  unroll() runs a core over time and resets its state where an episode opens; acting is unrolling with
T = 1.  `none` remembers nothing, and costs nothing.  `ntm` and `dnc` also have slots, and trace(x, state), a step that also returns
everything it did, and through_time(x [T, N, inputs], state), all steps at once by compiled loops, which unroll() takes on the CPU.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook as has_any_global_hook

from arcturus.api import EnvSpec, State, state_leaves, where_first
from arcturus.config import parse_options
from arcturus.device import available_bytes
from arcturus.errors import ConfigError, nearest
from arcturus.extensions import build
from arcturus.memory.dnc import DNC
from arcturus.memory.ntm import NTM
from arcturus.memory.recurrent import GRU, LSTM, RNN, DeepLSTM, NoMemory

LEAST_STRETCH = 4  # rows without a reset, on average, from which on compiled loops are faster: each stretch prepares the weights anew
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of an nn.Module
CORES: dict[str, type[nn.Module]] = {
    "none": NoMemory,
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "deep_lstm": DeepLSTM,
    "ntm": NTM,
    "dnc": DNC,
}


def make_core(name: str, inputs: int, width: int, options: str = "") -> nn.Module:
    """By name, or by dotted path for the user's own.  options: "name=value,name=value", keyword arguments of the core's class."""
    given = parse_options(options, "--agent.core-options")
    if "." in name:
        return build(name, "--agent.core", ("outputs", "initial_state"), inputs, width, **given)
    if name not in CORES:
        raise ConfigError(f"unknown memory core {name!r}", where="--agent.core", fix=nearest(name, CORES, "cores"))
    known = list(inspect.signature(CORES[name]).parameters)[2:]
    for key in given:
        if key not in known:
            fix = nearest(key, known, "options") if known else "leave them out"
            raise ConfigError(f"the {name} core has no option {key!r}", where="--agent.core-options", fix=fix)
    return CORES[name](inputs, width, **given)


def check_room(core: nn.Module, spec: EnvSpec) -> None:
    """A ConfigError if a task needs more slots than an addressable memory has, so it could never be learned, or if the memory of all
    environments doesn't fit."""
    slots = getattr(core, "slots", 0)
    if slots and spec.remembered > slots:
        more = f"slots={spec.remembered} or more, or " if spec.remembered <= getattr(core, "most_slots", slots) else ""
        raise ConfigError(
            f"{spec.env_id} has {spec.remembered} vectors to remember, but the memory has only {slots} slots",
            where="--agent.core-options",
            fix=f"use {more}shorter tasks (--env.options high=N)",
        )
    state: State = core.initial_state(1)  # type: ignore[operator]
    numbers = sum(leaf.numel() for leaf in state_leaves(state))
    check_bytes(numbers, spec.num_envs, 1, torch.device("cpu"))  # where it is made


def check_bytes(numbers: int, num_envs: int, rows: int, device: torch.device) -> None:
    """A ConfigError if `numbers` numbers for every environment, or for every row of whole sequences, alone don't fit."""
    needed, free = 4 * numbers * num_envs * rows, available_bytes(device)
    if needed > free:
        raise ConfigError(
            f"a memory of {numbers:,} numbers, times {num_envs:,} environments"
            + (f", times {rows:,} rows of an episode," if rows > 1 else "")
            + f" takes {needed / 1e9:,.1f} GB; {free / 1e9:.1f} GB are free",
            where="--agent.core-options",
            fix="use fewer or shorter slots, fewer environments (--num-envs) or shorter tasks (--env.options)",
        )


def give_slots(network: nn.Module | None, slots: int) -> None:
    """Another number of slots to every addressable memory of a network: no weight depends on how many there are."""
    cores: list[Any] = [m for m in network.modules() if hasattr(m, "slots")] if network is not None else []
    if not cores:
        raise ConfigError("this agent has no memory slots", where="--memory-slots", fix="only the cores ntm and dnc have them")
    for core in cores:
        if not core.least_slots <= slots <= core.most_slots:
            raise ConfigError(f"memory can't have {slots} slots", where="--memory-slots", fix=f"{core.least_slots} to {core.most_slots:,}")
        core.slots = slots


def unroll(core: nn.Module, x: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
    """x [T, N, inputs], first [T, N] bool -> [T, N, outputs] and the state after them.  Gradients flow through all T steps."""
    if isinstance(core, NoMemory):
        return x, state
    fresh, out = core.initial_state(x.shape[1]), []  # type: ignore[operator]
    # reset only where an episode opens; for a single step, or on a GPU (which would be waited for), asking costs more than resetting
    opens = [True] * len(x) if len(x) == 1 or x.is_cuda else first.any(1).tolist()
    begins = [t for t in range(len(x)) if t == 0 or opens[t]]
    if len(x) >= LEAST_STRETCH * len(begins) and steps_are_compiled(core, x):
        for begin, end in zip(begins, [*begins[1:], len(x)], strict=True):
            state = where_first(first[begin], fresh, state) if opens[begin] else state
            ys, state = core.through_time(x[begin:end], state)  # type: ignore[operator]
            out.append(ys)
        return torch.cat(out), state
    for x_t, first_t, any_opens in zip(x.unbind(), first.unbind(), opens, strict=True):
        y, state = core(x_t, where_first(first_t, fresh, state) if any_opens else state)
        out.append(y)
    return torch.stack(out), state


def steps_are_compiled(core: nn.Module, x: Tensor) -> bool:
    """Whether a core has loops for many steps of x, and may use them: not one whose class or layers are the user's own, not where somebody
    listens to its modules by hooks, and not while torch records what is computed, as for an ONNX graph."""
    if type(core) not in (NTM, DNC) or not core.compiled or x.device.type != "cpu":
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or has_any_global_hook():
        return False
    if any(p.dtype != x.dtype for p in core.parameters()) or x.dtype not in (torch.float32, torch.float64):
        return False
    if any(getattr(module, hooks) for module in core.modules() for hooks in HOOKS):
        return False
    controller: Any = core.controller
    return all(type(one) in (nn.Linear, nn.LSTMCell) for one in (core.linear, *controller.layers))
