"""The HTTP server from its first connection to its last: bounded, ready, draining. server.py builds what it serves."""

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

BACKLOG = 2_048  # connections that the system accepts ahead of us, and that may all turn up at once
SPARE_FILES = 64  # for everything that is no connection


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, bounds its connections, and answers on for a while after the first signal."""

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
            http=cast("Any", self._protocol),  # a class to uvicorn, which only calls it
            ws="none",
            workers=1,
            log_config=None,
            access_log=False,
            backlog=BACKLOG,
            timeout_keep_alive=math.ceil(settings.client_timeout_s) + 1,  # ours comes first
            timeout_graceful_shutdown=int(settings.timeout_ms / 1_000) + 1,
            server_header=False,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then say where and after how long."""
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
        """Cut off who is slow; end when the engine has given up, so that whoever watches starts a fresh process."""
        self._connections.cut_late()
        if self._service.engine.has_failed:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in what the system has accepted for us, since closing the port resets it; then end."""
        accepted = [connection for server in self.servers for connection in _waiting_connections(server)]
        for server in self.servers:
            server.close()
        wiring = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(partial(self._protocol, **wiring), connection)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: not ready any more, still answering; the end follows after drain_s, or at a second signal."""
        if self._service.is_draining:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._service.is_draining = True
        drain_s = self._service.settings.drain_s
        log.info("draining", extra={"data": {"signal": signal.Signals(sig).name, "seconds": drain_s}})
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, drain_s, self._end)

    def _end(self) -> None:
        self.should_exit = True


def _max_connections(wanted: int) -> int:
    """As many as wanted, or as the process may have files open; its own limit is raised for them."""
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
    """Connections that nobody has taken from the system yet."""
    for listening in server.sockets:
        with socket.socket(fileno=os.dup(listening.fileno())) as queue, suppress(OSError):
            while True:
                yield queue.accept()[0]
