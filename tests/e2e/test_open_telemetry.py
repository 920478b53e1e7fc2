"""Traces by OpenTelemetry's own SDK: its in-memory exporter, and its exporter to a collector that listens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.open_telemetry import OpenTelemetry
from service.api.tracing import ENDPOINTS, tracing_of
from tests.api.servers_ import ENTITY_TEXT, BrokenStepper, tiny_service, use_stepper

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ["tokenize", "queue", "inference", "decode"]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def client(model_folder: Path, tmp_path: Path, exporter: InMemorySpanExporter) -> Iterator[TestClient]:
    """A server that keeps its traces."""
    service = tiny_service(model_folder, tmp_path / "state", max_text_chars=100)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    service.tracing = OpenTelemetry(provider)
    with TestClient(create_app(service)) as client:
        yield client


def spans_of(exporter: InMemorySpanExporter) -> tuple[list[ReadableSpan], ReadableSpan]:
    """The spans of the stages, and that of the request."""
    *stages, request = exporter.get_finished_spans()
    return stages, request


def test_a_request_is_a_span_and_its_stages_are_spans_in_it(client: TestClient, exporter: InMemorySpanExporter) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-Request-Id": "one"}
    answer = client.post("/ner", json={"text": ENTITY_TEXT}, headers=headers).json()
    stages, request = spans_of(exporter)
    assert (request.name, request.kind) == ("POST /ner", SpanKind.SERVER)
    assert request.context is not None and request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/ner",
        "http.response.status_code": 200,
        "ner.request_id": "one",
        "ner.priority": "interactive",
        "ner.policy_version": 1,
        "ner.texts": 1,
        "ner.sequences": 1,
        "ner.exit_layer": answer["exit_layer"],
    }
    assert [span.name for span in stages] == STAGES
    assert all(span.parent == request.context for span in stages)
    ends = [span.end_time for span in stages]
    assert [span.start_time for span in stages] == [request.start_time, *ends[:-1]]
    lasted_ms = [1e-6 * ((span.end_time or 0) - (span.start_time or 0)) for span in (*stages, request)]
    assert lasted_ms[:-1] == pytest.approx([answer["timing_ms"][stage] for stage in STAGES], abs=0.001)
    assert lasted_ms[-1] >= answer["timing_ms"]["total"] - 0.001


def test_a_request_that_is_refused_is_a_span_and_no_fault(client: TestClient, exporter: InMemorySpanExporter) -> None:
    assert client.post("/ner", json={"text": "x" * 101}).status_code == 413
    stages, request = spans_of(exporter)
    told = dict(request.attributes or {})
    assert stages == [] and request.status.status_code == StatusCode.UNSET
    assert (told["error.type"], told["http.response.status_code"]) == ("TooLarge", 413)


def test_a_fault_of_the_service_is_a_span_with_an_error(
    model_folder: Path, tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    service = tiny_service(model_folder, tmp_path / "state")
    use_stepper(service, BrokenStepper())
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    service.tracing = OpenTelemetry(provider)
    with TestClient(create_app(service)) as client:
        assert client.post("/", json={"inputs": "Anna"}).status_code == 500
    _, request = spans_of(exporter)
    assert (request.name, request.status.status_code) == ("POST /", StatusCode.ERROR)
    assert "4711" not in str(request.status.description)


def test_traces_go_to_the_collector_that_the_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(ENDPOINTS[1], f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "names-in-tests")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        tracing = tracing_of({ENDPOINTS[1]: "is set"}, "tiny@1")
        state = {"arrived": 0.0, "request_id": "one"}
        tracing.answered({"method": "POST", "headers": [], "state": state}, {"total": 1.0}, {"ner.texts": 1})
        tracing.close()
        server.shutdown()
        thread.join()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert all(name in body for name in (b"names-in-tests", b"tiny@1", b"ner.texts", b"one"))
