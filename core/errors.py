"""The one kind of error a user is meant to see: what happened, where, and how to fix it.  Imports nothing heavy."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable

from arcturus.telling import shortened


class ArcturusError(Exception):
    """Becomes at most a few lines on stderr and an exit code; no traceback unless --debug asks for one."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = ""):
        self.what, self.where, self.fix = what, where, fix
        super().__init__("\n".join(line for line in (what, where and f"  where: {where}", fix and f"  fix: {fix}") if line))


class ConfigError(ArcturusError):
    """A name, number or combination that can't be used."""

    exit_code = 2


def no_targets(env_id: str) -> ConfigError:
    """The error for an environment without the right answers that an agent learns from."""
    return ConfigError(
        f"{env_id} doesn't provide the right answers to learn from",
        where="--env",
        fix="use an NTM/ task answered by bits, symbol or serial, or learn from other agents: train-agent distill --agent.teachers RUN",
    )


class EnvironmentProblem(ArcturusError):
    """A game, device, library or folder of this machine that can't be used."""

    exit_code = 3


class TrainingFailed(ArcturusError):
    """Training can't continue: numbers that are not finite, an environment that failed."""

    exit_code = 4


class CheckpointError(ArcturusError):
    """A checkpoint or run folder that can't be written, or can't be trusted."""

    exit_code = 5


MEMORY_FIX = "use fewer environments, a smaller replay or a smaller batch, or run it where more memory is allowed"
NO_MEMORY = ("allocate memory", "unable to allocate", "out of memory", "failed to map segment", "can't start new thread")


def out_of_memory(error: BaseException | None) -> str | None:
    """What asked for how much memory, if an error was caused by lack of memory; None otherwise.

    Python, numpy, torch, the loader of libraries and the kernel each word it differently.
    """
    while error is not None:
        text = str(error)
        if (
            isinstance(error, MemoryError)
            or getattr(error, "errno", 0) == errno.ENOMEM
            or any(w in text.lower() for w in NO_MEMORY)
        ):
            asked = re.search(r"allocate ([\d,]+) bytes", text)
            words = shortened(text.partition("\n")[0] or "unknown amount", 100)
            size = f"{int(asked[1].replace(',', '')):,} bytes were requested" if asked else words
            return f"{size} ({_asked_in(error)})"
        error = error.__cause__ or error.__context__
    return None


def by_users_code(error: BaseException) -> str:
    """Where an error was raised, if that is code outside arcturus and outside installed packages: "function in file, line 3"."""
    frames = traceback.extract_tb(error.__traceback__)
    installed = ("site-packages", "dist-packages", f"{os.sep}lib{os.sep}python")
    known = _ours()
    last = next((f for f in reversed(frames) if f.filename in known or not any(part in f.filename for part in installed)), None)
    if last is None or last.filename in known or last.filename.startswith("<"):
        return ""
    return f"{last.name} in {last.filename}, line {last.lineno}"


def _ours() -> set[str | None]:
    return {getattr(m, "__file__", None) for name, m in list(sys.modules.items()) if name.partition(".")[0] == "arcturus"}


def _asked_in(error: BaseException) -> str:
    """The innermost function of arcturus under an error."""
    known = _ours()
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in known]
    if not frames:
        return "while libraries were loaded"
    return f"by {frames[-1].name} in {os.path.basename(frames[-1].filename)}"


class Interrupted(Exception):
    """A signal asked for the end of something long; never seen by a user."""


LONGEST_NAME = 100  # characters; longer names get no suggestion


def nearest(name: str, known: Iterable[str], say: str = "known names") -> str:
    """'did you mean ...?' if a known name is similar, else the known names."""
    known = list(known)
    if len(name) > LONGEST_NAME or not known:
        return f"there are no {say} to choose from" if not known else "the name is too long"
    if name.lower() in known:
        return f"did you mean {name.lower()}?"
    close = difflib.get_close_matches(name, known, 3, 0.6) or difflib.get_close_matches(name.lower(), known, 3, 0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"{say}: {shown}"
