"""Limits on connections: how many may be open, how long a client may take, how much it may send without a request.

Whole requests are left to the middleware.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from asyncio import BaseTransport, Transport
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.caller import Departure
from service.api.errors import error_body
from service.api.joined_writes import JoinedWrites
from service.metrics.http import HttpMetrics

MAX_HEAD_BYTES = 65_536  # of request line and headers, and of what may come between two pieces of a body
MAX_HEADERS = 256  # of a head; each takes some hundred bytes beside its own
MAX_PIPELINED = 64  # requests that a client may send ahead of their answers; few clients do
UNCOUNTED_BYTES = 16_384  # of an answer that may wait to be taken before it counts
GRACE_S = 0.5  # how long a request that was sent before the server ended has to arrive
_HOST = re.compile(rb"(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d*)?")
LINGER_S = 1.0  # how long a refused client that still sends has to read why, before it is cut off


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that needs no application and ends the connection; `reason` is its label in the metrics."""

    reason: str
    status: int
    error_type: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def to_bytes(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the whole HTTP response, with an id of its own."""
        request_id = uuid.uuid4().hex
        body = json.dumps(error_body(self.message, self.error_type, request_id)).encode()
        headers = [
            *default_headers,
            *self.headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        return STATUS_LINE[self.status] + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + body


MALFORMED = Refusal("malformed", 400, "NotHTTP", "what was sent is not HTTP/1.1, or not without doubt; send it anew")
HOST_UNCLEAR = Refusal(
    "malformed", 400, "NotHTTP", "the request does not say clearly which host it is for; send exactly one Host header"
)
ENCODED = Refusal(
    "malformed", 400, "NotHTTP", "the only Transfer-Encoding that is read is chunked; send the body without another"
)
HEAD_TOO_LARGE = Refusal(
    "head_too_large",
    431,
    "HeadTooLarge",
    f"the request's line and headers are over {MAX_HEAD_BYTES} bytes, or over {MAX_HEADERS} headers; send fewer",
)
TOO_SLOW = Refusal(
    "slow", 408, "TooSlow", "the request did not arrive in time (NER_CLIENT_TIMEOUT_S); send it in one go"
)
CROWDED = Refusal(
    "crowded",
    429,
    "Overloaded",
    "too many connections are open or send at a time, and this one kept the service waiting longest; try again later",
    ((b"retry-after", b"1"),),
)


class Connections:
    """All open connections, and in which of them it is the client's turn, ordered by how long it has been.

    It is the client's turn until its request has arrived whole, while it takes its answer, and between two requests. In
    a stream of lines it is the client's turn while none of them is under way. A client whose turn lasts longer than
    `client_timeout_s` is cut off. If there are more connections than `limit`, the client whose turn has lasted longest
    is cut off to make room; if they hold more than `max_bytes` of requests that nobody works on yet, or of answers that
    are not taken, the one that has held some for longest, and one that has sent requests ahead of its answers only if
    nobody else holds any. So a client that sends its request and takes its answer is served, however many others are
    slow.
    """

    def __init__(
        self,
        metrics: HttpMetrics,
        *,
        limit: int,
        max_bytes: int,
        client_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self._limit = limit
        self._max_bytes = max_bytes
        self._client_timeout_s = client_timeout_s
        self._clock = clock
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, float] = {}  # since when it is the client's turn, oldest first
        self._unread = _Held()  # requests that have not arrived whole, or that nobody works on yet
        self._untaken = _Held()  # answers

    def opened(self, connection: Connection) -> None:
        """Note that a client has connected; cut off another one if there are too many."""
        self._open.add(connection)
        self.metrics.set_connections(len(self._open))
        self.await_client(connection)
        if len(self._open) > self._limit:
            self._cut(next(iter(self._waiting)), CROWDED)

    def closed(self, connection: Connection) -> None:
        """Note that a connection has ended, or is about to end."""
        if connection in self._open:
            self._open.remove(connection)
            self._waiting.pop(connection, None)
            self._unread.put(connection, 0)
            self._untaken.put(connection, 0)
            self.metrics.set_connections(len(self._open))

    def await_client(self, connection: Connection) -> None:
        """Note that it is the client's turn from now on."""
        if connection in self._open:
            self._waiting.pop(connection, None)
            self._waiting[connection] = self._clock()

    def serve_client(self, connection: Connection) -> None:
        """Note that it is the service's turn from now on: a request has arrived whole."""
        self._waiting.pop(connection, None)

    def unread(self, connection: Connection, num_bytes: int) -> None:
        """Note how much a client has sent that nobody works on yet; cut off clients while all these hold too much."""
        self._hold(self._unread, connection, num_bytes)

    def untaken(self, connection: Connection, num_bytes: int) -> None:
        """Note how much of its answer a client does not take; cut off clients while all these hold too much."""
        self._hold(self._untaken, connection, num_bytes)

    def cut_late(self) -> None:
        """Cut off the clients whose turn has lasted too long; called a few times a second."""
        latest = self._clock() - self._client_timeout_s
        while self._waiting and next(iter(self._waiting.values())) < latest:
            self._cut(next(iter(self._waiting)), TOO_SLOW)

    def _hold(self, held: _Held, connection: Connection, num_bytes: int) -> None:
        if connection in self._open:
            held.put(connection, num_bytes)
            while held.total > self._max_bytes:
                self._cut(held.oldest(self._waiting), CROWDED)

    def _cut(self, connection: Connection, refusal: Refusal) -> None:
        self.closed(connection)
        self.metrics.connection_refused(refusal.reason)
        connection.cut(refusal)


class _Held:
    """How many bytes of one kind connections hold."""

    def __init__(self) -> None:
        self.total = 0
        self._bytes: dict[Connection, int] = {}  # none that holds nothing; who has held some for longest comes first

    def put(self, connection: Connection, num_bytes: int) -> None:
        """Set how many bytes a connection holds."""
        self.total += num_bytes - self._bytes.get(connection, 0)
        if num_bytes:
            self._bytes[connection] = num_bytes
        else:
            self._bytes.pop(connection, None)

    def oldest(self, preferred: Container[Connection]) -> Connection:
        """Return the connection that has held some for longest, of the preferred ones if any of them holds some."""
        return next((holder for holder in self._bytes if holder in preferred), next(iter(self._bytes)))


class Connection(HttpToolsProtocol):
    """uvicorn's connection of one client, which also tells `Connections` whose turn it is.

    It answers whatever is not an HTTP request itself, with the same error body as the application.
    """

    def __init__(self, connections: Connections, **wiring: Any) -> None:
        super().__init__(**wiring)
        self._connections = connections
        self._is_in_head = False
        self._bytes_without_progress = 0
        self._head_bytes = 0  # of a head that has not arrived whole
        self._unread: list[int] = []  # bytes of each request without an answer, in turn, that nobody works on yet
        self._refusal: Refusal | None = None  # once there is one, nothing more is read
        self._departure = Departure()
        self._is_at_work = False  # on lines of a stream
        self._running: RequestResponseCycle | None = None  # the request that is being answered, or was last
        self.app_state = {  # the state that every request begins with
            **self.app_state,
            "departure": self._departure,
            "works_on_stream": self.works_on_stream,
            "took_request": self.took_request,
        }

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_made(self, transport: BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(JoinedWrites(cast("Transport", transport), self.loop))  # type: ignore[arg-type]
        self.transport.set_write_buffer_limits(high=UNCOUNTED_BYTES)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._connections.closed(self)
        self._forget_unread()
        super().connection_lost(exc)
        self._departure.happen()
        if self._running is not None:  # of several sent at once; the server knows of the last one alone
            self._running.disconnected = True
            self._running.message_event.set()
        self._running = None
        self.pipeline.clear()  # these, and the state of each, refer to this
        self.app_state = self.scope = self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and refuse it if it is not HTTP or too large."""
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        refusal = self._parse(data)
        if self._is_in_head:
            self._head_bytes += len(data)
        self._count_unread()
        if refusal is not None and not self.transport.is_closing():
            self._refuse(refusal)

    def _parse(self, data: bytes) -> Refusal | None:
        """Parse bytes; return a refusal if nothing more should be read, else None."""
        self._bytes_without_progress += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # an upgrade, such as to h2c, is a wish, and ignored
            version = self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)  # one that has seen a last request reads no more
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            return self._parse(b"\r\n".join([*lines, b"", data[upgrade.args[0] :]]))
        except httptools.HttpParserError:
            return self._refusal or MALFORMED
        return HEAD_TOO_LARGE if self._bytes_without_progress > MAX_HEAD_BYTES else None

    def on_message_begin(self) -> None:
        """Take note of the first byte of a request."""
        super().on_message_begin()
        self._is_in_head = True
        self._bytes_without_progress = 0
        self._take_turns()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; ignore a trailer, which comes after the body. Raises ValueError for one too many."""
        if self._is_in_head:
            if len(self.headers) == MAX_HEADERS:
                self._refusal = HEAD_TOO_LARGE
                raise ValueError(HEAD_TOO_LARGE.reason)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head and start the application. Raises ValueError, which the parser turns into its own error."""
        self._is_in_head = False
        self._bytes_without_progress = self._head_bytes = 0
        num_bytes = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if num_bytes > MAX_HEAD_BYTES:
            self._refusal = HEAD_TOO_LARGE
            raise ValueError(HEAD_TOO_LARGE.reason)
        if self.parser.get_method() == b"CONNECT" or len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError(MALFORMED.reason)
        self._check_head()
        if not self.parser.should_upgrade():
            self.scope["state"]["arrived"] = time.monotonic()
            self._unread.append(num_bytes)
            super().on_headers_complete()
            self._take_turns()

    def _check_head(self) -> None:
        """Refuse a head that says in no way, or in two, which host it is for, or that wants its body decoded."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts and self.parser.get_http_version() == "1.0":  # which did not know it yet
            hosts = [_host_in_target(self.url) or b"localhost"]
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]) or _host_in_target(self.url) not in (None, hosts[0]):
            self._refusal = HOST_UNCLEAR
        elif [1 for name, value in self.headers if name == b"transfer-encoding" and value.lower() != b"chunked"]:
            self._refusal = ENCODED
        if self._refusal is not None:
            raise ValueError(self._refusal.reason)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        super().on_body(body)
        self._bytes_without_progress = 0
        if not self.cycle.response_started:
            self._unread[-1] += len(body)

    def on_message_complete(self) -> None:
        """Take note of the last byte of a request."""
        if not self.parser.should_upgrade():
            self.scope["state"]["arrived"] = time.monotonic()  # its time begins when the client has done its part
            super().on_message_complete()
            self._take_turns()

    def on_response_complete(self) -> None:
        """Take note that the last byte of an answer was given to the transport."""
        del self._unread[0]
        self._count_unread()
        super().on_response_complete()
        self._take_turns()

    def pause_writing(self) -> None:
        """Take note that the client does not take its answer."""
        super().pause_writing()
        self._take_turns()
        self._connections.untaken(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Take note that the client takes its answer again."""
        super().resume_writing()
        self._take_turns()
        self._connections.untaken(self, 0)

    def shutdown(self) -> None:
        """End the connection after GRACE_S, so that a request that was just sent can arrive and is answered."""
        self.loop.call_later(GRACE_S, super().shutdown)

    def cut(self, refusal: Refusal) -> None:
        """End the connection; send `refusal`, unless the client is idle between requests or is getting an answer."""
        cycle = self.cycle
        self._forget_unread()
        if self._refusal is not None or self.pipeline or self.transport.get_write_buffer_size():
            self.transport.abort()
            return
        is_idle = cycle is not None and cycle.response_complete and not self._is_in_head
        if not is_idle and not (cycle is not None and cycle.response_started and not cycle.response_complete):
            self._answer(refusal)
        self._refusal = refusal
        self.transport.close()

    def works_on_stream(self, is_at_work: bool) -> None:
        """Take note of whether lines of a stream are under way: then it is our turn, although the body goes on."""
        self._is_at_work = is_at_work
        self._take_turns()

    def took_request(self) -> None:
        """Take note that the request whose turn it is has been read: others count its bytes from now on."""
        self._unread[0] = 0
        self._count_unread()

    def _forget_unread(self) -> None:
        """Free what nobody will read: the connection ends now, and whoever works for it learns of it somewhat later."""
        for cycle in [self._running, *[waiting for waiting, _ in self.pipeline]]:
            if cycle is not None and not cycle.response_started:
                cycle.disconnected = True
                cycle.body.clear()

    def _count_unread(self) -> None:
        self._connections.unread(self, self._head_bytes + sum(self._unread))

    def _take_turns(self) -> None:
        cycle = self.cycle
        awaits_body = cycle is not None and cycle.more_body and not self._is_at_work
        is_ours = cycle is not None and not (cycle.response_complete or awaits_body or self.flow.write_paused)
        if is_ours:
            self._connections.serve_client(self)
        else:
            self._connections.await_client(self)

    def _refuse(self, refusal: Refusal) -> None:
        """Read nothing more, and end the connection, but let a whole request before that have its answer first."""
        self._refusal = refusal
        self._connections.metrics.connection_refused(refusal.reason)
        cycle = self.cycle
        if self.pipeline or (cycle is not None and cycle.more_body and cycle.response_started):
            self.transport.abort()  # also in the middle of an answer, to a body that can't be read to its end
        elif cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started):
            self._answer(refusal)
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            cycle.keep_alive = False

    def _answer(self, refusal: Refusal) -> None:
        """Answer in place of the application, which is told that the client has disconnected."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False  # else it is written after this answer
            self.cycle.body.clear()
            self.cycle.message_event.set()
        self._connections.metrics.request_done("other", refusal.status)
        self.transport.write(refusal.to_bytes(self.server_state.default_headers))


def _host_in_target(target: bytes) -> bytes | None:
    """Return the host, with its port, of a request target that is a whole URL; None for a path."""
    scheme, separator, rest = target.partition(b"://")
    return rest.partition(b"/")[0] if separator and scheme.isalpha() else None
