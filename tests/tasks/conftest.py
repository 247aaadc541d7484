"""What the tests of the tape tasks share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def at():
    """at(env, tape): the environment in an episode on this tape."""

    def begun(env, tape):
        env.reset(seed=0, options={"length": len(tape[0])})
        env.tape, env.target = tape, env._answer(tape)
        env.time_limit = env._limit()
        return env

    return begun
