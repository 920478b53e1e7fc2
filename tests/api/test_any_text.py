"""Any text, any JSON, any bytes to POST /ner: an answer whose offsets are right, or a refusal, and never a fault."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.api.servers_ import ENTITY_TEXT
from tests.text.test_text_path import texts as odd_texts

JSON = {"Content-Type": "application/json"}
FULL_DEPTH = {"strategy": "full_depth"}  # where the tiny model finds entities
texts = st.lists(st.text(max_size=30) | odd_texts | st.just(ENTITY_TEXT), max_size=4).map(" ".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
fields = st.sampled_from(["text", "texts", "labels", "min_score", "timeout_ms", "split", "trace", "exit_policy", "x"])
seeded = settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check(result: dict[str, Any], text: str) -> None:
    """Offsets are of whole words of the text, in order."""
    for entity in result["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"] == entity["text"].strip() != ""
    for parts in (result["entities"], result["sequences"]):
        places = [(part["start"], -part["end"]) for part in parts]
        assert places == sorted(places)
        assert all(0 <= part["start"] < part["end"] <= len(text) for part in parts)
    assert result["exit_layer"] == max((sequence["exit_layer"] for sequence in result["sequences"]), default=0)


@seeded
@given(text=texts, split=st.booleans())
def test_any_text_is_answered_with_offsets_into_it(client: TestClient, text: str, split: bool) -> None:
    response = client.post("/ner", json={"text": text, "split": split, "exit_policy": FULL_DEPTH})
    assert response.status_code == 200, response.text
    check(response.json(), text)


@seeded
@given(text=texts)
def test_a_text_is_the_same_however_its_characters_are_written(client: TestClient, text: str) -> None:
    request = {"text": text, "exit_policy": FULL_DEPTH, "trace": True}
    escaped, plain = (
        client.post("/ner", content=json.dumps(request, ensure_ascii=ascii_only).encode(), headers=JSON).json()
        for ascii_only in (True, False)
    )
    assert escaped["entities"] == plain["entities"] and escaped["sequences"] == plain["sequences"]


@seeded
@given(batch=st.lists(texts, max_size=5))
def test_texts_are_answered_together_as_alone(client: TestClient, batch: list[str]) -> None:
    together = client.post("/ner", json={"texts": batch, "exit_policy": FULL_DEPTH}).json()["results"]
    for text, result in zip(batch, together, strict=True):
        check(result, text)
        alone = client.post("/ner", json={"text": text, "exit_policy": FULL_DEPTH}).json()
        spans = [[(e["start"], e["end"], e["label"]) for e in answer["entities"]] for answer in (alone, result)]
        assert spans[0] == spans[1]


@seeded
@given(body=st.dictionaries(fields, values, max_size=4) | values)
def test_any_json_is_answered_or_refused(client: TestClient, body: Any) -> None:
    response = client.post("/ner", content=json.dumps(body).encode(), headers=JSON)
    assert response.status_code in (200, 422, 504), response.text
    assert "error_type" in response.json() or response.status_code == 200


@seeded
@given(body=st.binary(max_size=50) | st.text(max_size=20).map(lambda text: f'{{"text": "{text}"}}'.encode()))
def test_any_bytes_are_answered_or_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/ner", content=body, headers=JSON)
    assert response.status_code in (200, 400, 422), response.text
