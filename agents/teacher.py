"""Teacher: a policy learns by being told the answer, or what another policy would do, instead of by reward.

A task tells at every row that asks what the right action is (TimeStep.target), and the loss is the cross-entropy

    L = - sum_t log pi(y_t | x_1 ... x_t)          over the rows of an episode that ask, a mean over the batch

whose value in bits is the cost that Graves, Wayne & Danihelka 2014 (arXiv:1410.5401, section 4) plot against sequences seen.
With a GRU it is the RNN encoder-decoder (Cho et al. 2014, arXiv:1406.1078).  What happens in a task doesn't depend on what is
answered, so in training nothing needs to be: the network is only asked once, when the answers are known (`play` changes that).

With `teachers`, runs of other agents, the targets are their policies instead, tempered, and the student plays (policy distillation;
Rusu et al. 2016, arXiv:1511.06295, equation 3; of several teachers, the mean):

    L = - mean_t sum_a q_t(a) log pi(a|s_t),   q_t = softmax(z_t / tau)     z_t: action-values or logits of the teacher

which is KL(q || pi) but for a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from arcturus.api import Act, EnvSpec, Metrics, State, Step, TimeStep, map_state
from arcturus.config import Bounds, Preset, default_presets
from arcturus.errors import ConfigError
from arcturus.losses import annealed
from arcturus.networks import ActorCritic
from arcturus.optimizers import Descent, RMSProp, adam
from arcturus.replay.rollout import Rollout
from arcturus.runs.depending import opened, split
from arcturus.seeding import Seeds
from arcturus.speed import Captured, place


@dataclass(frozen=True)
class Config:
    """Numbers called steps are agent steps summed over environments; rows are steps of each environment."""

    torso: str = "none"
    """Network: mnih2013, nature, impala, small, mlp, none, auto by the observation, or package.module.Name of your own."""
    core: str = "ntm"
    """Memory: none, rnn, lstm, gru, deep_lstm, ntm, dnc, or package.module.Name of your own."""
    core_width: Annotated[int, Bounds(1, 16_384)] = 100
    """Units of the memory core (of ntm and dnc: of the controller)."""
    core_options: str = ""
    """The core's own settings as name=value,name=value (slots=128,read_heads=2)."""
    horizon: Annotated[int, Bounds(0, 100_000)] = 0
    """Rows between updates; 0: whole episodes, where they begin and end together."""
    play: bool = False
    """Answer in training too, with sampled actions: slower, but it is scored, and a curriculum sees how it goes."""
    teachers: str = ""
    """Run folders of agents whose policies are the targets, one after another with commas; empty: the task's own answers."""
    temperature: Annotated[float, Bounds(1e-4, 1e4)] = 1.0
    """tau, what teachers' logits or action-values are divided by (Rusu et al.: 0.01 for action-values)."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or the centred RMSProp of Graves 2013 (decay 0.95, momentum 0.9)."""
    learning_rate: Annotated[float, Bounds(0, 10)] = 1e-3
    anneal_steps: Annotated[int, Bounds(-1)] = 0
    """Steps over which the learning rate falls to 0; -1: the whole run, 0: it stays."""
    optimizer_eps: Annotated[float, Bounds(0, 1)] = 1e-8
    """Adam: beside the root; RMSProp: inside it."""
    max_grad_norm: Annotated[float, Bounds(0)] = 0.0
    """Clip the gradient's norm; 0: don't."""
    max_grad_value: Annotated[float, Bounds(0)] = 0.0
    """Clip every number of the gradient to [-x, x]; 0: don't."""


# of Graves et al. 2014: one sequence an update, RMSProp in the form of Graves 2013, gradients clipped to (-10, 10)
GRAVES = {"optimizer": "rmsprop", "learning_rate": 1e-4, "optimizer_eps": 1e-4, "max_grad_value": 10.0}
SLOWLY = GRAVES | {"learning_rate": 3e-5}
ONE, LONG = {"num_envs": 1}, {"steps": 20_000_000}

