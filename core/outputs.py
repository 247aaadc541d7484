"""What a command is to write: checked before the work begins, and written under another name and renamed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from arcturus.errors import CheckpointError, ConfigError

PICTURES = (".png", ".pdf", ".svg", ".jpg")  # what a figure can be written as


def check_output(file: Path, flag: str, endings: Sequence[str] = (), outside: Sequence[Path] = ()) -> None:
    """Before any work: the file has one of these endings (any, if none are given), is in a folder (made if need be) that can be written
    to, and in none of the folders `outside`.  ConfigError or CheckpointError."""
    if endings and file.suffix not in endings:
        raise ConfigError(
            f"{file.name!r} doesn't end in {' or '.join(endings)}", where=flag, fix=f"write {flag} FILE{endings[0]}"
        )
    if any(file.resolve().is_relative_to(folder.resolve()) for folder in outside):
        raise ConfigError(f"{file} is in a run folder, where no other files may be written", where=flag, fix="choose another place")
    check_output_folder(file.parent, flag, file)


def check_output_folder(folder: Path, flag: str, file: Path | None = None) -> None:
    """The same for a folder to put files into, or one `file`; made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file is not None and file.exists() and not file.is_file():
            raise OSError(0, "it is a folder" if file.is_dir() else "it is not a regular file")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as e:
        raise unwritable(file or folder, e, flag) from e


def unwritable(path: Path, e: Exception, flag: str = "FILE") -> CheckpointError:
    why = getattr(e, "strerror", None) or e
    return CheckpointError(f"{path} can't be written: {why}", where=flag, fix="choose a place you may write to")


def written_beside(file: Path, write: Callable[[Path], object]) -> None:
    """Calls write() with a temporary name beside `file`, with the same ending, and renames the result: the old file or the new, never
    half of one.  CheckpointError if it can't be written."""
    temporary = file.with_name(f".tmp-{file.name}")
    try:
        write(temporary)
        temporary.replace(file)
    except OSError as e:
        raise unwritable(file, e) from e
    finally:
        temporary.unlink(missing_ok=True)
