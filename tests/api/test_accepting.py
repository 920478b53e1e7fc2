"""Newcomers under load: all that wait are taken in one turn of the event loop, however long a turn takes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from service.api import http_server
from service.api.connections import Connection
from service.api.http_server import Server
from service.api.state import Service
from tests.api.servers_ import listening, wait_until
from tests.api.sockets_ import RawClient, head

NEWCOMERS = 50


def test_all_connections_that_wait_are_taken_in_one_turn_of_the_event_loop(
    build: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is held while the newcomers connect; then a callback counts its turns, up to the last of them."""
    turn, taken, held, go_on = [0], Counter[int](), threading.Event(), threading.Event()
    made = Connection.connection_made

    def count_turns() -> None:
        turn[0] += 1
        asyncio.get_running_loop().call_soon(count_turns)

    def connection_made(self: Connection, transport: asyncio.BaseTransport) -> None:
        taken[turn[0]] += 1
        made(self, transport)
        if not held.is_set():
            held.set()
            go_on.wait()
            count_turns()

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    with listening(build()) as url, ExitStack() as stack:
        stack.enter_context(RawClient(url))
        wait_until(held.is_set)
        clients = [stack.enter_context(RawClient(url)) for _ in range(NEWCOMERS)]
        go_on.set()
        wait_until(lambda: sum(taken.values()) == NEWCOMERS + 1)
        for client in clients:
            client.send(head("GET", "/livez"))
        assert [client.read_answer().status for client in clients] == [200] * NEWCOMERS
    assert max(taken.values()) > NEWCOMERS / 2


def test_who_connects_while_the_port_is_being_closed_is_answered(
    build: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They connect when the server takes no one any more, just before the last look at who waits."""
    servers: list[Server] = []
    clients: list[RawClient] = []
    queues, waiting = Server._queues, http_server._waiting_connections

    def remember(self: Server) -> list[socket.socket]:
        servers.append(self)
        return queues(self)

    def connect_then_look(queue: socket.socket) -> list[socket.socket]:
        if not any(server.is_serving() for server in servers[-1].servers):
            clients.append(stack.enter_context(RawClient(url)))
            clients[-1].send(head("GET", "/livez"))
        return waiting(queue)

    monkeypatch.setattr(Server, "_queues", remember)
    monkeypatch.setattr(http_server, "_waiting_connections", connect_then_look)
    with ExitStack() as stack:
        with listening(build()) as url:
            pass
        assert [client.read_answer().status for client in clients] == [200]
