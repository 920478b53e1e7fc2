"""Feedback over HTTP: counted for every level, seen in levels and metrics, kept, and refused where it is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.servers_ import AS_ADMIN, ENTITY_TEXT, sample, wait_until
from tests.exits.calibrations_ import CALIBRATION

Start = Callable[..., TestClient]


def send(client: TestClient, body: object, status: int = 202) -> dict[str, Any]:
    response = client.post("/feedback", json=body, headers=AS_ADMIN)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


def levels(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/exit-policy/levels").json()
    return found


def at_full_depth(client: TestClient, text: str) -> list[dict[str, Any]]:
    """What full depth finds, as an answer has it."""
    answer = client.post("/ner", json={"text": text, "exit_policy": {"strategy": "full_depth"}})
    entities: list[dict[str, Any]] = answer.json()["entities"]
    assert entities
    return entities


def test_what_is_right_is_counted_for_every_level_and_outlives_the_server(
    start: Start, calibrated_folder: Path, tmp_path: Path
) -> None:
    client = start(model=str(calibrated_folder))
    assert levels(client)["feedback"] is None
    assert math.isnan(sample(client, "ner_feedback_f1", level="full_depth"))
    right = at_full_depth(client, ENTITY_TEXT)
    assert send(client, {"text": ENTITY_TEXT, "entities": right})["sentences"] == 1
    send(client, {"text": f"{ENTITY_TEXT} {ENTITY_TEXT}", "entities": right, "split": True})
    wait_until(lambda: sample(client, "ner_feedback_sentences_total") == 3)
    found = levels(client)
    few, half = len(right), found["feedback"]
    assert half["sentences"] == 3 and half["f1"] == pytest.approx(100 * 4 * few / (5 * few), abs=0.01)
    assert half["f1_interval"][0] <= half["f1"] <= half["f1_interval"][1]
    assert len(found["levels"]) == len(CALIBRATION.points)
    assert all(level["gold"]["f1"] is not None for level in found["levels"])
    assert sample(client, "ner_feedback_f1", level="full_depth") == pytest.approx(half["f1"] / 100, abs=1e-4)
    assert sample(client, "ner_feedback_waiting_sentences") == 0
    wait_until(lambda: any((tmp_path / "state").rglob("feedback.json")))
    (file,) = (tmp_path / "state").rglob("feedback.json")
    wait_until(lambda: json.loads(file.read_text())["sentences"] == 3)
    assert "Paris" not in file.read_text()
    again = start(model=str(calibrated_folder))
    assert levels(again)["feedback"] == half


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([{"start": 0, "end": 3, "label": "PLANET"}], "entities[0] has the label 'PLANET'; this model has"),
        ([{"start": 3, "end": 3, "label": "PER"}], "entities[0] is from 3 to 3; expected start below end"),
        ([{"start": 0, "end": 99, "label": "PER"}], "end at most 3, the characters of the text"),
        ([{"start": 0, "end": 3, "label": "PER", "text": "Bob"}], "entities[0] says 'Bob', and the text has 'Ben'"),
        ([{"start": 0, "end": 3, "label": "PER"}] * 2, "entities[1] is the same as entities[0]"),
        ([{"start": -1, "end": 3, "label": "PER"}], "entities.0.start"),
        ([{"start": 0, "end": 3, "label": "PER", "kind": "x"}], "kind"),
    ],
    ids=str,
)
def test_entities_that_cannot_be_are_refused(client: TestClient, entities: list[object], message: str) -> None:
    assert message in send(client, {"text": "Ben", "entities": entities}, 422)["error"]


def test_a_text_of_no_words_has_no_entities(client: TestClient) -> None:
    body = {"text": "  ", "entities": [{"start": 0, "end": 1, "label": "PER"}]}
    assert "has no words" in send(client, body, 422)["error"]
    assert send(client, {"text": "  ", "entities": []})["sentences"] == 0


def test_feedback_takes_the_admin_key_and_no_longer_text_than_a_request_may_have(start: Start) -> None:
    client = start(max_text_chars=10)
    assert client.post("/feedback", json={"text": "Ben", "entities": []}).status_code == 401
    assert "NER_MAX_TEXT_CHARS" in send(client, {"text": "B" * 11, "entities": []}, 413)["error"]
