"""Strategies by word over HTTP: on a model trained for them, and refused on one that was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.models.config import ModelConfig
from tests.api.servers_ import AS_ADMIN, TINY_LABELS, sample, samples
from tests.models_ import save_tiny_model, tiny_config

Start = Callable[..., TestClient]
TEXT = "Anna works at Acme Labs in Oslo. The University of Paris was visited."


def start_as(start: Start, folder: Path, config: ModelConfig) -> TestClient:
    return start(model=str(save_tiny_model(folder, config)))


@pytest.mark.parametrize(
    ("strategy", "field"), [("tokee", "halting"), ("hashee", "hash"), ("de3", "distance_weight"), ("learned", "rule")]
)
def test_a_model_that_was_not_trained_for_it_says_what_is_missing(start: Start, strategy: str, field: str) -> None:
    client = start()
    for refused in (
        client.patch("/exit-policy", json={"strategy": strategy}, headers=AS_ADMIN),
        client.post("/ner", json={"text": TEXT, "exit_policy": {"strategy": strategy}}),
    ):
        assert refused.status_code == 422
        message = refused.json()["error"]
        assert strategy in message and field in message and "this model supports branchynet, budgeted" in message
    assert client.get("/exit-policy").json()["version"] == 1
    assert strategy not in client.get("/models").json()[0]["strategies"]


def test_tokee_on_a_model_with_halting_words(start: Start, tmp_path: Path) -> None:
    client = start_as(start, tmp_path / "m", replace(tiny_config(labels=TINY_LABELS), halting=True))
    assert "tokee" in client.get("/models").json()[0]["strategies"]
    changed = client.patch("/exit-policy", json={"strategy": "tokee", "tau": 0.55, "window": 1}, headers=AS_ADMIN)
    assert changed.status_code == 200 and changed.json()["window"] == 1
    plain = client.post("/ner", json={"text": TEXT}).json()
    traced = client.post("/ner", json={"text": TEXT, "trace": True}).json()
    assert plain["entities"] == traced["entities"]
    assert "word_layers" not in plain["sequences"][0]
    layers = []
    for sequence in traced["sequences"]:
        words = sequence["word_layers"]
        assert [TEXT[word["start"] : word["end"]] for word in words] == TEXT[
            sequence["start"] : sequence["end"]
        ].replace(".", " .").split()
        assert max(word["layer"] for word in words) == sequence["exit_layer"] == len(sequence["trace"])
        layers += [word["layer"] for word in words]
    assert len(set(layers)) > 1
    # two texts were answered: words are counted one by one, a sequence by its depth and by the mean of its words
    assert sample(client, "ner_word_layers_count") == 2 * len(layers)
    assert sample(client, "ner_word_layers_sum") == 2 * sum(layers)
    below = {one.labels["le"]: one.value for one in samples(client) if one.name == "ner_word_layers_bucket"}
    assert below == {f"{n}.0": 2 * sum(layer <= n for layer in layers) for n in range(1, 5)} | {"+Inf": 2 * len(layers)}
    means = [
        sum(word["layer"] for word in sequence["word_layers"]) / len(sequence["word_layers"])
        for sequence in traced["sequences"]
    ]
    observed = client.get("/exit-policy").json()["observed"]
    assert observed["average_exit_layer"] == pytest.approx(sum(means) / len(means))
    assert sample(client, "ner_exit_layer_sum") == 2 * sum(sequence["exit_layer"] for sequence in traced["sequences"])
    assert sample(client, "ner_layers_executed_total") == pytest.approx(2 * sum(means))


def test_under_a_policy_by_sentence_words_count_as_deep_as_their_sentence(start: Start) -> None:
    client = start()
    client.patch("/exit-policy", json={"strategy": "budgeted", "layer": 3}, headers=AS_ADMIN)
    result = client.post("/ner", json={"text": TEXT, "trace": True}).json()
    assert all("word_layers" not in sequence for sequence in result["sequences"])
    words = len(TEXT.replace(".", " .").split())
    assert sample(client, "ner_word_layers_count") == words
    assert sample(client, "ner_word_layers_sum") == 3 * words


def test_hashee_is_what_a_model_with_a_hash_starts_with(start: Start, tmp_path: Path) -> None:
    config = replace(tiny_config(labels=TINY_LABELS), hash="random_consistent", buckets=2)
    client = start_as(start, tmp_path / "m", config)
    assert client.get("/exit-policy").json()["strategy"] == "hashee"
    assert client.get("/models").json()[0]["strategies"] == ["full_depth", "hashee"]
    assert client.post("/ner", json={"text": TEXT}).status_code == 200
    refused = client.patch("/exit-policy", json={"strategy": "vee"}, headers=AS_ADMIN)
    assert refused.status_code == 422 and "has one alone" in refused.json()["error"]
    assert client.patch("/exit-policy", json={"strategy": "full_depth"}, headers=AS_ADMIN).status_code == 200


def test_de3_on_a_model_with_prototypes(start: Start, tmp_path: Path) -> None:
    client = start_as(start, tmp_path / "m", replace(tiny_config(labels=TINY_LABELS), prototypes=True))
    changed = client.patch("/exit-policy", json={"strategy": "de3", "tau": 0.9, "weight": 2}, headers=AS_ADMIN)
    assert changed.status_code == 200 and "prototypes" not in changed.json()
    result = client.post("/ner", json={"text": TEXT, "trace": True}).json()
    for sequence in result["sequences"]:
        seen = [(item["layer"], len(item["evidence"])) for item in sequence["trace"]]
        assert seen == [(layer, layer < 4) for layer in range(1, sequence["exit_layer"] + 1)]
