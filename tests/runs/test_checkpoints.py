"""Checkpoints: damage is always seen, nothing hostile is loaded, and nothing in a file can run code."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as pack

import arcturus
from arcturus.envs import open_envs
from arcturus.errors import CheckpointError, TrainingFailed
from arcturus.loop import run as run_loop
from arcturus.replay.ring import ROW_TENSORS, Ring
from arcturus.runs import segments as segments_file
from arcturus.runs.action_log import ActionLog
from arcturus.runs.building import build_agent
from arcturus.runs.checkpoint import Checkpoints
from arcturus.runs.files import flatten, read_json, unflatten
from arcturus.runs.folder import Run
from arcturus.runs.state import Health, RunState
from arcturus.seeding import Seeds


def save(checkpoints, step, state, replay=None, keep=2):
    return checkpoints.write(checkpoints.snapshot(step, state, replay), keep)


def reader(path):
    """read() -> the newest checkpoint and its replay as resuming would load them: (step, tensors, values, replay's rows)."""
    config = Run(path).config()
    with open_envs(config.env, 0, "cpu") as envs:
        agent = build_agent(config, envs.spec, "cpu")
        state = RunState(config, Seeds(0), agent, ActionLog(envs), torch.Generator(), Health(config.env.id))
        template = state.template()

    def read():
        checkpoints, ring = Checkpoints(path), agent.replay
        loaded = checkpoints.load_newest(template, ring)
        checkpoints.segments.load(ring, loaded.replay)
        rows = ring.read_rows(max(0, ring.count - ring.rows), ring.count)
        tensors, values = flatten(loaded.state)
        return loaded.step, {k: v.clone() for k, v in tensors.items()}, values, rows

    return read


def equal(a, b):
    return all(torch.equal(x[k], y[k]) for x, y in ((a[1], b[1]), (a[3], b[3])) for k in x) and a[2] == b[2]


def test_nested_state_survives():
    state = {"a": {"b.c": torch.arange(3), "d": {}}, "n": 3, "none": None, "list": [1.5, "x"]}
    back = unflatten(*flatten(state))
    assert torch.equal(back["a"].pop("b.c"), state["a"].pop("b.c"))
    assert back == state
    with pytest.raises(ValueError, match="slash"):
        flatten({"a/b": 1})


# -- corruption ----------------------------------------------------------------------------------------------------------------


def corrupt(path, rng):
    """One random fault in the newest checkpoint or a segment that only it names; what was done."""
    checkpoints = Checkpoints(path)
    before, newest = checkpoints.resumable()[-2:]
    older = read_json(before / "manifest.json")["replay"]["segments"]
    files = [newest / n for n in ("tensors.safetensors", "state.json", "manifest.json")]
    files += [path / "replay" / n for n in read_json(newest / "manifest.json")["replay"]["segments"] if n not in older]
    file, how = rng.choice(files), rng.choice(["flip", "truncate", "delete", "swap", "zero", "append"])
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    if how == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del data[at:]
    elif how == "zero":
        end = at + rng.randrange(1, 4097)
        if not any(data[at:end]):
            data[at] = 1
        data[at:end] = bytes(len(data[at:end]))
    elif how == "append":
        data += rng.randbytes(rng.randrange(1, 100))
    elif how == "swap":
        others = [p for p in (*before.iterdir(), *newest.iterdir(), *(path / "replay").iterdir()) if p != file]
        data = bytearray(rng.choice(others).read_bytes())
    if how == "delete":
        file.unlink()
    else:
        file.write_bytes(data)
    return f"{how} of {file.name} at {at}"


def corruptions(finished, tmp_path, count, seed):
    rng = random.Random(seed)
    whole = shutil.copytree(finished.path, tmp_path / "whole")
    read = reader(tmp_path / "r" if shutil.copytree(whole, tmp_path / "r") else "")
    newest = read()
    for folder in ("checkpoints", "replay"):
        assert sorted(os.listdir(whole / folder)) == sorted(os.listdir(tmp_path / "r" / folder))
    shutil.rmtree(sorted((tmp_path / "r" / "checkpoints").glob("step-*"))[-1])
    older = read()
    assert (newest[0], older[0]) == (1200, 800)
    for i in range(count):
        for folder in ("checkpoints", "replay"):
            shutil.rmtree(tmp_path / "r" / folder)
            shutil.copytree(whole / folder, tmp_path / "r" / folder)
        done = corrupt(tmp_path / "r", rng)
        got = read()
        assert got[0] == 800, f"number {i}, {done}: not seen"
        assert equal(got, older), f"number {i}, {done}: wrong data"


def test_a_hundred_random_corruptions_are_seen_and_the_checkpoint_before_is_loaded(finished, tmp_path, capsys):
    corruptions(finished, tmp_path, 100, 0)
    assert capsys.readouterr().err.count("is skipped: ") == 100


@pytest.mark.learning
def test_a_thousand_random_corruptions_are_seen(finished, tmp_path):
    corruptions(finished, tmp_path, 1000, 1)


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(copy, capsys):
    newest = Checkpoints(copy).resumable()[-1]
    data = bytearray((newest / "tensors.safetensors").read_bytes())
    data[-100] ^= 1
    (newest / "tensors.safetensors").write_bytes(data)
    assert arcturus.resume(copy, quiet=True, steps=1600).status == "finished"
    assert "step-000000001200 is skipped" in capsys.readouterr().err


def test_a_run_without_its_run_json_still_goes_on(copy):
    (copy / "run.json").write_bytes(bytes(10_000_000))
    assert "unknown" in repr(Run(copy))
    assert arcturus.resume(copy, quiet=True, steps=1600).about["steps"] == 1600


def test_a_folder_in_a_segments_place_costs_its_checkpoint_and_nothing_more(copy):
    """It can't be removed like a segment, which was told as a checkpoint that could not be written."""
    segment = sorted((copy / "replay").glob("seg-*"))[-1]
    segment.unlink()
    segment.mkdir()
    run = arcturus.resume(copy, steps=1_400, quiet=True)
    assert run.status == "finished"
    assert Checkpoints(copy).resumable()[-1].name == "step-000000001400"


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 9])
def test_as_many_checkpoints_are_kept_as_were_asked_for(keep, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 8):
        save(checkpoints, step, {"n": step}, keep=keep)
        assert [p.name for p in checkpoints.resumable()] == [f"step-{n:012d}" for n in range(max(1, step - keep + 1), step + 1)]


