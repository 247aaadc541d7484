"""Training speed of the Neural Turing Machine and the DNC: forward and backward through a copy sequence of 10 vectors (21 steps, 9 inputs),
controller of 100 units, memory of 128 x 20, the paper's.

Beside it: its definition in tensors, step by step (what a GPU runs; the same with --eager); the same cell written plainly, one environment
and one head after another (what it gives is checked to be the same); and torch's LSTM of the controller's size in one call over the sequence.

Then for other numbers of slots, beside an LSTM that keeps as many numbers from step to step; and a DNC of 64 x 20 with one read head, beside
the public package dnc (pip install --no-deps dnc), if it is installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcturus.memory import unroll
from arcturus.memory.dnc import DNC
from arcturus.memory.ntm import NTM
from benchmarks.measuring.timing import Contender, report, timed

INPUTS, WIDTH, LENGTH, BATCHES, SLOTS = 9, 100, 21, (1, 16), (16, 64, 256, 1024)
LARGEST = 100_000_000  # parameters of an LSTM that is run


def plain_address(p: Tensor, memory: Tensor, w_tm1: Tensor) -> Tensor:
    """One head of one environment: p [W + 6] key, strength, gate, sharpening, shift; memory [S, W], w_tm1 [S] -> w [S]."""
    word = memory.shape[1]
    key, strength, gate, sharpening, shift = p.split([word, 1, 1, 1, 3])
    content = F.softmax(F.softplus(strength) * F.cosine_similarity(memory, key.tanh()[None], dim=-1), 0)
    w = gate.sigmoid() * content + (1 - gate.sigmoid()) * w_tm1
    back, stay, on = shift.softmax(0)
    w = back * w.roll(-1) + stay * w + on * w.roll(1)
    w = (w + 1e-12) ** (1 + F.softplus(sharpening))
    return w / w.sum()


def plain_unroll(core: NTM, x: Tensor) -> Tensor:
    """x [T, N, inputs] -> [T, N, outputs], with the core's weights: an LSTM controller, one head of each kind, 3 taps."""
    word, sizes, out = core.layout.word, core.layout.groups, []
    for n in range(x.shape[1]):
        start = core.initial_state(1)
        memory, read, w_read, w_write = start.memory[0], start.reads[0, 0], start.w_read[0, 0], start.w_write[0, 0]
        state, ys = start.controller[0], []
        for x_t in x[:, n]:
            h, c = state = core.controller.layers[0](torch.cat([x_t, read])[None], state)
            words, gates, positive, shifts = core.heads(h[0]).clamp(-20, 20).split(sizes)
            ps = [
                torch.cat([words[i * word : (i + 1) * word], positive[i : i + 1], gates[i : i + 1], positive[i + 2 : i + 3], s])
                for i, s in enumerate(shifts.split(3))
            ]
            w_read, w_write = plain_address(ps[0], memory, w_read), plain_address(ps[1], memory, w_write)
            memory = memory * (1 - torch.outer(w_write, gates[2:].sigmoid())) + torch.outer(w_write, words[2 * word :].tanh())
            read = w_read @ memory
            ys.append(torch.cat([h[0], read]))
        out.append(torch.stack(ys))
    return torch.stack(out, 1)


def bare_unroll(core: NTM | DNC, x: Tensor) -> Tensor:
    """The core's own steps in a row, which define it."""
    state, out = core.initial_state(x.shape[1]), []
    for x_t in x:
        y, state = core(x_t, state)
        out.append(y)
    return torch.stack(out)


def training(run: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], int]:
    """Forward and backward; steps of the sequence, of all its environments at once."""

    def step() -> int:
        run(x).sum().backward()
        if x.is_cuda:
            torch.cuda.synchronize()
        return len(x)

    return step


def of_parameters(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,} parameters"


