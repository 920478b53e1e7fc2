"""More work than can be answered in time: refused at once, for next to nothing, and nothing is done for nobody."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api import answering, bodies
from service.api.app import create_app
from service.api.schemas.ner import MOST_UNKNOWN, NerRequest
from service.api.state import Service
from service.engine.cutter import IN_PLACE_CHARS
from service.engine.forecast import FEWEST_REQUESTS, Forecast
from tests.api.servers_ import GatedStepper, sample, use_stepper, value, wait_until

Build = Callable[..., Service]
Start = Callable[..., TestClient]
JSON = {"Content-Type": "application/json"}


def is_slow(forecast: Forecast, pace: float = 1.0) -> Forecast:
    """Make a forecast believe that so many pieces are done a second."""
    forecast._pace = pace
    return forecast


def fill(forecast: Forecast) -> Forecast:
    """Have as many requests open as make it refuse others; their turn is now, since all is fast as yet."""
    forecast._pace = 1e9
    for _ in range(FEWEST_REQUESTS):
        forecast.enter(1_000, float("inf")).__enter__()
    return forecast


async def post(
    service: Service, path: str, headers: dict[bytes, bytes], pieces_of_body: int = 0
) -> list[dict[str, Any]]:
    """POST a head; -> what was sent. Fails if anybody asks for more of the body, or for any before the answer."""
    sent: list[dict[str, Any]] = []
    coming = iter(range(pieces_of_body - 1, -1, -1))

    async def receive() -> dict[str, Any]:
        left = next(coming, None)
        assert left is not None and sent, "the body was asked for"
        return {"type": "http.request", "body": b"x", "more_body": left > 0}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [*headers.items()], "query_string": b""}
    await create_app(service)(scope, receive, send)
    return sent


@pytest.mark.parametrize("path", ["/ner", "/"])
def test_a_request_that_cannot_be_answered_in_time_is_refused_by_its_head(build: Build, path: str) -> None:
    service = build(timeout_ms=5_000)
    is_slow(fill(service.engine.forecast))
    start, body = asyncio.run(post(service, path, {b"content-length": b"20", b"x-request-id": b"find-me"}))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"], headers[b"x-request-id"]) == (429, b"60", b"find-me")
    said = json.loads(body["body"])
    assert (said["error_type"], said["request_id"]) == ("Overloaded", "find-me")
    assert int(headers[b"content-length"]) == len(body["body"]) and b"connection" not in headers
    assert value(service, "ner_requests_rejected_total", reason="too_late") == 1
    assert value(service, "ner_requests_total", endpoint=path, code="429") == 1


def test_a_long_body_is_refused_by_its_head_while_a_short_one_is_taken(build: Build, start: Start) -> None:
    service = build(timeout_ms=5_000)
    client = start(service)
    forecast = service.engine.forecast
    forecast._pace = 1_000.0  # pieces a second
    deadline = time.monotonic() + 50.0
    for _ in range(FEWEST_REQUESTS):  # two seconds each; their turns are far away
        forecast.enter(6_500, deadline).__enter__()
    assert client.post("/ner", json={"text": "Anna"}).status_code == 200
    refused, _ = asyncio.run(post(service, "/ner", {b"content-length": b"60000"}))
    assert refused["status"] == 429
    assert client.post("/ner", content=b"x" * 3_000_000, headers=JSON).status_code == 413  # too long is told so


@pytest.mark.parametrize("access_log", [False, True])
def test_a_request_that_is_refused_by_its_head_is_in_the_log_of_requests_too(
    build: Build, caplog: pytest.LogCaptureFixture, access_log: bool
) -> None:
    caplog.set_level("INFO", "service.access")
    service = build(access_log=access_log)
    is_slow(fill(service.engine.forecast))
    asyncio.run(post(service, "/ner", {b"content-length": b"20", b"x-request-id": b"find-me"}))
    told = [record.__dict__["data"] for record in caplog.records if record.message == "request"]
    expected = {"request_id": "find-me", "method": "POST", "endpoint": "/ner", "status": 429}
    assert [one.items() >= expected.items() for one in told] == [True] * access_log


@pytest.mark.parametrize("headers", [{b"content-length": b"70000"}, {b"transfer-encoding": b"chunked"}, {}])
def test_a_refused_client_whose_body_is_long_is_sent_away(build: Build, headers: dict[bytes, bytes]) -> None:
    service = build()
    is_slow(fill(service.engine.forecast))
    start, answer, end = asyncio.run(post(service, "/ner", headers, pieces_of_body=3))
    assert dict(start["headers"])[b"connection"] == b"close"
    assert answer["body"] and answer["more_body"] and not end.get("more_body")  # it is read to its end in between


def test_a_refused_client_that_asks_whether_to_send_its_body_is_sent_away(build: Build) -> None:
    service = build()
    is_slow(fill(service.engine.forecast))
    start, _ = asyncio.run(post(service, "/ner", {b"content-length": b"20", b"expect": b"100-continue"}))
    assert dict(start["headers"])[b"connection"] == b"close"


def test_only_what_asks_for_entities_is_refused(start: Start, build: Build) -> None:
    service = build()
    client = start(service)
    is_slow(fill(service.engine.forecast))
    assert client.post("/ner", json={"text": "Anna"}).status_code == 429
    for path in ("/livez", "/readyz", "/metrics", "/exit-policy", "/"):
        assert client.get(path).status_code == 200


def test_a_shorter_time_limit_than_the_operators_counts(start: Start, build: Build) -> None:
    service = build(timeout_ms=10_000)
    client = start(service)
    forecast = service.engine.forecast
    is_slow(fill(forecast))
    forecast._pace = forecast._in_turn.total / 0.4  # so long takes what is open
    response = client.post("/ner", json={"text": "Anna", "timeout_ms": 300})
    assert (response.status_code, response.json()["error_type"]) == (429, "Overloaded")
    assert client.post("/ner", json={"text": "Anna", "timeout_ms": 9_000}).status_code == 200


def test_a_request_that_waits_is_refused_as_soon_as_it_cannot_be_answered_in_time_any_more(
    start: Start, build: Build, gated: GatedStepper
) -> None:
    service = build()
    use_stepper(service, gated)
    client = start(service)
    full_depth = {"exit_policy": {"strategy": "full_depth"}}
    with ThreadPoolExecutor() as pool:
        begun = pool.submit(client.post, "/ner", json={"text": "Anna", **full_depth})
        wait_until(gated.arrived.is_set)
        fill(service.engine.forecast)  # whose turn is before that of the next one
        waiting = pool.submit(client.post, "/ner", json={"text": "Ben", **full_depth})
        wait_until(lambda: sample(client, "ner_requests_waiting") == 1)
        is_slow(service.engine.forecast, 0.01)
        wait_until(lambda: client.post("/ner", json={"text": "Cora"}).status_code == 429 and waiting.done())
        refused = sample(client, "ner_requests_rejected_total", reason="too_late")
        assert (waiting.result().status_code, int(waiting.result().headers["retry-after"])) == (429, 60)
        assert not begun.done()
        gated.gate.set()
        assert begun.result().status_code == 200
    assert gated.layers_run == [1, 2, 3, 4] and refused >= 2


def test_whatever_becomes_of_a_request_its_work_is_no_longer_counted(start: Start, build: Build) -> None:
    service = build(timeout_ms=5_000)
    client = start(service)
    for request in ({"text": "Anna"}, {"text": "x" * 100_001}, {"text": "Anna", "exit_policy": {"tau": "x"}}):
        client.post("/ner", json=request)
    assert not service.engine.forecast.has_open and service.engine.forecast.wait_s == 0.0


def test_an_answer_that_is_late_when_it_is_ready_is_a_504(
    start: Start, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, read = start(build()), answering._read

    def slow(*request: Any) -> Any:
        threading.Event().wait(0.3)
        return read(*request)

    monkeypatch.setattr(answering, "_read", slow)
    assert client.post("/ner", json={"text": "Anna", "timeout_ms": 250}).status_code == 504
    assert sample(client, "ner_requests_timed_out_total") == 1
    assert sample(client, "ner_request_duration_seconds_count") == 0


# one body


@pytest.mark.parametrize("path", ["/ner", "/"])
def test_of_very_many_unknown_fields_the_first_are_named(client: TestClient, path: str) -> None:
    body = {f"unknown{number}": 1 for number in range(20_000)}
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert response.json()["error"].count("Extra inputs") <= MOST_UNKNOWN


def test_checking_stops_at_the_first_unknown_fields() -> None:
    given = {f"unknown{number}": 1 for number in range(20_000)} | {"text": "Anna"}
    with pytest.raises(ValueError) as refused:
        NerRequest.model_validate(given)
    assert str(refused.value).count("Extra inputs") == MOST_UNKNOWN


@pytest.mark.parametrize(
    "field", [{"labels": ["PER"] * 2_000}, {"exit_policy": {f"p{number}": 1 for number in range(100)}}]
)
def test_lists_and_policies_of_very_many_parts_are_refused_by_their_number(
    client: TestClient, field: dict[str, Any]
) -> None:
    response = client.post("/ner", json={"text": "Anna", **field})
    assert response.status_code == 422
    assert "at most" in response.json()["error"]


@pytest.mark.parametrize("size", [100, 100_000])
def test_only_a_large_body_is_parsed_beside_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    threads: list[bool] = []
    loads = json.loads

    def record(body: bytes) -> Any:
        try:
            asyncio.get_running_loop()
            threads.append(True)
        except RuntimeError:
            threads.append(False)
        return loads(body)

    monkeypatch.setattr(bodies, "json", type("json", (), {"loads": staticmethod(record)}))
    headers = {"Content-Type": "application/any+json"}  # which the short way does not take
    assert client.post("/ner", content=b'{"text": "Anna"}'.ljust(size), headers=headers).status_code == 200
    assert threads == [size < bodies.LARGE_BYTES]


@pytest.mark.parametrize("num_chars", [IN_PLACE_CHARS, IN_PLACE_CHARS + 1])
def test_a_short_text_is_cut_without_a_change_of_threads(start: Start, build: Build, num_chars: int) -> None:
    service, threads = build(), list[str]()
    cutting = service.text_encoder.cutting

    def record(*texts: Any, **how: Any) -> Any:
        threads.append(threading.current_thread().name)
        return (yield from cutting(*texts, **how))

    service.text_encoder.cutting = record  # type: ignore[method-assign]
    assert start(service).post("/ner", json={"text": "Anna met Ben. ".ljust(num_chars)}).status_code == 200
    assert (threads[-1] == "cutting short texts") == (num_chars > IN_PLACE_CHARS)  # the first are of the warm-up


def test_a_long_answer_is_the_same_as_the_short_ones_of_its_texts(client: TestClient) -> None:
    texts = [f"The University of Paris was visited in {number}." for number in range(answering.LONG_SEQUENCES + 1)]
    results = client.post("/ner", json={"texts": texts}).json()["results"]
    assert len(results) == len(texts)
    for text, result in list(zip(texts, results, strict=True))[::20]:
        alone = client.post("/ner", json={"text": text}).json()
        for entity, other in zip(result["entities"], alone["entities"], strict=True):
            assert {**entity, "score": 0} == {**other, "score": 0}


def test_a_text_of_too_many_pieces_is_refused_before_it_is_cut_to_its_end(start: Start, build: Build) -> None:
    service = build(queue_tokens=100)
    client, parts = start(service), []
    cutting = service.text_encoder.cutting

    def record(*texts: Any, **how: Any) -> Any:
        for part in cutting(*texts, **how):
            parts.append(part)
            yield part

    service.text_encoder.cutting = record  # type: ignore[method-assign]
    response = client.post("/ner", json={"texts": ["Anna met Ben. " * 100] * 5})
    assert response.status_code == 413 and "100 (NER_QUEUE_TOKENS)" in response.json()["error"]
    assert len(parts) == 1
