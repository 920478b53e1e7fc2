"""How the processes talk: a line of JSON each way, over a socket in a folder that only their own user may enter."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

ANSWER_S = 2.0  # after which a process that does not answer is passed over


class Line:
    """One end of a connection; every message is an object, and one line."""

    def __init__(self, connected: socket.socket, timeout_s: float | None = ANSWER_S) -> None:
        """timeout_s: after which `receive` raises TimeoutError; None: never."""
        connected.settimeout(timeout_s)
        self._socket = connected
        self._read = b""  # what has arrived of the next message

    @classmethod
    def to(cls, path: Path, timeout_s: float | None = ANSWER_S) -> Line:
        """Connect. Raises OSError."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(str(path))
        except OSError:
            connected.close()
            raise
        return cls(connected, timeout_s)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises OSError."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises TimeoutError, after which it may be called again, OSError at the end, and ValueError for no message.
        """
        while b"\n" not in self._read:
            arrived = self._socket.recv(1 << 16)
            if not arrived:
                raise ConnectionError("the other process has ended")
            self._read += arrived
        line, _, self._read = self._read.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return the answer. Raises as both do."""
        self.send(message)
        return self.receive()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
