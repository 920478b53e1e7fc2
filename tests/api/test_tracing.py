"""Traces are for whoever wants them: nothing is imported or made for others, and what is told has no text in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping

import pytest
from starlette.testclient import TestClient
from starlette.types import Scope

from service.api.app import create_app
from service.api.state import Service
from service.api.tracing import ENDPOINTS, Untraced, tracing_of
from service.errors import BadInput, ServiceError
from tests.api.servers_ import ENTITY_TEXT

Start = Callable[..., TestClient]
Build = Callable[..., Service]
WANTED = {ENDPOINTS[1]: "http://127.0.0.1:4318"}


class Recorded:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Mapping[str, float], Mapping[str, str | int]]] = []
        self.errors: list[str] = []
        self.is_closed = False

    def answered(self, scope: Scope, timing_ms: Mapping[str, float], attributes: Mapping[str, str | int]) -> None:
        self.requests.append((scope["path"], timing_ms, attributes))

    def failed(self, scope: Scope, error: ServiceError) -> None:
        self.errors.append(f"{scope['path']} {type(error).__name__}")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def _no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "service.api.open_telemetry", raising=False)


@pytest.mark.usefixtures("_no_packages")
@pytest.mark.parametrize("environment", [{}, {ENDPOINTS[0]: ""}, {**WANTED, "OTEL_SDK_DISABLED": "true"}])
def test_nothing_is_imported_for_whoever_wants_no_traces(environment: dict[str, str]) -> None:
    assert isinstance(tracing_of(environment, "tiny@1"), Untraced)


@pytest.mark.usefixtures("_no_packages")
@pytest.mark.parametrize("name", ENDPOINTS)
def test_whoever_wants_traces_and_lacks_the_packages_is_told_what_to_install(name: str) -> None:
    with pytest.raises(
        BadInput, match=rf"{name} is set, .* opentelemetry.* `pip install opentelemetry-sdk .*, or unset"
    ):
        tracing_of({name: "http://127.0.0.1:4318"}, "tiny@1")


def test_requests_are_told_of_with_the_times_that_their_answers_tell_and_lines_are_not(
    build: Build, start: Start
) -> None:
    service, recorded = build(max_text_chars=100), Recorded()
    service.tracing = recorded
    client = start(service)
    answer = client.post("/ner", json={"text": ENTITY_TEXT, "priority": "bulk"}).json()
    client.post("/", json={"inputs": ["Anna", "Ben. Carla."]})
    client.post("/ner", json={"text": "x" * 101})
    client.post("/ner/stream", content=json.dumps({"text": "Anna"}))
    (first, timing_ms, told), (second, _, of_two) = recorded.requests
    assert (first, second, recorded.errors) == ("/ner", "/", ["/ner TooLarge"])
    assert timing_ms == answer["timing_ms"] and [*timing_ms][:4] == ["tokenize", "queue", "inference", "decode"]
    assert told == {
        "ner.priority": "bulk",
        "ner.policy_version": answer["policy_version"],
        "ner.texts": 1,
        "ner.sequences": len(answer["sequences"]),
        "ner.exit_layer": answer["exit_layer"],
    }
    assert (of_two["ner.texts"], of_two["ner.priority"]) == (2, "interactive")


def test_the_end_of_a_server_sends_what_was_not_sent_yet(build: Build) -> None:
    service, recorded = build(), Recorded()
    service.tracing = recorded
    with TestClient(create_app(service)):
        assert not recorded.is_closed
    assert recorded.is_closed
