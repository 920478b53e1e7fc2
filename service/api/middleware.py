"""What every HTTP request gets around its route: an id, a bounded body, an answer whatever happens, and a count."""

from __future__ import annotations

import logging
import re
import uuid

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import error_body
from service.metrics import Metrics

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestMiddleware:
    """Plain ASGI. The body is read whole, up to its limit, before the app runs; what is longer gets 413 at once.

    An exception that no handler of the app took is a bug of ours: logged here, and answered with nothing internal.
    """

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

        is_answered = False

        async def send_counted(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                self._metrics.request_done(_endpoint(scope), message["status"])
            await send(message)

        async def refuse(status: int, message: str, error_type: str) -> None:
            body = error_body(message, error_type, request_id)
            await JSONResponse(body, status, headers={"Connection": "close"})(scope, receive, send_counted)

        length = headers.get(b"content-length", b"0")
        body = None
        if not length.isdigit() or int(length) <= self._max_body_bytes:
            try:
                body = await self._read_body(receive)
            except ClientDisconnect:
                self._metrics.client_left()
                return
        if body is None:
            self._metrics.request_too_large()
            limit = f"the limit of {self._max_body_bytes} bytes (NER_MAX_BODY_BYTES)"
            await refuse(413, f"the body is over {limit}; send it in parts", "TooLarge")
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return pending.pop() if pending else await receive()

        try:
            await self._app(scope, receive_again, send_counted)
        except Exception:
            log.exception("request failed", extra={"data": {"request_id": request_id}})
            if is_answered:
                raise
            message = "the service failed on this request; the log has the details under its id"
            await refuse(500, message, "InternalError")

    async def _read_body(self, receive: Receive) -> bytes | None:
        """The whole body; None when it is over the limit. Raises ClientDisconnect."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                return None
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


def _request_id(given: bytes) -> str:
    return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _endpoint(scope: Scope) -> str:
    """The route's path, so that the label stays bounded; "other" where no route matched.

    "/" is where entities are asked for in Hugging Face's format; the page that GET has there is called by its name.
    """
    path: str = getattr(scope.get("route"), "path", "other")
    return "console" if path == "/" and scope["method"] in ("GET", "HEAD") else path
