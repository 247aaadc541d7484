"""Words for whoever runs a command: written if they can be, in letters that no terminal obeys.  Imports nothing heavy."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

LINE = 200  # characters of a line of an error


def say(line: str, stream: TextIO | None = None) -> None:
    """To stderr, come what may: the log that it goes to may lie on the disk that is full, its reader or terminal may have gone, and
    a service may have started the process without one."""
    stream = stream or sys.stderr
    if stream is not None:
        with suppress(OSError, ValueError):
            print(plain(line), file=stream, flush=True)


def tell(text: str) -> None:
    """To stdout, come what may: for what doesn't depend on who reads."""
    if sys.stdout is not None:
        say(text, sys.stdout)


def plain(text: str) -> str:
    """Control characters (a terminal's escape codes, from somebody's run folder or file) and lone surrogates as \\x1b and the like;
    lines stay lines."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def shortened(line: str, most: int = LINE) -> str:
    """A line of at most `most` characters, its end left out."""
    return line if len(line) <= most else line[: most - 4] + " ..."


def typed(path: Path | str) -> str:
    """A path as it is typed into a shell."""
    return shlex.quote(str(path))
