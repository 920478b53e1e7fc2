"""POST /ner/stream: lines in, answers out in order, errors in their place, whatever the options."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.state import Service
from tests.api.servers_ import ENTITY_TEXT, BrokenStepper, GatedStepper, sample, samples, use_stepper
from tests.models_ import TEXTS

Start = Callable[..., TestClient]
Build = Callable[..., Service]
JSON = "application/json"
FULL_DEPTH = json.dumps({"strategy": "full_depth"})  # where the tiny model finds entities


def body(lines: Iterable[Any]) -> bytes:
    """Lines of JSON; bytes are a line as they are."""
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def stream(client: TestClient, content: bytes, headers: dict[str, str] | None = None, **query: Any) -> list[Any]:
    """The lines that are answered."""
    response = client.post("/ner/stream", content=content, params=query, headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without its times and scores, whose last digits depend on what runs beside."""
    entities = [{name: value for name, value in one.items() if name != "score"} for one in answer.get("entities", ())]
    return {name: value for name, value in answer.items() if name != "timing_ms"} | {"entities": entities}


def test_every_line_has_the_answer_of_its_text_alone_in_order(client: TestClient) -> None:
    texts = [*TEXTS, "", ENTITY_TEXT, "😀 e\u0301 北京 " + ENTITY_TEXT, *(f"Ben met Carla in {n}." for n in range(80))]
    alone = [client.post("/ner", json={"text": text}).json() for text in texts]
    answers = stream(client, body({"id": f"n{number}", "text": text} for number, text in enumerate(texts)))
    assert [told(answer) for answer in answers] == [
        {"line": number + 1, "id": f"n{number}", **told(answer)} for number, answer in enumerate(alone)
    ]


def test_options_hold_for_all_lines(client: TestClient) -> None:
    lines = body([{"text": ENTITY_TEXT}] * 2)
    first, second = stream(client, lines, exit_policy=FULL_DEPTH, trace=True, split=False)
    assert first["entities"] and first["exit_layer"] == 4 and len(first["sequences"][0]["trace"]) == 4
    assert told(second)["entities"] == told(first)["entities"]
    found = {entity["label"] for entity in first["entities"]}
    kept = sorted(found)[:1]
    some, _ = stream(client, lines, exit_policy=FULL_DEPTH, labels=", ".join(kept))
    assert [entity["label"] for entity in some["entities"]] == [
        entity["label"] for entity in first["entities"] if entity["label"] in kept
    ]
    assert all(not answer["entities"] for answer in stream(client, lines, exit_policy=FULL_DEPTH, labels=""))
    assert all(not answer["entities"] for answer in stream(client, lines, exit_policy=FULL_DEPTH, min_score=1))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"labels": "PER,NOBODY"}, "labels: NOBODY unknown"),
        ({"min_score": 2}, "min_score"),
        ({"timeout_ms": 99_999_999}, "NER_TIMEOUT_MS"),
        ({"exit_policy": "fast"}, "exit_policy"),
        ({"exit_policy": '{"strategy": "unheard of"}'}, "unheard of"),
        ({"exit_policy": json.dumps({f"p{number}": 1 for number in range(65)})}, "exit_policy"),
        ({"priority": "interactive"}, "unknown query parameters: priority"),
    ],
)
def test_options_that_cannot_be_refuse_the_whole_stream(client: TestClient, query: dict[str, Any], said: str) -> None:
    response = client.post("/ner/stream", content=body([{"text": "a"}]), params=query)
    assert response.status_code == 422 and said in response.json()["error"]


@pytest.mark.parametrize(
    ("line", "error_type", "said"),
    [
        (b"not JSON", "BadInput", "JSON"),
        (b'{"text": "\xff"}', "BadInput", "JSON"),
        (b'{"text": "a\\ud800"}', "BadInput", "hex escape"),
        (b"[" * 1_000, "BadInput", "JSON"),
        (b'"Rome"', "BadInput", "object"),
        ({}, "BadInput", "text: Field required"),
        ({"text": 7}, "BadInput", "text: Input should be a valid string; given 7"),
        ({"text": "a", "id": [1]}, "BadInput", "id"),
        ({"text": "x" * 1_001}, "TooLarge", "text has 1001 characters; the limit is 1000 (NER_MAX_TEXT_CHARS)"),
        ({"text": "x", "filler": "y" * 2_000}, "TooLarge", "the line is over the limit of 2000 bytes"),
    ],
)
def test_an_error_has_its_place_and_costs_no_other_line_its_answer(
    start: Start, line: Any, error_type: str, said: str
) -> None:
    client = start(max_text_chars=1_000, max_body_bytes=2_000)
    first, bad, last = stream(client, body([{"text": "Anna"}, line, {"text": "Ben"}]), {"X-Request-Id": "one"})
    assert (first["line"], last["line"]) == (1, 3) and "error" not in first | last
    assert (bad["line"], bad["error_type"], bad["request_id"]) == (2, error_type, "one/2")
    assert said in bad["error"]
    assert sample(client, "ner_stream_lines_total", outcome="error") == 1
    assert sample(client, "ner_stream_lines_total", outcome="result") == 2


def test_an_error_keeps_the_id_of_its_line(start: Start) -> None:
    (bad,) = stream(start(max_text_chars=3), body([{"text": "long", "id": 7}]))
    assert (bad["id"], bad["error_type"]) == (7, "TooLarge")


def test_blank_lines_count_and_are_passed_over_as_other_fields_are(client: TestClient) -> None:
    content = b'\xef\xbb\xbf{"text": "Anna", "labels": [1]}\r\n\n \r\n{"text": "Ben"}'
    assert [answer["line"] for answer in stream(client, content)] == [1, 4]
    assert stream(client, b"") == []


