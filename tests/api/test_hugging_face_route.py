"""POST /: what Hugging Face's clients send and expect for token classification."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.servers_ import ENTITY_TEXT, sample
from tests.models_ import TEXTS

PARAGRAPH = " ".join(TEXTS)
GROUPED = ["simple", "first", "average", "max", None]
ONE_LONG_SENTENCE = " and ".join(TEXTS * 8).replace(".", "")  # of several windows


def answer(client: TestClient, inputs: str | list[str], **parameters: Any) -> Any:
    """The body of a request that succeeds."""
    response = client.post("/", json={"inputs": inputs, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(client: TestClient, **request: Any) -> str:
    """The message of a request that does not fit."""
    response = client.post("/", json=request)
    assert (response.status_code, response.json()["error_type"]) == (422, "BadInput"), response.text
    return str(response.json()["error"])


def by_ner(client: TestClient, text: str) -> list[dict[str, Any]]:
    """The entities that POST /ner finds, in the words of Hugging Face."""
    entities = client.post("/ner", json={"text": text}).json()["entities"]
    return [
        {"entity_group": e["label"], "score": e["score"], "word": e["text"], "start": e["start"], "end": e["end"]}
        for e in entities
    ]


def test_a_text_is_answered_with_the_entities_of_ner_as_an_array(client: TestClient) -> None:
    items = answer(client, PARAGRAPH)
    assert len(items) > 1
    assert items == by_ner(client, PARAGRAPH)


@pytest.mark.parametrize("strategy", GROUPED)
def test_every_strategy_that_groups_gives_the_same_entities(client: TestClient, strategy: str | None) -> None:
    assert answer(client, PARAGRAPH, aggregation_strategy=strategy) == answer(client, PARAGRAPH)


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"parameters": None},
        {"parameters": {"aggregation_strategy": None, "ignore_labels": None, "stride": None}},
        {"parameters": {"stride": 16}},
        {"options": {"use_cache": False, "wait_for_model": True}},
        {"options": None},
    ],
)
def test_what_is_null_or_left_out_or_has_no_meaning_here_changes_nothing(
    client: TestClient, rest: dict[str, Any]
) -> None:
    response = client.post("/", json={"inputs": PARAGRAPH, **rest})
    assert response.json() == answer(client, PARAGRAPH)


def test_without_aggregation_every_word_of_an_entity_is_an_item_with_its_tag(client: TestClient) -> None:
    entities, words = answer(client, ENTITY_TEXT), answer(client, ENTITY_TEXT, aggregation_strategy="none")
    assert any(" " in entity["word"] for entity in entities)
    expected = []
    for entity in entities:
        for position, word in enumerate(re.finditer(r"\w+", entity["word"])):
            start, end = (entity["start"] + offset for offset in word.span())
            tag = f"{'I' if position else 'B'}-{entity['entity_group']}"
            index = len(ENTITY_TEXT[:start].split()) + 1
            expected.append({**entity, "word": word[0], "start": start, "end": end, "entity": tag, "index": index})
    assert words == expected


def test_the_index_of_a_word_counts_over_sentences_and_windows(client: TestClient) -> None:
    text = f"{PARAGRAPH}. {ONE_LONG_SENTENCE}"
    words = re.findall(r"\w+|\.", text)
    items = answer(client, text, aggregation_strategy="none")
    assert max(item["index"] for item in items) > 64
    assert [words[item["index"] - 1] for item in items] == [item["word"] for item in items]


def test_ignored_labels_are_left_out(client: TestClient) -> None:
    everything = answer(client, PARAGRAPH)
    label = everything[0]["entity_group"]
    kept = [item for item in everything if item["entity_group"] != label]
    assert answer(client, PARAGRAPH, ignore_labels=["O", label]) == kept != everything


def test_a_tag_is_a_label_to_ignore_as_well(client: TestClient) -> None:
    everything = answer(client, PARAGRAPH, aggregation_strategy="none")
    tag = everything[0]["entity"]
    kept = [item for item in everything if item["entity"] != tag]
    assert answer(client, PARAGRAPH, aggregation_strategy="none", ignore_labels=[tag]) == kept != everything
    assert answer(client, PARAGRAPH, ignore_labels=[tag]) == answer(client, PARAGRAPH)


def test_ignored_entities_are_not_counted(client: TestClient) -> None:
    label = answer(client, PARAGRAPH)[0]["entity_group"]
    before = sample(client, "ner_entities_total", label=label)
    answer(client, PARAGRAPH, ignore_labels=[label])
    assert sample(client, "ner_entities_total", label=label) == before


@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_a_list_of_texts_is_answered_with_a_list_for_each(client: TestClient, strategy: str) -> None:
    texts = [TEXTS[0], "", TEXTS[1]]
    assert answer(client, texts[:1], aggregation_strategy=strategy) == [
        answer(client, texts[0], aggregation_strategy=strategy)
    ]
    first, blank, last = answer(client, texts, aggregation_strategy=strategy)
    assert blank == answer(client, "", aggregation_strategy=strategy) == []
    assert [len(first), len(last)] == [
        len(answer(client, text, aggregation_strategy=strategy)) for text in (texts[0], texts[2])
    ]


def test_no_texts_have_no_answers(client: TestClient) -> None:
    assert answer(client, []) == []


def test_offsets_count_code_points(client: TestClient) -> None:
    text = f"😀 e\u0301 北京 {ENTITY_TEXT}"
    items = answer(client, text, aggregation_strategy="none")
    assert items
    assert all(text[item["start"] : item["end"]] == item["word"] for item in items)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, ["inputs: "]),
        ({"inputs": None}, ["inputs: ", "a string or a list of strings", "None"]),
        ({"inputs": 7}, ["inputs: ", "a string or a list of strings", "7"]),
        ({"inputs": {"text": "a"}}, ["inputs: ", "a string or a list of strings"]),
        ({"inputs": ["a", "b", 7, 8]}, ["inputs.list.2: ", "7"]),
        ({"inputs": "a", "parameters": []}, ["parameters: "]),
        (
            {"inputs": "a", "parameters": {"aggregation_strategy": "median"}},
            ["parameters.aggregation_strategy: ", "max"],
        ),
        ({"inputs": "a", "parameters": {"ignore_labels": "PER"}}, ["parameters.ignore_labels: ", "'PER'"]),
        ({"inputs": "a", "parameters": {"stride": -1}}, ["parameters.stride: ", "-1"]),
        ({"inputs": "a", "parameters": {"top_k": 1}}, ["parameters.top_k: "]),
        ({"inputs": "a", "options": True}, ["options: "]),
        ({"inputs": "a", "text": "a"}, ["text: "]),
    ],
)
def test_what_does_not_fit_is_refused_by_field_and_value(
    client: TestClient, request_: dict[str, Any], said: list[str]
) -> None:
    message = refusal(client, **request_)
    assert message.startswith(said[0])
    assert all(part in message for part in said)


@pytest.mark.parametrize(("inputs", "where"), [(r'"a\ud800"', "inputs."), (r'["a", "\udfff"]', "inputs.list.1: ")])
def test_half_a_surrogate_pair_is_a_422(client: TestClient, inputs: str, where: str) -> None:
    response = client.post("/", content=f'{{"inputs": {inputs}}}', headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"].startswith(where)


def test_the_answer_carries_its_policy_version_and_its_times_as_headers(client: TestClient) -> None:
    headers = client.post("/", json={"inputs": ENTITY_TEXT}).headers
    assert headers["X-Exit-Policy-Version"] == "1"
    assert re.findall(r"(\w+);dur=", headers["Server-Timing"]) == ["tokenize", "queue", "inference", "decode", "total"]


def test_requests_count_under_a_label_of_their_own(client: TestClient) -> None:
    before = sample(client, "ner_requests_total", endpoint="/", code="200")
    answered = sample(client, "ner_request_duration_seconds_count")
    answer(client, ENTITY_TEXT)
    assert sample(client, "ner_requests_total", endpoint="/", code="200") == before + 1
    assert sample(client, "ner_request_duration_seconds_count") == answered + 1


def test_the_published_schema_is_what_is_answered(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    described = schema["paths"]["/"]["post"]["responses"]
    assert described.keys() == schema["paths"]["/ner"]["post"]["responses"].keys()
    (item, *_) = answer(client, ENTITY_TEXT, aggregation_strategy="none")
    assert item.keys() == schema["components"]["schemas"]["HuggingFaceEntity"]["properties"].keys()
