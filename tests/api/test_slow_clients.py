"""Clients that keep the service waiting are cut off in time, and make room where it is crowded; others are served."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.api.state import Service
from tests.api.servers_ import GatedStepper, listening, tiny_service, use_stepper, value, wait_until
from tests.api.sockets_ import Answer, RawClient, ask, head, post

Build = Callable[..., Service]
Serve = Callable[..., str]
ServeGated = Callable[..., tuple[Service, str]]
TIMEOUT_S = 0.5
GOOD = post(b'{"text": "Anna"}')
IN_HEAD = GOOD[:20]
IN_BODY = GOOD[:-4]
SLOW = json.dumps({"text": "Anna", "exit_policy": {"strategy": "full_depth"}}).encode()
LARGE_ANSWERS = head("GET", "/docs-assets/swagger-ui-bundle.js") * 10  # more than the system keeps for a connection


@pytest.fixture
def serve(build: Build) -> Iterator[Serve]:
    """Start a server of settings, or around a service; -> its URL."""
    with ExitStack() as stack:

        def serve(service: Service | None = None, **settings: Any) -> str:
            return stack.enter_context(listening(service or build(**settings)))

        yield serve


@pytest.fixture
def serve_gated(build: Build, serve: Serve, gated: GatedStepper) -> ServeGated:
    """Start a server of settings whose steps wait for the gate; -> its service and its URL."""

    def serve_gated(**settings: Any) -> tuple[Service, str]:
        service = build(**settings)
        use_stepper(service, gated)
        return service, serve(service)

    return serve_gated


@pytest.fixture(scope="module")
def strict(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A server that waits for TIMEOUT_S only."""
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"), client_timeout_s=TIMEOUT_S)
    with listening(service) as url:
        yield service, url


def drip(client: RawClient, data: bytes, answers: list[Answer]) -> None:
    """Send a byte now and then, until the server answers."""
    reader = threading.Thread(target=lambda: answers.append(client.read_answer()))
    reader.start()
    for byte in data:
        client.send(bytes([byte]))
        reader.join(TIMEOUT_S / 20)
        if not reader.is_alive():
            break
    reader.join()


# too slow


@pytest.mark.parametrize("sent", [b"", IN_HEAD, IN_BODY], ids=["nothing", "half a head", "half a body"])
def test_a_request_that_does_not_arrive_is_told_that_it_took_too_long(strict: tuple[Service, str], sent: bytes) -> None:
    with RawClient(strict[1]) as client:
        client.send(sent)
        answer = client.read_answer()
        assert client.is_ended()
    assert (answer.status, answer.json()["error_type"]) == (408, "TooSlow")
    assert "NER_CLIENT_TIMEOUT_S" in answer.json()["error"]


@pytest.mark.parametrize("start", [b"GET /livez HTTP/1.1\r\nX: ", post(b" " * 9_000)[:-8_000]], ids=["head", "body"])
def test_a_request_that_drips_is_cut_off_all_the_same(strict: tuple[Service, str], start: bytes) -> None:
    answers: list[Answer] = []
    with RawClient(strict[1]) as client:
        client.send(start)
        drip(client, b" " * 1_000, answers)
    assert [answer.status for answer in answers] == [408]


def test_a_connection_that_is_idle_after_its_answer_is_closed_without_a_word(strict: tuple[Service, str]) -> None:
    with RawClient(strict[1]) as client:
        client.send(GOOD)
        assert client.read_answer().status == 200
        assert client.is_ended()


def test_a_client_that_never_takes_its_answer_is_cut_off(strict: tuple[Service, str]) -> None:
    service, url = strict
    before = value(service, "ner_connections_refused_total", reason="slow")
    with RawClient(url) as client:
        client.send(LARGE_ANSWERS)
        wait_until(lambda: value(service, "ner_connections_refused_total", reason="slow") == before + 1)
        wait_until(lambda: value(service, "ner_connections") == 0)


def test_the_time_that_the_service_takes_is_not_the_clients(serve_gated: ServeGated, gated: GatedStepper) -> None:
    _, url = serve_gated(client_timeout_s=TIMEOUT_S)
    with RawClient(url) as client:
        client.send(post(SLOW))
        wait_until(gated.arrived.is_set)
        assert ask(url, b"").status == 408  # and so more than TIMEOUT_S has passed
        gated.gate.set()
        assert client.read_answer().status == 200


# too many


def test_whoever_has_kept_the_service_waiting_longest_makes_room(serve: Serve) -> None:
    url = serve(max_connections=3)
    with ExitStack() as stack:
        silent, in_head, in_body = (stack.enter_context(RawClient(url)) for _ in range(3))
        in_head.send(IN_HEAD)
        in_body.send(IN_BODY)
        assert ask(url, head("GET", "/readyz")).status == 200
        refused = silent.read_answer()
        assert (refused.status, refused.json()["error_type"], refused.headers["retry-after"]) == (
            429,
            "Overloaded",
            "1",
        )
        in_head.send(GOOD.removeprefix(IN_HEAD))
        in_body.send(GOOD.removeprefix(IN_BODY))
        assert in_head.read_answer().status == in_body.read_answer().status == 200


