"""The state folder as a store that several processes of one machine share."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.policy.store import StateFolder, StoreMovedOn
from service.policy.versions import HistoryEntry

LOOK_S = 0.02  # between two looks at whether another process has saved


class SharedStateFolder(StateFolder):
    """A state folder in which others may save as well. See PolicyStore, and Pushes.

    Whoever saves holds the folder's lock, and what is saved follows what was read last. Files are replaced as a whole,
    so that their inode and time say whether one has been.
    """

    is_shared = True
    _read: tuple[int, int, int] | None = None  # what the file was when it was read last

    def load(self) -> tuple[HistoryEntry, ...]:
        """See PolicyStore."""
        self._read = self._mark()
        return super().load()

    def set_aside(self) -> str:
        """See PolicyStore."""
        with self._unchanged():
            return super().set_aside()

    def save(self, history: Sequence[HistoryEntry]) -> None:
        """See PolicyStore."""
        with self._unchanged():
            super().save(history)

    def wait(self, seconds: float) -> None:
        """Return as soon as another process has saved, at the latest after so many seconds."""
        until = time.monotonic() + seconds
        while self._mark() == self._read and time.monotonic() < until:
            time.sleep(LOOK_S)

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Hold the lock while the file is as it was read last. Raises StoreMovedOn if it is not, and OSError."""
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._mark() != self._read:
                raise StoreMovedOn(f"another process has changed {self._path}")
            yield
            self._read = self._mark()
        finally:
            os.close(descriptor)

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
