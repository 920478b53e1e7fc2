"""Sends one request on a connection of its own, and tells what became of it."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

PATIENCE_S = 20.0  # longer than the server's own limit: a request without an answer by then never gets one

REFUSED, LOST = "refused", "lost"


async def send(url: str, key: str, text: str) -> str:
    """POST `text`; return the HTTP status, REFUSED if there was no connection, or LOST if it brought no answer.

    key: sent as a bearer token unless empty
    """
    address = urlsplit(url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(address.hostname, address.port or 80)
    except (OSError, TimeoutError):
        return REFUSED
    body = json.dumps({"text": text}).encode()
    head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(f"{head}\r\n".encode() + body)
            answer = await reader.read(-1)
    except (OSError, TimeoutError):
        return LOST
    finally:
        writer.close()
    return _status(answer)


def _status(answer: bytes) -> str:
    """Return the status of a whole answer, or LOST for one that was cut off."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    lengths = [int(line.removeprefix("content-length:")) for line in lines if line.startswith("content-length:")]
    return lines[0].split(" ")[1] if lengths == [len(body)] else LOST
