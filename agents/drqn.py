"""DRQN: deep recurrent Q-learning (Hausknecht & Stone 2015, arXiv:1507.06527), with stored memory and burn-in (R2D2's: Kapturowski et
al. 2019, section 3).

    h_t, Q(h_t, .) = the network, a memory core among its layers, on o_1 ... o_t

    L(theta) = E_{sequences ~ U(D)} [ mean_t ( y_t - Q(h_t, a_t; theta) )^2 ]

    (8a) both networks are unrolled over a sequence's first rows, from the memory stored with it, to bring the memory up to date
    (8b) both continue through the rest; gradients flow back through the rows that are learnt from
    (8c) y_t = r_{t+1} + gamma max_a' Q(h_{t+1}, a'; theta-), or r_{t+1} at the end of an episode

The steps (1)-(10) of the algorithm are those of every value agent (agents/_value.py); a minibatch of (7) is one of sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from arcturus.agents._value import ValueAgent, ValueConfig, q_network
from arcturus.api import Act, EnvSpec, Loss, Metrics, State, TimeStep
from arcturus.config import Bounds
from arcturus.envs.vector import OLDEST
from arcturus.errors import ConfigError
from arcturus.losses import q_learning, td_loss
from arcturus.networks import QNetwork, epsilon_greedy
from arcturus.replay.records import Sequence, SequenceSpan
from arcturus.seeding import Seeds


@dataclass(frozen=True)
class Config(ValueConfig):
    huber: bool = False
    """Huber loss: clip the TD error's gradient to [-1, 1]."""
    core: str = "lstm"
    """Memory core: rnn, lstm, gru, deep_lstm, ntm, dnc, or your own class: package.module.Name."""
    core_width: Annotated[int, Bounds(1, 16_384)] = 128
    """Units of the memory core (for ntm and dnc: units of its controller)."""
    core_options: str = ""
    """Settings of the memory core as name=value,name=value (slots=128,read_heads=2)."""
    bptt: Annotated[int, Bounds(0)] = 16
    """Length in rows of a training sequence, through which gradients flow back; 0: whole episodes, if they begin and end together."""
    burn_in: Annotated[int, Bounds(0)] = 8
    """Burn-in: rows before the sequence that only update the stored memory; not used with whole episodes."""


def loss(network: QNetwork, target: QNetwork, batch: Sequence, c: Config, noise: torch.Generator | None = None) -> Loss:
    """L over a minibatch of sequences; priorities [L B] are its TD errors.  noise: for noisy layers."""
    rows = len(batch.a_tm1)
    burn_in = len(batch.obs) - rows - c.n_step
    obs, first = batch.obs[burn_in:], batch.first[burn_in:]

    def updated(network: QNetwork) -> State:
        return network.unroll(batch.obs[:burn_in], batch.first[:burn_in], batch.state)[1] if burn_in else batch.state

    with torch.no_grad():  # (8a) bring the memory up to date
        state, q_later = updated(network), target.unroll(obs, first, updated(target), noise)[0]
    q_all, _ = network.unroll(obs, first, state, noise)  # (8b) unroll the rest: [L + n, B, A]
    later = (torch.arange(rows, device=obs.device)[:, None] + batch.steps)[..., None].expand(-1, -1, q_all.shape[-1])
    select = q_all.detach().gather(0, later).flatten(0, 1) if c.double else None
    q_t, q_tm1 = q_later.gather(0, later).flatten(0, 1), q_all[:rows].flatten(0, 1)
    td = q_learning(q_tm1, batch.a_tm1.flatten(), batch.r_t.flatten(), batch.discount_t.flatten(), q_t, select)  # (8c) y - Q
    value = td_loss(td, batch.weight.flatten(), huber=c.huber)
    return Loss(value, {"losses/q_values": q_tm1.detach().mean()}, td.detach())


def span_of(config: Config, spec: EnvSpec) -> SequenceSpan:
    """What sequences are learnt from; ConfigError where whole episodes can't be."""
    if config.bptt:
        return SequenceSpan(config.burn_in, config.bptt, whole=False)
    if not 0 < spec.episode_rows <= OLDEST:
        raise ConfigError(
            f"--agent.bptt 0 needs episodes that begin and end together within {OLDEST} rows; those of {spec.env_id} don't",
            where="--agent.bptt",
            fix="use a number of rows, such as --agent.bptt 16",
        )
    return SequenceSpan(0, spec.episode_rows, whole=True)


class Agent(ValueAgent):
    loss_fn = loss
    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        c = config
        if c.prioritised:
            raise ConfigError("drqn draws sequences uniformly, not by priority", where="--agent.prioritised", fix="leave it out")
        core = {"core": c.core, "core_width": c.core_width, "core_options": c.core_options}
        self.span = span_of(config, spec)
        super().__init__(config, spec, device, seeds, lambda: q_network(config, spec, "drqn", **core), self.span)

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: q_values [N, A].  Noisy layers have noise only where it explores."""
        obs, first = ts.obs[None], ts.first[None]
        if explore and self.config.noisy:
            q, state = self.network.unroll(obs, first, state, generator)
        else:
            q, state = self.network.act_fn(obs, first, state)
        action = epsilon_greedy(q[0], self.config.epsilon(self.steps), generator) if explore else q[0].argmax(-1)  # (4) epsilon-greedy
        return Act(action, state, {"q_values": q[0]})

    def update(self, batch: Sequence) -> tuple[Metrics, Tensor | None]:
        if self.span.whole:  # an episode begins without memory
            batch = batch._replace(state=self.initial_state(self.config.batch_size))
        return super().update(batch)
