"""One HTTP request and its answer, between the server and whoever answers: its id, body within limits, count, log."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from service.api.budget import BodyBudget
from service.api.caller import ClientLeft, Departure
from service.api.connections import LINGER_S
from service.api.errors import EncodingRefused, endpoint_of
from service.api.hosts import host_of
from service.api.keys import check_key
from service.api.state import Service
from service.errors import Overloaded, TooLarge

access_log = logging.getLogger("service.access")

MOST_LENGTH_DIGITS = 20  # of a length, beyond leading zeros; the server has refused what is over 64 bits
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Exchange:
    """One request and its answer.

    The body is read when somebody asks for it, since the route is known by then: first the route's key is checked, then
    the whole body is read, within its limit. A route may have it in pieces instead, of any length. If the answer came
    without the body, the connection is closed after it.
    """

    def __init__(
        self,
        service: Service,
        bodies: BodyBudget,
        ids: RequestIds,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._service = service
        self._bodies = bodies
        self._method: str = scope["method"]
        self.scope = {**scope, "method": "GET"} if self._method == "HEAD" else scope  # routes know no HEAD
        self._receive = receive
        self._send = send
        headers = dict(reversed(scope["headers"]))  # of several of a name, the first
        self.host = host_of(headers)
        self.request_id = ids.id_of(headers)
        state = self.scope.setdefault("state", {})
        state["request_id"] = self.request_id
        state.setdefault("arrived", time.monotonic())
        state.setdefault("departure", Departure())  # of a server that tells of none
        state["exchange"] = self
        self.works_on_stream: Callable[[bool], None] = state.get("works_on_stream", lambda _: None)
        """Tells the server whether lines of a stream are under way: then nobody waits for the client."""
        self._took_request: Callable[[], None] = state.get("took_request", lambda: None)
        self.content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        self.length = length_of(headers) or 0  # as the client says, if it does; the bytes are counted, too
        self._is_unread = self.length > 0 or b"transfer-encoding" in headers
        self._encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        self._body: bytes | None = None  # once it is read
        self._has_given_body = False
        self._taken = 0
        self._started = time.monotonic()
        self.status: int | None = None  # of the answer, once there is one

    async def receive(self) -> Message:
        """Return the whole body, once; then whatever the server sends. Raises the error that refuses the request."""
        if self._has_given_body:
            return await self._receive()
        body = await self.read()
        self._has_given_body = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def read(self) -> bytes:
        """Return the body, which is read once. Raises the error that refuses the request."""
        if self._body is not None:
            return self._body
        check_key(self._service.keys, self.scope)
        self.check_encoding()
        self._body = await self._read_body()
        self._is_unread = False
        return self._body

    def drop_body(self) -> None:
        """Free the body, since what was read from it is enough; its bytes count until the end all the same."""
        self._body = None

    def check_encoding(self) -> None:
        """Raise EncodingRefused for a body that is packed."""
        if self._is_unread and self._encoding not in ("", "identity"):
            raise EncodingRefused(
                f"the body's Content-Encoding is {self._encoding!r}; send it as it is, without that header"
            )

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, without a limit; what is not asked for is not read. Raises ClientLeft.

        The server drops what still comes after the answer.
        """
        self._is_unread = False
        more_body = True
        while more_body:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("the client left before its request was there")
            self._took_request()
            yield message.get("body", b"")
            more_body = message.get("more_body", False)

    async def send(self, message: Message) -> None:
        """Send a part of the answer; count the answer, and put the request's id on it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            if 300 <= message["status"] < 400:
                headers = [_local(header) for header in headers]
            if self._is_unread or self._service.is_draining:
                headers.append((b"connection", b"close"))
            self._service.metrics.http.request_done(endpoint_of(self.scope), message["status"])
            await self._send({**message, "headers": headers})
        elif self._method == "HEAD":
            await self._send({**message, "body": b""})
        elif self._is_unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await discard_body(self._receive)
            await self._send({"type": "http.response.body"})
        else:
            await self._send(message)

    def end(self) -> None:
        """Return the body's bytes to the budget, since the request is done; log it if the operator wants that."""
        self._bodies.give_back(self._taken)
        self.scope["state"].pop("exchange", None)  # else each would hold the other
        self._body = None  # that nobody counts from now on
        if self._service.settings.access_log:
            log_access(self.request_id, self._method, endpoint_of(self.scope), self.status, self._started)

    async def _read_body(self) -> bytes:
        limit = self._service.settings.max_body_bytes
        chunks: list[bytes] = []
        size, is_whole = 0, False
        while not is_whole and max(size, self.length) <= limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._service.metrics.http.client_left()
                raise ClientLeft("the client left before its request was there")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            is_whole = not message.get("more_body", False)
        if max(size, self.length) > limit:
            chunks.clear()  # which the error holds
            self._service.metrics.http.request_refused("too_large")
            raise TooLarge(f"the body is over the limit of {limit} bytes (NER_MAX_BODY_BYTES); send it in parts")
        try:
            self._bodies.take(size)
        except Overloaded:
            chunks.clear()  # which the error holds
            self._service.metrics.http.request_refused("queue_full")
            raise
        self._taken = size
        self._took_request()
        return b"".join(chunks)


class RequestIds:
    """The ids of requests: the client's own, or else made."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)  # with a number, an id that no other process makes
        self._numbers = itertools.count(1)

    def id_of(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the id of a request with these headers."""
        given = headers.get(b"x-request-id", b"")
        return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else f"{self._process}{next(self._numbers):016x}"


async def discard_body(receive: Receive) -> None:
    """Read and drop a body for a while: a client that is cut off while it sends may never see its answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body", False):
                pass


def log_access(request_id: str, method: str, endpoint: str, status: int | None, started: float) -> None:
    """Log one request, which began at `started` in monotonic seconds and has its answer, or has None."""
    milliseconds = round(1_000 * (time.monotonic() - started), 3)
    told = {"request_id": request_id, "method": method, "endpoint": endpoint, "status": status, "ms": milliseconds}
    access_log.info("request", extra={"data": told})


def length_of(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the length of a body that its head tells; None for a head that tells none.

    However many zeros lead it, which HTTP allows: Python refuses to read thousands of digits.
    """
    digits = headers.get(b"content-length", b"")
    return int(digits.lstrip(b"0")[:MOST_LENGTH_DIGITS] or 0) if digits.isdigit() else None


def _local(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return a header; of a Location on this server the path alone, since the host is what the client said it is."""
    name, value = header
    if name != b"location" or b"://" not in value:
        return header
    return name, b"/" + value.partition(b"://")[2].partition(b"/")[2].lstrip(b"/")
