"""Rows for replays to hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from arcturus.loop import run


@pytest.fixture
def played():
    """played(envs, actor, rows, cut_every=0): rows [Step] of the real loop, with a cut now and then."""

    def rows_of(envs, actor, rows, cut_every=0):
        n = envs.num_envs
        due = (lambda steps: steps // n % cut_every == 0) if cut_every else (lambda steps: False)
        seeds = (np.arange(n) + 100 * k for k in itertools.count())
        out = run(envs, actor, steps=rows * n, seeds=lambda: next(seeds), generator=torch.Generator().manual_seed(0), interrupt_due=due)
        return [row.step for row in out]

    return rows_of
