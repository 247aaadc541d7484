"""Pictures of the tape tasks: that they are of the network that is scored, show what it did, and change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.image import imread

import arcturus
from arcturus.envs import open_training
from arcturus.envs.tasks.sequences import Copy, PrioritySort
from arcturus.pictures.album import panels, pictures_of, write_pictures
from arcturus.pictures.answers import ngrams, targets_and_outputs
from arcturus.pictures.gates import dnc_gates, ntm_gates
from arcturus.pictures.memory import USED, memory_panel, used_slots
from arcturus.pictures.sort import fit_heads, priorities
from arcturus.pictures.style import inked
from arcturus.pictures.tapes import Tape, choose_moments, play_tape
from arcturus.runs.building import build_agent
from arcturus.runs.library import load
from arcturus.runs.settings import resolve, validate
from arcturus.scoring.sequences import score_lengths
from arcturus.scripts import compare_runs, evaluate_agent
from arcturus.scripts.frontend import guarded
from arcturus.seeding import Seeds

NTM = {"core": "ntm", "core_width": 16, "core_options": "slots=9,word=5,read_heads=2"}


def untrained(agent="supervised", env="NTM/Copy-v0", options="width=3,high=6", preset="cpu-small", **settings):
    """An agent whose policy is opinionated: its head's weights are drawn anew, large."""
    config = validate(
        resolve(agent, preset=preset, agent=settings or NTM, env={"id": env, "options": options}, run={"device": "cpu"})
    )
    with open_training(replace(config.env, num_envs=1), 0, "cpu") as envs:
        spec = replace(envs.spec, num_envs=config.env.num_envs)
    built = build_agent(config, spec, "cpu")
    head = getattr(built.network, "policy", None) or built.network.head
    torch.nn.init.normal_(head.weight, std=2.0, generator=torch.Generator().manual_seed(1))
    return built, config.env


