"""The composition's HAProxy before scripted replicas: who gets what, and what becomes of what is not answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import httpx2 as httpx
import pytest

from tests.api.servers_ import PATIENCE_S, wait_until
from tests.e2e.front_ import Front

BODY = b'{"text": "Ada"}'


class Replica(ThreadingHTTPServer):
    """Answers with its name; on demand dies of requests, holds them, or is not ready."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.seen: list[str] = []
        self.forwarded: list[str] = []
        self.dies = False
        self.is_ready = True
        self.gate = threading.Event()
        self.gate.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self._answer(200 if self.server.is_ready else 503)
        else:
            self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(f"{self.command} {self.path}")
        self.server.forwarded.append(self.headers.get("X-Forwarded-For", ""))
        if self.server.dies:
            self.close_connection = True
            return
        self.server.gate.wait(PATIENCE_S)
        self._answer(200)

    def _answer(self, status: int) -> None:
        body = self.server.name.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # HAProxy has looked at the status and left
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    """Two."""
    with Replica("one") as one, Replica("other") as other:
        yield [one, other]


@pytest.fixture
def front(tmp_path: Path, replicas: list[Replica]) -> Iterator[Front]:
    """In front of both, which it has found ready."""
    with Front(tmp_path, *((replica.server_port, replica.server_port) for replica in replicas)) as running:
        yield running


def ask(front: Front) -> httpx.Response:
    return front.client.post("/ner", content=BODY)


def test_a_request_for_entities_that_one_replica_dies_of_is_answered_by_the_other(
    front: Front, replicas: list[Replica]
) -> None:
    replicas[0].dies = True
    answers = [ask(front) for _ in range(6)]
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "other")] * 6
    assert front.retried == replicas[0].seen.count("POST /ner") > 0


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/exit-policy"), ("POST", "/feedback")])
def test_a_change_is_sent_once(front: Front, replicas: list[Replica], method: str, path: str) -> None:
    before = [len(replica.seen) for replica in replicas]
    for replica in replicas:
        replica.dies = True
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n"
    assert front.send_at_once(head.encode() + BODY).startswith(b"HTTP/1.1 502 ")
    after = [seen for replica, count in zip(replicas, before, strict=True) for seen in replica.seen[count:]]
    assert after == [f"{method} {path}"]


def test_a_request_goes_to_the_replica_with_the_fewest_under_way(front: Front, replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.gate.clear()
    with ThreadPoolExecutor() as pool:
        held = pool.submit(ask, front)
        wait_until(lambda: any("POST /ner" in replica.seen for replica in replicas))
        busy, idle = sorted(replicas, key=lambda replica: "POST /ner" in replica.seen, reverse=True)
        idle.gate.set()
        assert [ask(front).text for _ in range(5)] == [idle.name] * 5
        busy.gate.set()
        assert held.result().text == busy.name


def test_a_replica_that_is_not_ready_gets_no_request_until_it_is(front: Front, replicas: list[Replica]) -> None:
    replicas[0].is_ready = False
    wait_until(lambda: "replicas/ner is DOWN" in front.log)
    assert {ask(front).text for _ in range(4)} == {"other"}
    replicas[0].is_ready = True
    wait_until(lambda: "replicas/ner is UP" in front.log)
    assert {ask(front).text for _ in range(4)} == {"one", "other"}


def test_what_a_replica_has_in_hand_is_not_cut_off_when_it_is_no_longer_ready(
    front: Front, replicas: list[Replica]
) -> None:
    for replica in replicas:
        replica.gate.clear()
    with ThreadPoolExecutor() as pool:
        held = pool.submit(ask, front)
        wait_until(lambda: any("POST /ner" in replica.seen for replica in replicas))
        [busy] = [replica for replica in replicas if "POST /ner" in replica.seen]
        busy.is_ready = False
        wait_until(lambda: "is DOWN" in front.log)
        busy.gate.set()
        assert (held.result().status_code, held.result().text) == (200, busy.name)


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/health", "/%6detrics", "/m%65trics"])
def test_what_is_for_operators_is_not_published(front: Front, replicas: list[Replica], path: str) -> None:
    assert front.client.get(path).status_code == 404
    assert not any(f"GET {path}" in replica.seen for replica in replicas)


def test_replicas_are_told_the_client_s_address_and_not_what_it_says(front: Front, replicas: list[Replica]) -> None:
    front.client.post("/ner", content=BODY, headers={"X-Forwarded-For": "198.51.100.7"})
    assert {said for replica in replicas for said in replica.forwarded} == {"127.0.0.1"}
