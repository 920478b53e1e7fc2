"""Health and metrics on a port of their own, which answers whatever the main port suffers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api import state
from service.api.connections import Connection
from service.api.health import OfOneProcess
from service.api.health_server import HealthServer
from service.api.listening import bind_health
from service.api.state import Heartbeat, Service
from service.errors import BadInput
from tests.api.servers_ import PATIENCE_S, listening, wait_until
from tests.api.sockets_ import Answer, RawClient, ask, head, post

Build = Callable[..., Service]


def test_it_answers_as_the_main_port_does(build: Build) -> None:
    service = build(health_port=free_port())
    with listening(service) as url:
        own = health_url(service)
        for path in ("/livez", "/readyz", "/health"):
            assert ask(own, head("GET", path)).json() == ask(url, head("GET", path)).json()
            assert ask(own, head("HEAD", path)).status == 200
        names = [{family.name for family in scrape(one)} for one in (own, url)]
        assert names[0] == names[1] and "ner_requests" in names[0]
        service.is_draining = True
        assert [ask(own, head("GET", path)).status for path in ("/livez", "/readyz", "/health")] == [200, 503, 503]


def test_it_has_nothing_else_and_takes_no_bodies(build: Build) -> None:
    service = build(health_port=free_port())
    with listening(service):
        own = health_url(service)
        assert ask(own, head("GET", "/exit-policy")).status == 404
        assert ask(own, post(b'{"text": "Anna"}')).status == 404
        refused = ask(own, head("POST", "/livez"))
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        assert refused.json()["error_type"] == "MethodNotAllowed"


def test_it_answers_while_the_event_loop_of_the_main_port_is_stuck_and_says_so(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LOOP_STUCK_S", 1.0)
    service, go_on = build(health_port=free_port()), threading.Event()
    made = Connection.connection_made

    def stick(self: Connection, transport: asyncio.BaseTransport) -> None:
        made(self, transport)
        if threading.current_thread().name == "server":
            go_on.wait()

    with listening(service) as url:
        own = health_url(service)
        assert ask(own, head("GET", "/livez")).json() == {"status": "alive"}
        monkeypatch.setattr(Connection, "connection_made", stick)
        with RawClient(url) as client:
            wait_until(lambda: ask(own, head("GET", "/livez")).status == 503)
            assert ask(own, head("GET", "/readyz")).json() == {"status": "stuck"}
            assert scrape(own)
            go_on.set()
            wait_until(lambda: ask(own, head("GET", "/livez")).status == 200)
            client.send(head("GET", "/livez"))
            assert client.read_answer().status == 200


def test_metrics_that_take_long_delay_nobody(build: Build) -> None:
    asked, go_on = threading.Event(), threading.Event()

    class Slow(OfOneProcess):
        def render_metrics(self) -> bytes:
            asked.set()
            go_on.wait(PATIENCE_S)
            return b"slow 1\n"

    service = build(health_port=0)
    server = HealthServer(Slow(service), service.settings, bind_health(service.settings))
    server.start()
    try:
        with RawClient(f"http://127.0.0.1:{server.port}") as client:
            client.send(head("GET", "/metrics"))
            assert asked.wait(PATIENCE_S)
            assert ask(f"http://127.0.0.1:{server.port}", head("GET", "/livez")).status in (200, 503)
            go_on.set()
            assert client.read_answer().body == b"slow 1\n"
    finally:
        go_on.set()
        server.close()


def test_its_clients_cannot_crowd_it_or_keep_it_waiting(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.health_server.MAX_CONNECTIONS", 10)
    service = build(health_port=free_port())
    with listening(service):
        own = health_url(service)
        silent = [RawClient(own) for _ in range(100)]
        assert [ask(own, head("GET", "/livez")).status for _ in range(5)] == [200] * 5
        for client in silent:
            client.socket.close()


def test_a_port_that_is_taken_is_named_before_anything_starts(build: Build) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            BadInput, match=f"NER_HEALTH_PORT={port}: Address already in use; .*another NER_HEALTH_PORT"
        ):
            bind_health(build(health_port=port).settings)


def test_a_host_of_both_families_is_reached_by_both(build: Build) -> None:
    service = build(host="::", health_port=free_port())
    with listening(service):
        for address in ("127.0.0.1", "[::1]"):
            assert ask(f"http://{address}:{service.settings.health_port}", head("GET", "/livez")).status == 200


def test_a_request_for_a_host_that_is_none_of_the_servers_names_is_refused(build: Build) -> None:
    service = build(health_port=free_port())
    with listening(service):
        refused = ask(health_url(service), head("GET", "/metrics").replace(b"Host: x", b"Host: evil.example"))
        assert (refused.status, refused.json()["error_type"]) == (421, "HostRefused")


def test_a_loop_that_never_beat_is_not_stuck_and_one_that_beats_is_well() -> None:
    now = [0.0]
    heartbeat = Heartbeat(lambda: now[0])
    now[0] = 1_000.0
    assert not heartbeat.is_stuck
    heartbeat.beat()
    now[0] += state.LOOP_STUCK_S
    assert not heartbeat.is_stuck
    now[0] += 0.1
    assert heartbeat.is_stuck


def test_the_log_names_the_port_that_was_free(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with listening(build(health_port=0)):
        told: list[dict[str, Any]] = []
        wait_until(lambda: told or told.extend(r.__dict__["data"] for r in caplog.records if r.message == "ready"))
        (ready,) = told
        assert ask(f"http://127.0.0.1:{ready['health_port']}", head("GET", "/readyz")).status == 200


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def health_url(service: Service) -> str:
    """Of the port that the service was given."""
    return f"http://127.0.0.1:{service.settings.health_port}"


def scrape(url: str) -> list[object]:
    """The families of GET /metrics."""
    answered: Answer = ask(url, head("GET", "/metrics"))
    assert answered.status == 200
    return list(text_string_to_metric_families(answered.body.decode()))
