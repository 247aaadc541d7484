"""Messages for the user of a command: written if possible, without a terminal's control characters.  Imports nothing heavy."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

LINE = 200  # characters of a line of an error


def say(line: str, stream: TextIO | None = None) -> None:
    """To stderr, without ever failing: its log may be on a full disk, its reader or terminal may have gone, and a service may have
    started the process without one."""
    stream = stream or sys.stderr
    if stream is not None:
        with suppress(OSError, ValueError):
            print(plain(line), file=stream, flush=True)


def tell(text: str) -> None:
    """To stdout, without ever failing: for work that doesn't depend on a reader."""
    if sys.stdout is not None:
        say(text, sys.stdout)


def plain(text: str) -> str:
    """Control characters (a terminal's escape codes, from a third party's run folder or file) and lone surrogates as \\x1b and the like;
    lines stay lines."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def shortened(line: str, most: int = LINE) -> str:
    """A line of at most `most` characters, its end left out."""
    return line if len(line) <= most else line[: most - 4] + " ..."


def typed(path: Path | str) -> str:
    """A path quoted as it must be typed into a shell."""
    return shlex.quote(str(path))
