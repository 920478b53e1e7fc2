"""The client of `benchmarks.load`: sends requests when they are due, whether or not earlier ones are answered.

It is a process of its own and uses only the standard library, so that it takes little of the cores that it shares with
the server. It reads the texts from the first line of stdin, then one plan per line, and writes one report per plan. The
figures are computed in `benchmarks.load_trials`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import selectors
import sys
import time
from dataclasses import asdict, dataclass, field

HOST = "127.0.0.1"
NOT_ANSWERED, CONNECTION_FAILED = 0, -1
LONGEST_IDLE_S = 3.0  # uvicorn closes after 5 s: no request may go to a connection that is being closed
LEAD_S = 0.05
NICENESS = -10


@dataclass(slots=True)
class Plan:
    """What to send: text `texts[i]` at `due[i]` seconds; without `due`, each text when one before it is answered.

    grace_s  how long to wait for answers after the last arrival; without `due` (a closed loop), for all answers
    at_once  without `due`: how many requests are under way at a time
    """

    port: int
    texts: list[int]
    due: list[float] | None
    grace_s: float
    at_once: int = 1


@dataclass(slots=True)
class Report:
    """What the client saw, by request. Times are seconds from the start, 0 for what did not happen.

    status   the HTTP status, NOT_ANSWERED (in time) or CONNECTION_FAILED
    timing   the Server-Timing header, or "" if there was none
    """

    due: list[float]
    sent: list[float]
    done: list[float]
    status: list[int]
    timing: list[str]
    errors: dict[str, int] = field(default_factory=dict)
    connections: int = 0
    cpu_s: float = 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection, which carries one request at a time."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.request: int | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def send(self, request: int, message: bytes) -> None:
        """Send one request."""
        self.request = request
        if self._transport is not None:
            self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        """Collect an answer; answers without a Content-Length are not understood."""
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        if len(self._received) < head_end + 4 + int(header(head, b"content-length") or "0"):
            return
        self._received = b""
        self._trial.answered(self, int(head[9:12]), head)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the trial, which may be waiting for an answer."""
        self._trial.lost(self, error)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def header(head: bytes, name: bytes) -> str:
    """Return the value of a header in a head in lower case, or "" if it is missing."""
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return ""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].decode("latin-1").strip()


class Trial:
    """Carries out one plan, once, on connections of its own."""

    def __init__(self, plan: Plan, messages: list[bytes]) -> None:
        count = len(plan.texts)
        due = plan.due or [0.0] * count
        self._plan = plan
        self._messages = messages
        self._report = Report(due, [0.0] * count, [0.0] * count, [NOT_ANSWERED] * count, [""] * count)
        self._next = 0
        self._unsettled = count
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []
        self._openings: set[asyncio.Task[None]] = set()
        self._is_over = False

    async def run(self) -> Report:
        """Send everything, wait for the answers, close all connections."""
        self._loop = asyncio.get_running_loop()
        self._finished = self._loop.create_future()
        cpu_s = time.process_time()
        if self._plan.due is None:
            self._started = self._loop.time()
            for _ in range(self._plan.at_once):
                self._send_next()
        else:
            self._started = self._loop.time() + LEAD_S
            self._loop.call_at(self._started, self._send_due)
        timeout_s = LEAD_S + (self._plan.due or [0.0])[-1] + self._plan.grace_s
        await asyncio.wait([self._finished], timeout=timeout_s)
        self._report.cpu_s = time.process_time() - cpu_s
        self._close()
        await asyncio.sleep(0.01)  # so that the aborts reach the server
        return self._report

    def _close(self) -> None:
        self._is_over = True
        for opening in self._openings:
            opening.cancel()
        for connection in self._all:
            connection.abort()

    def _now(self) -> float:
        return self._loop.time() - self._started

    def _send_due(self) -> None:
        """Send what is due by now, and schedule the next call for when the next request is due."""
        due, now = self._report.due, self._now()
        while self._next < len(due) and due[self._next] <= now:
            self._send(self._next)
            self._next += 1
        if self._next < len(due) and not self._is_over:
            self._loop.call_at(self._started + due[self._next], self._send_due)

    def _send_next(self) -> None:
        """Send the next request of a closed loop, which is due now."""
        if self._next < len(self._report.due) and not self._is_over:
            self._report.due[self._next] = self._now()
            self._send(self._next)
            self._next += 1

    def _send(self, request: int) -> None:
        while self._idle:
            connection = self._idle.pop()
            if self._now() - connection.idle_since < LONGEST_IDLE_S:
                self._send_on(connection, request)
                return
            connection.abort()
        opening = self._loop.create_task(self._open(request))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)

    async def _open(self, request: int) -> None:
        """Open another connection, for a request that finds none idle."""
        try:
            _, connection = await self._loop.create_connection(lambda: Connection(self), HOST, self._plan.port)
        except OSError as error:
            self._settle(request, CONNECTION_FAILED, type(error).__name__)
            return
        self._all.add(connection)
        self._report.connections = max(self._report.connections, len(self._all))
        self._send_on(connection, request)

    def _send_on(self, connection: Connection, request: int) -> None:
        self._report.sent[request] = self._now()
        connection.send(request, self._messages[self._plan.texts[request]])

    def answered(self, connection: Connection, status: int, head: bytes) -> None:
        """Record the answer to a connection's request; the connection is free again."""
        request, connection.request = connection.request, None
        if request is None or self._is_over:
            return
        self._report.timing[request] = header(head, b"server-timing")
        if header(head, b"connection") == "close":
            connection.abort()
        else:
            connection.idle_since = self._now()
            self._idle.append(connection)
        self._settle(request, status, "" if status == 200 else str(status))

    def lost(self, connection: Connection, error: Exception | None) -> None:
        """Record that a connection is gone; the request that waited on it has failed."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.request is not None and not self._is_over:
            self._settle(connection.request, CONNECTION_FAILED, type(error).__name__ if error else "closed")

    def _settle(self, request: int, status: int, error: str) -> None:
        self._report.status[request] = status
        self._report.done[request] = self._now()
        if error:
            self._report.errors[error] = self._report.errors.get(error, 0) + 1
        self._unsettled -= 1
        if self._unsettled == 0 and not self._finished.done():
            self._finished.set_result(None)
        elif self._plan.due is None:
            self._send_next()


class PreciseSelector(selectors.EpollSelector):
    """Waits with `select` for epoll's own descriptor, since epoll rounds a wait up to whole milliseconds."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors.BaseSelector."""
        if timeout is None or timeout > 0:
            select.select((self.fileno(),), (), (), timeout)
        return super().select(0)


def message_of(asked: str | dict[str, object]) -> bytes:
    """Return the POST /ner of one text, or of a whole body, as bytes."""
    body = json.dumps({"text": asked} if isinstance(asked, str) else asked, ensure_ascii=False).encode()
    head = (
        f"POST /ner HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    """Carry out plans until stdin ends; run with priority over the server, if allowed, so as not to be late."""
    with contextlib.suppress(PermissionError):
        os.nice(NICENESS)
    messages = [message_of(asked) for asked in json.loads(sys.stdin.readline())]
    for line in iter(sys.stdin.readline, ""):
        trial = Trial(Plan(**json.loads(line)), messages)
        gc.collect()
        gc.disable()  # a garbage collection would make the client late
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PreciseSelector())) as runner:
            report = runner.run(trial.run())
        gc.enable()
        print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    main()
