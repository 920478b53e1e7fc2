"""What is over a limit: of size, of the queue, of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.state import Service
from tests.api.servers_ import AS_ADMIN, GatedStepper, sample, tiny_service, wait_until

Start = Callable[..., TestClient]
Build = Callable[..., Service]
JSON = {"Content-Type": "application/json"}
MAX_BODY_BYTES = 400


@pytest.fixture(scope="module")
def small(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with small limits."""
    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_text_chars": 50, "max_texts": 3, "timeout_ms": 5_000}
    service = tiny_service(model_folder, tmp_path_factory.mktemp("state"), **limits, queue_tokens=40)
    with TestClient(create_app(service)) as client:
        yield client


def refusal(client: TestClient, status: int, **request: Any) -> str:
    """The message of a request that is refused with `status`."""
    response = client.post("/ner", json=request)
    assert response.status_code == status, response.text
    return str(response.json()["error"])


def body_of(size: int) -> bytes:
    """A request of so many bytes."""
    return b'{"text": "a"}'.ljust(size)


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(small: TestClient) -> None:
    assert small.post("/ner", content=body_of(MAX_BODY_BYTES), headers=JSON).status_code == 200
    response = small.post("/ner", content=body_of(MAX_BODY_BYTES + 1), headers=JSON)
    assert response.status_code == 413
    assert "400 bytes (NER_MAX_BODY_BYTES)" in response.json()["error"]


def test_a_body_without_a_length_is_counted_as_it_comes(small: TestClient) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        body = body_of(size)
        yield from (body[start : start + 64] for start in range(0, size, 64))

    assert small.post("/ner", content=chunks(MAX_BODY_BYTES), headers=JSON).status_code == 200
    assert small.post("/ner", content=chunks(MAX_BODY_BYTES + 1), headers=JSON).status_code == 413


def test_the_limit_of_the_body_holds_for_every_endpoint(small: TestClient) -> None:
    response = small.patch("/exit-policy", content=body_of(MAX_BODY_BYTES + 1), headers=JSON | AS_ADMIN)
    assert response.status_code == 413
    assert sample(small, "ner_requests_total", endpoint="/exit-policy", code="413") == 1


def test_a_text_of_the_limit_is_taken_and_one_character_more_is_not(small: TestClient) -> None:
    assert small.post("/ner", json={"text": " " * 49 + "😀"}).status_code == 200
    message = refusal(small, 413, text="x" * 51)
    assert message.startswith("text has 51 characters")
    assert "50 (NER_MAX_TEXT_CHARS)" in message


def test_the_index_of_a_text_that_is_too_long_is_named(small: TestClient) -> None:
    assert refusal(small, 413, texts=["a", "b", "x" * 51]).startswith("texts[2] has 51 characters")


def test_the_limits_of_texts_hold_in_hugging_faces_format_too(small: TestClient) -> None:
    for inputs, message in [
        ("x" * 51, "inputs has 51 characters"),
        (["a", "x" * 51], "inputs[1] has 51 characters"),
        (["a"] * 4, "inputs has 4 items"),
        (["!" * 41], "the request has at least 4"),
    ]:
        response = small.post("/", json={"inputs": inputs})
        assert response.status_code == 413
        assert response.json()["error"].startswith(message)


def test_a_list_of_too_many_texts_is_refused(small: TestClient) -> None:
    message = refusal(small, 413, texts=["a"] * 4)
    assert message.startswith("texts has 4 items")
    assert "3 (NER_MAX_TEXTS)" in message


def test_a_list_that_could_never_be_admitted_is_too_large_rather_than_too_early(start: Start) -> None:
    assert "2 (NER_QUEUE_TEXTS)" in refusal(start(queue_texts=2), 413, texts=["a"] * 3)


def test_texts_of_more_tokens_than_the_queue_can_hold_are_too_large_rather_than_too_early(small: TestClient) -> None:
    assert "40 (NER_QUEUE_TOKENS)" in refusal(small, 413, text="!" * 41)


def test_more_time_than_the_operator_allows_is_refused(small: TestClient) -> None:
    assert small.post("/ner", json={"text": "a", "timeout_ms": 5_000}).status_code == 200
    message = refusal(small, 422, text="a", timeout_ms=5_001)
    assert message.startswith("timeout_ms is 5001")
    assert "5000 (NER_TIMEOUT_MS)" in message


