"""Learning parity: DQN, A2C and PPO beside stable-baselines3's, with the same hyper-parameters, networks, environments, seeds and steps.

Every cell is an ordinary run of `train-agent`; theirs is one of the agent `sb3` with our torso, so that the networks are the same
layer by layer.  What the two call differently is translated in ours() and theirs(): our value loss is half the squared error, so
our value_cost is twice their vf_coef; their RMSprop is the TensorFlow-like one, which has epsilon inside the root as ours does.

Two scores a run: the final one (EPISODES fresh episodes of the trained policy) and the mean of the evaluations made in training, which
tells how soon it learnt.  Of each the IQM over seeds with its 95% interval.  One side is called better where a permutation test of the
difference of means is below 2.5%, which takes four seeds.

What is not equal: our DQN plays at random until learning_starts and lets epsilon fall from there to the same end, theirs lets it fall from
step 0.  The row between two episodes counts as one of our steps and as none of theirs, so ours sees a few transitions less where episodes
are short.  Their PPO's learning rate is that of the rollout's end, ours of its beginning.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arcturus.comparing.comparison import read_run
from arcturus.errors import ConfigError
from arcturus.runs.folder import read_metrics
from arcturus.scoring.statistics import iqm, stratified_interval
from arcturus.scripts.sweep_agents import check_cells
from arcturus.sweeps.engine import run_sweep
from arcturus.sweeps.file import Cell, flags_of, make_sweep
from arcturus.sweeps.search import by_chance

EPISODES = 30
FEWEST = 4  # seeds a side; of fewer no permutation test can say more than 5%
HYPER: dict[str, dict[str, Any]] = {
    "dqn": {"num_envs": 1, "learning_rate": 5e-4, "batch_size": 64, "capacity": 50_000, "learning_starts": 1000, "gamma": 0.99,
            "target_period": 250, "steps_per_update": 2, "epsilon_final": 0.04, "epsilon_until": 0.2, "max_grad_norm": 10.0},
    "a2c": {"num_envs": 8, "horizon": 5, "learning_rate": 7e-4, "gamma": 0.99, "vf_coef": 0.25, "entropy_cost": 0.0, "max_grad_norm": 0.5},
    "ppo": {"num_envs": 8, "horizon": 32, "batch_size": 256, "epochs": 20, "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.8,
            "clip": 0.2, "vf_coef": 0.5, "entropy_cost": 0.0, "max_grad_norm": 0.5},
}  # fmt: skip


class Task(NamedTuple):
    """steps: of each algorithm.  hyper: of an algorithm, where they are others than HYPER's.  flags: further ones of both."""

    name: str
    env: str
    seeds: int
    torso: str
    steps: Mapping[str, int]
    hyper: Mapping[str, dict[str, Any]] = {}
    flags: Mapping[str, Any] = {}


