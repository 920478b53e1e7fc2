"""What every HTTP request gets: one of two ways to its answer, and an answer whatever happens."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.budget import BodyBudget
from service.api.errors import endpoint_of, error_body, error_response
from service.api.exchange import Exchange, RequestIds, discard_body, length_of, log_access
from service.api.hosts import AllowedHosts
from service.api.short_way import EntityCall, ShortWay
from service.api.state import Service
from service.errors import Overloaded, ServiceError
from service.logs import request_id

log = logging.getLogger(__name__)

SHORT_BODY_BYTES = 65_536  # of a refused request, whose connection is kept


class RequestMiddleware:
    """ASGI middleware around every request. An exception that no handler took is a bug of ours: it is logged, and the
    answer reveals nothing internal."""

    def __init__(self, app: ASGIApp, *, service: Service, calls: Iterable[EntityCall]) -> None:
        """calls: that take the short way, where they can."""
        self._app = app
        self._short_way = ShortWay(service, calls)
        self._service = service
        self._bodies = BodyBudget(service.settings.queue_bytes)
        self._ids = RequestIds()
        settings = service.settings
        self._hosts = AllowedHosts([settings.host, *settings.allowed_hosts.split(",")])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = self._short_way.call_of(scope)
        if call is not None and (overload := self._overload(scope)) is not None:
            await self._refuse(scope, call.route.path, receive, send, overload)
            return
        exchange = Exchange(self._service, self._bodies, self._ids, scope, receive, send)
        request_id.set(exchange.request_id)  # every request is a task, and so a context, of its own
        try:
            self._hosts.check(exchange.host)
            if call is None or not await self._short_way.answer(exchange, call):
                await self._app(exchange.scope, exchange.receive, exchange.send)
        except ServiceError as error:
            await error_response(exchange.scope, error)(scope, exchange.receive, exchange.send)
        except Exception:
            if exchange.status is not None:
                raise  # the server logs it, and ends the connection
            told = {"request_id": exchange.request_id, "endpoint": endpoint_of(exchange.scope), "status": 500}
            log.exception("request failed", extra={"data": told})
            message = "the service failed on this request; the log has the details under its id"
            body = error_body(message, "InternalError", exchange.request_id)
            await JSONResponse(body, 500, headers={"Connection": "close"})(scope, exchange.receive, exchange.send)
        finally:
            exchange.end()

    def _overload(self, scope: Scope) -> Overloaded | None:
        """Return why a request for entities is refused by its head alone, before anything else is done with it."""
        settings, latest = self._service.settings, scope.setdefault("state", {}).setdefault("arrived", time.monotonic())
        try:
            length = length_of(dict(scope["headers"])) or 0
            if length <= settings.max_body_bytes:  # else it is told so
                self._service.engine.forecast.check(latest + settings.timeout_ms / 1_000, length)
        except Overloaded as error:
            return error.with_traceback(None)  # whose frames hold the request, which would hold it: a cycle
        return None

    async def _refuse(self, scope: Scope, endpoint: str, receive: Receive, send: Send, error: Overloaded) -> None:
        """Answer with next to no work; of a body that still comes, the server reads and drops what is short."""
        headers = dict(scope["headers"])
        request_id = self._ids.id_of(headers)
        body = json.dumps(error_body(str(error), "Overloaded", request_id)).encode()
        answered = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % error.retry_after_s),
            (b"x-request-id", request_id.encode()),
        ]
        length = length_of(headers)
        may_not_come = b"expect" in headers  # the client may send it, or go on with its next request
        is_long = length is None or length > SHORT_BODY_BYTES
        if self._service.is_draining or may_not_come or is_long:
            answered.append((b"connection", b"close"))
        self._service.metrics.http.request_refused("too_late")
        self._service.metrics.http.request_done(endpoint, 429)
        await send({"type": "http.response.start", "status": 429, "headers": answered})
        await send({"type": "http.response.body", "body": body, "more_body": is_long})
        if is_long:
            await discard_body(receive)
            await send({"type": "http.response.body"})
        if self._service.settings.access_log:
            log_access(request_id, scope["method"], endpoint, 429, scope["state"]["arrived"])
