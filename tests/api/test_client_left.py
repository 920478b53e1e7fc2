"""A client that closes its connection: nobody works for it any more, and it is counted."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from service.api.app import create_app
from service.api.state import Service
from service.engine.sequence import Request
from tests.api.servers_ import PATIENCE_S, GatedStepper, use_stepper, value, wait_until

Build = Callable[..., Service]
FORMATS = {
    "/ner": {"texts": ["Anna met Ben", "Carla"], "exit_policy": {"strategy": "full_depth"}},
    "/": {"inputs": ["Anna met Ben", "Carla"]},
}


async def call(app: FastAPI, path: str, *, body: bytes, is_whole: bool, leave: asyncio.Event) -> list[dict[str, Any]]:
    """POST from a client that sends `body` and closes its connection on `leave`; -> what was sent to it."""
    arriving = [{"type": "http.request", "body": body, "more_body": not is_whole}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if arriving:
            return arriving.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
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
        leave = asyncio.Event()
        body = json.dumps(FORMATS[path]).encode()
        request = asyncio.create_task(call(create_app(service), path, body=body, is_whole=True, leave=leave))
        await asyncio.to_thread(wait_until, gated.arrived.is_set)
        leave.set()
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
    assert request.future.exception() is not None
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
        leave = asyncio.Event()
        leave.set()
        return await call(create_app(service), "/ner", body=b'{"text": "An', is_whole=False, leave=leave)

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
        leave = asyncio.Event()
        body = json.dumps(FORMATS["/ner"]).encode()
        request = asyncio.create_task(call(create_app(service), "/ner", body=body, is_whole=True, leave=leave))
        await asyncio.to_thread(encoder.arrived.wait)
        leave.set()
        return await request

    assert asyncio.run(scenario())[0]["status"] == 499
    assert encoder.stopped.wait(PATIENCE_S) and value(service, "ner_requests_client_left_total") == 1


def test_a_time_limit_that_passes_while_the_text_is_cut_is_kept_and_the_cutting_ends(service: Service) -> None:
    encoder = BusyEncoder()
    service.text_encoder = encoder  # type: ignore[assignment]

    async def scenario() -> list[dict[str, Any]]:
        body = json.dumps({"text": "Anna", "timeout_ms": 20}).encode()
        return await call(create_app(service), "/ner", body=body, is_whole=True, leave=asyncio.Event())

    assert asyncio.run(scenario())[0]["status"] == 504
    assert not encoder.arrived.is_set() or encoder.stopped.wait(PATIENCE_S)  # its time may pass before it is begun
    assert value(service, "ner_requests_timed_out_total") == 1
