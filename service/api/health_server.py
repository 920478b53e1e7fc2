"""A listener of its own for health and metrics, in a thread and on an event loop of its own.

So they answer however busy the event loop of the main port is, and can say that it is stuck. What they say is the
matter of `health`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.types import Receive, Scope, Send

from service.api.connections import Connection, Connections
from service.api.errors import error_body
from service.api.health import Wellbeing
from service.api.hosts import AllowedHosts, HostRefused, host_of
from service.metrics.http import HttpMetrics
from service.metrics.series import Series
from service.settings import Settings

MAX_CONNECTIONS = 256
MAX_BYTES = 1_000_000  # of unfinished requests
CLIENT_TIMEOUT_S = 10.0
JOIN_S = 2.0

Answer = tuple[int, str, bytes]  # status, content type, body


class HealthServer:
    """Answers GET and HEAD of /livez, /readyz, /health and /metrics, from `start` to `close`."""

    def __init__(self, wellbeing: Wellbeing, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        """Prepare to listen on `sockets`, which are bound to one port."""
        self._sockets = sockets
        self.port: int = sockets[0].getsockname()[1]
        hosts = AllowedHosts([settings.host, *settings.allowed_hosts.split(",")])
        connections = Connections(
            HttpMetrics(Series(CollectorRegistry(), ""), ()),  # what comes here is not counted
            limit=MAX_CONNECTIONS,
            max_bytes=MAX_BYTES,
            client_timeout_s=CLIENT_TIMEOUT_S,
        )
        config = uvicorn.Config(
            partial(_answer, wellbeing, hosts),
            http=cast("Any", partial(Connection, connections)),
            loop="asyncio",  # which accepts all that wait in one turn
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=int(CLIENT_TIMEOUT_S) + 1,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = _Server(config, connections)
        self._thread = threading.Thread(target=self._server.run, args=([*sockets],), name="health", daemon=True)

    def start(self) -> None:
        """Begin to answer; who connects from now on is not turned away."""
        for bound in self._sockets:
            bound.listen(MAX_CONNECTIONS)
        self._thread.start()

    def close(self) -> None:
        """Stop answering, and give the port back."""
        self._server.should_exit = True
        self._thread.join(JOIN_S)
        for bound in self._sockets:
            bound.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections

    async def on_tick(self, counter: int) -> bool:
        """Cut off slow clients."""
        self._connections.cut_late()
        return await super().on_tick(counter)


async def _answer(wellbeing: Wellbeing, hosts: AllowedHosts, scope: Scope, receive: Receive, send: Send) -> None:
    """See ASGI."""
    answer_of = _ANSWERS.get(scope["path"])
    if (refused := _refused(hosts, scope)) is not None:
        answered = _error(421, "HostRefused", refused)
    elif answer_of is None:
        answered = _error(404, "NotFound", f"this port has {', '.join(_ANSWERS)} alone; the rest is on NER_PORT")
    elif scope["method"] not in ("GET", "HEAD"):
        answered = _error(405, "MethodNotAllowed", "this port takes GET and HEAD alone")
    else:
        answered = await answer_of(wellbeing)
    status, content_type, body = answered
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    if scope["method"] not in ("GET", "HEAD"):
        headers.append((b"connection", b"close"))  # a body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refused(hosts: AllowedHosts, scope: Scope) -> str | None:
    """Return why the host that a request is for is not served; None if it is."""
    try:
        hosts.check(host_of(dict(scope["headers"])))
    except HostRefused as error:
        return str(error)
    return None


async def _liveness(wellbeing: Wellbeing) -> Answer:
    return _health(*wellbeing.liveness())


async def _readiness(wellbeing: Wellbeing) -> Answer:
    return _health(*wellbeing.readiness())


async def _metrics(wellbeing: Wellbeing) -> Answer:
    """Return the metrics, from a thread: other processes may have to be asked, and probes must not wait for that."""
    return 200, CONTENT_TYPE_LATEST, await asyncio.to_thread(wellbeing.render_metrics)


def _health(word: str, is_well: bool) -> Answer:
    return 200 if is_well else 503, "application/json", json.dumps({"status": word}).encode()


def _error(status: int, error_type: str, message: str) -> Answer:
    return status, "application/json", json.dumps(error_body(message, error_type, "")).encode()


_ANSWERS: dict[str, Callable[[Wellbeing], Awaitable[Answer]]] = {
    "/livez": _liveness,
    "/readyz": _readiness,
    "/health": _readiness,
    "/metrics": _metrics,
}
