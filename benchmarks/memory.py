"""What memory cores remember: solve rate and gradient norm on Memory/Recall-v0 against the cue's delay.

The gradient is that of the right answer's logit at the question, with respect to the cue's observation `delay` + 1 steps before:
what backpropagation through time has to learn from (Bengio et al. 1994).  It is given relative to that of the same network at
delay 0 and in float64, as float32 underflows.

Solve rate is the share of right answers, the likeliest action on fresh episodes, after a budget that is equal for all cores: so
many rollouts of one whole episode in each of 64 environments, with PPO, its `memory` preset and gradients through the whole episode.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arcturus.actor_critic import ActorCritic
from arcturus.agents import ppo
from arcturus.envs import make
from arcturus.envs.tasks.device import TaskEnvs
from arcturus.envs.vector import DeviceEnvs
from arcturus.loop import run
from arcturus.memory import make_core
from arcturus.runs.settings import resolve
from arcturus.seeding import Seeds

ENV, CUES, ENVS, EPISODES = "Memory/Recall-v0", 4, 64, 256
DELAYS = (5, 10, 20, 50, 100, 200)
COLOURS = ("#8a8a8a", "#c2410c", "#2f6f8f", "#4d8b31", "#7a4f9a", "#b8860b", "#1f2a44")  # of the cores in turn


def open_recall(delay: int, num_envs: int, device: str) -> DeviceEnvs | TaskEnvs:
    return make(ENV, num_envs, device=device, options=f"delay={delay},cues={CUES}")


def new_agent(core: str, delay: int, envs: DeviceEnvs | TaskEnvs, seed: int) -> ppo.Agent:
    """horizon: cue, delay, question and the row that closes the episode; so rollouts begin and end with episodes."""
    preset = resolve("ppo", preset="memory").agent
    config = replace(preset, core=core, horizon=delay + 3, anneal_steps=0)
    return ppo.Agent(config, envs.spec, envs.device, Seeds(seed))


def train(agent: ppo.Agent, envs: DeviceEnvs | TaskEnvs, rollouts: int, seed: int) -> None:
    """Exactly `rollouts` updates: the row after the last rollout makes it learn."""
    seeds = Seeds(seed)
    steps = (rollouts * agent.config.horizon + 1) * envs.num_envs
    restarts = partial(seeds.branch("env").environments, envs.num_envs)
    for _ in run(envs, agent, steps=steps, seeds=restarts, generator=seeds.branch("policy").torch(envs.device)):
        pass


def solve_rate(agent: ppo.Agent, delay: int, device: str, seed: int) -> float:
    """The share of right answers in EPISODES fresh episodes."""
    with open_recall(delay, EPISODES, device) as envs:
        ts, state = envs.restart(Seeds(seed).branch("eval").environments(EPISODES)), agent.initial_state(EPISODES)
        while not bool(ts.last.any()):  # all episodes are of one length
            act = agent.act(ts, state, explore=False)
            envs.send(act.action)
            ts, state = envs.recv(), act.state
        return float(ts.reward.mean())


def cue_gradient(network: ActorCritic, delay: int) -> float:
    """|d logit of the right answer at the question / d observation of the cue|, mean over cues."""
    device = next(network.parameters()).device
    obs = torch.zeros(delay + 2, CUES, CUES + 1, dtype=torch.float64, device=device)
    obs[0, :, :CUES], obs[-1, :, CUES] = torch.eye(CUES), 1.0
    obs.requires_grad_()
    first = torch.zeros(delay + 2, CUES, dtype=torch.bool, device=device)
    first[0] = True
    logits, _, _ = network.unroll(obs, first, network.initial_state(CUES))
    gradient = torch.autograd.grad(logits[-1].diagonal().sum(), obs)[0]
    return float(gradient[0].norm(dim=-1).mean())


def relative_gradient(network: ActorCritic, delay: int) -> float:
    """What is left of the gradient at delay 0."""
    exact = copy.deepcopy(network).double()
    return cue_gradient(exact, delay) / max(cue_gradient(exact, 0), 1e-300)


def fresh_gradient(core: str, delay: int, device: str, seeds: int) -> list[float]:
    """relative_gradient of new networks, one a seed."""
    with open_recall(delay, ENVS, device) as envs:
        return [relative_gradient(new_agent(core, delay, envs, seed).network, delay) for seed in range(seeds)]


def measure(core: str, delay: int, rollouts: int, device: str, seeds: int) -> dict[str, Any]:
    """Gradients of `seeds` new networks; the first of them is trained."""
    fresh = fresh_gradient(core, delay, device, seeds)
    with open_recall(delay, ENVS, device) as envs:
        agent = new_agent(core, delay, envs, 0)
        train(agent, envs, rollouts, 0)
    solved, trained = solve_rate(agent, delay, device, 0), relative_gradient(agent.network, delay)
    return {"core": core, "delay": delay, "solved": solved, "fresh": statistics.mean(fresh), "seeds": fresh, "trained": trained}


def cores_of(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["core"] for row in rows))


def report(rows: list[dict[str, Any]]) -> None:
    cores = cores_of(rows)
    width = max(len(name) for name in ("delay", *cores))
    for key, title, form in (
        ("solved", f"solve rate after the budget, {EPISODES} fresh episodes, one training (chance {1 / CUES:g})", "10.2f"),
        ("fresh", "gradient of a new network relative to its own at delay 0, mean over seeds", "10.1e"),
        ("trained", "gradient of the trained network relative to its own at delay 0", "10.1e"),
    ):
        print(f"\n{title}\n  {'delay':{width}s}" + "".join(f"{delay:10d}" for delay in DELAYS))
        for core in cores:
            print(f"  {core:{width}s}" + "".join(f"{row[key]:{form}}" for row in rows if row["core"] == core))


def plot(rows: list[dict[str, Any]], rollouts: int, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for core, colour in zip(cores_of(rows), itertools.cycle(COLOURS), strict=False):
        line = [row for row in rows if row["core"] == core]
        left.plot(DELAYS, [row["solved"] for row in line], "o-", color=colour, label=core)
        if core != "none":  # its gradient is 0
            right.plot(DELAYS, [row["fresh"] for row in line], "o--", color=colour, markerfacecolor="white", label=f"{core}, new")
            right.plot(DELAYS, [row["trained"] for row in line], "o-", color=colour, label=f"{core}, trained")
    left.axhline(1 / CUES, color="black", linewidth=0.8, linestyle=":")
    left.annotate("chance", (DELAYS[0], 1 / CUES), (0, -14), textcoords="offset points", fontsize=9)
    left.set(ylim=(0, 1.04), ylabel="solve rate", title=f"right answers after {rollouts * ENVS:,} episodes of PPO")
    right.set(yscale="log", ylabel="relative to delay 0", title="gradient from the answer back to the cue")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="steps between cue and question", xticks=DELAYS, xticklabels=DELAYS)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9, loc="lower left")
    left.legend(frameon=False, loc="center left")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)


def benchmark_memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    title = f"{ENV}, {CUES} cues; {args.budget} rollouts of {ENVS} episodes for every core and delay"
    print(title, flush=True)
    cores, rows = args.cores.split(","), []
    for core in cores:
        make_core(core, CUES + 1, 1)  # a name that is unknown is said before hours are spent on the others
    for core in cores:
        for delay in DELAYS:
            rows.append(measure(core, delay, args.budget, args.device, args.seeds))
            print(
                "  {core} {delay}: solved {solved:.2f}, gradient {fresh:.1e} new, {trained:.1e} trained".format(**rows[-1]),
                flush=True,
            )
    report(rows)
    if args.plot:
        plot(rows, args.budget, args.plot)
    return [{"title": title, "unit": "solve rate; relative gradient", "rows": rows}]