def test_what_is_too_large_is_counted(start: Callable[..., TestClient]) -> None:
    client = start(max_body_bytes=100, max_text_chars=5, max_texts=2)
    client.post("/ner", content=body_of(101), headers=JSON)
    client.post("/ner", json={"text": "x" * 6})
    client.post("/ner", json={"texts": ["a"] * 3})
    assert sample(client, "ner_requests_rejected_total", reason="too_large") == 3


def test_a_full_queue_is_a_429_until_there_is_room(start_gated: Start, gated: GatedStepper) -> None:
    client = start_gated(queue_texts=2)
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(client.post, "/ner", json={"texts": ["Anna", "Ben"]})
        wait_until(gated.arrived.is_set)
        refused = client.post("/ner", json={"text": "Carla"})
        gated.gate.set()
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert admitted.result().status_code == 200
    assert client.post("/ner", json={"text": "Carla"}).status_code == 200
    assert sample(client, "ner_requests_rejected_total", reason="queue_full") == 1


def test_a_list_is_admitted_whole_or_not_at_all(start_gated: Start, gated: GatedStepper) -> None:
    client = start_gated(queue_texts=3)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/ner", json={"texts": ["Anna", "Ben"]})
        wait_until(gated.arrived.is_set)
        assert client.post("/ner", json={"texts": ["Carla", "Rome"]}).status_code == 429
        last = pool.submit(client.post, "/ner", json={"texts": ["Carla"]})
        wait_until(lambda: sample(client, "ner_requests_waiting") == 1)
        gated.gate.set()
        assert [first.result().status_code, last.result().status_code] == [200, 200]


def test_the_queue_is_bounded_in_tokens_too(start_gated: Start, gated: GatedStepper) -> None:
    client = start_gated(queue_pieces=10)
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(client.post, "/ner", json={"text": "Anna met Ben"})
        wait_until(gated.arrived.is_set)
        refused = client.post("/ner", json={"text": "Anna met Carla in Rome"})
        gated.gate.set()
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert admitted.result().status_code == 200


def test_a_request_whose_time_passes_is_a_504_and_runs_no_further(start_gated: Start, gated: GatedStepper) -> None:
    client = start_gated()
    response = client.post("/ner", json={"text": "Anna met Ben", "timeout_ms": 20})
    assert (response.status_code, response.json()["error_type"]) == (504, "TimedOut")
    gated.gate.set()
    assert client.post("/ner", json={"text": "Anna", "exit_policy": {"strategy": "full_depth"}}).status_code == 200
    assert sorted(gated.layers_run) in ([1, 2, 3, 4], [1, 1, 2, 3, 4])  # the late one ran its first layer at most
    assert sample(client, "ner_requests_timed_out_total") == 1


def test_a_requests_time_is_counted_from_its_arrival(
    start: Start, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, begun, deadlines = build(), list[float](), list[float]()
    cutting, submit = service.text_encoder.cutting, service.engine.submit
    monkeypatch.setattr(
        service.text_encoder, "cutting", lambda *texts, **how: begun.append(monotonic()) or cutting(*texts, **how)
    )
    monkeypatch.setattr(service.engine, "submit", lambda request: deadlines.append(request.deadline) or submit(request))
    assert start(service).post("/ner", json={"text": "Anna", "timeout_ms": 5_000}).status_code == 200
    assert deadlines[-1] <= begun[-1] + 5.0  # what the tokenizer takes is part of it


def test_a_request_that_waits_too_long_never_runs_and_gives_its_place_back(
    start_gated: Start, gated: GatedStepper
) -> None:
    client = start_gated(queue_texts=2)
    full_depth = {"exit_policy": {"strategy": "full_depth"}}
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/ner", json={"text": "Anna", **full_depth})
        wait_until(gated.arrived.is_set)
        assert client.post("/ner", json={"text": "Ben", "timeout_ms": 1, **full_depth}).status_code == 504
        gated.gate.set()
        assert first.result().status_code == 200
    wait_until(lambda: sample(client, "ner_requests_waiting") == 0)
    assert gated.layers_run == [1, 2, 3, 4]
    assert client.post("/ner", json={"texts": ["Ben", "Carla"]}).status_code == 200
