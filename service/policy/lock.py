"""The lock on a state folder: two servers on one folder would overwrite each other's acknowledged changes."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from service.errors import BadInput


class StateLock:
    """Holds a state folder for this process, until it is released or the process ends, however that ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock, a file `lock` in the folder, which is created if it is missing.

        A folder in which nothing can be written, and so nothing overwritten, needs no lock. Raises BadInput if another
        process holds it, and OSError if the folder cannot be used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            if not path.exists():
                return
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # of another user's, and held all the same
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 200, 0).decode("utf-8", "replace") or "another process"
            self.release()
            raise BadInput(
                f"NER_STATE_DIR={str(folder.resolve())!r} is in use by {holder}; end that server, or give this one a "
                "NER_STATE_DIR of its own"
            ) from None
        with suppress(OSError):  # on a full disk the lock holds, and only does not say whose it is
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def release(self) -> None:
        """Let another process have the folder. The file stays, since removing it could let two hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
