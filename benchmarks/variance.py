"""The variance of the policy-gradient estimate on one fixed policy, for each rung of the ladder, all on the same episodes.

    g_b = 1/K sum_{episodes i of batch b} sum_t weight_t grad log pi(a_t|s_t),     variance = trace of the covariance of g_b over b

The weights are agents/reinforce.py's (a)-(d), and the generalized advantage estimates of Schulman et al. 2016.  Rungs add up: each
has what stands above it, from discounting on.  Every environment plays the same number of whole episodes, so short and long ones
count as often as they occur.  A time limit ends the return: it belongs to the objective.  Baselines and critics were fitted before,
on other episodes of the same policy: v is the ridge regression of returns on the features before the policy's head.

Where the process is known, the bias is the distance of the mean estimate from the exact gradient of the *undiscounted* return.
Discounted rungs estimate something else, so theirs is expected; without gamma^t in front of each action it isn't even the gradient
of the discounted return (Thomas 2014).
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from arcturus.actor_critic import ActorCritic
from arcturus.agents import reinforce
from arcturus.api import ActedStep, EnvSpec
from arcturus.envs import make
from arcturus.envs.mdp import MDP
from arcturus.envs.tasks.device import TaskEnvs
from arcturus.envs.vector import DeviceEnvs
from arcturus.losses import lambda_returns
from arcturus.replay.rollout import Rollout, Trajectory
from arcturus.seeding import Seeds
from benchmarks.exact import policy_gradient, policy_values

CHUNK = 1_024  # rows whose gradients are computed at once
RIDGE = 1.0  # beside sums over rows of squared features
LIMIT = 100  # steps of an episode of the tabular processes


class Rung(NamedTuple):
    name: str
    reward_to_go: bool = True
    discounted: bool = True
    baseline: str = "learned"  # none, average, learned, exact (of a known process)
    gae_lambda: float = 1.0


RUNGS = (
    Rung("whole trajectory", reward_to_go=False, discounted=False, baseline="none"),
    Rung("reward-to-go", discounted=False, baseline="none"),
    Rung("+ discounting", baseline="none"),
    Rung("+ average baseline", baseline="average"),
    Rung("+ learned baseline v(s)", baseline="learned"),
    Rung("critic, GAE 0.95", gae_lambda=0.95),
    Rung("critic, GAE 0 (one-step TD)", gae_lambda=0.0),
)
EXACT = Rung("reward-to-go less exact v(s)", discounted=False, baseline="exact")  # only where the process is known


class World(NamedTuple):
    """A policy's world, and how many episodes of it are measured for each seed: num_envs * episodes * rounds."""

    env: dict[str, Any]
    config: reinforce.Config  # what all rungs share: torso, gamma, reward_clip
    rows: int  # that `episodes` of every environment take at most
    policy: tuple[str, ...]  # prefixes of the parameters whose gradient is estimated
    batch: int  # K
    rounds: int
    episodes: int = 1  # of every environment in a round
    fit: int = 8  # rounds the baselines are fitted on
    mdp: MDP | None = None


class Table(nn.Identity):
    """A torso that leaves one-hot states as they are, so the policy's head is a table of logits."""

    def __init__(self, spec: EnvSpec):
        super().__init__()
        self.width = spec.states


class Played(NamedTuple):
    """Whole episodes, [T, N]; rows that belong to none of them have episode -1."""

    rollout: Rollout
    rows: Trajectory
    value: Tensor  # [T, N] v of row t
    next_value: Tensor  # [T, N] v of row t + 1
    episode: Tensor  # [T, N] int64, counted from 0


def play(envs: DeviceEnvs | TaskEnvs, network: ActorCritic, rollout: Rollout, episodes: int, seeds: Seeds) -> Played:
    """`episodes` whole episodes of every environment, one after another; faster environments wait for the last."""
    N = envs.num_envs
    rollout.restart()
    ts, state = envs.restart(seeds.branch("env").environments(N)), network.initial_state(N)
    generator = seeds.branch("policy").torch(envs.device)
    ended, kept = torch.zeros(N, dtype=torch.int64, device=envs.device), []
    while True:
        act = network.act(ts, state, explore=True, generator=generator)
        rollout.append(ActedStep(ts, state, act.action, act.extras))
        kept.append(torch.where(ts.valid & (ended < episodes), ended * N + torch.arange(N, device=envs.device), -1))
        envs.send(act.action)
        ts, state = envs.recv(), act.state
        ended += ts.last
        if bool((ended >= episodes).all()):
            break
        if rollout.full:
            raise RuntimeError(f"{episodes} episodes of {envs.spec.env_id} take more than {rollout.rows} rows")
    value = rollout.extras["value"][: rollout.count].clone()
    with torch.no_grad():
        next_value = torch.cat([value[1:], network.unroll(ts.obs[None], ts.first[None], state)[1]])
    return Played(rollout, rollout.read(ts), value, next_value, torch.stack(kept))


