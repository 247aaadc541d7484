"""Faults: full disks, removed folders, leaks; a run survives or ends with one clear error, and nothing saved is lost."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest

import arcturus
from arcturus.errors import CheckpointError
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.folder import Run
from arcturus.runs.monitor import Lines, Monitor
from tools.survival import board_scalars

FLAGS = ["--device", "cpu", "--heldout-states", "0", "--eval-every", "0"]


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


# -- disks -------------------------------------------------------------------------------------------------------------------------


def test_a_board_that_fails_warns_once_and_is_tried_again_at_each_checkpoint(small_run, tmp_path, monkeypatch, capsys):
    from torch.utils.tensorboard import SummaryWriter

    add, calls = SummaryWriter.add_scalar, []

    def failing(self, tag, value, step, *args):
        calls.append(step)
        if 300 < step < 900:
            full()
        add(self, tag, value, step, *args)

    monkeypatch.setattr(SummaryWriter, "add_scalar", failing)
    run = small_run(tmp_path / "r", checkpoint_every=200, log_every=40, eval_every=0)
    assert run.status == "finished"
    err = capsys.readouterr().err
    assert err.count("TensorBoard can't be written any more") == 1
    assert err.count("TensorBoard is written again") == 1
    assert len([s for s in calls if 300 < s < 900]) <= 5  # one try a checkpoint, not one a point
    steps = {step for _, step, _ in board_scalars(run.path)}
    assert max(steps) == 1200
    assert min(steps) == 40


def test_lines_that_could_not_be_written_wait_and_none_is_torn(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    lines, space = Lines(path), [45]
    real = open

    class Full:
        """A file on a disk with little space left."""

        def __init__(self, f):
            self.f = f

        def __enter__(self):
            return self

        def __exit__(self, *e):
            self.f.close()

        def write(self, data):
            written = self.f.write(data[: space[0]])
            space[0] -= written
            if not written:
                full()
            return written

        def truncate(self, size):
            self.f.truncate(size)

    from arcturus.runs import monitor

    monkeypatch.setattr(monitor, "open", lambda *a, **k: Full(real(*a, **k)), raising=False)
    for i in range(5):
        try:
            lines.write({"step": i, "x": 1.5})
        except OSError:
            assert path.read_bytes().endswith(b"\n")
    space[0] = 10**6
    lines.flush()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]


def test_a_log_folder_that_is_removed_comes_back(small_run, tmp_path, monkeypatch, capsys):
    row = Monitor.row

    def removing(self, steps, metrics, finished):
        row(self, steps, metrics, finished)
        if steps == 480:
            shutil.rmtree(self.path / "tensorboard")
            (self.path / "metrics.jsonl").unlink()
        if steps == 880:
            shutil.rmtree(self.path)

    monkeypatch.setattr(Monitor, "row", removing)
    run = small_run(tmp_path / "r", checkpoint_every=200, log_every=40, eval_every=0)
    assert run.status == "finished"
    err = capsys.readouterr().err
    assert err.count("TensorBoard can't be written any more") == 2
    assert "Traceback" not in err
    assert arcturus.read_metrics(run)[-1]["step"] == 1200
    assert board_scalars(run.path)
    monkeypatch.setattr(Monitor, "row", row)
    assert arcturus.resume(run, quiet=True, steps=1600).status == "finished"


@pytest.mark.slow
def test_checkpoints_that_cannot_be_written_are_tried_again_and_then_end_the_run(small_run, tmp_path, monkeypatch, capsys):
    from arcturus.runs import checkpoint

    write, calls = checkpoint.write_file, []

    def failing(path, data):
        if path.name == "manifest.json" and "step-" in str(path):
            calls.append(path)
            if len(calls) in bad:
                full()
        return write(path, data)

    monkeypatch.setattr(checkpoint, "write_file", failing)
    bad = {2, 3}
    run = small_run(tmp_path / "r", checkpoint_every=200, eval_every=0)
    err = capsys.readouterr().err
    assert run.status == "finished"
    assert err.count("could not be written: No space left") == 1
    assert "checkpoints are written again" in err
    assert not list((run.path / "checkpoints").glob(".tmp*"))
    calls.clear()
    bad = {2, 3, 4}
    with pytest.raises(CheckpointError, match="No space left") as e:
        small_run(tmp_path / "s", checkpoint_every=200, eval_every=0)
    assert e.value.exit_code == 5
    assert Run(tmp_path / "s").status == "failed"
    assert arcturus.resume(tmp_path / "s", quiet=True).status == "finished"


def test_best_weights_that_cannot_be_saved_do_not_end_the_run(small_run, tmp_path, monkeypatch, capsys):
    tried = []

    def failing(self, snapshot):
        tried.append(snapshot.step)
        raise CheckpointError("best weights could not be written")

    monkeypatch.setattr(Checkpoints, "write_best", failing)
    assert small_run(tmp_path / "r", steps=400, eval_every=100).status == "finished"
    assert len(tried) >= 2  # each evaluation is better than nothing saved
    assert "best weights could not be written" in capsys.readouterr().err


def room(kind, tmp_path):
    """A folder, and functions that make its disk full for a process, and free again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if kind == "tmpfs":
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("this user may not mount a tmpfs")
        return folder, lambda p: None, lambda p: subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    limit = lambda p, n: resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))  # noqa: E731
    return folder, lambda p: limit(p, 6_000), lambda p: limit(p, resource.RLIM_INFINITY)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tmpfs", "file size limit"])
