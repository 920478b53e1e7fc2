"""Every error has one body, carries its request's id and gives nothing internal away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.state import Service
from service.logs import JsonFormatter
from tests.api.servers_ import AS_ADMIN, BrokenStepper, sample, use_stepper

Start = Callable[..., TestClient]
Build = Callable[..., Service]
JSON = {"Content-Type": "application/json"}
API_KEY = "the-api-key"
AS_CLIENT = {"Authorization": f"Bearer {API_KEY}"}


@pytest.fixture
def guarded(start: Start) -> TestClient:
    """A server with both keys and small limits."""
    return start(api_key=API_KEY, max_body_bytes=1_000, max_text_chars=100)


@pytest.mark.parametrize(
    ("status", "method", "path", "options"),
    [
        (400, "POST", "/ner", {"headers": AS_CLIENT | JSON, "content": b"{"}),
        (400, "PATCH", "/exit-policy", {"headers": AS_ADMIN | JSON, "content": b"\xff"}),
        (400, "POST", "/", {"headers": AS_CLIENT | JSON, "content": b"{"}),
        (401, "POST", "/ner", {"json": {"text": "a"}}),
        (401, "POST", "/", {"json": {"inputs": "a"}}),
        (403, "PATCH", "/exit-policy", {"headers": AS_CLIENT, "json": {"tau": -0.5}}),
        (404, "GET", "/nothing", {}),
        (404, "GET", "/docs-assets/nothing.js", {}),
        (405, "GET", "/ner", {}),
        (412, "PATCH", "/exit-policy", {"headers": AS_ADMIN | {"If-Match": '"7"'}, "json": {"tau": -0.5}}),
        (413, "POST", "/ner", {"headers": AS_CLIENT, "json": {"text": "x" * 1_000}}),
        (413, "POST", "/ner", {"headers": AS_CLIENT, "json": {"text": "x" * 101}}),
        (413, "POST", "/", {"headers": AS_CLIENT, "json": {"inputs": "x" * 101}}),
        (422, "POST", "/ner", {"headers": AS_CLIENT, "json": {}}),
        (422, "POST", "/", {"headers": AS_CLIENT, "json": {}}),
        (422, "PATCH", "/exit-policy", {"headers": AS_ADMIN | JSON, "content": rb'{"\ud800": 1}'}),
        (422, "PATCH", "/exit-policy?dry_run=maybe", {"headers": AS_ADMIN, "json": {"tau": -0.5}}),
    ],
)
def test_an_error_has_the_one_body(
    guarded: TestClient, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    response = guarded.request(method, path, **options)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert {name: type(value) for name, value in response.json().items()} == dict.fromkeys(
        ("error", "error_type", "request_id"), str
    )
    assert response.headers.get_list("X-Request-Id") == [response.json()["request_id"]]
    assert "  " not in response.json()["error"].strip()


def test_the_error_type_of_a_path_or_method_that_is_not_there_says_so(guarded: TestClient) -> None:
    assert guarded.get("/nothing").json()["error_type"] == "NotFound"
    assert guarded.get("/ner").json()["error_type"] == "MethodNotAllowed"


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/ner", "OPTIONS, POST"),
        ("/exit-policy", "GET, HEAD, OPTIONS, PATCH"),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS, POST"),
    ],
)
def test_a_wrong_method_is_told_all_the_right_ones(guarded: TestClient, path: str, methods: str) -> None:
    response = guarded.put(path)
    assert (response.status_code, response.headers["Allow"]) == (405, methods)


def test_a_missing_key_is_told_how_keys_travel(guarded: TestClient) -> None:
    response = guarded.post("/ner", json={"text": "a"})
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization: Bearer" in response.json()["error"]


def test_a_failing_step_is_a_500_that_keeps_the_inside_inside(
    start: Start, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    service = build()
    use_stepper(service, BrokenStepper())
    client = start(service)
    response = client.post("/ner", json={"text": "Anna"}, headers={"X-Request-Id": "find-me"})
    assert (response.status_code, response.json()["error_type"]) == (500, "EngineFailed")
    assert "4711" not in response.text
    assert "inner detail 4711" in caplog.text
    assert [record.__dict__["data"]["request_id"] for record in caplog.records if "data" in record.__dict__] == [
        "find-me"
    ]
    assert sample(client, "ner_requests_total", endpoint="/ner", code="500") == 1


def test_the_engine_goes_on_after_a_failing_step(start: Start, build: Build) -> None:
    service = build()
    use_stepper(service, BrokenStepper())
    client = start(service)
    for _ in range(3):
        assert client.post("/ner", json={"texts": ["Anna", "Ben"]}).status_code == 500
    assert client.get("/livez").status_code == 200
    assert sample(client, "ner_requests_running") == sample(client, "ner_requests_waiting") == 0


class _BrokenTextEncoder:
    def __init__(self, fault: type[Exception] = RuntimeError) -> None:
        self._fault = fault

    def cutting(self, *texts: object, **how: object) -> list[object]:
        raise self._fault(f"inner detail 4711, {texts}, {how}")


def test_a_bug_of_ours_is_a_500_like_any_other_answer(
    start: Start, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    service = build()
    service.text_encoder = _BrokenTextEncoder()  # type: ignore[assignment]
    client = start(service)
    response = client.post("/ner", json={"text": "Anna"}, headers={"X-Request-Id": "find-me"})
    assert (response.status_code, response.json()["request_id"]) == (500, "find-me")
    assert response.headers["X-Request-Id"] == "find-me"
    assert "4711" not in response.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.__dict__["data"] == {"request_id": "find-me", "endpoint": "/ner", "status": 500}
    assert "inner detail 4711" in caplog.text
    assert sample(client, "ner_requests_total", endpoint="/ner", code="500") == 1


@pytest.mark.parametrize("fault", [ValueError, KeyError, TypeError, UnicodeError, AssertionError])
def test_a_fault_that_quotes_the_text_is_logged_without_it(
    start: Start, build: Build, caplog: pytest.LogCaptureFixture, fault: type[Exception]
) -> None:
    service = build()
    service.text_encoder = _BrokenTextEncoder(fault)  # type: ignore[assignment]
    assert start(service).post("/ner", json={"text": "Zanzibarbara"}).status_code == 500
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert any(fault.__name__ in line and "cutting" in line for line in lines)
    assert not any("Zanzibarbara" in line for line in lines)


def test_a_server_that_is_going_down_is_a_503(start: Start, build: Build) -> None:
    service = build()
    client = start(service)
    service.engine.close()
    response = client.post("/ner", json={"text": "Anna"})
    assert (response.status_code, response.json()["error_type"]) == (503, "NotReady")
    assert sample(client, "ner_requests_rejected_total", reason="not_ready") == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"texts": [1] * 100_000},
        {"text": "a", "labels": [1] * 100_000},
        {"text": "a", "labels": [str(number) for number in range(10_000)]},
        {"text": "a", "exit_policy": {str(number): 1 for number in range(10_000)}},
        {"text": "a", **{str(number): 1 for number in range(10_000)}},
    ],
)
def test_an_error_stays_short_however_much_is_wrong(start: Start, request_: dict[str, Any]) -> None:
    response = start().post("/ner", json=request_)
    assert response.status_code == 422
    assert 0 < len(response.json()["error"]) <= 1_100


def test_an_unknown_path_counts_under_one_label(guarded: TestClient) -> None:
    for path in ("/a", "/b", "/c?d"):
        guarded.get(path)
    assert sample(guarded, "ner_requests_total", endpoint="other", code="404") == 3


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"text": "a", "min_score": ' + b"9" * 5_000 + b"}", "a number of more than 4300 digits"),
        (b'{"text": "\xff"}', "it is no UTF-8"),
        (b'{"text": ' + b"[" * 10_000, "nested too deeply"),
        (b"{", "Expecting property name"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_why(client: TestClient, body: bytes, why: str) -> None:
    response = client.post("/ner", content=body, headers=JSON)
    assert (response.status_code, response.json()["error_type"]) == (400, "NotJSON")
    assert why in response.json()["error"]


def test_a_long_message_keeps_its_end_where_it_says_what_to_do(client: TestClient) -> None:
    response = client.post("/ner", json={"text": "a", "labels": [f"LABEL{number}" for number in range(1_000)]})
    assert response.status_code == 422
    assert response.json()["error"].startswith("labels: LABEL0") and len(response.json()["error"]) < 1_100
    assert response.json()["error"].endswith("unknown; this model has LOC, ORG, PER")


def test_of_many_faults_the_first_are_named_and_the_rest_counted(client: TestClient) -> None:
    response = client.post("/ner", json={"text": "a", **{f"x{number}": 1 for number in range(12)}})
    assert response.status_code == 422 and response.json()["error"].endswith("; and 7 more")