def beside_others(batch: int, args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    core, lstm = NTM(INPUTS, WIDTH).to(args.device), nn.LSTM(INPUTS, WIDTH).to(args.device)
    x = torch.randn(LENGTH, batch, INPUTS, device=args.device)
    first = torch.zeros(LENGTH, batch, dtype=torch.bool, device=args.device)
    torch.testing.assert_close(plain_unroll(core, x), bare_unroll(core, x), rtol=1e-3, atol=1e-4)
    contenders = [
        Contender("ntm", timed(training(lambda x: unroll(core, x, first, core.initial_state(batch))[0], x)), lambda: of_parameters(core)),
        Contender("ntm, in tensors", timed(training(lambda x: bare_unroll(core, x), x))),
        Contender("ntm, plain", timed(training(lambda x: plain_unroll(core, x), x))),
        Contender("lstm", timed(training(lambda x: lstm(x)[0], x)), lambda: of_parameters(lstm)),
    ]
    return report(f"NTM, copy, batch {batch}", "training steps/s", contenders, args.seconds, args.rounds)


def state_size(core: NTM) -> int:
    """Numbers that one environment's state holds."""
    return sum(part.numel() for part in (*core.initial_state(1)[:4], *core.initial_state(1).controller[0]))


def of_slots(slots: int, args: argparse.Namespace) -> dict[str, Any]:
    """Batch 16."""
    torch.manual_seed(0)
    core = NTM(INPUTS, WIDTH, slots=slots).to(args.device)
    x, width = torch.randn(LENGTH, 16, INPUTS, device=args.device), state_size(core) // 2  # h and c
    first = torch.zeros(LENGTH, 16, dtype=torch.bool, device=args.device)
    ntm = training(lambda x: unroll(core, x, first, core.initial_state(16))[0], x)
    contenders = [
        Contender("ntm", timed(ntm), lambda: of_parameters(core)),
        Contender("ntm, in tensors", timed(training(lambda x: bare_unroll(core, x), x))),
    ]
    with torch.device("meta"):
        note = of_parameters(nn.LSTM(INPUTS, width))
    if 4 * width * (width + INPUTS) <= LARGEST:
        lstm = nn.LSTM(INPUTS, width).to(args.device)
        contenders.append(Contender(f"lstm of {width}", timed(training(lambda x: lstm(x)[0], x)), lambda: note))
    table = report(
        f"{slots} slots, state of {2 * width:,} numbers, batch 16", "training steps/s", contenders, args.seconds, args.rounds
    )
    if len(contenders) == 2:
        print(f"  lstm of {width} not run: {note}")
    return table


def of_dnc(batch: int, args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    core = DNC(INPUTS, WIDTH, slots=64).to(args.device)
    x = torch.randn(LENGTH, batch, INPUTS, device=args.device)
    first = torch.zeros(LENGTH, batch, dtype=torch.bool, device=args.device)
    contenders = [
        Contender("dnc", timed(training(lambda x: unroll(core, x, first, core.initial_state(batch))[0], x)), lambda: of_parameters(core)),
        Contender("dnc, in tensors", timed(training(lambda x: bare_unroll(core, x), x))),
    ]
    if importlib.util.find_spec("dnc") and args.device == "cpu":
        package = importlib.import_module("dnc")
        sizes = {"hidden_size": WIDTH, "num_layers": 1, "num_hidden_layers": 1, "nr_cells": 64, "cell_size": 20, "read_heads": 1}
        theirs = package.DNC(input_size=INPUTS, batch_first=False, independent_linears=False, **sizes)
        fresh = (None, None, None)
        run = training(lambda x: theirs(x, fresh, reset_experience=True)[0], x)
        contenders.append(Contender("package dnc", timed(run), lambda: of_parameters(theirs)))
    return report(f"DNC, copy, batch {batch}", "training steps/s", contenders, args.seconds, args.rounds)


def benchmark_ntm(args: argparse.Namespace) -> list[dict[str, Any]]:
    tables = [beside_others(batch, args) for batch in BATCHES] + [of_slots(slots, args) for slots in SLOTS]
    tables += [of_dnc(batch, args) for batch in BATCHES]
    print("\nms a step, forward and backward")
    for table in tables:
        print(f"  {table['title']}: " + ", ".join(f"{row['name']} {1000 / row['median']:.3f}" for row in table["rows"]))
        for row in table["rows"]:
            row["note"] = ", ".join([f"{1000 / row['median']:.3f} ms a step", *([row["note"]] if row["note"] else [])])
    return tables
