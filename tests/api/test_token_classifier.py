"""A server on the folder of a Transformers token classifier: at full depth, through every door, and it says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from tests.api.servers_ import AS_ADMIN, samples, tiny_service
from tests.models.classifiers_ import TEXTS, save_classifier
from tests.models.test_classifier import of_pipeline

TEXT = TEXTS[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("theirs") / "my-ner", "electra")


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    service = tiny_service(folder, tmp_path_factory.mktemp("state"))
    with TestClient(create_app(service)) as client:
        yield client


def test_it_answers_what_the_checkpoints_pipeline_finds_at_full_depth(client: TestClient, folder: Path) -> None:
    result = client.post("/ner", json={"text": TEXT, "split": False}).json()
    found = [(entity["start"], entity["end"], entity["label"]) for entity in result["entities"]]
    assert found == [entity[:3] for entity in of_pipeline(folder, TEXT)]
    assert len(found) > 3
    assert (result["exit_layer"], result["num_layers"], result["model"]) == (2, 2, "my-ner@checkpoint")
    assert {sequence["exit_reason"] for sequence in result["sequences"]} == {"last_layer"}


def test_hugging_faces_wire_format_and_presidios_answer_too(client: TestClient) -> None:
    asked = {"inputs": TEXT, "parameters": {"aggregation_strategy": "first"}}
    groups = {item["entity_group"] for item in client.post("/", json=asked).json()}
    assert groups <= {"PER", "LOC"} and groups
    types = {item["entity_type"] for item in client.post("/analyze", json={"text": TEXT, "language": "en"}).json()}
    assert types <= {"PERSON", "LOCATION"} and types


def test_a_traced_answer_finds_nothing_before_the_last_layer(client: TestClient) -> None:
    result = client.post("/ner", json={"text": TEXT, "split": False, "trace": True}).json()
    layers = result["sequences"][0]["trace"]
    assert [bool(layer["entities"]) for layer in layers] == [False, True]


def test_models_and_info_say_that_it_has_no_exits_and_how_it_gets_some(client: TestClient) -> None:
    (model,) = client.get("/models").json()
    assert model["strategies"] == ["full_depth"]
    note = client.get("/info").json()["note"]
    assert "my-ner@checkpoint is a token classifier" in note and "python -m service distil" in note


def test_no_policy_and_no_goal_makes_it_leave_early(client: TestClient) -> None:
    assert client.get("/exit-policy").json()["strategy"] == "full_depth"
    for change in ({"strategy": "vee"}, {"preset": "fast"}, {"autopilot": {"p95_ms": 100, "max_f1_loss": 1.0}}):
        refused = client.patch("/exit-policy", json=change, headers=AS_ADMIN)
        assert refused.status_code == 422 and refused.json()["error"], change


def test_every_other_strategy_is_listed_with_what_the_model_lacks_for_it(client: TestClient) -> None:
    strategies = {item["strategy"]: item for item in client.get("/exit-policy/strategies").json()}
    assert strategies["full_depth"]["lacks"] is None
    assert "this model has one alone" in strategies["vee"]["lacks"]
    assert client.get("/").status_code == 200


def test_metrics_count_its_sentences(client: TestClient) -> None:
    name = "ner_sequences_total"

    def count() -> float:
        return sum(sample.value for sample in samples(client) if sample.name == name)

    before = count()
    client.post("/ner", json={"text": TEXT})
    assert count() > before


def test_the_log_says_it_at_the_start(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="service"):
        tiny_service(folder, tmp_path).engine.close()
    assert "no early exits" in [record.getMessage() for record in caplog.records]