LONGER = {
    "num_envs": 16,
    "horizon": 128,
    "batch_size": 512,
    "epochs": 4,
    "learning_rate": 5e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
TASKS = (
    Task("CartPole", "CartPole-v1", 5, "mlp", {"dqn": 30_000, "a2c": 100_000, "ppo": 50_000}),
    Task("Acrobot", "Acrobot-v1", 5, "mlp", {"dqn": 30_000, "a2c": 100_000, "ppo": 50_000}),
    Task("LunarLander", "LunarLander-v3", 3, "mlp", {"dqn": 100_000, "a2c": 200_000, "ppo": 200_000}, {"ppo": LONGER}),
    Task(
        "MinAtar Breakout",
        "minatar.gym:MinAtar/Breakout-v1",
        3,
        "grid",
        {"dqn": 100_000, "a2c": 200_000, "ppo": 200_000},
        {"dqn": {"num_envs": 2, "capacity": 100_000, "target_period": 1000}, "ppo": LONGER},  # one foreign environment is never scored
        {"env.channels": "last"},
    ),
    Task(
        "Pong",
        "ALE/Pong-v5",
        2,
        "small",
        {"ppo": 1_000_000},
        {"ppo": LONGER | {"learning_rate": 1e-3, "clip": 0.1, "entropy_cost": 0.01}},
        {"env.frame_size": 42},
    ),
)


def ours(algorithm: str, h: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of our agent."""
    same: tuple[str, ...] = ("learning_rate", "gamma", "max_grad_norm")
    if algorithm == "dqn":
        same += ("batch_size", "capacity", "learning_starts", "target_period", "epsilon_final")
        exploring = max(int(h["epsilon_until"] * h["steps"]), h["learning_starts"])
        own = {"replay_ratio": 1 / h["steps_per_update"], "epsilon_steps": exploring - h["learning_starts"],
               "huber": True, "double": False, "n_step": 1, "optimizer_eps": 1e-8}  # fmt: skip
    elif algorithm == "a2c":
        same += ("horizon", "entropy_cost")
        own = {"value_cost": 2 * h["vf_coef"], "anneal_steps": 0, "mean_square": 1.0, "optimizer_eps": 1e-5, "shared": False}
    else:
        same += ("horizon", "epochs", "gae_lambda", "clip", "entropy_cost")
        own = {"value_cost": 2 * h["vf_coef"], "anneal_steps": -1, "optimizer_eps": 1e-5, "shared": False,
               "minibatches": h["num_envs"] * h["horizon"] // h["batch_size"]}  # fmt: skip
    return {name: h[name] for name in same} | own


def theirs(algorithm: str, h: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of stable-baselines3's."""
    same = {"gamma": "gamma", "max_grad_norm": "max_grad_norm"}
    apart = {"share_features_extractor": False}
    if algorithm == "dqn":
        same |= {"batch_size": "batch_size", "learning_starts": "learning_starts", "learning_rate": "learning_rate"}
        same |= {"buffer_size": "capacity", "target_update_interval": "target_period", "exploration_final_eps": "epsilon_final"}
        own: dict[str, Any] = {
            "train_freq": h["steps_per_update"] // h["num_envs"],
            "gradient_steps": 1,
            "exploration_fraction": h["epsilon_until"],
        }
    elif algorithm == "a2c":
        same |= {"n_steps": "horizon", "ent_coef": "entropy_cost", "vf_coef": "vf_coef", "learning_rate": "learning_rate"}
        own = {"policy_kwargs": apart | {"optimizer_class": "RMSpropTFLike", "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}}
    else:
        same |= {"n_steps": "horizon", "batch_size": "batch_size", "n_epochs": "epochs", "gae_lambda": "gae_lambda"}
        same |= {"clip_range": "clip", "ent_coef": "entropy_cost", "vf_coef": "vf_coef"}
        own = {"learning_rate": f"lin_{h['learning_rate']}", "policy_kwargs": apart}
    return {argument: h[name] for argument, name in same.items()} | own


def written(value: Any) -> str:
    """A constructor's argument as --agent.settings reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {written(x)}" for name, x in value.items()) + "}"
    return (
        str(value).lower() if isinstance(value, bool) else f"{value:.10f}".rstrip("0") if isinstance(value, float) else str(value)
    )


def cells(tasks: tuple[Task, ...], seeds: int | None, steps: int | None) -> Iterator[tuple[Task, str, str, Cell]]:
    """Task, algorithm, whose, and the run."""
    for task in tasks:
        for algorithm, own_steps in task.steps.items():
            h = HYPER[algorithm] | task.hyper.get(algorithm, {}) | {"steps": steps or own_steps}
            run = {
                "steps": h["steps"],
                "eval_every": max(h["steps"] // 10, 1),
                "eval_episodes": 10,
                "heldout_states": 0,
                "device": "cpu",
            }
            common = {**run, "env.num_envs": h["num_envs"], **task.flags}
            clip = {"agent.reward_clip": 1.0 if task.env.startswith("ALE/") else 0.0}
            settings = ",".join(f"{name}={written(value)}" for name, value in theirs(algorithm, h).items())
            both: dict[str, tuple[str, dict[str, Any]]] = {
                "ours": (algorithm, {f"agent.{k}": v for k, v in ours(algorithm, h).items()}),
                "theirs": ("sb3", {"agent.algorithm": algorithm, "agent.settings": settings}),
            }
            for whose, (agent, own) in both.items():
                flags = flags_of(common | clip | {"agent.torso": task.torso} | own)
                for seed in range(seeds or task.seeds):
                    name = f"{task.name.replace(' ', '-')}-{algorithm}-{whose}-s{seed}"
                    yield task, algorithm, whose, Cell(name, agent, task.env, seed, flags)


def scores(run: Path, trusted: tuple[str, ...]) -> dict[str, float]:
    """final: of fresh episodes; mean: of the evaluations in training."""
    watched = [row["eval/episodic_return_mean"] for row in read_metrics(run) if "eval/episodic_return_mean" in row]
    read = read_run(run, trusted)
    return {"final": read.score.value, "mean": float(np.mean(watched)), "minutes": read.minutes}


def row(task: Task, algorithm: str, sides: Mapping[str, list[dict[str, float]]], steps: int) -> dict[str, Any]:
    out: dict[str, Any] = {
        "task": task.name,
        "env": task.env,
        "algorithm": algorithm,
        "steps": steps,
        "seeds": len(sides["ours"]),
    }
    for what in ("final", "mean"):
        values = {whose: [run[what] for run in runs] for whose, runs in sides.items()}
        for whose, x in values.items():
            out[f"{what}_{whose}"] = {"runs": x, "iqm": float(iqm(x)), "ci95": stratified_interval([x], iqm)}
    return out | {f"minutes_{whose}": float(np.mean([run["minutes"] for run in runs])) for whose, runs in sides.items()}


def told(r: Mapping[str, Any]) -> str:
    """One row of the table in docs/results.md."""

    def score(x: Mapping[str, Any]) -> str:
        low, high = x["ci95"]
        return f"{x['iqm']:.1f} [{low:.1f}, {high:.1f}]"

    def verdict(what: str) -> str:
        mine, other = r[f"{what}_ours"]["runs"], r[f"{what}_theirs"]["runs"]
        if len(mine) < FEWEST:
            return "too few"
        low, high = by_chance([mine], [other]), by_chance([other], [mine])
        return "ours" if low <= 0.025 else "theirs" if high <= 0.025 else "-"

    parts = [r["task"], r["algorithm"], f"{r['steps']:,}", str(r["seeds"])]
    for what in ("final", "mean"):
        parts += [score(r[f"{what}_ours"]), score(r[f"{what}_theirs"]), verdict(what)]
    return "| " + " | ".join([*parts, f"{r['minutes_ours']:.1f}, {r['minutes_theirs']:.1f}"]) + " |"


HEADER = """\
| task | agent | steps | seeds | ours, final | theirs, final | better | ours, mean | theirs, mean | better | minutes |
|---|---|---:|---:|---:|---:|---|---:|---:|---|---:|"""


def benchmark_learning(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs lie in --out and are made only once; the same command goes on with those that are missing."""
    tasks = tuple(task for task in TASKS if args.env in (None, task.env, task.name))
    if not tasks:
        raise ConfigError(f"there is no task {args.env!r}", where="--env", fix="choose " + ", ".join(task.name for task in TASKS))
    if args.device != "cpu" or args.num_envs or args.preset:
        fix = "leave out --device, --num-envs and --preset"
        raise ConfigError("the tasks say what runs, on the CPU", where="benchmark learning", fix=fix)
    out = args.out or Path(tempfile.mkdtemp(prefix="learning-"))
    wanted = list(cells(tasks, args.seeds, args.steps))
    sweep = make_sweep(out, [cell for *_, cell in wanted], evaluate=("--episodes", str(EPISODES)))
    check_cells(sweep)
    if code := run_sweep(sweep):
        raise SystemExit(code)
    rows = []
    for task in tasks:
        for algorithm, steps in task.steps.items():
            sides: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
            for one, name, whose, cell in wanted:
                if (one.name, name) == (task.name, algorithm):
                    sides[whose].append(scores(out / cell.name, cell.trusted))
            rows.append(row(task, algorithm, sides, args.steps or steps))
    print("\n".join([HEADER, *map(told, rows)]))
    return [{"name": "learning", "episodes": EPISODES, "rows": rows}]
