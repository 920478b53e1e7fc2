"""What every HTTP request gets before a route sees it: an id, a bounded body, and a count when it is answered."""

from __future__ import annotations

import json
import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import error_body
from service.metrics import Metrics

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestMiddleware:
    """Plain ASGI. The body is read whole, up to its limit, before the app runs; what is longer gets 413 at once."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                self._metrics.request_done(_endpoint(scope), message["status"])
            await send(message)

        length = headers.get(b"content-length", b"0")
        body = None
        if not length.isdigit() or int(length) <= self._max_body_bytes:
            body = await self._read_body(receive)
        if body is None:
            self._metrics.request_too_large()
            await self._refuse(request_id, send_counted)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, receive_again, send_counted)

    async def _read_body(self, receive: Receive) -> bytes | None:
        """The whole body; None when it is over the limit."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                return None
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _refuse(self, request_id: str, send: Send) -> None:
        message = f"the body is over the limit of {self._max_body_bytes} bytes (NER_MAX_BODY_BYTES); send it in parts"
        body = json.dumps(error_body(message, "TooLarge", request_id)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _request_id(given: bytes) -> str:
    return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _endpoint(scope: Scope) -> str:
    """The route's path, so that the label stays bounded; "other" where no route matched."""
    route = scope.get("route")
    return getattr(route, "path", "other")