def tape_of(lengths=(5,), **how) -> Tape:
    agent, config = untrained(**how)
    return play_tape(agent, config, lengths, Seeds(3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few updates, evaluated twice."""
    return arcturus.train(
        "supervised", "NTM/Copy-v0", preset="cpu-small", steps=2_000, run_dir=tmp_path_factory.mktemp("run") / "a",
        agent_config=NTM, env_config={"options": "width=3,high=3"}, eval_every=1_000, eval_episodes=2, quiet=True,
    )  # fmt: skip


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def images(figure):
    """What every axes shows, by the axes' label or title."""
    return {(a.get_ylabel() or a.get_title()): np.asarray(a.images[0].get_array()) for a in figure.axes if a.images}


def marks(axes):
    """Cells (row, column) with a square in them."""
    (squares,) = [c for c in axes.collections if isinstance(c, PolyCollection)]
    return {(round(y), round(x)) for x, y in (path.vertices[:4].mean(0) for path in squares.get_paths())}


# -- tapes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_picture_is_of_the_network_that_is_scored():
    """Torso, the core's trace and the policy's head, step by step, against what the picture is made of."""
    agent, config = untrained()
    tape = play_tape(agent, config, (5,), Seeds(3))
    network, seen, p = agent.network, [], []
    with torch.no_grad():
        state = network.core.initial_state(1)
        for x in torch.as_tensor(tape.inputs):
            y, state, told = network.core.trace(network.torso(x[None]), state)
            seen.append(told)
            p.append(network.policy(y)[0].sigmoid())
    asked = tape.mask
    assert asked.sum() == 5
    assert tape.wrong.any()
    np.testing.assert_allclose(tape.outputs[asked], torch.stack(p).numpy()[asked], atol=1e-6)
    np.testing.assert_array_equal(tape.wrong[asked], (tape.outputs[asked] > 0.5) != tape.targets[asked])
    right = np.where(tape.targets == 1, tape.outputs, 1 - tape.outputs)[asked]
    assert tape.cost == pytest.approx(-np.log2(right).sum(), rel=1e-4)
    assert {"w_read", "w_write", "add", "reads", "read_gate", "write_shift"} <= tape.core.keys()
    for name, values in tape.core.items():
        np.testing.assert_allclose(values, torch.cat([told[name] for told in seen]).numpy(), atol=1e-6, err_msg=name)
    assert sorted(tape.moments) == [5, 10]  # the rows at which a phase ends
    np.testing.assert_allclose(tape.moments[10]["memory"], seen[10]["memory"][0].numpy(), atol=1e-6)


def test_which_tape_is_drawn_depends_on_seed_and_length_alone():
    first, config = untrained()
    second, _ = untrained("a2c", preset="memory", core="lstm")
    tapes = [play_tape(a, config, (4,), Seeds(seed)) for a, seed in ((first, 0), (second, 0), (first, 1))]
    np.testing.assert_array_equal(tapes[0].inputs, tapes[1].inputs)
    assert (tapes[0].inputs != tapes[2].inputs).any()
    assert tapes[1].core == {}


def test_a_trace_that_is_another_step_is_refused_and_nothing_stays_hooked(monkeypatch):
    agent, config = untrained()
    core, honest = agent.network.core, agent.network.core.trace
    monkeypatch.setattr(core, "trace", lambda x, s: (honest(x, s)[0] + 0.01, *honest(x, s)[1:]), raising=False)
    with pytest.raises(RuntimeError, match="another step"):
        play_tape(agent, config, (3,), Seeds(0))
    assert not core._forward_hooks


def test_moments_are_ends_of_phases_and_few():
    mask = Copy(series=9, width=1).sample(torch.Generator(), 1, (2,)).mask.numpy()
    moments = choose_moments(mask)
    assert len(moments) == 4
    assert moments[-1] == len(mask) - 1
    assert all(mask[t] != mask[t + 1] for t in moments[:-1])


# -- answers -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", ["bits", "serial", "symbol"])
def test_marks_are_exactly_where_answers_are_wrong(actions):
    agent, config = untrained("a2c", preset="memory", options=f"width=3,high=6,actions={actions}", core="lstm")
    tapes = [play_tape(agent, config, (n,), Seeds(0)) for n in (2, 6)]
    figure = targets_and_outputs(tapes)
    for tape, above, below in zip(tapes, figure.axes[::2], figure.axes[1::2], strict=True):
        (n,) = tape.lengths
        shown = tape.inputs[:n, :3].T  # of copy, the targets are what was shown
        np.testing.assert_array_equal(above.images[0].get_array(), shown)
        likely = np.asarray(below.images[0].get_array())
        assert likely.shape == (3, n)
        wrong = {(i, j + 1) for i, j in zip(*np.nonzero(tape.answers(tape.wrong)), strict=True)}
        if actions != "symbol":  # a likeliest symbol needn't have the likeliest bits
            assert wrong == {(i, j + 1) for i, j in zip(*np.nonzero((likely > 0.5) != shown), strict=True)}
        assert marks(below) == wrong
    assert any(tape.wrong.any() for tape in tapes)


def test_ngram_strips_are_the_two_observers():
    tape = tape_of((150,), env="NTM/DynamicNGrams-v0", options="n=3")
    shown, bits = images(ngrams(tape)), tape.targets[:, 0]
    assert tape.optimal is not None
    np.testing.assert_allclose(shown["network"][0], tape.outputs[100:, 0])  # a line is 100 bits: the second line is left
    np.testing.assert_allclose(shown["optimal"][0], tape.optimal[100:])
    np.testing.assert_allclose(shown["difference"], shown["network"] - shown["optimal"])
    np.testing.assert_array_equal(shown["bit"][0], bits[100:])
    np.testing.assert_array_equal(shown["last 2 bits"], [bits[98:148], bits[99:149]])
    cost = [np.log2(np.where(bits == 1, p, 1 - p)) for p in (tape.optimal, tape.outputs[:, 0])]
    arrows = [line.get_xdata()[0] for axes in ngrams(tape).axes for line in axes.lines]
    assert set(arrows) == set(np.argsort(cost[0] - cost[1])[-3:])


# -- memory --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "shown"),
    [((3, 4, 6), [2, 3, 4, 5, 6, 7]), ((0, 11), [10, 11, 0, 1]), ((11,), [10, 11, 0]), ((0, 5, 9), None), (range(12), None)],
)
def test_cropping_keeps_what_is_used_and_does_not_tear_the_ring(used, shown):
    w = np.full((4, 2, 12), 1e-3)
    for t, slot in enumerate(used):
        w[t % 4, t % 2, slot] = 0.9
    slots = used_slots(w[:, :1], w[:3, 1:]) if len(used) < 4 else used_slots(w)
    if shown is not None:
        assert slots.tolist() == shown
    assert set(used) <= set(slots.tolist())
    assert len(set(slots.tolist())) == len(slots)
    assert ((np.diff(slots) - 1) % 12 == 0).all()


def test_cropping_a_memory_that_nobody_uses_shows_where_most_is():
    w = np.full((3, 1, 64), 0.01)
    w[1, 0, 40] = 0.02
    assert used_slots(w).tolist() == [39, 40, 41]


def test_the_memory_panel_shows_what_the_trace_says():
    tape = tape_of()
    slots, shown = used_slots(tape.core["w_read"], tape.core["w_write"]), images(memory_panel(tape))
    np.testing.assert_array_equal(shown["Write\nweightings"], tape.core["w_write"][:, 0].T[slots])
    for head in (0, 1):
        np.testing.assert_array_equal(shown[f"Read\nweightings {head + 1}"], tape.core["w_read"][:, head].T[slots])
        np.testing.assert_array_equal(shown[f"Reads {head + 1}"], tape.core["reads"][:, head].T)
    np.testing.assert_array_equal(shown["Adds"], tape.core["add"][:, 0].T)
    np.testing.assert_array_equal(shown["Outputs"], tape.outputs.T)
    np.testing.assert_allclose(shown["Inputs"].mean(-1), tape.inputs.T)
    hidden = np.setdiff1d(np.arange(9), slots)
    assert (tape.core["w_read"][..., hidden] < USED).all()
    for axes in memory_panel(tape).axes:  # where the answer begins
        assert [line.get_xdata()[0] for line in axes.lines] == [5.5]


def test_inputs_that_are_no_bits_are_shown_as_signed():
    picture = inked(np.array([[0, 1, 1.0], [-0.5, 0, 0.25]]))
    np.testing.assert_array_equal(picture[0], [[0] * 3, [1] * 3, [1] * 3])
    (below, zero, above) = picture[1]
    np.testing.assert_array_equal(zero, 0)
    assert below[2] > below[0]  # blue
    assert above[0] > above[2]  # amber


def test_gates_are_drawn_for_every_head():
    tape = tape_of()
    lines = [axes.lines[0].get_ydata() for axes in ntm_gates(tape).axes if len(axes.lines[0].get_xdata()) == len(tape.mask)]
    told = [tape.core[f"{kind}_{name}"][:, head, 0] for kind, heads in (("read", 2), ("write", 1)) for head in range(heads)
            for name in ("gate", "strength", "sharpening")]  # fmt: skip
    np.testing.assert_array_equal(lines, told)


def test_a_dnc_s_trace_is_drawn():
    rng, (T, R, S) = np.random.default_rng(0), (9, 2, 6)
    tape = tape_of((4,))
    told = {"usage": (T, S), "allocation": (T, S), "allocation_gate": (T, 1), "write_gate": (T, 1), "free_gates": (T, R)}
    told |= {"read_modes": (T, R, 3), "w_read": (T, R, S), "w_write": (T, 1, S)}
    tape = tape._replace(core={name: rng.random(shape) for name, shape in told.items()})
    tape = tape._replace(moments={t: {"link": rng.random((S, S))} for t in (4, 8)})
    shown = [np.asarray(axes.images[0].get_array()) for axes in dnc_gates(tape).axes if axes.images]
    core, link = tape.core, tape.moments[4]["link"]
    wanted = [core["usage"].T, core["allocation"].T, core["free_gates"].T]
    wanted += [core["read_modes"][:, 0].T, core["read_modes"][:, 1].T, link, tape.moments[8]["link"]]
    for a, b in zip(shown, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_head_that_writes_by_priority_is_found():
    """Of three heads, one writes to slot 2 + 3 x and two elsewhere."""
    x, w = np.arange(6) / 3, np.zeros((6, 3, 12))
    w[np.arange(6), 0, [5, 1, 7, 2, 9, 0]] = 1
    w[np.arange(6), 1, [2, 3, 4, 5, 6, 7]] = 1
    w[:, 2, 4] = 1
    line = fit_heads(x, w)
    assert line.head == 1
    assert (line.slope, line.start, line.explained) == pytest.approx((3, 2, 1))


def test_a_sort_is_drawn_from_its_own_priorities():
    tape = tape_of((7,), env="NTM/PrioritySort-v0", options="low=6,high=6,width=2,best=4")
    axes, *_ = priorities(tape).axes
    dots = axes.lines[1]
    np.testing.assert_array_equal(dots.get_xdata(), tape.inputs[:7, 3])
    assert isinstance(tape.task, PrioritySort)


# -- runs ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_picture_that_fits_is_written_and_nothing_of_a_run_changes(trained, tmp_path):
    actor, before, random = load(trained), contents(trained.path), torch.get_rng_state()
    weights = {k: v.clone() for k, v in actor.network.state_dict().items()}
    files = write_pictures(tmp_path, actor, actor.config.env, score_lengths(actor, actor.config.env, [(2,), (5,)], 3))
    names = {f.name for f in files}
    assert names == {f"{kind}-{n}.png" for kind in ("memory", "gates") for n in (2, 5)} | {
        "answers-2-to-5.png",
        "lengths-2-to-5.png",
    }
    assert names == {f.name for f in tmp_path.iterdir()}
    for file in files:
        picture = imread(file)
        assert picture.std() > 0.05  # something is on it
    assert contents(trained.path) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, weights[k]) for k, v in actor.network.state_dict().items())