PRESETS = {
    "ntm": Preset(
        "chosen here: the paper's memory and controller of the copy task, Adam, 8 sequences an update; no paper's numbers",
        agent={"core_options": "slots=128,word=20", "anneal_steps": -1, "max_grad_norm": 10.0},
        env={"num_envs": 8},
        run={"steps": 2_350_000},
    ),
    "cpu-small": Preset(
        "chosen here for small tasks (4 bits, lengths up to 8 or so): a controller that remembers nothing; no paper's numbers",
        agent={
            "core_options": "controller=feedforward,slots=32,word=20",
            "learning_rate": 2e-3,
            "anneal_steps": -1,
            "max_grad_norm": 10.0,
        },
        env={"num_envs": 8},
        run={"steps": 250_000},
    ),
    "lstm": Preset(
        "the paper's LSTM of 3 layers of 256 with Adam, 8 sequences an update, for an equal comparison with `ntm`",
        agent={"core": "deep_lstm", "core_width": 256, "anneal_steps": -1, "max_grad_norm": 10.0},
        env={"num_envs": 8},
        run={"steps": 2_350_000},
    ),
    "distil": Preset(
        "Rusu et al. 2016, section 3, with Adam and the observation's own torso; no paper's numbers",
        agent={"torso": "auto", "core": "none", "horizon": 16, "play": True, "max_grad_norm": 10.0},
        run={"steps": 1_000_000},
    ),
    "graves2014-copy-ff": Preset(
        "Graves et al. 2014, Table 1: copy, repeat copy; NTM with a feedforward controller",
        agent=GRAVES | {"core_options": "controller=feedforward"},
        env=ONE,
        run=LONG,
    ),
    "graves2014-copy-ntm": Preset(
        "Graves et al. 2014, Table 2: copy, repeat copy, associative recall; NTM with an LSTM controller",
        agent=GRAVES,
        env=ONE,
        run=LONG,
    ),
    "graves2014-recall-ff": Preset(
        "Graves et al. 2014, Table 1: associative recall; NTM with a feedforward controller and 4 heads",
        agent=GRAVES | {"core_width": 256, "core_options": "controller=feedforward,read_heads=4,write_heads=4"},
        env=ONE,
        run=LONG,
    ),
    "graves2014-ngrams-ff": Preset(
        "Graves et al. 2014, Table 1: n-grams; NTM with a feedforward controller",
        agent=SLOWLY | {"core_options": "controller=feedforward"},
        env=ONE,
        run=LONG,
    ),
    "graves2014-ngrams-ntm": Preset(
        "Graves et al. 2014, Table 2: n-grams; NTM with an LSTM controller", agent=SLOWLY, env=ONE, run=LONG
    ),
    "graves2014-sort-ff": Preset(
        "Graves et al. 2014, Table 1: priority sort; NTM with a feedforward controller and 8 heads",
        agent=SLOWLY | {"core_width": 512, "core_options": "controller=feedforward,read_heads=8,write_heads=8"},
        env=ONE,
        run=LONG,
    ),
    "graves2014-sort-ntm": Preset(
        "Graves et al. 2014, Table 2: priority sort; NTM with an LSTM controller of 2 layers and 5 heads",
        agent=SLOWLY | {"core_options": "layers=2,read_heads=5,write_heads=5"},
        env=ONE,
        run=LONG,
    ),
    "graves2014-copy-lstm": Preset(
        "Graves et al. 2014, Table 3: copy; LSTM", agent=SLOWLY | {"core": "deep_lstm", "core_width": 256}, env=ONE, run=LONG
    ),
    "graves2014-repeat-lstm": Preset(
        "Graves et al. 2014, Table 3: repeat copy; LSTM",
        agent=SLOWLY | {"core": "deep_lstm", "core_width": 512},
        env=ONE,
        run=LONG,
    ),
    "graves2014-recall-lstm": Preset(
        "Graves et al. 2014, Table 3: associative recall; LSTM",
        agent=GRAVES | {"core": "deep_lstm", "core_width": 256},
        env=ONE,
        run=LONG,
    ),
    "graves2014-ngrams-lstm": Preset(
        "Graves et al. 2014, Table 3: n-grams; LSTM", agent=GRAVES | {"core": "deep_lstm", "core_width": 128}, env=ONE, run=LONG
    ),
    "graves2014-sort-lstm": Preset(
        "Graves et al. 2014, Table 3: priority sort; LSTM",
        agent=SLOWLY | {"core": "deep_lstm", "core_width": 128},
        env=ONE,
        run=LONG,
    ),
}
DEFAULT_PRESETS = dict.fromkeys(default_presets("distil"), "distil") | {("ntm", "cuda"): "ntm", ("ntm", "cpu"): "ntm"}


