"""A transport that sends in one piece what is written in one turn of the event loop: an answer's head and its body.

uvicorn writes the two one after the other, and uvloop sends each at once: two system calls and two packets, and the
client wakes up for half an answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

JOINED_BYTES = 16_384  # beyond which it is sent without waiting for more


class JoinedWrites:
    """Stands for a connection's transport; what it does not do itself, that one does."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []  # that are not sent yet
        self._num_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes at the end of the event loop's turn, or at once if there are many."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)
        self._num_bytes += len(data)
        if self._num_bytes > JOINED_BYTES:
            self._send()

    def write_eof(self) -> None:
        """See asyncio.WriteTransport."""
        self._send()
        self._transport.write_eof()

    def close(self) -> None:
        """See asyncio.BaseTransport."""
        self._send()
        self._transport.close()

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        self._parts, self._num_bytes = [], 0
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """See asyncio.WriteTransport."""
        self._send()
        return self._transport.get_write_buffer_size()

    def _send(self) -> None:
        if self._parts and not self._transport.is_closing():
            parts, self._parts, self._num_bytes = self._parts, [], 0
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