@pytest.mark.parametrize(
    ("env", "options", "lengths", "kinds"),
    [
        ("NTM/RepeatCopy-v0", "width=2,high=3", (2, 3), ["memory", "gates"]),
        ("NTM/DynamicNGrams-v0", "n=3", (20,), ["ngrams", "memory", "gates"]),
        ("NTM/PrioritySort-v0", "low=4,high=4,best=2", (4,), ["memory", "sort", "gates"]),
        ("NTM/AssociativeRecall-v0", "high=3", (2,), ["memory", "gates"]),
        ("NTM/CopySeries-v0", "low=2,high=2,width=2", (2,), ["memory", "gates"]),
    ],
)
def test_each_task_has_its_pictures(env, options, lengths, kinds):
    assert [kind for kind, _ in pictures_of(tape_of(lengths, env=env, options=options))] == kinds


def test_agents_without_slots_or_policy_have_their_answers_drawn(tmp_path):
    agent, config = untrained("drqn", preset="memory", options="width=2,high=3,actions=symbol", core="gru", capacity=2_000)
    files = write_pictures(tmp_path, agent, config, score_lengths(agent, config, [(3,)], 2))
    assert [f.name for f in files] == ["answers-3.png"]
    assert panels(agent, config, (3,), Seeds(0)).keys() == {"answers"}


