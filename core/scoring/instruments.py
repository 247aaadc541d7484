"""What the DQN papers looked at: action-values on held-out states (Mnih et al. 2013, figure 2), what the network's layers
do there, its first filters, and its last hidden layer (Mnih et al. 2015, figure 4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from arcturus.actor_critic import random_actions
from arcturus.api import Actor, TimeStep
from arcturus.envs import EnvConfig, open_envs
from arcturus.scoring.explain import watched_relus
from arcturus.seeding import Seeds

CHUNK = 64  # states a forward pass takes at once


@torch.no_grad()
def collect_heldout(config: EnvConfig, count: int, seeds: Seeds, device: torch.device | str) -> Tensor:
    """`count` observations [count, *obs_shape] met by a random policy, in environments and streams of their own."""
    n = min(config.num_envs, 8, count)
    rows = -(-count // n)
    stride = 4  # neighbouring states are nearly the same
    generator, kept = seeds.branch("policy").torch(), []
    with open_envs(replace(config, num_envs=n), 0, device) as envs:
        ts = envs.restart(seeds.environments(n))
        for i in range(rows * stride):
            if i % stride == 0:
                kept.append(ts.obs)
            envs.send(random_actions(envs.single_action_space, n, "cpu", generator))
            ts = envs.recv()
    return torch.cat(kept)[:count]


def as_timestep(obs: Tensor) -> TimeStep:
    """Observations [B, ...] as rows that open an episode, for asking an actor about them."""
    no = torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
    age = torch.zeros(len(obs), dtype=torch.uint8, device=obs.device)
    return TimeStep(obs, torch.zeros(len(obs), device=obs.device), age, no, no, no, ~no, no)


class HeldOut:
    """A fixed set of states and an actor's values and activations on them."""

    def __init__(self, obs: Tensor):
        self.obs = obs

    @torch.no_grad()
    def read(self, actor: Actor) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Scalars by TensorBoard tag; and arrays: value [B], action [B], hidden [B, width] (the last ReLU's output).

        charts/heldout_max_q (or charts/heldout_value, of agents with a state-value function) is the mean value.
        health/dead_units/LAYER is the share of units that are 0 on every held-out state, health/activation_std/LAYER the
        standard deviation over states and units.
        """
        network = actor.network
        values, actions, hidden, maximum = [], [], [], False
        alive: dict[str, Tensor] = {}
        moments: dict[str, list[Tensor]] = {}
        counts: dict[str, int] = {}
        seen: dict[str, Tensor] = {}  # the output of every ReLU in the last forward pass, by its name
        with watched_relus(network or nn.Identity(), lambda name, output: seen.update({name: output.detach()})):
            for part in self.obs.split(CHUNK):
                act = actor.act(as_timestep(part), actor.initial_state(len(part)), explore=False)
                actions.append(act.action)
                if maximum := "q_values" in act.extras:
                    values.append(act.extras["q_values"].max(-1).values)
                elif "value" in act.extras:
                    values.append(act.extras["value"])
                for name, out in seen.items():
                    maps = out.dim() == 4  # [B, filters, H, W]; else [..., units]
                    unit_alive = (out.amax((0, 2, 3)) if maps else out.flatten(0, -2).amax(0)).gt(0)
                    alive[name] = alive[name] | unit_alive if name in alive else unit_alive
                    sums = moments.setdefault(name, [torch.zeros((), dtype=torch.float64, device=out.device) for _ in range(2)])
                    sums[0] += out.double().sum()
                    sums[1] += out.double().square().sum()
                    counts[name] = counts.get(name, 0) + out.numel()
                if seen:
                    hidden.append(list(seen.values())[-1].reshape(len(part), -1))  # acting is [1, B, width]
        scalars: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {"action": torch.cat(actions).cpu().numpy()}
        if values:
            arrays["value"] = torch.cat(values).cpu().numpy()
            scalars[f"charts/heldout_{'max_q' if maximum else 'value'}"] = float(arrays["value"].mean())
        if hidden:
            arrays["hidden"] = torch.cat(hidden).float().cpu().numpy()  # NumPy has no bfloat16
        for name, unit_alive in alive.items():
            layer = name.replace("torso.layers.", "")
            mean = float(moments[name][0]) / counts[name]
            scalars[f"health/dead_units/{layer}"] = 1.0 - float(unit_alive.float().mean())
            scalars[f"health/activation_std/{layer}"] = max(float(moments[name][1]) / counts[name] - mean**2, 0.0) ** 0.5
        return scalars, arrays


def first_filters(network: nn.Module) -> np.ndarray | None:
    """The first convolution's filters as one grey picture [H, W] uint8: a row for each filter, a column for each frame of the
    stack (oldest first), every filter scaled to its own range.  None if there is no convolution."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return None
    w = first.weight.detach().float().cpu().numpy()  # [filters, channels, h, w]
    low, high = w.min((1, 2, 3), keepdims=True), w.max((1, 2, 3), keepdims=True)
    tiles = np.pad((w - low) / np.maximum(high - low, 1e-8), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    filters, channels, h, width = tiles.shape
    columns = -(-filters // 8)  # filters in blocks of 8, each block `channels` tiles wide, so that the picture is no strip
    tiles = np.concatenate([tiles, np.full((columns * 8 - filters, channels, h, width), 0.5)])
    grid = tiles.reshape(columns, 8, channels, h, width).transpose(1, 3, 0, 2, 4).reshape(8 * h, columns * channels * width)
    return np.kron((grid * 255).astype(np.uint8), np.ones((4, 4), np.uint8))
