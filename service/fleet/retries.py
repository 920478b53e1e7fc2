"""Sends a request to another replica if the one that had it died before it answered: a middleware for Serve's proxies.

Serve itself sends a request elsewhere only as long as no replica has taken it. Whether a request may be sent twice,
only we know: those that ask for entities change nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPEATABLE = ("/ner", "/", "/analyze")  # with POST; streams of lines are too long to be kept
ATTEMPTS = 5
PAUSE_S = 0.2  # before the next attempt, and twice as long before every other
MOST_BYTES = 2_000_000  # of a body that is kept, as NER_MAX_BODY_BYTES


def middlewares() -> list[Middleware]:
    """Return what RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is to name, so that Serve's proxies use it."""
    return [Middleware(Retries)]


class Retries:
    """ASGI middleware around Serve's proxy, which ends without an answer where the replica has died."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not _is_repeatable(scope):
            await self._app(scope, receive, send)
            return
        request, has_answer = _Request(receive), False

        async def answer(message: Message) -> None:
            nonlocal has_answer
            has_answer = True
            await send(message)

        for attempt in range(ATTEMPTS):
            await self._app(scope, request.receive, answer)
            if has_answer or not request.can_be_repeated:
                return
            await asyncio.sleep(PAUSE_S * 2**attempt)
            request.begin_anew()


class _Request:
    """A request's messages, kept so that they can be received again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Message] = []
        self._bytes = 0
        self._again: deque[Message] = deque()
        self.can_be_repeated = True

    async def receive(self) -> Message:
        """Return the next message: one that was kept, as long as there is one."""
        if self._again:
            return self._again.popleft()
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or self._bytes > MOST_BYTES:
            self.can_be_repeated = False  # nobody waits for an answer, or too much would be kept
            self._kept.clear()
        if self.can_be_repeated:
            self._kept.append(message)
        return message

    def begin_anew(self) -> None:
        """Return all messages once more."""
        self._again = deque(self._kept)


def _is_repeatable(scope: Scope) -> bool:
    """Return whether a request may be sent twice: a read, or one that asks for entities."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return scope["method"] in ("GET", "HEAD") or (scope["method"] == "POST" and path in REPEATABLE)