def test_what_can_not_be_removed_does_not_undo_what_was_written(tmp_path, monkeypatch, capsys):
    def failing(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Checkpoints, "_remove", staticmethod(failing))
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        save(checkpoints, step, {"n": step}, keep=1)
        checkpoints.write_best(checkpoints.snapshot(step, {"n": step}))
    assert [p.name for p in checkpoints.resumable()] == [f"step-{n:012d}" for n in (1, 2, 3)]
    assert checkpoints.find("best").name == "best-000000000003"
    assert "old files in" in capsys.readouterr().err


def test_a_damaged_newer_checkpoint_never_pushes_out_a_good_one(copy, stop_at):
    """Step 1200 is damaged, so the run goes on from 800; pruning by number would remove what is saved at 904."""
    newest = Checkpoints(copy).resumable()[-1]
    (newest / "state.json").write_bytes(b"{}")
    stop_at(904)
    run = arcturus.resume(copy, quiet=True, steps=1600, keep=1)
    assert (run.status, run.about["checkpoint"]) == ("preempted", 904)
    assert [p.name for p in Checkpoints(copy).resumable()] == ["step-000000000904"]
    assert arcturus.resume(copy, quiet=True).status == "finished"


def test_what_is_not_there_is_said(copy, finished):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="there is none"):
        arcturus.resume(copy, quiet=True, steps=1600)
    with pytest.raises(CheckpointError, match="no checkpoint 'last'"):
        arcturus.load(copy)
    with pytest.raises(CheckpointError, match="no checkpoint '7'") as e:
        arcturus.load(finished, "7")
    assert e.value.exit_code == 5
    assert "step-000000001200" in str(e.value)


