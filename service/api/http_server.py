"""The HTTP server: it limits connections, logs when it is ready, drains before it ends. server.py builds the rest."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from service.api.app import create_app
from service.api.connections import Connection, Connections
from service.api.state import Service

log = logging.getLogger("service")

BACKLOG = 2_048  # connections that the system accepts ahead of us, and that may all arrive at once
SPARE_FILES = 64  # file descriptors for everything that is no connection


class Server(uvicorn.Server):
    """uvicorn that logs when it is ready, limits its connections, and answers for a while after the first signal."""

    def __init__(self, service: Service, process_started: float) -> None:
        settings = service.settings
        self._service = service
        self._process_started = process_started
        self._connections = Connections(
            service.metrics.http,
            limit=_max_connections(settings.max_connections),
            max_bytes=settings.queue_bytes,
            client_timeout_s=settings.client_timeout_s,
        )
        self._protocol = partial(Connection, self._connections)
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            root_path=settings.root_path,
            http=cast("Any", self._protocol),  # uvicorn declares a class, but only calls it
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
        """Begin to listen, then log the address, and the seconds since the process started."""
        await super().startup(sockets)
        if self.should_exit:  # the port was taken; uvicorn has said so
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        seconds = time.monotonic() - self._process_started
        data = {
            "url": f"http://{self.config.host}:{port}",
            "model": self._service.model_reference,
            "seconds": round(seconds, 2),
        }
        log.info("ready", extra={"data": data})

    async def on_tick(self, counter: int) -> bool:
        """Cut off slow clients; end if the engine has failed, so that a supervisor can start a fresh process."""
        self._connections.cut_late()
        if self._service.engine.has_failed:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that the system has accepted, since closing the port would reset them; then end."""
        accepted = [connection for server in self.servers for connection in _waiting_connections(server)]
        for server in self.servers:
            server.close()
        wiring = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(partial(self._protocol, **wiring), connection)
        await super().shutdown(sockets)

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


def _waiting_connections(server: asyncio.Server) -> Iterator[socket.socket]:
    """Yield the connections that the system has accepted and the server has not taken yet."""
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as queue, suppress(OSError):
            while True:
                yield queue.accept()[0]