def test_a_full_disk_is_survived_and_the_run_recovers_when_space_returns(kind, tmp_path, until):
    folder, fill, free = room(kind, tmp_path)
    try:
        path, flags = folder / "r", [*FLAGS, "--steps", "30000000", "--checkpoint-every", "30000", "--log-every", "2000"]
        said = tmp_path / "said"
        with open(said, "w") as out:
            process = subprocess.Popen([sys.executable, "-m", "arcturus.scripts.train_agent", "dqn", "--env", "CartPole-v1",
                                        "--run-dir", str(path), "--agent.replay-ratio", "0.01", *flags], stdout=out,
                                       stderr=subprocess.STDOUT)  # fmt: skip
        until(lambda: (path / "metrics.jsonl").exists(), process)
        fill(process)
        until(lambda: "warning: checkpoint at step" in said.read_text(), process)
        free(process)
        until(lambda: "checkpoints are written again" in said.read_text(), process)
        until(lambda: len(Checkpoints(path).resumable()) == 2, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143, said.read_text()
        text = said.read_text()
        assert text.count("warning: checkpoint at step") == 1
        assert text.count("warning") <= 3  # one each for checkpoints, metrics.jsonl and TensorBoard
        assert not list(path.rglob(".tmp*"))
        steps = [row["step"] for row in arcturus.read_metrics(path)]
        assert steps == list(range(2000, steps[-1] + 1, 2000))  # no gap: lines waited for space
        run = Run(path)
        assert arcturus.resume(run, quiet=True, steps=run.about["steps"] + 8000).status == "finished"
    finally:
        if kind == "tmpfs":
            subprocess.run(["umount", folder], capture_output=True)


@pytest.mark.slow
def test_a_log_that_nobody_takes_never_ends_a_run(tmp_path):
    """stderr goes to the disk that is full, or to a pipe whose reader has gone."""
    code = "import os, sys; {}; from arcturus.scripts.train_agent import cli; cli()"
    flags = ["dqn", "--env", "CartPole-v1", "--steps", "2000", *FLAGS, "--run-dir"]
    full_log = "os.dup2(os.open('/dev/full', os.O_WRONLY), 2); os.dup2(2, 1)"
    gone = "r, w = os.pipe(); os.dup2(w, 2); os.dup2(w, 1); os.close(r); os.close(w)"
    for name, how in (("full", full_log), ("gone", gone)):
        path = tmp_path / name
        slow = "import arcturus.runs.monitor as p; p.PLAIN_SECONDS = 0"
        subprocess.run([sys.executable, "-c", code.format(f"{how}; {slow}"), *flags, str(path)], timeout=60)
        assert Run(path).status == "finished"


def test_lines_that_wait_for_space_are_in_the_checkpoint(small_run, tmp_path, monkeypatch, stop_at):
    write = Lines.flush

    def failing(self):
        if os.environ.get("FULL"):
            full()
        write(self)

    monkeypatch.setattr(Lines, "flush", failing)
    monkeypatch.setenv("FULL", "1")
    stop_at(1000)
    run = small_run(tmp_path / "r", log_every=104, eval_every=0, checkpoint_every=400)
    assert not (run.path / "metrics.jsonl").exists()
    monkeypatch.delenv("FULL")
    arcturus.resume(run, quiet=True)
    assert [row["step"] for row in arcturus.read_metrics(run)] == [104 * i for i in range(1, 12)] + [1200][: 1200 // 104 - 11]


def test_a_failed_best_does_not_undo_a_better_one(small_run, tmp_path, monkeypatch):
    write, scores = Checkpoints.write_best, []

    def failing_once(self, snapshot):
        scores.append(snapshot.values["best"])
        if len(scores) == 1:
            time.sleep(0.5)  # the next evaluation is over by then
            raise CheckpointError("no space")
        return write(self, snapshot)

    monkeypatch.setattr(Checkpoints, "write_best", failing_once)
    run = small_run(tmp_path / "r", steps=1600, eval_every=80)
    assert run.about["best"] == max(scores[1:])
    assert arcturus.runs.files.read_json(next((run.path / "checkpoints").glob("best-*")) / "state.json")["best"] == max(
        scores[1:]
    )


@pytest.mark.slow
def test_a_folder_that_may_only_be_read_is_refused_for_training_and_still_scored(small_run, tmp_path, start):
    small_run(tmp_path / "r", steps=400, eval_every=0)
    if subprocess.run(["mount", "--bind", tmp_path / "r", tmp_path / "r"], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path / "r"], check=True)
        process = start("resume", tmp_path / "r", "--steps", "800")
        out = process.communicate(timeout=60)[0]
        assert process.returncode == 5, out
        assert "can't be written" in out
        done = subprocess.run([sys.executable, "-m", "arcturus.scripts.evaluate_agent", tmp_path / "r", "--episodes", "1"],
                              capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "mean" in done.stdout
        assert re.search(r"saved in r-\w{8}-evaluations", done.stderr)
    finally:
        subprocess.run(["umount", tmp_path / "r"], check=True)


# -- for ever ------------------------------------------------------------------------------------------------------------------------


LEAK = """
import gc, json, os, sys, threading
import arcturus
from arcturus.runs.monitor import Monitor
seen, log = [], Monitor.log
def measured(self, steps, extra):
    log(self, steps, extra)
    rss = int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    seen.append((steps, rss, len(os.listdir('/proc/self/fd')), threading.active_count()))
Monitor.log = measured
arcturus.train('dqn', 'CartPole-v1', steps=100_000, run_dir=sys.argv[1], device='cpu', quiet=True, eval_every=5_000, eval_episodes=2,
               checkpoint_every=4_000, log_every=2_000, heldout_states=64,
               agent_config={'capacity': 10_000, 'batch_size': 16, 'replay_ratio': 0.25})
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_memory_files_and_threads_do_not_grow(tmp_path):
    done = subprocess.run([sys.executable, "-c", LEAK, str(tmp_path / "r")], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    warm = [s for s in seen if 30_000 <= s[0] <= 50_000]
    late = [s for s in seen if s[0] > 80_000]
    assert len(late) >= 8
    grown = max(s[1] for s in late) - max(s[1] for s in warm)
    assert grown < 20e6, f"{grown / 1e6:.1f} MB"
    assert statistics.median(s[2] for s in late) <= statistics.median(s[2] for s in warm)  # TensorBoard opens its file to append
    assert max(s[3] for s in late) <= max(s[3] for s in warm)