def test_another_agents_checkpoint_is_refused(copy):
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("CartPole-v1", "Acrobot-v1"))
    with pytest.raises(CheckpointError, match="holds agent/network/.* not F32"):
        arcturus.load(copy)


# -- what is written -------------------------------------------------------------------------------------------------------------


def test_the_last_two_and_the_best_are_kept_and_nothing_else(finished):
    names = sorted(p.name for p in (finished.path / "checkpoints").iterdir())
    assert names[1:] == ["step-000000000800", "step-000000001200"]
    assert names[0].startswith("best-")
    used = {s for p in Checkpoints(finished.path).resumable() for s in read_json(p / "manifest.json")["replay"]["segments"]}
    assert {p.name for p in (finished.path / "replay").iterdir()} == used


def test_non_finite_weights_are_never_written_and_never_push_out_a_healthy_checkpoint(tmp_path):
    c = Checkpoints(tmp_path)
    save(c, 1, {"agent": {"w": torch.ones(2)}}, keep=1)
    with pytest.raises(TrainingFailed, match="agent/w"):
        save(c, 2, {"agent": {"w": torch.tensor([1.0, float("nan")])}}, keep=1)
    assert [p.name for p in c.folder.iterdir()] == ["step-000000000001"]


def test_the_same_checkpoint_written_again_is_left_as_it_is(tmp_path):
    """Removing it first would lose it to a kill in between."""
    c = Checkpoints(tmp_path)
    path = save(c, 1, {"w": torch.ones(2)})
    before = (path / "manifest.json").stat().st_mtime_ns
    assert save(c, 1, {"w": torch.ones(2)}) == path
    assert (path / "manifest.json").stat().st_mtime_ns == before
    (path / "state.json").write_bytes(b"")
    save(c, 1, {"w": torch.ones(2)})
    assert c.intact(path)


def rows_of(envs, actor, count):
    loop = run_loop(envs, actor, steps=count * envs.num_envs, seeds=lambda: np.arange(envs.num_envs), generator=torch.Generator())
    return [row.step for row in loop]


def test_segments_are_written_once_and_shared(tmp_path, counter, random_actor, monkeypatch):
    monkeypatch.setattr(segments_file, "SEGMENT_STEPS", 30)
    envs = counter(3)
    ring, c, written = Ring(150, envs.spec, "cpu"), Checkpoints(tmp_path), []
    for i, step in enumerate(rows_of(envs, random_actor(), 200), 1):
        ring.append(step)
        if (piece := c.segments.full(ring)) is not None:
            c.segments.write(piece)
        if i % 25 == 0:
            save(c, i, {"x": 1}, ring, keep=2)
            written.append({p.name: p.stat().st_mtime_ns for p in c.segments.folder.glob("seg-*")})
    for old, new in zip(written, written[1:], strict=False):
        shared = old.keys() & new.keys()
        assert all(old[k] == new[k] for k in shared)
        assert shared
    assert len(written[-1]) <= 12  # two checkpoints of 50 rows in pieces of 10
    same_rows(tmp_path, ring)


def same_rows(path, ring):
    """The newest checkpoint's replay, read by another process's eyes, is the ring."""
    twin, c = Ring(ring.capacity, ring.spec, "cpu"), Checkpoints(path)
    c.segments.load(twin, c.load_newest({"x": 1}, twin).replay)
    assert twin.count == ring.count
    oldest = max(0, ring.count - ring.rows)
    one, two = (r.read_rows(oldest, ring.count) for r in (ring, twin))
    assert all(torch.equal(one[k], two[k]) for k in ROW_TENSORS)
    return c


