#!/usr/bin/env bash
# torch 2.13.0 with tensorboard 2.21.0: SummaryWriter(purge_step=T) in the writer that restarts, as its documentation shows, purges nothing
# for TensorBoard's loader in Python. It does once the FIRST writer was opened with a purge_step too, and even 0 is enough.
# Expected: the documentation of purge_step says that after a crash at step T + X and a restart at T, events from T on are purged and
# hidden from TensorBoard; its example gives purge_step to the restarted writer alone.
# What happens: a writer with a purge_step begins with a mark of a session's start. Python's loader takes the first such mark in a folder
# for the beginning and purges only at the second. A first writer without purge_step writes none, so the first restart isn't one.
# The loader that comes with pip (tensorboard-data-server) goes by the order of steps, ignores the marks, and shows each step once.
# So the same files show 8 points or 6, by --load_fast or by the platform (there it has no server), while EventAccumulator, which scripts
# read with and whose older code purges at every such mark, shows 6.
# Hurt: a resumed run whose curve goes back on itself in one person's TensorBoard and not in another's.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 tensorboard==2.21.0 tensorboard-data-server==0.7.2 numpy==2.4.6 setuptools==80.9.0
cat > restart.py <<'EOF'
import json
import socket
import subprocess
import sys
import time
import urllib.request

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter


def write(folder, steps, purge_step):
    with SummaryWriter(folder, purge_step=purge_step) as writer:
        for step in steps:
            writer.add_scalar("loss", 1.0, step)
    time.sleep(1.1)  # files are named by the second


def shown(folder, fast):
    """The steps that TensorBoard sends its page."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    argv = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--host", "127.0.0.1", "--port", str(port), "--load_fast", fast]
    board = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=.&tag=loss") as answer:
                    return [step for _, step, _ in json.load(answer)]
            except OSError:
                pass
        raise SystemExit("TensorBoard didn't answer")
    finally:
        board.terminate()
        board.wait()


ONCE, TWICE = [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 4, 5, 6]
for first, loader in ((None, TWICE), (0, ONCE)):
    folder = f"first-{first}"
    write(folder, [1, 2, 3, 4, 5], first)
    write(folder, [4, 5, 6], 4)
    events = EventAccumulator(folder).Reload()
    seen = {"EventAccumulator": [e.step for e in events.Scalars("loss")]}
    seen |= {f"--load_fast {fast}": shown(folder, fast) for fast in ("false", "true")}
    for reader, steps in seen.items():
        print(f"first writer with purge_step={first}, the restarted one with 4: {reader} shows {steps}")
    assert seen == {"EventAccumulator": ONCE, "--load_fast false": loader, "--load_fast true": ONCE}
EOF
venv/bin/python restart.py
