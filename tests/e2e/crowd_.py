"""Many connections, opened as fast as possible, that then say nothing or half of something. No test lives here."""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from tests.api.sockets_ import Address

HALF_A_HEAD = b"POST /ner HTTP/1.1\r\nHost: x\r\nX: "


class Crowd:
    """`size` connections from this process. What becomes of each is counted in `fates`: the status of the answer,
    "closed" without one, or "reset"; those of which nothing has been heard are held by the server."""

    def __init__(self, address: Address, size: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, size + 1_000)), hard))
        self.fates: Counter[str] = Counter()
        self._opened: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        for number in range(size):
            self._open(address, speaks=number % 2 == 0)
            if number % 50 == 0:
                self.listen(0)

    @property
    def held(self) -> int:
        """Connections of which nothing has been heard."""
        return len(self._opened)

    def listen(self, seconds: float) -> None:
        """Take in what the server has said to anybody; wait for a first word for so long."""
        for key, _ in self._selector.select(seconds):
            self._hear(key.fileobj)  # type: ignore[arg-type] # only sockets are registered

    def listen_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Take in what the server says until `condition` holds; TimeoutError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.listen(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout_s} s, {self.held} connections are held, others {self.fates}")

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._opened):
            self._close(connection)
        self._selector.close()

    def _open(self, address: Address, speaks: bool) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(address)
        self._opened.add(connection)
        if speaks:
            with suppress(OSError):  # not connected yet: then it is one more that says nothing
                connection.send(HALF_A_HEAD)
        self._selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection: socket.socket) -> None:
        try:
            said = connection.recv(4_096)
        except ConnectionError:
            fate = "reset"
        else:
            fate = said.split()[1].decode() if said else "closed"
        self.fates[fate] += 1
        self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        self._opened.remove(connection)