def cross_entropy(log_pi: Tensor, answer: Tensor, asked: Tensor) -> Tensor:
    """[N], in nats: - sum over rows that ask, components and choices of answer * log pi.

    log_pi [T, N, k, choices] (-inf where there is no such choice); answer [T, N, k, choices] probabilities; asked [T, N] bool.
    """
    each = torch.where(answer > 0, answer * log_pi, 0).sum((-2, -1))
    return -torch.where(asked, each, 0).sum(0)


class Agent:
    stochastic, on_policy = False, True
    objective = None

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device | str, seeds: Seeds):
        self.config, self.spec, self.device = config, spec, torch.device(device)
        c = config
        self.plays = c.play or bool(c.teachers)
        self.needs_targets = not c.teachers
        with seeds.branch("init").initialising():
            network = ActorCritic(
                spec, torso=c.torso, core=c.core, core_width=c.core_width, core_options=c.core_options, value=False
            )
        self.network: ActorCritic = place(network, self.device)
        self.teachers = [
            _Tempered(run, c.temperature, spec, self.device) for run in split(c.teachers)
        ]
        self.descent = Descent(self._optimizer(), c.max_grad_norm, c.max_grad_value)
        actions = self.network.actions
        self.update = Captured(self._update, self.device, remember=partial(self.descent.remember, self.network))
        self.rollout = Rollout(
            c.horizon,
            spec,
            self.device,
            extras={"answer": (len(actions.choices), actions.most)},
            state=self.network.initial_state(spec.num_envs),
            every=1 if c.core == "none" and c.horizon else 0,  # sequences that are counted whole are told apart
        )
        self.steps = self.updates = self.sequences = 0

    def _optimizer(self) -> torch.optim.Optimizer:
        c, parameters = self.config, list(self.network.parameters())
        if c.optimizer == "adam":
            return adam(parameters, c.learning_rate, c.optimizer_eps)
        return RMSProp(parameters, c.learning_rate, rho=0.95, eps=c.optimizer_eps, momentum=0.9)

    @property
    def learning_rate(self) -> float:
        return annealed(self.config.learning_rate, self.steps, self.config.anneal_steps)

    @torch.no_grad()
    def initial_state(self, n: int) -> State:
        """The student's memory, and the teachers'."""
        return (self.network.initial_state(n), *(t.initial_state(n) for t in self.teachers))

    @torch.no_grad()
    def act(self, ts: TimeStep, state: State, *, explore: bool, generator: torch.Generator | None = None) -> Act:
        """extras: logits [N, L], unless nothing is played; in training answer [N, k, choices], the probabilities to be learnt."""
        own, *theirs = state
        extras: dict[str, Tensor] = {}
        if self.plays or not explore:
            action, own, extras = self.network.act(ts, own, explore, generator)
        else:
            action = torch.zeros((len(ts.reward), *self.network.actions.shape), dtype=torch.int64, device=self.device)
        if explore:
            extras["answer"], theirs = self._answer(ts, theirs)
        return Act(action, (own, *theirs), extras)

    def _answer(self, ts: TimeStep, theirs: list[State]) -> tuple[Tensor, list[State]]:
        if not self.teachers:
            assert ts.target is not None
            most = self.network.actions.most
            return torch.nn.functional.one_hot(ts.target.reshape(len(ts.reward), -1), most).float(), theirs
        told = [teacher(ts, memory) for teacher, memory in zip(self.teachers, theirs, strict=True)]
        return torch.stack([q for q, _ in told]).mean(0), [memory for _, memory in told]

    def observe(self, step: Step) -> None:
        self.rollout.append(step._replace(state=step.state[0]))
        self.steps += self.spec.num_envs

    def learn(self, ts: TimeStep | None = None, state: State = ()) -> Metrics:
        assert ts is not None
        if not self.rollout.complete(ts):
            return {}
        if self.rollout.whole and bool(ts.cut.any()):  # a checkpoint broke them off: no sequences to be counted
            self.rollout.restart()
            return {}
        rows, answer = self.rollout.read(ts), self.rollout.kept("answer")
        t, n, memory = next(self.rollout.minibatches(1))
        asked, wanted = rows.decides[t, n], answer[t, n]
        self.descent.set_learning_rate(self.learning_rate)
        found, logits = self.update(self.rollout.obs(t, n), rows.first[t, n], memory, wanted, asked)
        metrics = self.update.latest(found)
        self.updates += 1
        with torch.no_grad():
            wrong = (logits_mode(self.network, logits) != wanted.argmax(-1)) & asked[..., None]
            if self.rollout.whole:
                self.sequences += self.spec.num_envs
                metrics["task/bits_per_sequence"] = metrics["losses/cross_entropy"] / torch.log(torch.tensor(2.0))
                metrics["task/error_bits"] = wrong.sum((0, -1)).float().mean()
                metrics["task/exact"] = (~wrong.any(-1).any(0)).float().mean()
            else:
                metrics["losses/agreement"] = 1 - wrong.any(-1)[asked].float().mean()
        self.rollout.restart()
        return metrics

    def _update(self, obs: Tensor, first: Tensor, memory: State, wanted: Tensor, asked: Tensor) -> tuple[Metrics, Tensor]:
        """One gradient step on sequences [L, B, ...] from memory [B, ...]; and logits [L, B, K] of before."""
        logits, _, _ = self.network.unroll(obs, first, memory)
        value = self.loss(logits, wanted, asked)
        return self.descent(value) | {"losses/cross_entropy": value.detach()}, logits.detach()

    def loss(self, logits: Tensor, wanted: Tensor, asked: Tensor) -> Tensor:
        """A scalar, of logits [L, B, K], the probabilities to be learnt [L, B, k, choices], and which rows count [L, B].  A subclass
        may have its own."""
        cost = cross_entropy(self.network.actions.log_probs(logits), wanted, asked)
        return cost.mean() if self.rollout.whole else cost.sum() / asked.sum().clamp_min(1)

    def scalars(self) -> dict[str, float]:
        """What the monitor shows beside learn()'s metrics; plain numbers the host knows."""
        shown = {"charts/learning_rate": self.learning_rate, "charts/updates": self.updates}
        return shown | ({"task/sequences": self.sequences} if self.rollout.whole else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.descent.state_dict(),
            "rollout": self.rollout.state_dict(),
            "steps": self.steps,
            "updates": self.updates,
            "sequences": self.sequences,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:  # a policy saved for playing only has none
            self.descent.load_state_dict(state["optimizer"])
            self.rollout.load_state_dict(state["rollout"])
        self.steps, self.updates, self.sequences = state["steps"], state["updates"], state["sequences"]


def logits_mode(network: ActorCritic, logits: Tensor) -> Tensor:
    """[..., k] the likeliest choice of every component."""
    return network.actions.log_probs(logits).argmax(-1)


class _Tempered:
    """Another agent's policy as probabilities [N, k, choices]."""

    def __init__(self, run: str, temperature: float, spec: EnvSpec, device: torch.device):
        from arcturus.runs.library import load  # it builds agents, of which this is one

        path, checkpoint = opened(run)
        self.actor, self.temperature = load(path, checkpoint.name, str(device)), temperature
        theirs = self.actor.agent.spec
        same = (theirs.obs_shape, theirs.obs_dtype, theirs.action_space) == (spec.obs_shape, spec.obs_dtype, spec.action_space)
        if not same:
            raise ConfigError(
                f"{path} plays {theirs.env_id}, which doesn't look or act like {spec.env_id}",
                where="--agent.teachers",
                fix="train the student with the teacher's environment settings (frame size, stack, actions)",
            )
        from arcturus.policies import Categoricals

        self.actions = Categoricals(spec.action_space, spec.env_id)

    def initial_state(self, n: int) -> State:
        return self.actor.initial_state(n)

    def __call__(self, ts: TimeStep, state: State) -> tuple[Tensor, State]:
        act = self.actor.act(ts, state, explore=False)
        scores = act.extras["logits"] if "logits" in act.extras else act.extras["q_values"]
        return self.actions.log_probs(scores / self.temperature).exp(), map_state(Tensor.detach, act.state)