def weights(rung: Rung, played: Played, world: World, average: float, exact: Tensor | None = None) -> Tensor:
    """[T, N] what stands beside grad log pi(a_t|s_t).  average: the constant baseline; exact [T, N]: v from the process."""
    c = replace(world.config, reward_to_go=rung.reward_to_go, gamma=world.config.gamma if rung.discounted else 1.0)
    rows = played.rows
    if rung.gae_lambda < 1:
        discount = rows.discounts(c.gamma, bootstrap_truncated=c.bootstrap_truncated)
        G = lambda_returns(rows.rewards(c.reward_clip), discount, played.next_value, rows.last, rung.gae_lambda)
    else:
        G = reinforce.returns(rows, played.next_value, c)
    if rung.baseline == "exact":
        assert exact is not None
        return G - exact
    if rung.baseline == "learned":
        return G - played.value
    return G - average if rung.baseline == "average" else G


def estimates(network: ActorCritic, played: Played, beside: list[Tensor], batch: int, policy: tuple[str, ...]) -> Tensor:
    """[batches, rungs, parameters]: g_b for each of the weights `beside` [T, N], of batches of `batch` episodes."""
    parameters = [p for name, p in network.named_parameters() if name.startswith(policy)]
    group = played.episode.div(batch, rounding_mode="floor")  # -1 stays -1
    out = []
    for b in range(int(group.max()) + 1):
        total: list[Any] = [0.0] * len(beside)
        for part in (group == b).nonzero().split(CHUNK):
            t, n = part[None, :, 0], part[None, :, 1]
            logits, _, _ = network.unroll(played.rollout.obs(t, n), played.rows.first[t, n], network.initial_state(len(part)))
            log_prob = network.actions.log_prob(logits, played.rows.action[t, n])
            for i, weight in enumerate(beside):
                loss = -torch.where(played.rows.valid[t, n], weight[t, n] * log_prob, 0).sum() / batch
                gradient = torch.autograd.grad(loss, parameters, retain_graph=True)
                total[i] = total[i] - torch.cat([g.flatten() for g in gradient]).double()
        out.append(torch.stack(total))
    return torch.stack(out)


def fit(network: ActorCritic, rounds: list[tuple[Tensor, Tensor]]) -> float:
    """Fits the value head by ridge regression of returns [B] on features [B, width]; the mean return is the average baseline."""
    x, G = (torch.cat(part).double() for part in zip(*rounds, strict=True))
    centre, mean = x.mean(0), G.mean()
    x = x - centre
    w = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device), x.T @ (G - mean))
    head = network.value
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(w[None])
        head.bias.copy_(mean - centre @ w)
    return float(mean)


@torch.no_grad()
def regression(network: ActorCritic, played: Played, c: reinforce.Config) -> tuple[Tensor, Tensor]:
    """Features [B, width] and discounted returns-to-go [B] of all rows that count."""
    part = (played.episode >= 0).nonzero()
    G = reinforce.returns(played.rows, torch.zeros_like(played.value), c)
    x = [network.torso(played.rollout.obs(t, n)) for t, n in (p.T for p in part.split(CHUNK))]
    return torch.cat(x), G[part[:, 0], part[:, 1]]


def new_policy(world: World, spec: EnvSpec, seeds: Seeds) -> ActorCritic:
    """Random weights; a table's logits are normal of deviation 1."""
    with seeds.branch("init").initialising():
        network = ActorCritic(spec, torso=world.config.torso, shared=True)
        if world.mdp is not None:
            nn.init.normal_(network.policy.weight)
    return network


class Measured(NamedTuple):
    """Of one seed, by rung."""

    variance: list[float]
    distance: list[float]  # |mean estimate - exact gradient| / |exact gradient|; [] where it isn't known
    noise: list[float]  # what the distance of an unbiased estimate would be, as a root mean square


def measure(world: World, envs: DeviceEnvs | TaskEnvs, seed: int) -> Measured:
    seeds, c = Seeds(seed), world.config
    network = new_policy(world, envs.spec, seeds).to(envs.device)
    rollout = Rollout(world.rows, envs.spec, envs.device, extras={"value": ()})
    before = (play(envs, network, rollout, world.episodes, seeds.branch("fit", i)) for i in range(world.fit))
    average = fit(network, [regression(network, played, c) for played in before])
    v = None
    if world.mdp is not None:
        policy = network.policy.weight.detach().T.softmax(-1).double().numpy()
        v = torch.from_numpy(policy_values(world.mdp, policy, 1.0)[0]).float()
    found = []
    for i in range(world.rounds):
        played = play(envs, network, rollout, world.episodes, seeds.branch("measure", i))
        t, n = (x.flatten() for x in torch.meshgrid(*map(torch.arange, played.value.shape), indexing="ij"))
        exact = None if v is None else (rollout.obs(t, n) @ v).view_as(played.value)
        beside = [weights(rung, played, world, average, exact) for rung in ladder(world)]
        found.append(estimates(network, played, beside, world.batch, world.policy))
    g = torch.cat(found)
    variance = g.var(0).sum(-1)
    if world.mdp is None:
        return Measured(variance.tolist(), [], [])
    true = policy_gradient(world.mdp, network.policy.weight.T, 1.0, LIMIT).T.flatten()
    distance = (g.mean(0) - true).norm(dim=-1) / true.norm()
    return Measured(variance.tolist(), distance.tolist(), ((variance / len(g)).sqrt() / true.norm()).tolist())