def test_a_large_line_is_answered_as_others_are(client: TestClient) -> None:
    large = {"text": "Anna", "filler": "x" * 70_000}
    assert [told(answer)["line"] for answer in stream(client, body([large, {"text": 7, "filler": large}]))] == [1, 2]


def test_a_stream_may_be_longer_than_a_body_and_than_the_queue(start: Start) -> None:
    client = start(max_body_bytes=200, queue_texts=1, queue_tokens=60)
    lines = [{"text": f"Ben met Carla in {number}."} for number in range(100)]
    assert [answer["line"] for answer in stream(client, body(lines))] == list(range(1, 101))
    rejected = [one.value for one in samples(client) if one.name == "ner_requests_rejected_total"]
    assert rejected and not any(rejected)


def test_a_line_that_fails_in_the_engine_says_so(build: Build, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = build()
    use_stepper(service, BrokenStepper())
    with caplog.at_level(logging.ERROR):
        answers = stream(start(service), body([{"text": "Anna"}, {"text": ""}]), {"X-Request-Id": "one"})
    assert [answer.get("error_type") for answer in answers] == ["EngineFailed", None]
    assert "request one/1 failed" in caplog.text and "4711" not in json.dumps(answers)


def test_a_line_that_has_a_time_limit_is_given_up_when_it_passes(
    start_gated: Start, gated: GatedStepper, client: TestClient
) -> None:
    (late,) = stream(start_gated(), body([{"text": "Anna"}]), timeout_ms=1)
    assert (late["line"], late["error_type"]) == (1, "TimedOut")
    assert "entities" in stream(client, body([{"text": "Anna"}]), timeout_ms=10_000)[0]


def test_a_stream_needs_the_key_and_is_not_unpacked(start: Start) -> None:
    client = start(api_key="secret")
    assert client.post("/ner/stream", content=body([{"text": "a"}])).status_code == 401
    headers = {"Authorization": "Bearer secret"}
    assert stream(client, body([{"text": "a"}]), headers)[0]["line"] == 1
    packed = client.post("/ner/stream", content=b"x", headers=headers | {"Content-Encoding": "gzip"})
    assert packed.status_code == 415


def test_streams_have_room_for_so_many_bytes_together(build: Build, start: Start) -> None:
    service = build(max_body_bytes=1_000, queue_bytes=2_000)
    client = start(service)
    with service.streams.joined(1_500, lambda: None):
        refused = client.post("/ner/stream", content=body([{"text": "a" * 600}]))
        assert stream(client, body([{"text": "a"}]))[0]["line"] == 1
        assert sample(client, "ner_streams") == 1
    assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
    assert sample(client, "ner_streams") == 0


def test_no_stream_begins_when_the_server_is_about_to_end(build: Build, start: Start) -> None:
    service = build()
    client = start(service)
    service.is_draining = True
    refused = client.post("/ner/stream", content=body([{"text": "a"}]))
    assert (refused.status_code, refused.json()["error_type"]) == (503, "NotReady")


def test_the_document_says_what_a_line_is_and_what_comes_back(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = document["paths"]["/ner/stream"]["post"]
    lines = described["requestBody"]["content"]
    assert list(lines) == ["application/x-ndjson"]
    assert lines["application/x-ndjson"]["schema"]["properties"].keys() == {"text", "id"}
    answered = described["responses"]["200"]["content"]
    assert answered == {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/LineOut"}}}
    assert [*described["responses"]["503"]["content"]] == [*described["responses"]["429"]["content"]] == [JSON]
    (answer,) = stream(client, body([{"text": ENTITY_TEXT, "id": "a"}]), exit_policy=FULL_DEPTH, trace=True)
    assert answer.keys() == document["components"]["schemas"]["LineOut"]["properties"].keys()
    options = {parameter["name"] for parameter in described["parameters"]}
    assert options == {"labels", "min_score", "split", "timeout_ms", "trace", "exit_policy"}


# priority of other requests


def found_in(answer: Any) -> list[Any]:
    """The entities of an answer, in either wire format."""
    found: list[Any] = answer["entities"] if isinstance(answer, dict) else answer
    return found


def label_of(entity: dict[str, Any]) -> Any:
    return entity["start"], entity["end"], entity.get("label", entity.get("entity_group"))


@pytest.mark.parametrize(("path", "given"), [("/ner", {"text": ENTITY_TEXT}), ("/", {"inputs": ENTITY_TEXT})])
def test_bulk_requests_have_the_same_answer_and_no_part_in_the_times(
    start: Start, path: str, given: dict[str, Any]
) -> None:
    client = start()
    client.patch("/exit-policy", json={"strategy": "full_depth"}, headers={"Authorization": "Bearer the-admin-key"})
    plain = client.post(path, json=given | {"priority": "interactive"}).json()
    timed = sample(client, "ner_request_duration_seconds_count")
    entities = sample(client, "ner_entities_total", label="PER")
    bulk = client.post(path, json=given | {"priority": "bulk"}).json()
    assert [label_of(one) for one in found_in(bulk)] == [label_of(one) for one in found_in(plain)] != []
    assert sample(client, "ner_request_duration_seconds_count") == timed == 1
    assert sample(client, "ner_entities_total", label="PER") > entities
    refused = client.post(path, json=given | {"priority": "urgent"})
    assert refused.status_code == 422 and "priority: Input should be 'interactive' or 'bulk'" in refused.json()["error"]
