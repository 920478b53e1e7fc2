"""Clients that send requests all the time, and keep account of what became of every one. No test lives here."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from contextlib import suppress

from tests.api.sockets_ import Address, post

REQUEST = post(b'{"text": "Ada Lovelace worked with Charles Babbage in London."}')
REQUEST_ALONE = post(b'{"text": "Ada Lovelace worked with Charles Babbage in London."}', ["Connection: close"])


class Load:
    """`clients` clients in a thread; every other one opens a connection for each request.

    fates  of requests: the status of the answer, or "lost" for one that was sent and got none; "refused" where the
           server took no connection, so that nothing was sent
    """

    def __init__(self, address: Address, clients: int, tls: ssl.SSLContext | None = None, pause_s: float = 0.0) -> None:
        """pause_s: of each client between an answer and its next request."""
        self.fates: Counter[str] = Counter()
        self._address = address
        self._tls = tls
        self._pause_s = pause_s
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(clients)))
        self._thread.start()

    def stop(self) -> None:
        """After the requests in hand."""
        self._is_over = True
        self._thread.join()

    async def _run(self, clients: int) -> None:
        await asyncio.gather(*(self._ask(keeps_alive=number % 2 == 0) for number in range(clients)))

    async def _ask(self, keeps_alive: bool) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._is_over:
            try:
                connection = connection or await asyncio.open_connection(*self._address, ssl=self._tls)
            except OSError:
                self.fates["refused"] += 1
                await asyncio.sleep(0.1)
                continue
            reader, writer = connection
            try:
                writer.write(REQUEST if keeps_alive else REQUEST_ALONE)
                status, is_last = await _read_answer(reader)
                self.fates[status] += 1
            except (OSError, asyncio.IncompleteReadError):
                self.fates["lost"] += 1
                is_last = True
            if is_last:
                await _close(writer)
                connection = None
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
        if connection is not None:
            await _close(connection[1])


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # it was cut off before
        await writer.wait_closed()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """-> its status, and whether the server closes the connection after it."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().splitlines()
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    await reader.readexactly(length)
    return lines[0].split()[1], "connection: close" in lines
