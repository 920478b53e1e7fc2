"""A client that closes its connection: nobody works for it any more, and it is counted."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from service.api.app import create_app
from service.api.caller import Departure
from service.api.state import Service
from service.engine.cutter import IN_PLACE_CHARS
from service.engine.sequence import Request
from tests.api.servers_ import PATIENCE_S, GatedStepper, listening, use_stepper, value, wait_until

Build = Callable[..., Service]
FORMATS = {
    "/ner": {"texts": ["Anna met Ben", "Carla"], "exit_policy": {"strategy": "full_depth"}},
    "/": {"inputs": ["Anna met Ben", "Carla"]},
}
LONG_TEXT = "Anna met Ben. " * IN_PLACE_CHARS  # which is cut beside the event loop


async def call(app: FastAPI, path: str, *, body: bytes, is_whole: bool, client: Departure) -> list[dict[str, Any]]:
    """POST from a client that sends `body`, and has left if more is asked for; -> what was sent to it."""
    arriving = [{"type": "http.request", "body": body, "more_body": not is_whole}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return arriving.pop() if arriving else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    scope["state"] = {"departure": client}
    await app(scope, receive, send)
    return sent


@pytest.fixture
def service(build: Build, gated: GatedStepper) -> Service:
    """A service on the device that waits."""
    service = build()
    use_stepper(service, gated)
    return service


def leave_while_it_runs(service: Service, gated: GatedStepper, path: str = "/ner") -> None:
    """Send a request, and close its connection while its first layer runs."""

    async def scenario() -> None:
        client = Departure()
        body = json.dumps(FORMATS[path]).encode()
        request = asyncio.create_task(call(create_app(service), path, body=body, is_whole=True, client=client))
        await asyncio.to_thread(wait_until, gated.arrived.is_set)
        client.happen()
        await request

    service.engine.start()
    try:
        asyncio.run(scenario())
    finally:
        gated.gate.set()
        service.engine.close()


def test_the_engine_is_told_and_drops_it_at_the_next_layer(
    service: Service, gated: GatedStepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[Request] = []
    submit = service.engine.submit

    def record(request: Request) -> None:
        submitted.append(request)
        submit(request)

    monkeypatch.setattr(service.engine, "submit", record)
    leave_while_it_runs(service, gated)
    (request,) = submitted
    assert request.is_cancelled
    assert request.future.cancelled()
    assert gated.layers_run == [1]


@pytest.mark.parametrize("path", FORMATS)
def test_a_client_that_left_is_counted_and_holds_no_place(service: Service, gated: GatedStepper, path: str) -> None:
    leave_while_it_runs(service, gated, path)
    assert value(service, "ner_requests_total", endpoint=path, code="499") == 1
    assert value(service, "ner_requests_client_left_total") == 1
    assert value(service, "ner_requests_running") == value(service, "ner_requests_waiting") == 0
    assert value(service, "ner_requests_total", endpoint=path, code="200") == 0
    assert value(service, "ner_requests_timed_out_total") == 0
    assert value(service, "ner_request_duration_seconds_count") == 0


def test_a_client_that_leaves_in_the_middle_of_its_body_is_counted_as_such(service: Service) -> None:
    async def scenario() -> list[dict[str, Any]]:
        return await call(create_app(service), "/ner", body=b'{"text": "An', is_whole=False, client=Departure())

    assert asyncio.run(scenario())[0]["status"] == 499  # sent to nobody
    assert value(service, "ner_requests_client_left_total") == 1


class BusyEncoder:
    """Cuts texts, part by part, until nobody waits for them any more."""

    def __init__(self) -> None:
        self.arrived, self.stopped = threading.Event(), threading.Event()

    def cutting(self, *_: object, **__: object) -> Iterator[int]:
        try:
            while True:
                self.arrived.set()
                yield 1
        finally:
            self.stopped.set()


def test_a_client_that_leaves_while_its_text_is_cut_is_counted_and_the_cutting_ends(service: Service) -> None:
    encoder = BusyEncoder()
    service.text_encoder = encoder  # type: ignore[assignment]

    async def scenario() -> list[dict[str, Any]]:
        client = Departure()
        body = json.dumps({"text": LONG_TEXT}).encode()
        request = asyncio.create_task(call(create_app(service), "/ner", body=body, is_whole=True, client=client))
        await asyncio.to_thread(encoder.arrived.wait)
        client.happen()
        return await request

    assert asyncio.run(scenario())[0]["status"] == 499
    assert encoder.stopped.wait(PATIENCE_S) and value(service, "ner_requests_client_left_total") == 1


def test_a_time_limit_that_passes_while_the_text_is_cut_is_kept_and_the_cutting_ends(service: Service) -> None:
    encoder = BusyEncoder()
    service.text_encoder = encoder  # type: ignore[assignment]

    async def scenario() -> list[dict[str, Any]]:
        body = json.dumps({"text": LONG_TEXT, "timeout_ms": 20}).encode()
        return await call(create_app(service), "/ner", body=body, is_whole=True, client=Departure())

    assert asyncio.run(scenario())[0]["status"] == 504
    assert not encoder.arrived.is_set() or encoder.stopped.wait(PATIENCE_S)  # its time may pass before it is begun
    assert value(service, "ner_requests_timed_out_total") == 1


@pytest.mark.parametrize("path", FORMATS)
def test_a_connection_that_is_closed_ends_the_work_for_it(service: Service, gated: GatedStepper, path: str) -> None:
    body = json.dumps(FORMATS[path]).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with listening(service) as url:
        address = url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as client:
            client.sendall(head.encode() + body)
            wait_until(gated.arrived.is_set)
        wait_until(lambda: value(service, "ner_requests_client_left_total") == 1)
        gated.gate.set()
        assert value(service, "ner_requests_running") == value(service, "ner_requests_waiting") == 0
    assert gated.layers_run == [1]
    assert value(service, "ner_requests_total", endpoint=path, code="499") == 1
