"""Clients on bare sockets, which send what they like and read what comes. No test lives here."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.api.servers_ import PATIENCE_S

Address = tuple[str, int]


def address_of(url: str) -> Address:
    """Host and port."""
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class RawClient:
    """A connection of a test's own."""

    def __init__(self, url: str) -> None:
        self.socket = socket.create_connection(address_of(url), timeout=PATIENCE_S)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Each in a packet of its own, as far as the server takes them."""
        for piece in pieces:
            try:
                self.socket.sendall(piece)
            except ConnectionError:
                return

    def read_answer(self) -> Answer:
        """The next answer, an interim one (1xx) too. Raises ConnectionError where there is none."""
        status, headers = self.read_head()
        return Answer(status, headers, self._file.read(int(headers.get("content-length", 0))))

    def read_head(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the next answer, one to HEAD for example. Raises ConnectionError likewise."""
        status_line = self._file.readline()
        if not status_line:
            raise ConnectionAbortedError("the server ended the connection without an answer")
        headers: dict[str, str] = {}
        while line := self._file.readline().decode("latin-1").strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return int(status_line.split()[1]), headers

    def read_chunk(self) -> bytes:
        """The next chunk of a body that comes in chunks; empty at its end. Raises ConnectionError likewise."""
        size = self._file.readline()
        if not size:
            raise ConnectionAbortedError("the server ended the connection amid an answer")
        chunk = self._file.read(int(size, 16))
        self._file.readline()
        return chunk

    @property
    def has_answer(self) -> bool:
        """Whether something has come that was not read yet."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def read_rest(self) -> bytes:
        """What comes until the server has ended the connection."""
        try:
            return self._file.read()
        except ConnectionError:
            return b""

    def is_ended(self) -> bool:
        """Wait until the server has ended the connection, without another word."""
        return self.read_rest() == b""


def ask(url: str, *pieces: bytes) -> Answer:
    """The first answer on a new connection to what is sent."""
    with RawClient(url) as client:
        client.send(*pieces)
        return client.read_answer()


def head(method: str, path: str, headers: Iterable[str] = ()) -> bytes:
    """A request up to its body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


def post(body: bytes, headers: Iterable[str] = ()) -> bytes:
    """POST /ner of JSON."""
    given = ["Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return head("POST", "/ner", given) + body