def test_a_segment_that_vanished_or_could_not_be_written_is_written_again(tmp_path, counter, random_actor, monkeypatch):
    monkeypatch.setattr(segments_file, "SEGMENT_STEPS", 30)
    envs = counter(3)
    ring, c = Ring(600, envs.spec, "cpu"), Checkpoints(tmp_path)
    steps = rows_of(envs, random_actor(), 120)
    for step in steps[:60]:
        ring.append(step)
    save(c, 60, {"x": 1}, ring)
    next(c.segments.folder.glob("seg-000000000010-*")).unlink()
    for step in steps[60:75]:
        ring.append(step)
        if (piece := c.segments.full(ring)) is not None:
            with monkeypatch.context() as m:
                m.setattr(segments_file, "write_atomically", full_disk)
                with pytest.raises(OSError, match="space"):
                    c.segments.write(piece)
    with monkeypatch.context() as m:
        m.setattr(segments_file, "write_atomically", full_disk)
        with pytest.raises(CheckpointError, match="No space left"):
            save(c, 75, {"x": 1}, ring)
    save(c, 76, {"x": 1}, ring)
    same_rows(tmp_path, ring)


def full_disk(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_row_cut_afterwards_reaches_the_disk(tmp_path, counter, random_actor, monkeypatch):
    """Where a resumed run's environments did not come back, the row at the seam may end a segment that is written already."""
    monkeypatch.setattr(segments_file, "SEGMENT_STEPS", 30)
    envs = counter(3)
    ring, c = Ring(600, envs.spec, "cpu"), Checkpoints(tmp_path)
    for step in rows_of(envs, random_actor(), 40)[:30]:
        ring.append(step)
    save(c, 30, {"x": 1}, ring)
    ring.interrupt_last()
    c.segments.forget_last(ring)
    save(c, 31, {"x": 1}, ring)
    same_rows(tmp_path, ring)


def test_a_whole_ring_is_written_again_without_a_copy_of_it(tmp_path, counter, random_actor, monkeypatch):
    monkeypatch.setattr(segments_file, "SEGMENT_STEPS", 30)
    envs = counter(3)
    ring, c = Ring(300, envs.spec, "cpu"), Checkpoints(tmp_path)
    for step in rows_of(envs, random_actor(), 157):
        ring.append(step)
    save(c, 1, {"x": 1}, ring)
    shutil.rmtree(tmp_path / "replay")
    snapshot = c.snapshot(2, {"x": 1}, ring)
    assert len(snapshot.replay.pieces) <= segments_file.COPIED
    c.write(snapshot)
    same_rows(tmp_path, ring)


def test_a_lost_course_of_the_run_lends_no_segments(tmp_path, counter, random_actor, monkeypatch):
    """After falling back to an older checkpoint the same rows come out differently."""
    monkeypatch.setattr(segments_file, "SEGMENT_STEPS", 30)
    envs = counter(3)
    steps = rows_of(envs, random_actor(), 90)
    ring, c = Ring(600, envs.spec, "cpu"), Checkpoints(tmp_path)
    for i, step in enumerate(steps[:60], 1):
        ring.append(step)
        if i in (25, 60):
            save(c, i, {"x": 1}, ring)
    shutil.rmtree(c.resumable()[-1])
    twin, again = Ring(600, envs.spec, "cpu"), Checkpoints(tmp_path)
    again.segments.load(twin, again.load_newest({"x": 1}, twin).replay)
    for step in steps[40:80]:  # other rows than before
        twin.append(step)
    save(again, 65, {"x": 1}, twin)
    same_rows(tmp_path, twin)


def test_tensors_survive_packing():
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(4, dtype=torch.uint8)}
    back = tensors_from_bytes(pack(tensors))
    assert all(torch.equal(back[k], v) for k, v in tensors.items())
