"""Clients that send requests without a pause, and keep account of what became of every one. No test lives here."""

from __future__ import annotations

import asyncio
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

    def __init__(self, address: Address, clients: int) -> None:
        self.fates: Counter[str] = Counter()
        self._address = address
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
                connection = connection or await asyncio.open_connection(*self._address)
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
                writer.close()
                connection = None
        if connection is not None:  # the server goes on, and would have it open
            connection[1].close()
            with suppress(OSError):
                await connection[1].wait_closed()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """-> its status, and whether the server closes the connection after it."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().splitlines()
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    await reader.readexactly(length)
    return lines[0].split()[1], "connection: close" in lines
