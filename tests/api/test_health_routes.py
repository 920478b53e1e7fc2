"""Alive and ready: what orchestrators ask."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from service.api.state import Service
from tests.api.servers_ import GatedStepper, sample, wait_until

Start = Callable[..., TestClient]
Build = Callable[..., Service]
PATHS = ("/livez", "/readyz", "/health")


def statuses(client: TestClient) -> dict[str, int]:
    """Of every health endpoint."""
    return {path: client.get(path).status_code for path in PATHS}


def test_a_started_server_is_alive_and_ready(client: TestClient) -> None:
    assert statuses(client) == {"/livez": 200, "/readyz": 200, "/health": 200}
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == client.get("/health").json() == {"status": "ready"}


def test_a_draining_server_is_alive_not_ready_and_still_answers(start: Start, build: Build) -> None:
    service = build()
    client = start(service)
    service.is_draining = True
    assert statuses(client) == {"/livez": 200, "/readyz": 503, "/health": 503}
    assert client.get("/readyz").json() == {"status": "draining"}
    assert client.post("/ner", json={"text": "Anna"}).status_code == 200


def test_an_idle_server_is_alive_however_strict_the_limit(start_gated: Start) -> None:
    assert statuses(start_gated(step_overdue_s=1e-6)) == {"/livez": 200, "/readyz": 200, "/health": 200}


def test_a_server_whose_step_is_overdue_is_neither_alive_nor_ready(start_gated: Start, gated: GatedStepper) -> None:
    client = start_gated(step_overdue_s=0.02)
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(client.post, "/ner", json={"text": "Anna"})
        wait_until(lambda: client.get("/livez").status_code == 503)
        assert statuses(client) == dict.fromkeys(PATHS, 503)
        assert client.get("/livez").json() == {"status": "stuck"}
        assert sample(client, "ner_engine_up") == 0
        assert sample(client, "ner_engine_last_step_age_seconds") >= 0.02
        gated.gate.set()
        assert stuck.result().status_code == 200
    wait_until(lambda: client.get("/livez").status_code == 200)
    wait_until(lambda: sample(client, "ner_engine_up") == 1)


@pytest.mark.parametrize("path", PATHS)
def test_a_server_whose_engine_ended_is_unwell(start: Start, build: Build, path: str) -> None:
    service = build()
    client = start(service)
    service.engine.close()
    assert client.get(path).status_code == 503
