"""A whole run: builds environments and agent, reads the loop, and logs, evaluates and saves along the way.

What a run depends on after a checkpoint is in the checkpoint (_state), so that one that was stopped at any instant goes on as if
it had not been: scheduled checkpoints stand at restarts of the environments; a signal's checkpoint stands anywhere, with the
actions that led there (runs/course.py).
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from arcturus import agents
from arcturus.api import State, TimeStep, state_leaves, state_like
from arcturus.building import build_agent, check_training, fitting, playing_state
from arcturus.device import learner_threads, torch_settings
from arcturus.envs import is_atari, is_own, open_envs, open_groups, single
from arcturus.envs.vector import DeviceEnvs
from arcturus.errors import ArcturusError, CheckpointError, ConfigError, Interrupted, TrainingFailed
from arcturus.fine_tuning import begin_with
from arcturus.loop import Row
from arcturus.loop import run as run_loop
from arcturus.runs.checkpoint import Checkpoints, Loaded
from arcturus.runs.course import Course, Diverged, fingerprint
from arcturus.runs.episodes import Account
from arcturus.runs.files import write_atomically
from arcturus.runs.folder import FolderTaken, Run
from arcturus.runs.health import Health
from arcturus.runs.monitor import Monitor, check_state
from arcturus.runs.probing import Probe
from arcturus.runs.profile import Profile
from arcturus.runs.reports import introduce, report_evaluation, report_hidden_layer, report_lengths
from arcturus.runs.saver import Saver
from arcturus.runs.settings import RunConfig, find_listeners
from arcturus.runs.signals import Signals, Watchdog
from arcturus.scoring.evaluation import evaluate
from arcturus.scoring.instruments import HeldOut, collect_heldout
from arcturus.seeding import Seeds
from arcturus.speed import eagerly, in_bf16
from arcturus.telling import say

SAVE_LIMIT = 3  # checkpoints in a row that could not be written, that end a run


def passed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` (0: there is none) lies in (before, now]."""
    return every > 0 and now // every > before // every


