"""Bad inputs by the hundred (tests/bad_inputs.py): none is our fault, hangs, prints pages or loses what was saved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bad_inputs.py"


def answered(every: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), "--every", str(every)], cwd=tmp_path, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_bad_inputs_are_answered_well(tmp_path):
    done = answered(31, tmp_path)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
    assert '"inputs": 5' in done.stdout  # fifty-odd of them


@pytest.mark.learning
@pytest.mark.timeout(2_400)
def test_many_bad_inputs_are_answered_well(tmp_path):
    done = answered(3, tmp_path)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