def ladder(world: World) -> tuple[Rung, ...]:
    return RUNGS if world.mdp is None else (*RUNGS, EXACT)


def worlds(game: str) -> dict[str, World]:
    """Discounts and reward clipping as in REINFORCE's presets.  Convolutions stay out of the Atari policy's gradient: they would
    take most of the time, and a new policy's gradient is nearly all in its last layers."""
    shared = reinforce.Config(bootstrap_truncated=False)
    mdp = gym.make("MDP/Grid-v0").unwrapped.mdp  # type: ignore[attr-defined]
    table = replace(shared, torso=f"{__name__}.{Table.__name__}", gamma=0.95, reward_clip=0.0)
    cartpole = replace(shared, torso="mlp", reward_clip=0.0)
    atari = {"id": game, "num_envs": 8, "frame_size": 42}
    return {
        "MDP/Grid-v0": World({"id": "MDP/Grid-v0", "num_envs": 64}, table, LIMIT + 1, ("policy.weight",), 16, 200, mdp=mdp),
        "CartPole-v1": World({"id": "CartPole-v1", "num_envs": 32}, cartpole, 501, ("torso.", "policy."), 8, 64),
        game: World(atari, replace(shared, torso="small"), 12_000, ("torso.layers.fc.", "policy."), 1, 1, episodes=4, fit=1),
    }


def report(name: str, world: World, measured: list[Measured]) -> dict[str, Any]:
    each = world.env["num_envs"] * world.episodes * world.rounds
    title = f"{name}: {len(measured)} seeds of {each:,} episodes in batches of {world.batch}, gamma {world.config.gamma}"
    print(f"\n{title}\nvariance relative to the whole trajectory's (median over seeds, lowest to highest)")
    table = []
    for i, rung in enumerate(ladder(world)):
        ratios = [m.variance[i] / m.variance[0] for m in measured]
        row: dict[str, Any] = {
            "name": rung.name,
            "median": statistics.median(ratios),
            "seeds": ratios,
            "variance": [m.variance[i] for m in measured],
        }
        line = f"  {rung.name:29s} {row['median']:8.4f}  [{min(ratios):.4f}, {max(ratios):.4f}]"
        if measured[0].distance:
            row |= {"distance": [m.distance[i] for m in measured], "noise": [m.noise[i] for m in measured]}
            far, noise = (statistics.median(row[k]) for k in ("distance", "noise"))
            line += f"  {far:.3f} from the exact gradient, {noise:.3f} by noise alone"
        print(line, flush=True)
        table.append(row)
    return {"title": title, "unit": "relative variance", "world": name, "rows": table}


def plot(tables: list[dict[str, Any]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    names = [rung.name for rung in RUNGS]
    left = 10 ** np.floor(np.log10(min(min(row["seeds"]) for table in tables for row in table["rows"])))
    colours = ["#8a8a8a"] + ["#2f6f8f"] * 4 + ["#c2410c"] * 2
    for axes, table in zip(figure.subplots(1, len(tables), sharey=True, squeeze=False)[0], tables, strict=True):
        rows = table["rows"][: len(names)]
        axes.barh(names, [row["median"] - left for row in rows], left=left, color=colours, alpha=0.55)
        for i, row in enumerate(rows):
            axes.plot(row["seeds"], [i] * len(row["seeds"]), "o", color="black", markersize=3)
            where, text = (max(row["seeds"]), i), f"{row['median']:.2g}"
            axes.annotate(text, where, (7, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set(xscale="log", xlim=(left, 5), title=table["world"])
        axes.grid(axis="x", alpha=0.25)
    axes.invert_yaxis()  # of all
    figure.supxlabel(
        "variance of the gradient estimate, relative to the whole trajectory's (bars: median; dots: seeds)", fontsize=10
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)


def benchmark_variance(args: argparse.Namespace) -> list[dict[str, Any]]:
    tables = []
    for name, world in worlds(args.game).items():
        with make(world.env["id"], device=args.device, **{k: v for k, v in world.env.items() if k != "id"}) as envs:
            tables.append(report(name, world, [measure(world, envs, seed) for seed in range(args.seeds)]))
    if args.plot:
        plot(tables, args.plot)
    return tables