class Trainer:
    """One run from where it stands to its end, or to a signal."""

    def __init__(self, config: RunConfig, open_run: Callable[[], Run], *, resume: bool, quiet: bool, argv: Sequence[str] = ()):
        """argv: the command, as run.json keeps it of every start."""
        self.config, self.open_run, self.resume, self.quiet, self.argv = config, open_run, resume, quiet, list(argv)
        self.seeds = Seeds(config.run.seed)
        self.signals = Signals()
        self.steps, self.best = 0, -math.inf
        self.started = 0  # the step at which the environments were last restarted
        self.owed = False  # an evaluation at this step is due, or was broken off by a signal
        self.health, self.account = Health(config.env.id), Account()
        self.alone = single(config.env)  # nobody may open a second instance beside the one that trains
        self.proved = is_own(config.env.id) or is_atari(config.env.id)  # that restarts with a seed lead to the same
        self.failed_saves = 0
        self.memory: State = ()  # of the agent, after the newest row
        self.restored = self._cut = self._due = False

    def train(self) -> Run:
        """A new run's folder is made once its environments and agent have been built, so that a mistake leaves none."""
        config = self.config
        self.learner_threads = config.run.learner_threads or learner_threads(config.run.deterministic)
        own_loop = hasattr(agents.load(config.agent_name).Agent, "fit")  # one that restarts environments by themselves
        with (
            torch_settings(
                config.run.torch_threads, config.run.deterministic, tf32=not (config.run.deterministic or config.run.eager)
            ),
            eagerly(config.run.eager),
            in_bf16(config.run.bf16),
            self.signals,
            Watchdog(config.run.env_timeout, self._last_words),
            (open_envs if own_loop else open_groups)(config.env, config.run.seed, config.device) as envs,
        ):
            self.envs = Course(envs)
            self.agent = build_agent(config, envs.spec, config.device)
            if config.run.init_from and not self.resume:
                begin_with(self.agent, config.run.init_from, config.run.new_head)
            check_training(self.agent, envs.spec, envs.schedule is not None and envs.schedule.adaptive)
            self.replay = getattr(self.agent, "replay", None) if config.run.checkpoint_replay == "all" else None
            self.generator = self.seeds.branch("policy").torch(config.device)
            self.make_listeners = find_listeners(config)
            self.run = self.open_run()
            self.checkpoints = Checkpoints(self.run.path, self.run.own)
            with self.run.locked():
                try:
                    self._train()
                except KeyboardInterrupt:
                    self._note(status="preempted", signal="SIGINT")
                    raise
                except BaseException as e:
                    if not self.restored:
                        raise  # nothing was done: the run is what it was
                    self._note(status="failed", steps=self.steps, error=f"{type(e).__name__}: {e}")
                    raise
        return self.run

    def _note(self, **changes: Any) -> None:
        try:
            self.run.update(**changes)
        except FolderTaken:
            pass  # nothing there is this run's
        except (OSError, ArcturusError) as e:  # the disk may be what failed
            say(f"warning: run.json could not be written: {e}")

    def _write_settings(self) -> None:
        write_atomically(self.run.path / "config.yaml", self.config.text())

    def _last_words(self, verdict: TrainingFailed) -> None:
        """Of a process that the watchdog is about to end."""
        if hasattr(self, "run"):
            self._note(status="failed", steps=self.steps, error=f"TrainingFailed: {verdict}")
        say(f"error: {verdict}")

    def _train(self) -> None:
        loaded = self._restore() if self.resume else None
        total = self.config.run.steps
        if self.resume and (self.steps > total or (self.steps == total and self.run.status == "finished")):
            raise ConfigError(
                f"{self.run.path} has its {self.steps:,} steps already",
                where="train-agent resume",
                fix=f"go on to more with --steps {2 * self.steps}",
            )
        self.restored = True
        if loaded:
            self.checkpoints.set_aside_after(self.steps)
        if self.resume:  # what was changed is the run's from now on
            self._write_settings()
            self._begin_again()
        self.heldout = self._hold_out_states()
        monitored = loaded.state["monitor"] if loaded else None
        self.monitor = Monitor(self.run.path, self.config, self.steps, self.quiet, monitored)
        introduce(self.monitor, self.config, self.agent, self.envs.envs, loaded.state if loaded else None)
        self.listeners = [make(self.run.path) for make in self.make_listeners]
        if self.config.run.profile:
            self.listeners.append(Profile(self, self.run.path / "profile"))
        try:
            with Saver() as self.saver:
                if self.owed:
                    self._evaluate()
                if self.steps < total and not self.signals.stop():
                    self._loop(self._return(loaded) if loaded else None)
                if self.heldout and self.steps >= total and not self.owed:
                    self._report_hidden_layer(self.heldout)
        except Interrupted:  # on the way back to where the checkpoint stands: there is nothing new to save
            pass
        finally:
            self.monitor.close()
            for listener in self.listeners:
                getattr(listener, "close", lambda: None)()
        if self.steps >= total and not self.owed:
            self._note(status="finished", steps=self.steps, best=self.best if math.isfinite(self.best) else None)
        else:
            self._note(status="preempted", steps=self.steps, signal=signal.Signals(self.signals.received or 0).name)

    def _begin_again(self) -> None:
        changed = self.run.begin(self.config, self.argv, self.steps)
        if changed:
            lines = "\n".join(f"  {line}" for line in changed[:10])
            say(f"other versions than at the start before, so this is not an exact continuation:\n{lines}")
        elif self.steps and not self.config.run.deterministic and not self.quiet:
            say(f"going on from step {self.steps:,}; bit-equality with a run never stopped is promised with --deterministic only")

    # -- the loop's readers --------------------------------------------------------------------------------------------

    def _loop(self, at: tuple[TimeStep, State] | None) -> None:
        if hasattr(self.agent, "fit"):  # it brings a loop of its own
            self.agent.fit(self.envs.envs, self.config.run.steps, self._read_own)
            return
        self.monitor.begin(self.steps)
        rows = run_loop(
            self.envs,
            self.agent,
            steps=self.config.run.steps,
            start=self.steps,
            at=at,
            generator=self.generator,
            cut_due=self._cut_due,
            learner_threads=self.learner_threads,
            seeds=self._restart_seeds,
        )
        try:
            for row in rows:
                self.envs.took()
                if self._read(row):
                    return
        finally:
            rows.close()  # type: ignore[attr-defined]

    def _read_own(self, row: Row) -> bool:
        self._cut_due(row.steps)
        return self._read(row)

    def _read(self, row: Row) -> bool:
        """Logs, evaluates and saves what a row asks for; whether it was the last."""
        total = self.config.run.steps
        before, self.steps, self.memory = self.steps, row.steps, row.state
        finished = self.account.take(self.envs.envs.take_finished(), self.envs.envs.playing)
        self.monitor.row(self.steps, row.metrics, finished if getattr(self.agent, "plays", True) else [])
        if log := self.monitor.is_due(self.steps):
            self.run.own()
        self.health.check_rows(self.envs.envs.take_bad(), self.started, self.steps)
        self.health.check_updates(row.metrics, self.agent, self.steps, wait=log)
        if log:
            self._log()
        for listener in self.listeners:
            listener(row)
        since = self.started if self.alone and self._cut else self.steps if self.alone else before
        self.owed = passed(self.config.eval_every, since, self.steps) or (self.config.eval_every > 0 and self.steps >= total)
        if self.owed:
            self._evaluate()
        if self.replay is not None and (piece := self.checkpoints.segments.full(self.replay)) is not None:
            self.saver.submit(("segment",), partial(self.checkpoints.segments.write, piece))
        leaving, restarts = bool(self.signals.stop()) or self.steps >= total, self._cut or self.steps >= total
        if restarts:
            self.account.restart(self.envs.envs.playing)
        if self._due or leaving:
            goes_on = not (restarts or hasattr(self.agent, "fit"))
            self._save(fingerprint(row.step.timestep) if goes_on else None)
        if restarts and not self.proved and not self.signals.stop():
            self._prove()
        self._hear(leaving)
        return leaving

    def _cut_due(self, steps: int) -> bool:
        """Whether environments are to restart at this row: where a checkpoint is due (or an evaluation, if it can be played by the one
        environment only), once episodes had time to end since the last restart.  Until then a checkpoint keeps the actions since."""
        n = self.config.env.num_envs
        self._due = passed(self.config.checkpoint_every, steps - n, steps)
        wanted = self._due or (self.alone and passed(self.config.eval_every, self.started, steps))
        self._cut = wanted and (self.envs.full or self.account.may_restart((steps - self.started) // n, self.envs.envs.playing))
        return self._cut

    def _prove(self) -> None:
        """Once a run: says so if these environments are no function of their seeds, as then nothing that was stopped can be gone back to."""
        self.proved = True
        seeds = self.seeds.branch("env", self.started).environments(self.config.env.num_envs)
        if self.envs.envs.schedule is None and not hasattr(self.agent, "fit") and not self.envs.repeats(seeds):
            say(
                f"warning: {self.config.env.id} is no function of its seed: two restarts with the same one went different ways.  A resumed "
                "run will not be an exact continuation, and a scored episode can't be played again or filmed"
            )
            self._note(repeats=False)

    def _restart_seeds(self) -> np.ndarray:
        self.started = self.steps
        return self.seeds.branch("env", self.started).environments(self.config.env.num_envs)

    def _log(self) -> None:
        extra = self.agent.scalars() if hasattr(self.agent, "scalars") else {}
        if self.heldout and self.probe.due(self.steps):
            extra |= self._probe()
        if self.health.bad_rows:
            extra["health/bad_rows"] = self.health.bad_rows
        extra |= self.account.scalars()
        schedule = self.envs.envs.schedule
        if schedule is not None and schedule.adaptive:
            extra["task/level"] = schedule.level
        self.monitor.log(self.steps, extra)

    def _probe(self) -> dict[str, float]:
        assert self.heldout is not None
        with self.probe.timed():
            return self.heldout.read(self.agent)[0]

    def _report_hidden_layer(self, heldout: HeldOut) -> None:
        report_hidden_layer(self.monitor, self.agent, heldout, self.steps)

    def _evaluate(self) -> None:
        """Leaves `owed` set if a signal broke it off."""
        if self.alone and hasattr(self.agent, "fit"):
            self.owed = False
            return  # it was said at the beginning
        began = time.perf_counter()
        if self.alone and isinstance(self.envs.envs, DeviceEnvs):
            self.envs.envs.release()
        try:
            result = evaluate(
                self.agent,
                self.config.env,
                self.config.run.eval_episodes,
                seed=self.seeds.branch("selection"),
                device=self.config.device,
                stop=self.signals.stop,
                max_steps=self.config.run.eval_max_steps,
                progress=self.monitor.text,
                threads=0,
            )
        except Interrupted:
            return
        self.owed = False
        report_lengths(self.monitor, self.agent, self.config, self.seeds.branch("lengths"), self.steps)
        best = result.mean > self.best
        report_evaluation(self.monitor, self.agent, result, self.steps, time.perf_counter() - began, best)
        if best:
            state = {"agent": playing_state(self.agent.state_dict()), "steps": self.steps, "best": result.mean}
            snapshot, before = self.checkpoints.snapshot(self.steps, state), self.best
            self.saver.submit(("best", result.mean, before), partial(self.checkpoints.write_best, snapshot))
            self.best = result.mean

    # -- checkpoints -----------------------------------------------------------------------------------------------------

    def _state(self, seen: str | None) -> dict[str, Any]:
        """Everything the rest of the run depends on.  seen: the newest row's fingerprint, if the environments went on from it;
        None if they restart now."""
        state = {
            "agent": self.agent.state_dict(),
            "memory": {str(i): leaf for i, leaf in enumerate(state_leaves(self.memory))},
            "policy_rng": self.generator.get_state(),
            "steps": self.steps,
            "best": self.best if math.isfinite(self.best) else None,
            "owed": self.owed,
            "bad_rows": 0 if seen is None else self.health.bad_rows,
            "config": json.dumps(self.config.to_mapping()),
            "monitor": self.monitor.state(),
            "schedule": self.envs.schedule_now() if seen is None else self.envs.schedule,
            "account": self.account.state_dict(),
        }
        if seen is not None:
            actions = self.envs.actions()
            state["course"] = {"started": self.started, "seen": seen, "rows": len(actions), "actions": actions}
        return state

    def _template(self) -> dict[str, Any]:
        """The same names, kinds and shapes, of an agent that has done nothing."""
        memory = state_leaves(self.agent.initial_state(self.config.env.num_envs))
        return {
            "agent": self.agent.state_dict(),
            "memory": {str(i): leaf for i, leaf in enumerate(memory)},
            "policy_rng": self.generator.get_state(),
            "steps": 0,
            "best": None,
            "owed": False,
            "bad_rows": 0,
            "config": "",
            "monitor": {"returns": [], "lengths": [], "episodes": 0, "metrics": [], "waiting": [], "files": []},
            "schedule": self.envs.schedule_now(),
            "account": Account().state_dict(),
            "course": {"started": 0, "seen": "", "rows": 0, "actions": self.envs.actions()},
        }

    def _save(self, seen: str | None) -> None:
        state = self._state(seen)
        if seen is None:
            self.health.bad_rows = 0
        if self.replay is not None and self.checkpoints.segments.far_behind(self.replay):
            self.saver.join()  # they are written at once, by this thread
        try:
            snapshot = self.checkpoints.snapshot(self.steps, state, self.replay)
        except CheckpointError as e:
            self._failed(e)
            return
        self.saver.submit(("checkpoint",), partial(self.checkpoints.write, snapshot, self.config.run.keep))

    def _hear(self, leaving: bool) -> None:
        """What has become of the saving; when leaving, after all of it is done."""
        for name, error, result in self.saver.wait() if leaving else self.saver.outcomes():
            if isinstance(error, TrainingFailed):
                raise error
            told = error.what if isinstance(error, ArcturusError) else str(error)
            if name[0] == "best" and error is not None:
                if self.best == name[1]:
                    self.best = name[2]
                say(f"warning: {told}; training goes on")
            if name[0] != "checkpoint":
                continue  # a segment that could not be written is tried again, and missed, by the checkpoint
            if error is not None:
                self._failed(error if isinstance(error, ArcturusError) else CheckpointError(told, where=str(self.run.path)))
                continue
            if self.failed_saves:
                say(f"checkpoints are written again: {result.name}")
            self.failed_saves = 0
            self._note(checkpoint=int(result.name.rsplit("-", 1)[-1]))
            if not (self.run.path / "config.yaml").exists():  # the folder was removed, and is coming back
                self._write_settings()

    def _failed(self, error: ArcturusError) -> None:
        """A checkpoint could not be written."""
        self.failed_saves += 1
        if (
            isinstance(error, FolderTaken)
            or self.failed_saves >= SAVE_LIMIT
            or self.signals.stop()
            or self.steps >= self.config.run.steps
        ):
            raise error
        if self.failed_saves == 1:
            say(f"warning: {error.what}; training goes on and tries again at the next checkpoint")

    def _restore(self) -> Loaded | None:
        """The newest checkpoint that verifies; None if the run was stopped before its first."""
        if not self.checkpoints.resumable() and not self.run.about.get("checkpoint"):
            say(f"{self.run.path} has no checkpoint yet: it begins again at step 0")
            if self.config.run.init_from:
                begin_with(self.agent, self.config.run.init_from, self.config.run.new_head)
            return None
        replay = getattr(self.agent, "replay", None)
        need = self.config.run.checkpoint_replay == "all"
        loaded = self.checkpoints.load_newest(self._template(), replay, need_replay=need)
        state = loaded.state
        with fitting(str(self.run.path)):
            if not 0 <= state["steps"] == loaded.step:
                raise ValueError(f"it stands at step {state['steps']} and at step {loaded.step}")
            if replay is not None and loaded.replay:
                self.checkpoints.segments.load(replay, loaded.replay)
            elif replay is not None:
                say("the replay was not saved: it fills again before learning goes on, and the run is not an exact continuation")
            self.steps, self.owed, self.health.bad_rows = state["steps"], state["owed"], state["bad_rows"]
            there = any(self.checkpoints.folder.glob("best-*"))
            self.best = float(state["best"]) if state["best"] is not None and there else -math.inf
            check_state(state["monitor"])
            if "account" in state:  # older runs have none
                self.account.load_state_dict(state["account"])
            course = state.get("course")
            if course is not None and not (len(course["actions"]) == course["rows"] and course["started"] <= self.steps):
                raise ValueError("its course makes no sense")
            like = self.agent.initial_state(self.config.env.num_envs)
            self.memory = state_like(like, [state["memory"][str(i)] for i in range(len(state_leaves(like)))])
            if self.envs.envs.schedule is not None:
                self.envs.envs.schedule.load_state_dict(state["schedule"])
            self.agent.load_state_dict(state["agent"])
            self.generator.set_state(state["policy_rng"])
        if loaded.moved:
            say("random generators of this kind of device begin anew: the run is not an exact continuation")
        if self.run.known.get("repeats") is False:
            say(f"{self.config.env.id} is no function of its seed: the run is not an exact continuation")
        return loaded

    def _return(self, loaded: Loaded) -> tuple[TimeStep, State]:
        """To the row and memory that come next."""
        course = loaded.state.get("course")
        if course is not None:
            self.started = course["started"]
            seeds = self.seeds.branch("env", self.started).environments(self.config.env.num_envs)
            if course["rows"] and not self.quiet:
                self.monitor.text(f"playing {course['rows']:,} rows since step {self.started:,} again")
            try:
                with fitting(str(self.run.path)):
                    return self.envs.retrace(seeds, course["actions"], course["seen"], self.signals.stop), self.memory
            except Diverged as e:
                say(f"warning: {self.config.env.id} {e}; it restarts, and the run is not an exact continuation")
                self.account.restart(self.envs.envs.playing)
                self.envs.envs.take_finished()
                self.envs.envs.take_bad()
                if getattr(self.agent, "rollout", None) is not None:
                    self.agent.rollout.cut_last()
                if getattr(self.agent, "replay", None) is not None and self.agent.replay.count:
                    self.agent.replay.cut_last()
                    self.checkpoints.segments.forget_last(self.agent.replay)
        return self.envs.restart(self._restart_seeds()), self.memory

    def _hold_out_states(self) -> HeldOut | None:
        self.probe = Probe(self.config)
        if not self.probe.count or getattr(self.agent, "network", None) is None:
            return None
        if self.alone and isinstance(self.envs.envs, DeviceEnvs):
            self.envs.envs.release()
        return HeldOut(collect_heldout(self.config.env, self.probe.count, self.seeds.branch("heldout"), self.config.device))
