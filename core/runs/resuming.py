"""Going back to a run's newest checkpoint: its agent, its replay, and the row that comes next."""

from __future__ import annotations

from collections.abc import Callable

from arcturus.api import State, TimeStep
from arcturus.runs.action_log import Diverged
from arcturus.runs.building import fitting
from arcturus.runs.checkpoint import Checkpoints, Loaded
from arcturus.runs.depending import begin_with
from arcturus.runs.folder import Run
from arcturus.runs.state import RunState
from arcturus.telling import say


def restore(state: RunState, run: Run, checkpoints: Checkpoints) -> Loaded | None:
    """Sets the state to the newest checkpoint that verifies; None if the run was stopped before its first."""
    options, replay = state.config.run, state.agent.replay
    if not checkpoints.resumable() and not run.about.get("checkpoint"):
        say(f"{run.path} has no checkpoint yet: the run starts again at step 0")
        if options.init_from:
            begin_with(state.agent, options.init_from, options.new_head)
        return None
    loaded = checkpoints.load_newest(state.template(), replay, need_replay=options.checkpoint_replay == "all")
    with fitting(str(run.path)):
        if not 0 <= loaded.state["steps"] == loaded.step:
            raise ValueError(f"its state is at step {loaded.state['steps']}, its manifest at step {loaded.step}")
        if replay is not None and loaded.replay:
            checkpoints.segments.load(replay, loaded.replay)
        elif replay is not None:
            say("the replay was not saved: it is filled again before learning continues, and the run is not an exact continuation")
        state.load(loaded.state, best_is_kept=any(checkpoints.folder.glob("best-*")))
    if loaded.moved:
        say("the random generators start again, as the kind of device has changed: the run is not an exact continuation")
    if run.known.get("repeats") is False:
        say(f"{state.config.env.id} is not determined by its seed: the run is not an exact continuation")
    return loaded


def return_to(
    loaded: Loaded, state: RunState, checkpoints: Checkpoints, stop: Callable[[], bool], tell: Callable[[str], None]
) -> tuple[TimeStep, State]:
    """The row and the agent's memory that come next, by restarting the environments and playing their actions again."""
    course = loaded.state.get("course")
    if course is not None:
        state.started = course["started"]
        if course["rows"]:
            tell(f"playing {course['rows']:,} recorded rows of actions since step {state.started:,}, to bring the environments back")
        try:
            with fitting(str(checkpoints.folder.parent)):
                ts = state.envs.replay_actions(state.restart_seeds(), course["actions"], course["seen"], stop)
            return ts, state.memory
        except Diverged as e:
            say(f"warning: {state.config.env.id} {e}; it restarts, and the run is not an exact continuation")
            _forget_what_follows(state, checkpoints)
    state.started = state.steps
    return state.envs.restart(state.restart_seeds()), state.memory


def _forget_what_follows(state: RunState, checkpoints: Checkpoints) -> None:
    """The newest row was followed by another than the one that comes now."""
    state.account.restart(state.envs.envs.playing)
    state.envs.envs.take_finished()
    state.envs.envs.take_bad()
    rollout = state.agent.rollout
    if rollout is not None and rollout.ring.count:
        rollout.ring.interrupt_last()
    replay = state.agent.replay
    if replay is not None and replay.count:
        replay.interrupt_last()
        checkpoints.segments.forget_last(replay)
