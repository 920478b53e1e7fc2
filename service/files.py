"""Writes files that are complete or not there at all, even if the process is killed or the disk is full."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write `text` as UTF-8 to a file beside `path`, rename it to `path`, and return once both are on disk.

    The folder is created if it is missing. `mode` is the file's permissions. Raises OSError, and then `path` is
    unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # left by a process that was killed
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
    with suppress(OSError):  # the file is renamed even if this file system cannot flush a folder
        _flush_folder(path.parent)


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used to a name that none has had; -> where it lies now. Raises OSError."""
    place = aside_of(path)
    os.rename(path, place)
    return place


def aside_of(path: Path) -> Path:
    """Return `NAME.unusable-1`, or the number after the last: nothing that was set aside is ever overwritten."""
    stem = f"{path.stem}.unusable-"
    numbers = (other.name.removeprefix(stem) for other in path.parent.glob(f"{stem}*"))
    last = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return path.with_name(f"{stem}{last + 1}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process that asks for the same out of a folder, which is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def mark_of(path: Path) -> tuple[int, int] | None:
    """Return what says whether a file has been replaced by `write_whole`; None while there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
