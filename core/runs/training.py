"""A run that trains: reads the loop, and logs, evaluates and saves every row as the settings ask.

saving.py writes checkpoints, resuming.py goes back to them, state.py is what they hold; trainer.py makes it all from settings.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arcturus.api import LoopOutput, State, TimeStep
from arcturus.envs import is_atari, is_own
from arcturus.errors import ConfigError, Interrupted
from arcturus.loop import run as run_loop
from arcturus.runs.action_log import fingerprint
from arcturus.runs.checkpoint import Checkpoints, Loaded
from arcturus.runs.files import write_atomically
from arcturus.runs.folder import Run
from arcturus.runs.judging import Judging
from arcturus.runs.monitor import Monitor
from arcturus.runs.profile import Profile
from arcturus.runs.reports import introduce
from arcturus.runs.resuming import restore, return_to
from arcturus.runs.saving import Saver, Saving
from arcturus.runs.signals import Signals
from arcturus.runs.state import RunState, passed
from arcturus.telling import say


class Training:
    """One run from its present state to its end, or to a signal."""

    def __init__(
        self,
        state: RunState,
        run: Run,
        signals: Signals,
        make_listeners: Sequence[Callable[[Path], Any]],
        resume: bool,
        quiet: bool,
        learner_threads: int,
        argv: Sequence[str],
    ):
        """make_listeners: extensions.find_listeners().  argv: the command, as run.json keeps it of every start."""
        self.state, self.run, self.signals, self.resume, self.quiet, self.argv = state, run, signals, resume, quiet, list(argv)
        self.config, self.seeds, self.agent, self.envs = state.config, state.seeds, state.agent, state.envs
        self.make_listeners, self.learner_threads = make_listeners, learner_threads
        self.checkpoints = Checkpoints(run.path, run.own)
        env_id = self.config.env.id
        self.judging = Judging(state, signals.stop)
        self.proved = is_own(env_id) or is_atari(env_id)  # that restarts with a seed lead to the same
        self.restored = False  # something of the run may have changed

    # -- the course of a run -----------------------------------------------------------------------------------------------

    def train(self) -> None:
        state, run, total = self.state, self.run, self.config.run.steps
        loaded = restore(state, run, self.checkpoints) if self.resume else None
        if self.resume and state.steps >= total + (0 if run.status == "finished" else self.config.env.num_envs):  # as a last row may
            raise ConfigError(
                f"{run.path} has finished its {state.steps:,} steps already",
                where="train-agent resume",
                fix=f"train for more steps with --steps {2 * state.steps}",
            )
        self.restored = True
        if loaded:
            self.checkpoints.set_aside_after(state.steps)
        if self.resume:  # the changed settings are the run's from now on
            self._write_settings()
            self._begin_again()
        self.judging.hold_out_states()
        self.monitor = Monitor(run.path, self.config, state.steps, self.quiet, loaded.state["monitor"] if loaded else None)
        introduce(self.monitor, self.config, self.agent, self.envs.envs, loaded.state if loaded else None)
        self.listeners = [make(run.path) for make in self.make_listeners]
        try:
            with Saver() as saver:
                replay = self.agent.replay if self.config.run.checkpoint_replay == "all" else None
                self.saving = Saving(state, self.checkpoints, saver, self.monitor, replay, self._checkpoint_written)
                if self.config.run.profile:
                    self.listeners.append(Profile(self, run.path / "profile"))
                self._go_on(loaded)
        except Interrupted:  # while returning to the checkpoint: there is nothing new to save
            pass
        finally:
            self.monitor.close()
            for listener in self.listeners:
                getattr(listener, "close", lambda: None)()
        if state.steps >= total and not state.eval_pending:
            self.run.note(status="finished", steps=state.steps, best=state.best if math.isfinite(state.best) else None)
        else:
            self.run.note(status="preempted", steps=state.steps, signal=signal.Signals(self.signals.received or 0).name)

    def _go_on(self, loaded: Loaded | None) -> None:
        state, total = self.state, self.config.run.steps
        if state.eval_pending:
            self.judging.evaluate(self.monitor, self.saving)
        if state.steps < total and not self.signals.stop():
            tell = (lambda text: None) if self.quiet else self.monitor.text
            self._loop(return_to(loaded, state, self.checkpoints, self.signals.stop, tell) if loaded else None)
        if state.steps >= total and not state.eval_pending:
            self.judging.report_hidden_layer(self.monitor)

    def _write_settings(self) -> None:
        write_atomically(self.run.path / "config.yaml", self.config.text())

    def _begin_again(self) -> None:
        changed = self.run.begin(self.config, self.argv, self.state.steps)
        if changed:
            lines = "\n".join(f"  {line}" for line in changed[:10])
            say(f"versions have changed since the last start, so this is not an exact continuation:\n{lines}")
        elif self.state.steps and not self.config.run.deterministic and not self.quiet:
            step = f"{self.state.steps:,}"
            say(f"continuing from step {step}; only with --deterministic does it end bit-identical to a run that was never stopped")

    def _checkpoint_written(self, step: int) -> None:
        self.run.note(checkpoint=step)
        if not (self.run.path / "config.yaml").exists():  # the folder was removed, and is coming back
            self._write_settings()

    # -- the loop and its reader -----------------------------------------------------------------------------------------

    def _loop(self, at: tuple[TimeStep, State] | None) -> None:
        state, total = self.state, self.config.run.steps
        if self.agent.own_loop:
            self.agent.fit(self.envs.envs, total, self._read)
            return
        self.monitor.begin(state.steps)
        rows = run_loop(
            self.envs,
            self.agent,
            steps=total,
            start=state.steps,
            at=at,
            generator=state.generator,
            interrupt_due=self._interrupt_due,
            learner_threads=self.learner_threads,
            seeds=self._restart_seeds,
        )
        try:
            for row in rows:
                if self._read(row):
                    return
        finally:
            rows.close()  # type: ignore[attr-defined]

    def _restart_seeds(self) -> np.ndarray:
        self.state.started = self.state.steps
        return self.state.restart_seeds()

    def _checkpoint_due(self, steps: int) -> bool:
        return passed(self.config.checkpoint_every, steps - self.config.env.num_envs, steps)

    def _interrupt_due(self, steps: int) -> bool:
        """Whether environments are to restart at this row: where a checkpoint is due (or an evaluation, if it can be played by the one
        environment only), once episodes had time to end since the last restart.  Until then a checkpoint keeps the actions since."""
        state = self.state
        wanted = self._checkpoint_due(steps) or (self.judging.alone and passed(self.config.eval_every, state.started, steps))
        rows = (steps - state.started) // self.config.env.num_envs
        return wanted and (self.envs.full or state.account.may_restart(rows, self.envs.envs.playing))

    def _read(self, row: LoopOutput) -> bool:
        """Logs, evaluates and saves as is due at a row; returns whether it was the last."""
        state, total = self.state, self.config.run.steps
        before, state.steps, state.memory = state.steps, row.steps, row.state
        self._log_row(row)
        for listener in self.listeners:
            listener(row)
        if self.judging.evaluation_due(before, row.interrupted):
            state.eval_pending = True
            self.judging.evaluate(self.monitor, self.saving)
        self.saving.save_segments()
        leaving = bool(self.signals.stop()) or state.steps >= total
        if row.interrupted:
            state.account.restart(self.envs.envs.playing)
        if leaving or self._checkpoint_due(state.steps):
            goes_on = not (row.interrupted or self.agent.own_loop)
            self.saving.save(fingerprint(row.step.timestep) if goes_on else None, last=leaving)
        if row.interrupted and not self.proved and not self.signals.stop():
            self._prove()
        self.saving.collect(last=leaving)
        return leaving

    def _log_row(self, row: LoopOutput) -> None:
        state, envs = self.state, self.envs.envs
        finished = state.account.take(envs.take_finished(), envs.playing)
        self.monitor.row(state.steps, row.metrics, finished if self.agent.plays else [])
        log = self.monitor.is_due(state.steps)
        if log:
            self.run.own()
        state.health.check_rows(envs.take_bad(), state.started, state.steps)
        state.health.check_updates(row.metrics, self.agent, state.steps, wait=log)
        if log:
            self._log()

    def _log(self) -> None:
        state, schedule = self.state, self.envs.envs.schedule
        extra = self.agent.scalars() | self.judging.probed()
        if state.health.bad_rows:
            extra["health/bad_rows"] = state.health.bad_rows
        extra |= state.account.scalars()
        if schedule is not None and schedule.adaptive:
            extra["task/level"] = schedule.level
        self.monitor.log(state.steps, extra)

    def _prove(self) -> None:
        """Once a run: warns if these environments are not determined by their seeds, as then a stopped run can't be resumed exactly."""
        self.proved = True
        if self.envs.envs.schedule is None and not self.agent.own_loop and not self.envs.repeats(self.state.restart_seeds()):
            say(
                f"warning: {self.config.env.id} is not determined by its seed: two restarts with the same seed went differently.  A resumed "
                "run will not be an exact continuation, and a scored episode can't be played again or filmed"
            )
            self.run.note(repeats=False)
