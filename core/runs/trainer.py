"""From settings to a training run (training.py): sets up torch, signals and the watchdog, builds environments and agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from arcturus.device import learner_threads, torch_settings
from arcturus.envs import open_envs, open_training
from arcturus.errors import TrainingFailed
from arcturus.runs.action_log import ActionLog
from arcturus.runs.building import agent_class, build_agent, check_training
from arcturus.runs.fine_tuning import begin_with
from arcturus.runs.folder import Run
from arcturus.runs.health import Health
from arcturus.runs.listening import find_listeners
from arcturus.runs.settings import RunConfig
from arcturus.runs.signals import Signals, Watchdog
from arcturus.runs.state import RunState
from arcturus.runs.training import Training
from arcturus.seeding import Seeds
from arcturus.speed import eagerly, in_bf16
from arcturus.telling import say


class Trainer:
    """Makes a run and trains it, or resumes one."""

    def __init__(self, config: RunConfig, open_run: Callable[[], Run], *, resume: bool, quiet: bool, argv: Sequence[str] = ()):
        """open_run: makes the run's folder, or finds it.  argv: the command, as run.json keeps it of every start."""
        self.config, self.open_run, self.resume, self.quiet, self.argv = config, open_run, resume, quiet, argv
        self.signals = Signals()
        self.run: Run | None = None
        self.training: Training | None = None

    @property
    def steps(self) -> int:
        return 0 if self.training is None else self.training.steps

    @property
    def restored(self) -> bool:
        """Whether something of the run may have changed."""
        return self.training is not None and self.training.restored

    def train(self) -> Run:
        """A new run's folder is made once its environments and agent have been built, so that a mistake leaves none."""
        with self._machine() as threads, self._environments() as envs:
            state = self._build(envs)
            self.run = run = self.open_run()
            with run.locked():
                self.training = Training(state, run, self.signals, self.listeners, self.resume, self.quiet, threads, self.argv)
                try:
                    self.training.train()
                except KeyboardInterrupt:
                    run.note(status="preempted", signal="SIGINT")
                    raise
                except BaseException as e:
                    if self.restored:  # else the run is unchanged
                        run.note(status="failed", steps=self.steps, error=f"{type(e).__name__}: {e}")
                    raise
        return run

    @contextmanager
    def _machine(self) -> Iterator[int]:
        """Torch's settings, signals and the watchdog, for as long as the run lasts; the threads an on-policy agent learns with."""
        options = self.config.run
        threads = options.learner_threads or learner_threads(options.deterministic)
        tf32 = not (options.deterministic or options.eager)
        with ExitStack() as stack:
            stack.enter_context(torch_settings(options.torch_threads, options.deterministic, tf32))
            stack.enter_context(eagerly(options.eager))
            stack.enter_context(in_bf16(options.bf16))
            stack.enter_context(self.signals)
            stack.enter_context(Watchdog(options.env_timeout, self._on_hang))
            yield threads

    def _environments(self) -> Any:
        own_loop = agent_class(self.config.agent_name).own_loop  # it restarts environments one by one
        open_ = open_envs if own_loop else open_training
        return open_(self.config.env, self.config.run.seed, self.config.device)

    def _build(self, envs: Any) -> RunState:
        config, seeds = self.config, Seeds(self.config.run.seed)
        agent = build_agent(config, envs.spec, config.device)
        if config.run.init_from and not self.resume:
            begin_with(agent, config.run.init_from, config.run.new_head)
        check_training(agent, envs.spec, envs.schedule is not None and envs.schedule.adaptive)
        self.listeners = find_listeners(config)
        generator = seeds.branch("policy").torch(config.device)
        return RunState(config, seeds, agent, ActionLog(envs), generator, Health(config.env.id))

    def _on_hang(self, verdict: TrainingFailed) -> None:
        """Called when the watchdog is about to end the process."""
        if self.run is not None:
            self.run.note(status="failed", steps=self.steps, error=f"TrainingFailed: {verdict}")
        say(f"error: {verdict}")
