"""What the commands share: what must be set before torch is imported, and errors as exit codes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback
from collections.abc import Callable, Sequence

# Torch's OpenMP threads must sleep, not spin, beside the emulator's threads on the same cores; CUDA's deterministic
# matrix products want their workspace named before CUDA starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


# The C library hands freed blocks of megabytes back to the kernel, which gives them out again page by page: a minibatch of frames as
# floats (29 MB) then costs ten times its arithmetic.  Blocks below a gigabyte are kept instead.  glibc's numbers, and nobody else's.
if sys.platform == "linux":
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25):  # the most that older ones take
            mallopt(M_TRIM_THRESHOLD, 1 << 30)

ERROR_LINES = 20


def guarded(main: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """main's exit code; an ArcturusError becomes its own code and a few lines, without a traceback unless --debug."""
    from arcturus.errors import ArcturusError

    args = [a for a in argv if a != "--debug"]
    debug = len(args) != len(argv)
    try:
        code = main(args)
        try:
            sys.stdout.flush()
        except OSError:
            _to_nowhere()
        return code
    except ArcturusError as e:
        if debug:
            traceback.print_exc()
        print("\n".join(f"error: {e}".splitlines()[:ERROR_LINES]), file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # head, less: who read has seen enough; what is left may go nowhere
        _to_nowhere()
        return 0
    except Exception as e:
        if debug:
            traceback.print_exc()
        print(
            f"error: {type(e).__name__}: {str(e)[:500]}\n  this is a fault of arcturus; run again with --debug for the traceback",
            file=sys.stderr,
        )
        return 1


def _to_nowhere() -> None:
    """What stdout still holds can't be written: the interpreter's own last flush must not fail over it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
