"""What became of a request is told apart: answered, refused, lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from load.client import LOST, REFUSED, send

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def test_an_answered_request_gives_its_status() -> None:
    assert _outcome(lambda _: ANSWER) == "200"
    assert _outcome(lambda _: ANSWER.replace(b"200 OK", b"429 Too Many Requests")) == "429"


def test_a_request_carries_its_text_and_its_key() -> None:
    seen: list[bytes] = []
    _outcome(lambda request: seen.append(request) or ANSWER)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /ner HTTP/1.1\r\n") and b"Authorization: Bearer secret" in head
    assert json.loads(body) == {"text": "Oslo is cold."}


@pytest.mark.parametrize("length", [0, 20, len(ANSWER) - 1])
def test_a_connection_that_ends_before_the_whole_answer_is_a_lost_request(length: int) -> None:
    assert _outcome(lambda _: ANSWER[:length]) == LOST


def test_where_nobody_listens_a_request_is_refused() -> None:
    async def closed_port() -> str:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await send(f"http://127.0.0.1:{port}/ner", "", "Oslo is cold.")

    assert asyncio.run(closed_port()) == REFUSED


def _outcome(answer: Callable[[bytes], bytes]) -> str:
    """What `send` says of a server that reads one request and writes what `answer` makes of it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"}")
        writer.write(answer(request))
        writer.close()

    async def run() -> str:
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await send(f"http://127.0.0.1:{port}/ner", "secret", "Oslo is cold.")

    return asyncio.run(run())
