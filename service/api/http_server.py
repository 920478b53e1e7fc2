"""The HTTP server: it limits connections, logs when it is ready, drains before it ends. server.py builds the rest."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from service.api.app import create_app
from service.api.connections import Connection, Connections
from service.api.health import OfOneProcess
from service.api.health_server import HealthServer
from service.api.listening import cannot_listen, url_of
from service.api.state import Service

log = logging.getLogger("service")

BACKLOG = 2_048  # connections that the system accepts ahead of us, and that may all arrive at once
SPARE_FILES = 64  # file descriptors for everything that is no connection


def what_runs(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the line that says "ready" tells of how the model runs."""
    return {name: environment[name] for name in ("executor", "instructions", "given_up") if name in environment}


class Server(uvicorn.Server):
    """uvicorn that logs when it is ready, limits its connections, and answers for a while after the first signal."""

    def __init__(
        self,
        service: Service,
        process_started: float,
        health: Sequence[socket.socket] = (),
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """health: sockets bound to the port for health; none if there is no such port.

        on_ready: is called once requests are answered, instead of logging it.
        """
        self._on_ready = on_ready
        settings = service.settings
        self._service = service
        self._process_started = process_started
        self._connections = Connections(
            service.metrics.http,
            limit=_max_connections(settings.max_connections),
            max_bytes=settings.queue_bytes,
            client_timeout_s=settings.client_timeout_s,
        )
        self._health = HealthServer(OfOneProcess(service), settings, health) if health else None
        self._openings: set[asyncio.Task[Any]] = set()
        self._takes_waiting = False  # in this turn of the event loop
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            root_path=settings.root_path,
            http=cast("Any", self._connect),  # uvicorn declares a class, but only calls it
            ws="none",
            workers=1,
            log_config=None,
            access_log=False,
            backlog=BACKLOG,
            timeout_keep_alive=math.ceil(settings.client_timeout_s) + 1,  # our own limit comes first
            timeout_graceful_shutdown=int(settings.timeout_ms / 1_000) + 1,
            server_header=False,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then log the address, and the seconds since the process started.

        Raises BadInput if another process has begun to listen on the same port since ours was bound.
        """
        try:
            await super().startup(sockets)
            if any(bound.fileno() < 0 for bound in sockets or ()):  # uvloop's way to say that it cannot listen there
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        except OSError as error:
            await self.lifespan.shutdown()
            raise cannot_listen(self.config.host, self.config.port, error) from error
        if self.should_exit:
            return
        if self._health is not None:
            self._health.start()
        if self._on_ready is not None:
            self._on_ready()
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        seconds = time.monotonic() - self._process_started
        data = {
            "url": url_of(self.config.host, port),
            "model": self._service.model_reference,
            "seconds": round(seconds, 2),
            **what_runs(self._service.environment),
        }
        if self._health is not None:
            data["health_port"] = self._health.port
        log.info("ready", extra={"data": data})

    async def on_tick(self, counter: int) -> bool:
        """Say that the event loop is well, and cut off slow clients.

        End if the engine has failed, so that a supervisor can start a fresh process.
        """
        self._service.heartbeat.beat()
        self._connections.cut_late()
        if self._service.engine.has_failed:
            self.should_exit = True
        return await super().on_tick(counter)

    def _connect(self, **wiring: Any) -> Connection:
        """Make the protocol of a new connection; see to it that all that wait beside it are taken in this turn, too.

        libuv, and so uvloop, accepts one connection a turn of the event loop. Under load a turn takes long, and many
        newcomers would wait for as many turns.
        """
        if not self._takes_waiting:
            self._takes_waiting = True
            asyncio.get_running_loop().call_soon(self._take_waiting)
        return Connection(self._connections, **wiring)

    def _take_waiting(self) -> None:
        """Take the connections that the system has accepted and the event loop has not seen yet."""
        self._takes_waiting = False
        for queue in self._queues():
            with queue:
                self._take(_waiting_connections(queue))

    def _queues(self) -> list[socket.socket]:
        """Return the sockets on which the server listens, opened once more."""
        return [socket.socket(fileno=os.dup(of.fileno())) for server in self.servers for of in server.sockets]

    def _take(self, connections: Sequence[socket.socket]) -> None:
        wiring = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        loop = asyncio.get_running_loop()
        for connection in connections:
            made = partial(Connection, self._connections, **wiring)
            opening = loop.create_task(loop.connect_accepted_socket(made, connection))
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that the system has accepted, since closing the port would reset them; then end.

        The port stays open beyond the server's own end, and is closed the moment that nobody waits there.
        """
        queues = self._queues()
        for server in self.servers:
            server.close()
        for queue in queues:
            with queue:
                last = _waiting_connections(queue)
            self._take(last)
        await asyncio.sleep(0)  # those that the event loop has just taken are told of in its next turn
        if self._openings:
            await asyncio.wait(self._openings)
        await super().shutdown(sockets)
        if self._health is not None:
            self._health.close()
        log.info("ended")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal: no longer ready, but still answering. End after drain_s; at a second signal, now.

        Whoever sends a second one, as by Ctrl-C twice, does not want to wait for requests that are under way.
        """
        if self._service.is_draining:
            log.warning("ended at once", extra={"data": {"signal": signal.Signals(sig).name}})
            logging.getLogger("uvicorn.error").disabled = True  # what breaks off now is no fault
            self.force_exit = self.should_exit = True
            return
        self._service.is_draining = True
        drain_s = self._service.settings.drain_s
        log.info("draining", extra={"data": {"signal": signal.Signals(sig).name, "seconds": drain_s}})
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(self._service.streams.end)  # others may go on with what is left of them
        loop.call_soon_threadsafe(loop.call_later, drain_s, self._end)

    def _end(self) -> None:
        self.should_exit = True


def _max_connections(wanted: int) -> int:
    """Return `wanted`, or less if the process may not open so many files; its own limit is raised first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + BACKLOG + SPARE_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    possible = max(soft // 2, soft - BACKLOG - SPARE_FILES)
    if possible < wanted:
        advice = "raise the limit of open files (ulimit -Hn), or lower NER_MAX_CONNECTIONS"
        log.warning("fewer connections", extra={"data": {"wanted": wanted, "possible": possible, "advice": advice}})
    return min(wanted, possible)


def _waiting_connections(queue: socket.socket) -> list[socket.socket]:
    """Return the connections that the system has accepted on a listening socket and nobody has taken yet."""
    connections: list[socket.socket] = []
    with suppress(OSError):
        while True:
            connections.append(queue.accept()[0])
    for connection in connections:
        connection.setblocking(False)
    return connections
