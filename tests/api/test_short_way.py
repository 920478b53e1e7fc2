"""The short way of a request for entities, held against the framework's: same answers, same refusals, same headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from service.api.schemas.hugging_face import HuggingFaceEntity
from service.api.schemas.ner import NerResult, NerResults
from service.api.short_way import ShortWay
from service.api.state import Service
from tests.api.servers_ import ENTITY_TEXT, sample
from tests.models_ import TEXTS
from tests.text.test_text_path import texts as odd_texts

Start = Callable[..., TestClient]
Build = Callable[..., Service]
JSON = {"Content-Type": "application/json", "X-Request-Id": "one"}
FULL_DEPTH = {"strategy": "full_depth"}  # where the tiny model finds entities
TIMES = ("timing_ms", "Server-Timing", "Content-Length")  # which differ from call to call
MODELS = [NerResult, NerResults, list[HuggingFaceEntity], list[list[HuggingFaceEntity]]]
seeded = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

ONE_TEXT = {"text": ENTITY_TEXT, "exit_policy": FULL_DEPTH}
WELL: list[tuple[str, dict[str, Any]]] = [
    ("/ner", {"text": ENTITY_TEXT}),
    ("/ner", ONE_TEXT),
    ("/ner", ONE_TEXT | {"split": False}),
    ("/ner", ONE_TEXT | {"labels": ["PER"]}),
    ("/ner", ONE_TEXT | {"labels": []}),
    ("/ner", ONE_TEXT | {"labels": None, "min_score": 1}),
    ("/ner", ONE_TEXT | {"min_score": 0.5, "timeout_ms": 9_000}),
    ("/ner", ONE_TEXT | {"trace": True}),
    ("/ner", ONE_TEXT | {"priority": "bulk"}),
    ("/ner", {"text": ENTITY_TEXT, "exit_policy": {"strategy": "budgeted", "layer": 2}}),
    ("/ner", {"text": ""}),
    ("/ner", {"text": " \n\u200b"}),
    ("/ner", {"text": "😀 e\u0301 北京 " + ENTITY_TEXT, "exit_policy": FULL_DEPTH}),
    ("/ner", {"texts": []}),
    ("/ner", {"texts": [*TEXTS, "", ENTITY_TEXT], "exit_policy": FULL_DEPTH}),
    ("/ner", {"texts": [f"Ben met Carla in {number}." for number in range(80)]}),
    ("/", {"inputs": ENTITY_TEXT}),
    ("/", {"inputs": [ENTITY_TEXT, ""], "parameters": {}}),
    ("/", {"inputs": ENTITY_TEXT, "parameters": {"aggregation_strategy": "none", "stride": 4}}),
    ("/", {"inputs": ENTITY_TEXT, "parameters": {"ignore_labels": ["PER", "O"]}, "options": {"wait_for_model": True}}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("/ner", {}),
    ("/ner", {"text": 7}),
    ("/ner", {"text": "a", "texts": ["a"]}),
    ("/ner", {"texts": ["a", 3]}),
    ("/ner", {"text": "a", "labels": ["NOBODY"]}),
    ("/ner", {"text": "a", "min_score": 2}),
    ("/ner", {"text": "a", "min_score": "0.5"}),
    ("/ner", {"text": "a", "timeout_ms": 99_999_999}),
    ("/ner", {"text": "a", "timeout_ms": 1.0}),
    ("/ner", {"text": "a", "split": 1}),
    ("/ner", {"text": "a", "priority": "urgent"}),
    ("/ner", {"text": "a", "exit_policy": {"tau": "low"}}),
    ("/ner", {"text": "a", "exit_policy": {"tau": -(10**400)}}),
    ("/ner", {"text": "a", "exit_policy": {"preset": "fast"}}),
    ("/ner", {"text": "a", "theshold": 1}),
    ("/ner", {"text": "x" * 100_001}),
    ("/ner", {"texts": ["a"] * 2_000}),
    ("/", {}),
    ("/", {"inputs": None}),
    ("/", {"inputs": "a", "parameters": {"stride": -1}}),
    ("/", {"inputs": ["a", 1]}),
]
BODIES = [
    *(b"", b"{", b"null", b"[]", b"7", b"\xff", b"{}", b'{"text": "a",}', b'{"text": "a"} x', b"[" * 100_000),
    *(b'\xef\xbb\xbf{"text": "a"}', '{"text": "a"}'.encode("utf-16"), '{"text": "a"}'.encode("utf-32")),
    *(rb'{"text": "a\ud800"}', rb'{"text": "\ud83d\ude00"}', b'{"text": "a\x00"}', b'{"text": "a\tb"}'),
    *(b'{"text": "a", "text": "Anna"}', b'{"text": 1, "text": "Anna"}', b'{"text": "Anna", "text": 1}'),
    *(b'{"text": "a", "min_score": NaN}', b'{"text": "a", "min_score": -0}', b'{"text": "a", "min_score": 1e-400}'),
    *(b'{"text": "a", "exit_policy": {"tau": -Infinity}}', b'{"text": "a", "exit_policy": {"tau": -1e400}}'),
    *(b'{"text": "a", "timeout_ms": ' + b"9" * digits + b"}" for digits in (20, 5_000)),
    *(b'{"text": "a", "exit_policy": {"tau": ' + b"[" * deep + b"]" * deep + b"}}" for deep in (150, 300, 2_000)),
]


class Ways:
    """One server, and which way its requests take."""

    def __init__(self, client: TestClient, patch: pytest.MonkeyPatch) -> None:
        self._client = client
        self._patch = patch
        self.took: list[bool] = []  # whether a request took the short way to its end

    @contextmanager
    def recorded(self, *, is_open: bool) -> Iterator[None]:
        """Note which way requests take; the short one may be closed."""
        go = ShortWay.answer

        async def answer(*request: Any) -> bool:
            self.took.append(is_open and await go(*request))
            return self.took[-1]

        with self._patch.context() as patch:
            patch.setattr(ShortWay, "answer", answer)
            yield

    def both(self, path: str, body: bytes, headers: dict[str, Any] | None = None) -> Any:
        """Send a request each way; -> status, headers in order, body. Fails if they are not the same."""
        short, long = (self._send(path, body, headers or JSON, is_open=is_open) for is_open in (True, False))
        assert short == long
        return short

    def _send(self, path: str, body: bytes, headers: dict[str, Any], *, is_open: bool) -> Any:
        with self.recorded(is_open=is_open):
            response = self._client.post(path, content=body, headers=headers)
        told = [(name, None if name in map(str.lower, TIMES) else value) for name, value in response.headers.items()]
        return response.status_code, told, _without_times(response.json())


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if isinstance(value, dict):
        return {name: None if name in TIMES else _without_times(item) for name, item in value.items()}
    return value


@pytest.fixture
def ways(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> Ways:
    """The two ways through a server."""
    return Ways(client, monkeypatch)


@pytest.mark.parametrize(("path", "request_"), WELL)
def test_what_fits_takes_the_short_way_to_the_same_answer(ways: Ways, path: str, request_: dict[str, Any]) -> None:
    status, _, _ = ways.both(path, json.dumps(request_).encode())
    assert status == 200 and ways.took == [True, False]


@pytest.mark.parametrize(("path", "request_"), WELL)
def test_an_answer_is_what_the_document_says_to_the_byte(
    client: TestClient, path: str, request_: dict[str, Any]
) -> None:
    answer = client.post(path, json=request_)
    is_list = isinstance(request_.get("texts", request_.get("inputs")), list)
    adapter = TypeAdapter[Any](MODELS[2 * (path == "/") + is_list])
    assert adapter.dump_json(adapter.validate_json(answer.content, strict=True, extra="forbid")) == answer.content


@pytest.mark.parametrize(("path", "request_"), REFUSED)
def test_what_does_not_fit_is_refused_alike(ways: Ways, path: str, request_: dict[str, Any]) -> None:
    status, _, body = ways.both(path, json.dumps(request_).encode())
    assert status in (413, 422) and body["request_id"] == "one"


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:40]))
def test_any_bytes_are_taken_or_refused_alike(ways: Ways, body: bytes) -> None:
    assert ways.both("/ner", body)[0] in (200, 400, 422)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-Id": "one"},
        *(
            {"Content-Type": kind, "X-Request-Id": "one"}
            for kind in ("text/plain", "Application/JSON ; charset=utf-8", "application/x+json", "json", "a/b/json")
        ),
        *({**JSON, "Content-Encoding": encoding} for encoding in ("gzip", "identity", "")),
    ],
)
def test_heads_are_read_alike(ways: Ways, headers: dict[str, str]) -> None:
    ways.both("/ner", json.dumps(ONE_TEXT).encode(), headers)


@pytest.mark.parametrize("path", ["/ner?x=1", "/?text=a", "/ner?"])
def test_a_query_is_refused_alike(ways: Ways, path: str) -> None:
    ways.both(path, json.dumps(ONE_TEXT).encode())


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic read", "bearer read", "Bearer  read ", "Bearer change"],
)
def test_keys_are_read_alike(start: Start, monkeypatch: pytest.MonkeyPatch, authorization: str | None) -> None:
    client = start(api_key="read", admin_key="change")
    headers = JSON if authorization is None else {**JSON, "Authorization": authorization}
    status, told, _ = Ways(client, monkeypatch).both("/ner", b'{"text": "a"}', headers)
    assert (status == 401) == ("www-authenticate" in dict(told))
    right = authorization in ("bearer read", "Bearer  read ", "Bearer change")
    assert status == (200 if right else 401)


def test_of_several_keys_the_first_counts_on_both_ways(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways(start(api_key="read"), monkeypatch)
    for first, second, expected in (("read", "wrong", 200), ("wrong", "read", 401)):
        headers: Any = [*JSON.items(), *(("Authorization", f"Bearer {key}") for key in (first, second))]
        assert ways.both("/ner", b'{"text": "a"}', headers)[0] == expected


def test_a_host_that_is_none_of_ours_is_refused_alike(ways: Ways) -> None:
    assert ways.both("/ner", b'{"text": "a"}', {**JSON, "Host": "elsewhere"})[0] == 421


def test_what_is_over_a_limit_or_comes_too_late_is_refused_alike(
    start: Start, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = build(max_body_bytes=100, max_text_chars=20, max_texts=2, queue_tokens=30)
    ways = Ways(start(service), monkeypatch)
    assert ways.both("/ner", b'{"text": "a"}'.ljust(101))[0] == 413
    assert ways.both("/ner", json.dumps({"text": "a" * 21}).encode())[0] == 413
    assert ways.both("/ner", json.dumps({"texts": ["a"] * 3}).encode())[0] == 413
    assert ways.both("/", json.dumps({"inputs": ["!" * 16] * 2}).encode())[0] == 413
    service.engine.close()
    assert ways.both("/ner", b'{"text": "a"}')[0] == 503


def test_both_ways_count_alike(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start()
    ways = Ways(client, monkeypatch)
    for path, request_, code in (("/ner", ONE_TEXT, "200"), ("/", {"inputs": "a"}, "200"), ("/", {}, "422")):
        ways.both(path, json.dumps(request_).encode())
        assert sample(client, "ner_requests_total", endpoint=path, code=code) == 2
    assert sample(client, "ner_request_duration_seconds_count") == 4


def test_a_body_that_is_large_goes_the_way_that_parses_it_beside_the_event_loop(ways: Ways) -> None:
    ways.both("/ner", json.dumps(ONE_TEXT).encode().ljust(70_000))
    assert ways.took == [False, False]


def test_a_draining_server_closes_both_ways(start: Start, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    service = build()
    ways = Ways(start(service), monkeypatch)
    service.is_draining = True
    status, told, _ = ways.both("/ner", json.dumps(ONE_TEXT).encode())
    assert (status, dict(told)["connection"]) == (200, "close")


texts = st.lists(st.text(max_size=30) | odd_texts | st.just(ENTITY_TEXT), max_size=4).map(" ".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
bodies = st.fixed_dictionaries(
    {},
    optional={
        "text": texts | values,
        "texts": st.lists(texts, max_size=3) | values,
        "labels": st.lists(st.sampled_from(["PER", "LOC", "X"]), max_size=3) | values,
        "min_score": st.floats(-0.5, 1.5) | values,
        "timeout_ms": st.sampled_from([9_000, 10_000, 10_001, 0]) | scalars.filter(lambda one: one != 1),
        "split": st.booleans() | values,
        "exit_policy": st.just(FULL_DEPTH) | st.dictionaries(st.sampled_from(["tau", "layer", "x"]), values) | values,
        "inputs": texts | st.lists(texts, max_size=3) | values,
        "parameters": st.dictionaries(st.sampled_from(["aggregation_strategy", "stride"]), values) | values,
    },
)


@seeded
@given(path=st.sampled_from(["/ner", "/"]), body=bodies, ascii_only=st.booleans())
def test_any_json_is_answered_or_refused_alike(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, body: Any, ascii_only: bool
) -> None:
    if "timeout_ms" in body and type(body["timeout_ms"]) is int and 0 < body["timeout_ms"] < 9_000:
        body["timeout_ms"] = 9_000  # a shorter time may pass on one of the ways
    sent = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    Ways(client, monkeypatch).both(path, sent)


@seeded
@given(body=st.binary(max_size=50) | st.text(max_size=20).map(lambda text: f'{{"text": "{text}"}}'.encode()))
def test_any_bytes_at_all_are_answered_or_refused_alike(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    Ways(client, monkeypatch).both("/ner", body)
