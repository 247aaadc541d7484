"""The commands as a user types them: what they print, what they leave behind, how they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

TRAIN, EVALUATE = ("arcturus.scripts.train_agent",), ("arcturus.scripts.evaluate_agent",)


def call(module, *argv, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", *module, *argv],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture(scope="module")
def pong(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "pong"
    done = call(TRAIN, "dqn", "--env", "ALE/Pong-v5", "--steps", "640", "--run-dir", str(path), "--agent.learning-starts", "200",
                "--agent.capacity=2000", "--eval-every", "0", "--heldout-states=16", "--agent.double", "False",
                "--num-envs", "4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "preset cpu-small" in done.stdout
    assert "2,560 frames" in done.stdout
    return path


def test_flags_reach_the_run(pong):
    text = (pong / "config.yaml").read_text()
    assert "double: false" in text
    assert "num_envs: 4" in text
    assert "learning_starts: 200" in text
    about = json.loads((pong / "run.json").read_text())
    assert about["command"][:2] == ["train-agent", "dqn"]


@pytest.mark.slow
def test_evaluate_scores_keeps_films_and_films_again(pong, tmp_path):
    done = call(EVALUATE, str(pong), "--episodes", "2", "--json", "--rollouts", str(tmp_path / "r.npz"), "--floors")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["score"]["episodes"] == 2
    assert report["policy"] == "epsilon=0.001"
    assert {"random", "constant"} == set(report["floors"])
    rollouts = np.load(tmp_path / "r.npz", allow_pickle=False)
    assert len(rollouts["frames"]) == rollouts["lengths"].sum() + 2
    assert len(rollouts["actions"]) == rollouts["lengths"].sum()
    assert rollouts["rewards"].sum() == sum(e["score"] for e in report["per_episode"])
    folder = next((pong / "evaluations").iterdir())
    assert {p.name for p in folder.iterdir()} == {"evaluation.json", "episodes.safetensors"}
    done = call(EVALUATE, str(pong), "--episode", "1", "--value-figure", str(tmp_path / "v.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "v.png").exists()


@pytest.mark.slow
def test_resume_from_the_command_line(pong):
    done = call(TRAIN, "resume", str(pong))
    assert done.returncode == 2
    assert "640 steps already" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("argv", "code", "says"), [
    (["dqnn", "--env", "CartPole-v1"], 2, "did you mean dqn"),
    (["dqn"], 2, "no environment given"),
    (["dqn", "--env", "ALE/Pongg-v5"], 2, "did you mean ALE/Pong-v5"),
    (["dqn", "--env", "CartPole-v11"], 2, "did you mean CartPole-v1"),
    (["dqn", "--env", "Taxi-v3"], 2, "Taxi-v4"),
    (["dqn", "--env", "Pendulum-v1"], 2, "Box actions"),
    (["dqn", "--env", "CartPole-v1", "--agent.gama", "1"], 2, "--agent.gamma"),
    (["dqn", "--env", "CartPole-v1", "--agent.gamma", "2"], 2, "from 0 to 1"),
    (["dqn", "--env", "CartPole-v1", "--agent.gamma", "nan"], 2, "gamma"),
    (["dqn", "--env", "CartPole-v1", "--agent.gamma", "abc"], 2, "gamma"),
    (["dqn", "--env", "CartPole-v1", "--steps", "-5"], 2, "at least 1"),
    (["dqn", "--env", "CartPole-v1", "--steps", "5"], 2, "are too few"),
    (["dqn", "--env", "CartPole-v1", "--num-envs", "0"], 2, "num_envs is 0"),
    (["dqn", "--env", "CartPole-v1", "--preset", "natur"], 2, "did you mean nature"),
    (["dqn", "--env", "CartPole-v1", "--device", "cuda"], 3, "CUDA"),
    (["dqn", "--env", "CartPole-v1", "--device", "gpu"], 2, "unknown device"),
    (["dqn", "--env", "CartPole-v1", "--config", "/no/such.yaml"], 2, "can't be read"),
    (["dqn", "--env", "ALE/Pong-v5", "--agent.capacity", "900000000000"], 2, "use at most"),
    (["dqn", "--env", "ALE/Pong-v5", "--env.frame-size", "16", "--agent.torso", "nature"], 2, "too small"),
    (["dqn", "--env", "ALE/Pong-v5", "--env.protocol", "v9"], 2, "unknown protocol"),
    (["dqn", "--env", "no_such_module_x:Y-v0"], 2, "no_such_module_x"),
    (["dqn", "--env", "CartPole-v1", "--run-dir", "/proc/nowhere/x"], 5, "can't be written"),
    (["resume", "/no/such/run"], 2, "not a run folder"),
    (["list", "games"], 2, "invalid choice"),
    (["resume"], 2, "required"),
])  # fmt: skip
def test_bad_input_gets_a_code_and_a_few_lines(tmp_path, argv, code, says):
    if "cuda" in argv and __import__("torch").cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = call(TRAIN, *argv, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 20
    assert not list(tmp_path.iterdir()), "a mistake leaves no run folder"


@pytest.mark.slow
@pytest.mark.parametrize(("argv", "code", "says"), [
    (["{run}", "--checkpoint", "best"], 0, ""), (["{run}", "--checkpoint", "12"], 5, "step-000000000640"),
    (["{run}", "--protocol", "v6"], 2, "unknown protocol"), (["{run}", "--policy", "sample"], 2, "no policy to sample"),
    (["{run}", "--episodes", "0"], 2, "not from 1 to 100,000"), (["{run}", "--video", "x.avi"], 2, ".mp4 or .gif"),
    (["{run}", "--episode", "99", "--video", "x.mp4"], 2, "there is no episode 99"), (["/no/such"], 2, "not a run folder"),
    (["{run}", "--episode", "0"], 2, "needs a file"),
])  # fmt: skip
def test_evaluate_fails_the_same_way(pong, tmp_path, argv, code, says):
    if not (pong / "evaluations").exists():
        assert call(EVALUATE, str(pong), "--episodes", "1").returncode == 0
    done = call(EVALUATE, *(a.format(run=pong) for a in argv), *(["--episodes", "1"] if code == 0 else []), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 20


@pytest.mark.slow
def test_debug_shows_the_traceback():
    assert "Traceback" in call(TRAIN, "dqn", "--env", "ALE/Pongg-v5", "--debug").stderr


@pytest.mark.slow
def test_doctor_and_lists():
    done = call(TRAIN, "doctor", "--no-speed")
    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    assert "H.264" in done.stdout
    done = call(TRAIN, "list", "envs")
    assert "ALE/Pong-v5" in done.stdout
    assert done.stdout.count("ALE/") >= 100
    assert "uniform" in call(TRAIN, "list", "agents").stdout
    assert "nature" in call(TRAIN, "list", "presets").stdout


FLAGS = st.sampled_from(["--env", "--steps", "--seed", "--agent.gamma", "--agent.double", "--num-envs", "--preset", "--bogus", "--device",
                         "--env.frame-size", "-x", "--agent.n-step", "--config"])  # fmt: skip
VALUES = st.sampled_from(
    ["CartPole-v1", "0", "-1", "1e9", "nan", "True", "maybe", "", "nature", "🎮", "0.5", "None", "--", "a=b"]
)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(argv=st.lists(st.one_of(FLAGS, VALUES, st.builds("{}={}".format, FLAGS, VALUES)), max_size=8))
@example(argv=["--preset=--"])
@example(argv=["--env=--", "--config=--"])
def test_any_line_parses_or_is_refused_without_a_traceback(argv, capsys):
    from arcturus.errors import ArcturusError
    from arcturus.scripts.train_agent import parse

    try:
        parse("dqn", argv)
    except ArcturusError as e:
        assert e.exit_code in (2, 3)
        assert len(str(e).splitlines()) <= 20
    except SystemExit as e:
        out = capsys.readouterr()
        assert e.code in (0, 2)
        assert e.code == 0 or len((out.err + out.out).splitlines()) <= 20
    capsys.readouterr()


SETTINGS = st.fixed_dictionaries({}, optional={
    "agent.gamma": st.floats(0, 1), "agent.learning-rate": st.floats(0, 10), "agent.n-step": st.integers(1, 100),
    "agent.double": st.booleans(), "agent.optimizer": st.sampled_from(["adam", "rmsprop"]), "num-envs": st.integers(1, 64),
    "steps": st.integers(64, 10**12), "seed": st.integers(0, 2**63 - 1), "eval-every": st.integers(-1, 10**6),
    "checkpoint.replay": st.sampled_from(["all", "none"]), "checkpoint-every": st.integers(-1, 10**9),
    "env-timeout": st.floats(0, 86_400), "deterministic": st.booleans(), "env.protocol": st.sampled_from(["v5", "nature"]),
    "preset": st.sampled_from(["nature", "adam", "classic", "cpu-small", "mnih2013"]),
})  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=SETTINGS, equals=st.booleans(), order=st.randoms(use_true_random=False))
def test_valid_lines_arrive_and_come_back_through_the_config_file(values, equals, order, tmp_path):
    from arcturus.scripts.train_agent import parse

    flags = [("env", "CartPole-v1"), ("device", "cpu"), *values.items()]
    order.shuffle(flags)
    argv = [word for name, v in flags for word in ([f"--{name}={v}"] if equals else [f"--{name}", str(v)])]
    config = parse("dqn", argv)
    said = {"agent": config.agent, "env": config.env}
    for name, value in values.items():
        part, _, field = name.rpartition(".")
        field = {"checkpoint.replay": "checkpoint_replay"}.get(name, field.replace("-", "_"))
        holder = config if field == "preset" else config.env if field == "num_envs" else said.get(part, config.run)
        assert getattr(holder, field) == value, name
    path = tmp_path / "c.yaml"
    path.write_text(config.text())
    assert parse("dqn", ["--config", str(path)]) == config


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_config_file_with_a_fault_is_read_or_refused_with_2(data, tmp_path, capsys):
    """A valid file with a line doubled, dropped or swapped, or some characters changed."""
    from arcturus.errors import ArcturusError
    from arcturus.runs.settings import resolve
    from arcturus.scripts.train_agent import parse

    lines = resolve("dqn", env={"id": "CartPole-v1"}, run={"device": "cpu"}).text().splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        i, how = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.sampled_from(["double", "drop", "swap", "change"]))
        if how == "double":
            lines.insert(i, lines[i])
        elif how == "drop" and len(lines) > 1:
            del lines[i]
        elif how == "swap":
            lines[i - 1], lines[i] = lines[i], lines[i - 1]
        else:
            at = data.draw(st.integers(0, max(0, len(lines[i]) - 1)))
            lines[i] = lines[i][:at] + data.draw(st.text(max_size=4)) + lines[i][at + 1 :]
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="ignore")
    try:
        config = parse("dqn", ["--config", str(path)])
    except ArcturusError as e:
        assert e.exit_code in (2, 3), e
        assert len(str(e).splitlines()) <= 20
        return
    except SystemExit as e:
        assert e.code == 2
        return
    finally:
        capsys.readouterr()
    path.write_text(config.text(), encoding="utf-8")
    assert parse("dqn", ["--config", str(path)]) == config


@pytest.mark.slow
def test_the_references_python_example_runs(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
    code = text.split("<!-- example -->\n```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "episode" in done.stdout
