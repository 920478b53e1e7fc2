"""Answers a body line by line while it comes, in order, and holds no more of it than it works on.

    pieces -> lines -> room, turn -> answers under way, in order -> sent

A line waits for room as long as it takes: nothing is refused for want of it, and nothing more is read meanwhile. Nor is
it while the client does not take its answers. A client that reads nothing before it has sent everything is answered if
it sends no more than may be under way: MOST_LINES, and as many bytes as a request may have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.types import Send

from service.api.answering import Asked, answer
from service.api.bodies import LARGE_BYTES
from service.api.caller import ClientLeft, Departure, late
from service.api.errors import described_problems, error_body
from service.api.exchange import Exchange
from service.api.lines import lines_of
from service.api.schemas.stream import LineIn
from service.api.state import Service
from service.api.streams import ROOM_S
from service.errors import BadInput, NotReady, Overloaded, ServiceError, TooLarge
from service.metrics.http import LineOutcome

log = logging.getLogger(__name__)

MOST_LINES = 64  # of a stream that are under way: some steps of the engine
HEADERS = [(b"content-type", b"application/x-ndjson"), (b"x-accel-buffering", b"no")]  # the latter for proxies


@dataclass(frozen=True, slots=True)
class _Line:
    """A line under way: its answer, and how many bytes it had."""

    answer: asyncio.Task[bytes]
    num_bytes: int


class LineStream:
    """One request whose body is a stream of lines, and its answer."""

    def __init__(self, service: Service, exchange: Exchange, asked: Asked) -> None:
        """asked: what is asked for of every line; its texts are a line's each time."""
        self._service = service
        self._exchange = exchange
        self._asked = asked
        self._most_bytes = service.settings.max_body_bytes  # of a line, and of all but one that are under way
        self._under_way: deque[_Line] = deque()
        self._num_bytes = 0  # of the lines under way
        self._changed = asyncio.Event()  # set whenever there may be something to do
        self._is_read = False
        self._end: ServiceError | None = None  # why it ended before its body did

    async def run(self, send: Send) -> None:
        """Answer all lines. Raises Overloaded, before anything is sent, if there is no room for another stream."""
        length = self._exchange.length
        most_held = min(length, 2 * self._most_bytes) if length else 2 * self._most_bytes
        with self._service.streams.joined(most_held, self._stop):
            self._reading = asyncio.create_task(self._read(self._exchange.pieces()))
            departure: Departure = self._exchange.scope["state"]["departure"]
            departure.watch(self._leave)  # once the body is read, nothing else tells
            try:
                await asyncio.sleep(0)  # whoever asks before sending (Expect: 100-continue) has its answer first
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                await self._write(send)
            finally:
                departure.forget()
                tasks = [self._reading, *(line.answer for line in self._under_way)]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._exchange.works_on_stream(False)
                self._under_way.clear()
                self._end = None  # whose traceback holds this
                del self._reading

    def _stop(self) -> None:
        """End after the lines under way, and say so, unless the body has been read to its end."""
        if not self._is_read:
            self._end = NotReady("the service is shutting down; send the lines that have no answer to another instance")
            self._reading.cancel()

    def _leave(self) -> None:
        """Work on nothing more, since the client has left."""
        self._end = ClientLeft("the client left before it had all answers")
        for task in (self._reading, *(line.answer for line in self._under_way)):
            task.cancel()
        self._changed.set()

    async def _read(self, pieces: AsyncIterator[bytes]) -> None:
        """Begin line after line, as there is room for them."""
        number = 0
        try:
            async for line in lines_of(pieces, self._most_bytes):
                number += 1
                if line is None or line.strip():
                    await self._begin(number, line)
        except ClientLeft:
            self._leave()
        finally:
            self._is_read = True
            self._changed.set()

    async def _begin(self, number: int, line: bytes | None) -> None:
        num_bytes = len(line or b"")
        while len(self._under_way) >= MOST_LINES or (
            self._under_way and self._num_bytes + num_bytes > self._most_bytes
        ):
            await self._wait()
        await self._service.streams.take_turn(self._service.engine)
        self._under_way.append(_Line(asyncio.create_task(self._answer(number, line)), num_bytes))
        self._num_bytes += num_bytes
        self._exchange.works_on_stream(True)
        self._changed.set()

    async def _write(self, send: Send) -> None:
        """Send the answers in order; at the end, why the stream ended if its body did not."""
        while (self._under_way or not self._is_read) and not isinstance(self._end, ClientLeft):
            if not self._under_way:
                await self._wait()
                continue
            line = self._under_way[0]
            if not line.answer.done():
                await asyncio.wait([line.answer])
                continue
            await send({"type": "http.response.body", "body": line.answer.result(), "more_body": True})
            self._under_way.popleft()
            self._num_bytes -= line.num_bytes
            self._changed.set()
            if not self._under_way:
                self._exchange.works_on_stream(False)
        if isinstance(self._end, ClientLeft):
            self._service.metrics.http.client_left()
            return
        if self._end is None:
            await self._reading  # raises what went wrong with it
        last = b"" if self._end is None else to_json(self._told(self._end, self._exchange.request_id)) + b"\n"
        await send({"type": "http.response.body", "body": last})

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _answer(self, number: int, line: bytes | None) -> bytes:
        """Return the answer to a line, or its error, as a line; raises nothing."""
        head: dict[str, Any] = {"line": number}
        request_id = f"{self._exchange.request_id}/{number}"
        outcome: LineOutcome = "error"
        try:
            is_large = len(line or b"") > LARGE_BYTES
            given = await asyncio.to_thread(self._parse, line) if is_large else self._parse(line)
            if given.id is not None:
                head["id"] = given.id
            body = await self._patiently(replace(self._asked, texts=given.text), request_id)
            outcome = "result"
        except ServiceError as error:
            body = to_json(self._told(error, request_id))
        except Exception:
            log.exception("line failed", extra={"data": {"request_id": request_id}})
            message = "the service failed on this line; the log has the details under its id"
            body = to_json(error_body(message, "InternalError", request_id))
        self._service.metrics.http.line_answered(outcome)
        return to_json(head)[:-1] + b"," + body[1:] + b"\n"

    def _parse(self, line: bytes | None) -> LineIn:
        """Return what a line says. Raises TooLarge or BadInput."""
        if line is None:
            raise TooLarge(f"the line is over the limit of {self._most_bytes} bytes (NER_MAX_BODY_BYTES); shorten it")
        try:
            return LineIn.model_validate_json(line.removeprefix(b"\xef\xbb\xbf"))
        except ValidationError as error:
            expected = 'expected an object such as {"text": "..."} on a line of its own'
            raise BadInput(f"{described_problems(error.errors())}; {expected}") from None

    async def _patiently(self, asked: Asked, request_id: str) -> bytes:
        """Return the answer to a text. If there is no room after all, it asks again. Raises what else refuses it."""
        state: dict[str, Any] = {"arrived": time.monotonic(), "departure": Departure(), "request_id": request_id}
        while True:
            try:
                return (await answer(self._service, {"state": state}, asked)).body
            except Overloaded:
                if asked.timeout_ms is not None and time.monotonic() > state["arrived"] + asked.timeout_ms / 1_000:
                    raise late() from None
                await asyncio.sleep(ROOM_S)

    @staticmethod
    def _told(error: ServiceError, request_id: str) -> dict[str, str]:
        return error_body(str(error), type(error).__name__, request_id)
