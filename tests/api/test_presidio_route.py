"""POST /analyze and GET /supportedentities: Presidio's own classes read what they answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from presidio_analyzer import AnalyzerRequest, RecognizerResult
from presidio_anonymizer import AnonymizerEngine
from presidio_anonymizer.entities import OperatorConfig
from presidio_anonymizer.entities import RecognizerResult as ToAnonymize
from starlette.testclient import TestClient

from service.api.routes.presidio import _type_of
from tests.api.servers_ import ENTITY_TEXT

Start = Callable[..., TestClient]
TYPES = {"LOC": "LOCATION", "ORG": "ORGANIZATION", "PER": "PERSON"}
FIELDS = ["analysis_explanation", "end", "entity_type", "score", "start"]


def analyze(client: TestClient, text: str | list[str], **fields: Any) -> Any:
    """What a text is answered with. The request is one that Presidio's analyzer takes as well."""
    body = {"text": text, "language": "en", **fields}
    asked = AnalyzerRequest(body)
    assert (asked.text, asked.entities, asked.score_threshold) == (
        text,
        fields.get("entities"),
        fields.get("score_threshold"),
    )
    response = client.post("/analyze", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refusal(client: TestClient, **body: Any) -> str:
    """What a request is refused with."""
    response = client.post("/analyze", json={"text": "Anna", "language": "en", **body})
    assert response.status_code == 422
    return str(response.json()["error"])


def test_every_entity_of_the_model_is_a_result_of_presidios(client: TestClient) -> None:
    found = analyze(client, ENTITY_TEXT)
    entities = client.post("/ner", json={"text": ENTITY_TEXT}).json()["entities"]
    assert entities
    assert [list(item) for item in found] == [FIELDS] * len(entities)
    results = [RecognizerResult.from_json(item) for item in found]
    assert [(one.start, one.end, one.entity_type) for one in results] == [
        (entity["start"], entity["end"], TYPES[entity["label"]]) for entity in entities
    ]
    assert [one.score for one in results] == pytest.approx([entity["score"] for entity in entities], abs=1e-5)
    assert [one.to_dict().keys() >= set(FIELDS) for one in results] == [True] * len(entities)


def test_presidios_anonymizer_takes_them_as_they_are(client: TestClient) -> None:
    text = f"😀 北京 {ENTITY_TEXT}"
    found = analyze(client, text, entities=["PERSON"])
    results = [ToAnonymize.from_json(item) for item in found]
    operators = {"PERSON": OperatorConfig("replace", {"new_value": "<PERSON>"})}
    anonymized = AnonymizerEngine().anonymize(text, results, operators).text
    hidden = {index for item in found for index in range(item["start"], item["end"])}
    shown = [character for index, character in enumerate(text) if index not in hidden]
    assert "<PERSON>" in anonymized  # of entities that lie in others, and of neighbours, Presidio makes one
    assert "".join(anonymized.replace("<PERSON>", "").split()) == "".join("".join(shown).split())


def test_several_texts_are_answered_in_order(client: TestClient) -> None:
    texts = [ENTITY_TEXT, "", f"{ENTITY_TEXT} Anna"]
    spans = [[(item["start"], item["end"]) for item in found] for found in analyze(client, texts)]
    assert spans == [[(item["start"], item["end"]) for item in analyze(client, text)] for text in texts]
    assert analyze(client, []) == []


@pytest.mark.parametrize("nothing", [None, []])
def test_types_and_a_threshold_keep_what_is_asked_for(client: TestClient, nothing: list[str] | None) -> None:
    found = analyze(client, ENTITY_TEXT, entities=nothing, score_threshold=None)
    types = sorted({item["entity_type"] for item in found})
    assert {item["entity_type"] for item in analyze(client, ENTITY_TEXT, entities=types[:1])} == set(types[:1])
    median = sorted(item["score"] for item in found)[len(found) // 2]
    kept = analyze(client, ENTITY_TEXT, score_threshold=median - 1e-4)
    assert 0 < len(kept) < len(found) and all(item["score"] >= median - 1e-3 for item in kept)


def test_what_changes_nothing_is_taken(client: TestClient) -> None:
    fields = {"correlation_id": "7", "return_decision_process": True}
    assert len(analyze(client, ENTITY_TEXT, **fields)) == len(analyze(client, ENTITY_TEXT))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"entities": ["PERSON", "CREDIT_CARD"]}, "CREDIT_CARD cannot be found here; tiny@1 finds LOCATION, ORG"),
        ({"language": "de"}, "language is 'de'; tiny@1 reads 'en' alone"),
        ({"language": None}, "language"),
        ({"text": 7}, "expected a string or a list of strings"),
        ({"score_threshold": 2}, "score_threshold"),
        ({"ad_hoc_recognizers": [{"name": "Zip"}]}, "ad_hoc_recognizers"),
        ({"allow_list": ["Anna"]}, "allow_list"),
    ],
)
def test_what_would_be_looked_for_in_vain_is_refused_by_name(
    client: TestClient, body: dict[str, Any], said: str
) -> None:
    assert said in refusal(client, **body)


def test_a_language_has_to_be_said(client: TestClient) -> None:
    response = client.post("/analyze", json={"text": "Anna"})
    assert (response.status_code, "language" in response.json()["error"]) == (422, True)


@pytest.mark.parametrize("query", ["", "?language=en"])
def test_the_types_that_are_found_are_listed(client: TestClient, query: str) -> None:
    assert client.get(f"/supportedentities{query}").json() == ["LOCATION", "ORGANIZATION", "PERSON"]


@pytest.mark.parametrize(("query", "said"), [("?language=de", "reads 'en' alone"), ("?lang=en", "unknown query")])
def test_another_language_has_no_types(client: TestClient, query: str, said: str) -> None:
    response = client.get(f"/supportedentities{query}")
    assert (response.status_code, said in response.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("label", "entity_type"),
    [("PER", "PERSON"), ("GPE", "LOCATION"), ("FAC", "LOCATION"), ("MISC", "NRP"), ("NORP", "NRP"), ("VEH", "VEH")],
)
def test_labels_have_presidios_names_where_it_has_one(label: str, entity_type: str) -> None:
    assert _type_of(label) == entity_type


def test_its_limits_and_counts_are_those_of_every_request_for_entities(start: Start, model_folder: Path) -> None:
    client = start(max_texts=2, max_text_chars=50)
    for text, said in [("x" * 51, "text has 51 characters"), (["a", "x" * 51], "text[1]"), (["a"] * 3, "3 items")]:
        response = client.post("/analyze", json={"text": text, "language": "en"})
        assert (response.status_code, said in response.json()["error"]) == (413, True)
    assert analyze(client, "Anna") is not None
    assert 'ner_requests_total{code="200",endpoint="/analyze"' in client.get("/metrics").text
