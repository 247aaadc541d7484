"""How a run is evaluated while it trains: evaluations on separate episodes, and the agent's values on held-out states."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arcturus.envs import single
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import Interrupted
from arcturus.runs.monitor import Monitor
from arcturus.runs.reports import report_evaluation, report_hidden_layer, report_lengths
from arcturus.runs.saving import Saving
from arcturus.runs.settings import RunConfig
from arcturus.runs.state import RunState, passed
from arcturus.scoring.evaluation import evaluate
from arcturus.scoring.instruments import HeldOut, collect_heldout

SHARE = 0.05  # of a run's time at most
LEAST_STATES = 32
STEPS_A_STATE = 20  # a short run holds out fewer states
STEPS_A_LOOK = 8  # of training for each state that is evaluated


class Probe:
    """count: states to hold out.

    Looks are scheduled by steps, so that a resumed run looks at the same steps as one never stopped; if that takes more than SHARE of
    the time, looks are left out, but never with --deterministic.
    """

    def __init__(self, config: RunConfig):
        steps, wanted = config.run.steps, config.run.heldout_states
        self.count = min(wanted, max(LEAST_STATES, steps // STEPS_A_STATE))
        self.every, self.log_every, self.last = self.count * STEPS_A_LOOK, config.log_every, steps
        self.exact = config.run.deterministic
        self.began, self.spent, self.longest = time.perf_counter(), 0.0, 0.0

    def due(self, steps: int) -> bool:
        """Called when metrics are logged: whether a look is due."""
        if steps // self.every == (steps - self.log_every) // self.every and steps < self.last:
            return False
        return self.exact or self.spent + self.longest <= SHARE * (time.perf_counter() - self.began)

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self.spent, self.longest = self.spent + took, max(self.longest, took)


class Judging:
    """Of one run.  stop: whether a signal asks for its end."""

    def __init__(self, state: RunState, stop: Callable[[], bool]):
        self.state, self.stop, self.config, self.agent = state, stop, state.config, state.agent
        self.alone = single(self.config.env)  # no second instance may be opened beside the training one
        self.probe = Probe(self.config)
        self.heldout: HeldOut | None = None

    def hold_out_states(self) -> None:
        """Before the first row."""
        if self.probe.count and self.agent.network is not None:
            self._release()
            seeds = self.state.seeds.branch("heldout")
            self.heldout = HeldOut(collect_heldout(self.config.env, self.probe.count, seeds, self.config.run.device))

    def probed(self) -> dict[str, float]:
        """Called when metrics are logged: the values on held-out states; {} if they are not due."""
        if self.heldout is None or not self.probe.due(self.state.steps):
            return {}
        with self.probe.timed():
            return self.heldout.read(self.agent)[0]

    def report_hidden_layer(self, monitor: Monitor) -> None:
        if self.heldout is not None:
            report_hidden_layer(monitor, self.agent, self.heldout, self.state.steps)

    def evaluation_due(self, before: int, interrupted: bool) -> bool:
        """before: the step of the row before.  If no second instance may be opened, an evaluation waits for a restart."""
        state, every = self.state, self.config.eval_every
        since = before
        if self.alone:
            since = state.started if interrupted else state.steps
        return passed(every, since, state.steps) or (every > 0 and state.steps >= self.config.run.steps)

    def evaluate(self, monitor: Monitor, saving: Saving) -> None:
        """eval_pending stays set if a signal stops the evaluation."""
        state, config = self.state, self.config
        if self.alone and self.agent.own_loop:
            state.eval_pending = False
            return  # it was said at the beginning
        began = time.perf_counter()
        self._release()
        try:
            result = evaluate(
                self.agent,
                config.env,
                config.run.eval_episodes,
                seed=state.seeds.branch("selection"),
                device=config.run.device,
                stop=self.stop,
                max_steps=config.run.eval_max_steps,
                progress=monitor.text,
                threads=0,
            )
        except Interrupted:
            return
        state.eval_pending = False
        report_lengths(monitor, self.agent, config, state.seeds.branch("lengths"), state.steps)
        best = result.mean > state.best
        report_evaluation(monitor, self.agent, result, state.steps, time.perf_counter() - began, best)
        if best:
            saving.save_best(result.mean)

    def _release(self) -> None:
        """Closes the only instance of an environment, so that another may be opened."""
        envs = self.state.envs.envs
        if self.alone and isinstance(envs, DeviceEnvs):
            envs.release()
