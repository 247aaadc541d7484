"""What the commands share: what must be set before torch is imported, streams that can be written to, and errors as exit codes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from arcturus.errors import MEMORY_FIX, ArcturusError, by_users_code, out_of_memory
from arcturus.telling import say, shortened


def _give_streams() -> None:
    """A process that was started without stdin, stdout or stderr (>&-, a service manager, pythonw) gets /dev/null for them: what is
    printed goes nowhere, and no file of the run is opened under their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a terminal without the letters of a folder's name shows them as \\u....
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a pipe whose reader has gone can't be reconfigured
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


_give_streams()

# Torch's OpenMP threads must sleep, not spin, beside the emulator's threads on the same cores; CUDA's deterministic
# matrix products want their workspace named before CUDA starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


# The C library returns freed blocks of megabytes to the kernel, which hands them out again page by page: a minibatch of frames as
# floats (29 MB) then costs ten times its arithmetic.  Blocks below a gigabyte are kept instead.  The numbers are glibc's only.
if sys.platform == "linux":
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25):  # the most that older ones take
            mallopt(M_TRIM_THRESHOLD, 1 << 30)

ERROR_LINES = 20


def guarded(main: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """main's exit code; an ArcturusError becomes its own code and a few lines, without a traceback unless --debug."""
    args = [a for a in argv if a != "--debug"]
    debug = len(args) != len(argv)
    try:
        code = main(args)
        _flush()
        return code
    except ArcturusError as e:
        return _told(f"error: {e}", e.exit_code, debug)
    except KeyboardInterrupt:
        return _told("interrupted", 130)
    except Exception as e:
        place = by_users_code(e)
        if isinstance(e, BrokenPipeError) and not place:  # head, less: the reader has seen enough; the rest may be dropped
            _to_nowhere(sys.stdout)
            return 0
        if (text := out_of_memory(e)) is not None:
            return _told(f"error: there was not enough memory: {text}\n  fix: {MEMORY_FIX}", 3, debug)
        if isinstance(e, OSError) and not place:
            _flush()
            file = f": {e.filename}" if e.filename else ", perhaps in writing the output"
            return _told(f"error: {e.strerror or e}{file}", 5, debug)
        if place:
            return _told(
                f"error: {type(e).__name__}: {str(e)[:100]}\n  where: {place}\n  fix: correct that code (it is not arcturus's)", 4, debug
            )
        if names := _took_part():
            mend = f"check what {names} returns; if it is right, this is a fault of arcturus: --debug shows the traceback"
            return _told(
                f"error: {type(e).__name__}: {str(e)[:200]}\n  where: code outside arcturus took part: {names}\n  fix: {mend}",
                4,
                debug,
            )
        fault = "this is a fault of arcturus; run again with --debug for the traceback"
        return _told(f"error: {type(e).__name__}: {str(e)[:500]}\n  {fault}", 1, debug)


def command(main: Callable[[list[str]], int]) -> Callable[[], NoReturn]:
    """What pyproject.toml names: main with the command line; the process ends with its exit code."""
    return lambda: sys.exit(guarded(main, sys.argv[1:]))


def _took_part() -> str:
    """Modules of the user's own in this process, as what they return may be what went wrong in ours."""
    extensions = sys.modules.get("arcturus.extensions")
    return ", ".join(dict.fromkeys(getattr(extensions, "took_part", [])))[:100]


def _told(text: str, code: int, debug: bool = False) -> int:
    """Prints a few lines of limited length, without control characters, to stderr if possible; returns the exit code."""
    if debug:
        traceback.print_exc()
    say("\n".join(shortened(line) for line in text.splitlines()[:ERROR_LINES]))
    _flush()
    return code


def _flush() -> None:
    """Flushes stdout and stderr; if one can't be written to any more, its remaining output is dropped, so that the interpreter's own
    last flush doesn't fail (exit code 120)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):  # a test's stdout has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