def test_evaluations_put_pictures_into_tensorboard(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    for tag in ("task/answers_3", "task/memory_3"):
        pictures = events.Images(tag)
        assert len(pictures) == 2, tag
        assert pictures[0].width > 300


@pytest.mark.slow
def test_drawing_changes_no_bit_of_training_and_its_faults_end_no_run(trained, tmp_path, monkeypatch):
    from arcturus.pictures import album

    def broken(*args, **kwargs):
        raise ValueError("no ink")

    monkeypatch.setattr(album, "panels", broken)
    other = arcturus.train(
        "supervised", "NTM/Copy-v0", preset="cpu-small", steps=2_000, run_dir=tmp_path / "b", agent_config=NTM,
        env_config={"options": "width=3,high=3"}, eval_every=1_000, eval_episodes=2, quiet=True,
    )  # fmt: skip
    a, b = (load(run).network.state_dict() for run in (trained, other))
    assert all(torch.equal(a[k], b[k]) for k in a)
    told = [[{k: v for k, v in row.items() if k not in ("time", "charts/SPS")} for row in arcturus.read_metrics(run)]
            for run in (trained, other)]  # fmt: skip
    assert told[0] == told[1]


def test_commands_draw(trained, tmp_path, capsys):
    def evaluate(*words):
        return guarded(evaluate_agent.main, [str(trained.path), *words])

    assert evaluate("--pictures", str(tmp_path)) == 2
    assert "--lengths" in capsys.readouterr().err
    assert evaluate("--lengths", "1", "--sequences", "2", "--pictures", str(tmp_path / "p")) == 0
    told = capsys.readouterr()
    drawn = {line.removeprefix("picture ") for line in told.err.splitlines() if line.startswith("picture ")}
    assert drawn == {str(p) for p in (tmp_path / "p").iterdir()}
    for how in ("--bits", "--lengths"):
        file = tmp_path / f"{how[2:]}.png"
        assert guarded(compare_runs.main, [str(trained.path), str(trained.path), how, str(file)]) == 0
        assert imread(file).std() > 0.02
        assert guarded(compare_runs.main, [str(tmp_path / "nothing"), how, str(file)]) != 0


def test_runs_of_different_tasks_share_no_curve(trained, tmp_path, capsys):
    other = arcturus.train(
        "supervised", "NTM/Copy-v0", preset="cpu-small", steps=200, run_dir=tmp_path / "c", agent_config=NTM,
        env_config={"options": "width=2,high=3"}, eval_every=0, quiet=True,
    )  # fmt: skip
    assert guarded(compare_runs.main, [str(trained.path), str(other.path), "--bits", str(tmp_path / "x.png")]) == 2
    assert "not on the same" in capsys.readouterr().err
    assert guarded(compare_runs.main, [str(other.path), "--lengths", str(tmp_path / "x.png")]) == 2
    assert "no scores by length" in capsys.readouterr().err
