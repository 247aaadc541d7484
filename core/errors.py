"""The one kind of error a user is meant to see: what happened, where, and how to mend it.  Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArcturusError(Exception):
    """Becomes at most a few lines on stderr and an exit code; no traceback unless --debug asks for one."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = ""):
        self.what, self.where, self.fix = what, where, fix
        super().__init__("\n".join(line for line in (what, where and f"  where: {where}", fix and f"  to mend: {fix}") if line))


class ConfigError(ArcturusError):
    """A name, number or combination that can't be used."""

    exit_code = 2


class EnvironmentProblem(ArcturusError):
    """A game, device, library or folder of this machine that can't be used."""

    exit_code = 3


class TrainingFailed(ArcturusError):
    """Training can't go on: numbers gone bad, an environment dead."""

    exit_code = 4


class CheckpointError(ArcturusError):
    """A checkpoint or run folder that can't be written, or can't be trusted."""

    exit_code = 5


class Interrupted(Exception):
    """A signal asked for the end of something long; never seen by a user."""


def nearest(name: str, known: Iterable[str], say: str = "known") -> str:
    """'did you mean ...?' where something is near, else what there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 3, 0.6) or difflib.get_close_matches(name.lower(), known, 3, 0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"{say}: {shown}" if known else f"nothing is {say}"
