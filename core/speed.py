"""What makes a run fast and changes only rounding, in one place and behind one flag: `--eager True` turns all of it off.

| fast                                            | eager                                     |
|-------------------------------------------------|-------------------------------------------|
| weights and frames channels_last                | contiguous                                |
| fused Adam                                      | Adam one tensor and operation at a time   |
| replay's small loops compiled, on the CPU       | tensor operations                         |
| all steps of an NTM or DNC compiled, on the CPU | tensor operations, step by step           |
| TF32 on CUDA, but with --deterministic          | float32                                   |
| updates, acting, priorities as CUDA graphs      | one kernel launched after the other       |

Tests hold both to 1e-4 over a hundred updates on the same minibatches (tests/runs/test_speed.py).  bfloat16 (`--bf16 True`) is not
part of it: that changes more than rounding of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from arcturus.api import Metrics, State, map_state, state_leaves
from arcturus.errors import TrainingFailed
from arcturus.telling import say

Network = TypeVar("Network", bound=nn.Module)
Loop = TypeVar("Loop", bound=Callable[..., Any])
WARM_UP = 3  # calls before a recording: libraries choose their kernels and allocate
MOST_GRAPHS = 32  # of one function: each keeps memory of its own, and calls of further shapes are not recorded
_EAGER = [False]
_BF16 = [False]


def fast() -> bool:
    """Asked when something is built."""
    return not _EAGER[-1]


@contextmanager
def eagerly(yes: bool = True) -> Iterator[None]:
    """Whatever is built within the context is built without the fast column above."""
    _EAGER.append(yes)
    try:
        yield
    finally:
        _EAGER.pop()


def numba_loop(loop: Loop, *, reorder: bool = False) -> Loop:
    """A loop over numpy arrays, compiled by Numba and kept on the disk.  reorder: for long loops; sums of floats may be made in another
    order, and products fused with sums, so that the processor adds several numbers at a time; other threads may run meanwhile."""
    from numba import njit

    options: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "nogil": True} if reorder else {}
    try:
        return njit(cache=True, **options)(loop)
    except RuntimeError:  # there is nowhere to keep it: every run compiles anew
        return njit(**options)(loop)


def bf16() -> bool:
    """Asked when a torso is built: whether it computes in bfloat16."""
    return _BF16[-1]


@contextmanager
def in_bf16(yes: bool = True) -> Iterator[None]:
    """Torsos built within the context compute in bfloat16: convolutions and matrix products, forward and backward.  Weights, gradients,
    the optimiser, memory cores, heads and losses stay float32."""
    _BF16.append(yes)
    try:
        yield
    finally:
        _BF16.pop()


def layout() -> torch.memory_format:
    return torch.channels_last if fast() else torch.contiguous_format


def to_device(network: Network, device: torch.device) -> Network:
    """A network on its device, its convolutions in the chosen memory layout; on CUDA its acting is recorded as a graph."""
    acting: Any = network
    if hasattr(network, "act_fn"):
        acting.act_fn = captured(acting.unroll, device, kept=True)
    return network.to(device=device, memory_format=layout())  # type: ignore[call-overload]


def remembered(tensors: Iterable[Tensor]) -> Callable[[], None]:
    """Returns a function that sets the tensors back to their present contents."""
    tensors = list(tensors)
    before = [x.detach().clone() for x in tensors]

    @torch.no_grad()
    def undo() -> None:
        for now, then in zip(tensors, before, strict=True):
            now.copy_(then)

    return undo


class Recorded(NamedTuple):
    graph: Any
    inputs: State
    outputs: Any


def graphs_on(device: torch.device) -> bool:
    """Asked when something is built: whether functions are recorded as graphs there."""
    return device.type == "cuda" and fast()


def captured(function: Callable[..., Any], device: torch.device, **more: Any) -> Callable[..., Any]:
    """The function itself, or where there are graphs a Captured one, with more of its arguments."""
    return Captured(function, device, **more) if graphs_on(device) else function


class Captured:
    """A function of tensors that is recorded as a CUDA graph, which is then one launch.

    One graph is recorded for each set of shapes (sequences of other lengths, a smaller last minibatch, more of them in one call).

    function: from nests of tensors to a nest of tensors.  It may change tensors in place, parameters and optimiser moments among
    them, but must not need the host: no .item(), no `if` on a tensor.  Its results are in memory that the next call overwrites:
    latest() copies metrics that are to be kept, and with `kept` all results are copied.
    generators: those that it draws from.  remember: called before a recording, as warming up really calls the function several
    times; it returns a function that undoes all of that.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        generators: Iterable[torch.Generator | None] = (),
        remember: Callable[[], Callable[[], None]] = lambda: lambda: None,
        kept: bool = False,
    ):
        self.function, self.device, self.remember, self.kept = function, device, remember, kept
        self.generators = [g for g in generators if g is not None]
        self.name = getattr(function, "__qualname__", "a function")
        self.wanted = True
        self.recorded: dict[Any, Recorded] = {}

    def __call__(self, *args: State) -> Any:
        if not self.wanted:
            return self.function(*args)
        shapes = tuple(x.shape for x in state_leaves(args))
        with torch.cuda.device(self.device):
            if shapes not in self.recorded and (len(self.recorded) >= MOST_GRAPHS or not self._record(shapes, args)):
                return self.function(*args)
            graph, inputs, outputs = self.recorded[shapes]
            for mine, given in zip(state_leaves(inputs), state_leaves(args), strict=True):
                mine.copy_(given)
            graph.replay()
            return map_state(Tensor.clone, outputs) if self.kept else outputs

    def latest(self, metrics: Metrics) -> Metrics:
        """A copy of metrics, which later calls don't change."""
        return {k: v.clone() for k, v in metrics.items()} if self.recorded else metrics

    def _record(self, shapes: Any, args: tuple[State, ...]) -> bool:
        """Whether there is a graph now.  A function that waits for the host is never recorded: it is called without a graph from then on,
        and a message says so.  TrainingFailed if a recording fails all the same, as the device can't be relied on after that."""
        states, undo = [g.get_state() for g in self.generators], self.remember()
        inputs = map_state(Tensor.clone, args)
        try:
            waits = self._warm_up(inputs)
            if waits:
                self.wanted = False
                say(f"warning: {self.name} is not recorded as a CUDA graph, as it waits for the host: {waits}")
                return False
            graph = torch.cuda.CUDAGraph()
            for generator in self.generators:
                graph.register_generator_state(generator)
            try:
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the saver's thread may continue copying
                    outputs = self.function(*inputs)
            except RuntimeError as e:
                what = str(e).splitlines()[0]
                raise TrainingFailed(f"{self.name} could not be recorded as a CUDA graph: {what}", fix="use --eager True") from e
        finally:
            undo()
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)
        self.recorded[shapes] = Recorded(graph, inputs, outputs)
        return True

    def _warm_up(self, inputs: State) -> str:
        """Calls the function on a stream of its own, the last time watching for anything that waits for the host: returns what did,
        or ""."""
        stream, before = torch.cuda.Stream(), torch.cuda.get_sync_debug_mode()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP - 1):
                self.function(*inputs)
            torch.cuda.set_sync_debug_mode("error")
            try:
                self.function(*inputs)
                waits = ""
            except RuntimeError as e:
                waits = str(e).splitlines()[0]
            finally:
                torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(stream)
        return waits