def test_a_request_that_has_arrived_is_never_cut_off_to_make_room(serve_gated: ServeGated, gated: GatedStepper) -> None:
    service, url = serve_gated(max_connections=2)
    with RawClient(url) as first, RawClient(url) as second:
        first.send(post(SLOW))
        second.send(post(SLOW))
        wait_until(lambda: value(service, "ner_requests_waiting") + value(service, "ner_requests_running") == 2)
        assert ask(url, GOOD).status == 429
        gated.gate.set()
        assert first.read_answer().status == second.read_answer().status == 200


def test_an_idle_connection_makes_room_without_a_word(serve: Serve) -> None:
    url = serve(max_connections=1)
    with RawClient(url) as client:
        client.send(GOOD)
        assert client.read_answer().status == 200
        assert ask(url, GOOD).status == 200
        assert client.is_ended()


@pytest.mark.parametrize(
    "unfinished", [post(b" " * 90_000)[:-10], b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000], ids=["body", "head"]
)
def test_requests_that_do_not_end_make_room_for_others(serve: Serve, unfinished: bytes) -> None:
    url = serve(queue_bytes=100_000)
    good = post(b'{"text": "Anna"}' + b" " * 90_000)
    with RawClient(url) as client:
        client.send(unfinished)
        wait_until(lambda: ask(url, good).status == 200 and client.has_answer)
        assert client.read_answer().status == 429
    assert ask(url, good).status == 200


def test_requests_sent_ahead_of_their_answers_make_room_for_others(
    serve_gated: ServeGated, gated: GatedStepper
) -> None:
    service, url = serve_gated(queue_bytes=100_000)
    ahead = post(SLOW) + post(SLOW + b" " * 40_000)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(url)) for _ in range(3)]
        for client in clients:
            client.send(ahead)
        wait_until(lambda: value(service, "ner_connections_refused_total", reason="crowded") == 1)
        assert clients[0].is_ended()
        gated.gate.set()
        for client in clients[1:]:
            assert [client.read_answer().status, client.read_answer().status] == [200, 200]
        for client in clients[1:]:
            client.send(ahead)
            assert [client.read_answer().status, client.read_answer().status] == [200, 200]
    assert value(service, "ner_connections_refused_total", reason="crowded") == 1


def test_whoever_is_worked_on_is_not_cut_off_while_others_have_not_sent_their_requests(
    serve_gated: ServeGated, gated: GatedStepper
) -> None:
    service, url = serve_gated(queue_bytes=100_000)
    with RawClient(url) as ahead, RawClient(url) as first, RawClient(url) as second:
        ahead.send(post(SLOW) + post(SLOW + b" " * 40_000))
        wait_until(gated.arrived.is_set)
        first.send(post(b" " * 50_000)[:-10])
        wait_until(lambda: value(service, "ner_connections") == 3)
        second.send(post(b" " * 50_000)[:-10])
        assert first.read_answer().status == 429
        gated.gate.set()
        assert [ahead.read_answer().status, ahead.read_answer().status] == [200, 200]


def test_answers_that_nobody_takes_make_room_for_others(build: Build, serve: Serve) -> None:
    service = build(queue_bytes=300_000)
    url = serve(service)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(RawClient(url)).send(LARGE_ANSWERS)
        wait_until(lambda: value(service, "ner_connections_refused_total", reason="crowded") > 0)
        assert ask(url, GOOD).status == 200


def test_bodies_that_are_worked_on_are_bounded_too(serve_gated: ServeGated, gated: GatedStepper) -> None:
    service, url = serve_gated(queue_bytes=1_000)
    with RawClient(url) as client:
        client.send(post(SLOW + b" " * 800))
        wait_until(gated.arrived.is_set)
        refused = ask(url, post(SLOW + b" " * 800))
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "1000 (NER_QUEUE_BYTES)" in refused.json()["error"]
        assert value(service, "ner_requests_rejected_total", reason="queue_full") == 1
        gated.gate.set()
        assert client.read_answer().status == 200
    assert ask(url, post(SLOW + b" " * 800)).status == 200


def test_a_thousand_silent_connections_keep_nobody_out(serve: Serve) -> None:
    url = serve(max_connections=50)
    with ExitStack() as stack:
        silent = [stack.enter_context(RawClient(url)) for _ in range(1_000)]
        assert [ask(url, GOOD).status for _ in range(20)] == [200] * 20
        assert [client.read_answer().status for client in silent[:900]] == [429] * 900


# leaving


def test_a_client_that_closes_its_side_has_left(serve_gated: ServeGated, gated: GatedStepper) -> None:
    service, url = serve_gated()
    with RawClient(url) as client:
        client.send(post(SLOW))
        wait_until(gated.arrived.is_set)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_ended()
        wait_until(lambda: value(service, "ner_requests_client_left_total") == 1)
        gated.gate.set()
    wait_until(lambda: value(service, "ner_requests_running") == 0)


def test_a_draining_server_ends_every_connection_with_its_answer(build: Build, serve: Serve) -> None:
    service = build()
    url = serve(service)
    with RawClient(url) as client:
        client.send(GOOD)
        assert "connection" not in client.read_answer().headers
        service.is_draining = True
        client.send(GOOD)
        answer = client.read_answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.is_ended()
