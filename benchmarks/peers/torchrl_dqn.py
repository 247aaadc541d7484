"""TorchRL's DQN as its own example for Atari puts it together: Collector, EGreedyModule, TensorDictReplayBuffer, DQNLoss, HardUpdate;
over Gymnasium's preprocessing and stack, as many environments in one process.  Imported only where TorchRL is."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import gymnasium as gym
import torch
from torch import nn

from benchmarks.measuring.loops import BATCH, LEARNING_RATE, WARM, Training
from benchmarks.peers import gymnasium_atari


class Scaled(nn.Module):
    """Bytes, of any leading dimensions, to what the network reads."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels / 255.0


def one_environment(game: str) -> Any:
    """84x84, grey, 4 frames a step, 30 no-ops, 4 stacked; rewards' signs are taken by the loop below."""
    from torchrl.envs import GymWrapper

    env = gym.wrappers.AtariPreprocessing(gymnasium_atari(game), noop_max=30, frame_skip=4, screen_size=84)
    return GymWrapper(gym.wrappers.FrameStackObservation(env, 4), categorical_action_encoding=True)


class TorchRLDQN(Training):
    """`num_envs` steps at a time, then num_envs / 4 updates of a batch of 32."""

    def __init__(self, game: str, num_envs: int, capacity: int, target_period: int, device: str):
        warnings.filterwarnings("ignore", module=r"torchrl|tensordict")
        from tensordict.nn import TensorDictSequential
        from torchrl.collectors import Collector
        from torchrl.data import Composite, LazyTensorStorage, TensorDictReplayBuffer
        from torchrl.envs import SerialEnv
        from torchrl.modules import MLP, ConvNet, EGreedyModule, QValueActor
        from torchrl.objectives import DQNLoss, HardUpdate

        torch.manual_seed(0)
        self.num_envs, self.taken, self.per_row = num_envs, 0, num_envs // 4
        envs = SerialEnv(num_envs, functools.partial(one_environment, game), device=device)
        action = one_environment(game).action_spec.to(device)
        cnn = ConvNet(in_features=4, num_cells=[32, 64, 64], kernel_sizes=[8, 4, 3], strides=[4, 2, 1], activation_class=nn.ReLU)
        mlp = MLP(in_features=64 * 7 * 7, out_features=action.n, num_cells=[512], activation_class=nn.ReLU)
        self.layers = nn.Sequential(Scaled(), cnn, mlp).to(device)
        actor = QValueActor(self.layers, spec=Composite(action=action), in_keys=["observation"]).to(device)
        self.greedy = EGreedyModule(spec=actor.spec, annealing_num_steps=1_000_000, eps_init=1.0, eps_end=0.05, device=device)
        self.loss = DQNLoss(actor, loss_function="smooth_l1", delay_value=True)
        self.loss.make_value_estimator(gamma=0.99)
        self.target = HardUpdate(self.loss, value_network_update_interval=max(target_period // 4, 1))
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=LEARNING_RATE)
        self.replay = TensorDictReplayBuffer(storage=LazyTensorStorage(capacity, device=device), batch_size=BATCH)
        self.collector = Collector(
            envs,
            TensorDictSequential(actor, self.greedy),
            frames_per_batch=num_envs,
            total_frames=-1,
            device=device,
            storing_device=device,
        )
        self.rows = iter(self.collector)
        while self.taken < WARM:
            self.collect()

    def collect(self) -> None:
        row = next(self.rows).reshape(-1).select("observation", "action", "next")
        row["next", "reward"] = row["next", "reward"].sign()
        self.replay.extend(row)
        self.greedy.step(self.num_envs)
        self.taken += self.num_envs

    def update(self) -> int:
        loss = self.loss(self.replay.sample())["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.target.step()
        return 1

    def step(self) -> int:
        self.collect()
        for _ in range(self.per_row):
            self.update()
        return self.num_envs

    def steps(self) -> int:
        return self.taken

    def close(self) -> None:
        self.collector.shutdown()
