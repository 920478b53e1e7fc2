"""GET /exit-policy/strategies: what the console and clients build their controls from."""

from __future__ import annotations

from collections.abc import Callable

from starlette.testclient import TestClient

from service.exits.policies import EXIT_REASONS, STRATEGIES

Start = Callable[..., TestClient]


def test_every_strategy_is_told_with_parameters_ranges_defaults_and_meanings(client: TestClient) -> None:
    told = client.get("/exit-policy/strategies").raise_for_status().json()
    assert [one["strategy"] for one in told] == [*STRATEGIES]
    (sentee,) = [one for one in told if one["strategy"] == "sentee"]
    (tau,) = sentee["parameters"]
    assert sentee["exit_reasons"] == ["confidence"] and sentee["lacks"] is None and sentee["meaning"].endswith(".")
    assert (tau["name"], tau["kind"], tau["lowest"], tau["highest"]) == ("tau", "number", 0.0, 1.0)
    assert tau["meaning"] == "a layer is confident when its largest entropy is smaller"
    assert tau["unit"] == "normalised entropy"
    known = {reason for one in told for reason in one["exit_reasons"]}
    assert known == {*EXIT_REASONS} - {"last_layer"}


def test_what_is_told_can_be_sent_back(client: TestClient) -> None:
    told = client.get("/exit-policy/strategies").json()
    for one in [one for one in told if one["lacks"] is None]:
        values = {parameter["name"]: parameter["default"] for parameter in one["parameters"]}
        asked = {"text": "Anna", "trace": True, "exit_policy": {"strategy": one["strategy"], **values}}
        answer = client.post("/ner", json=asked).raise_for_status().json()
        assert answer["exit_policy"] == {"strategy": one["strategy"], **values}


def test_a_strategy_that_the_model_lacks_something_for_says_what_a_patch_would(start: Start) -> None:
    client = start()
    told = {one["strategy"]: one["lacks"] for one in client.get("/exit-policy/strategies").json()}
    refused = client.post("/ner", json={"text": "Anna", "exit_policy": {"strategy": "tokee"}})
    assert refused.status_code == 422 and f"strategy tokee needs {told['tokee']}" in refused.json()["error"]


def test_it_is_read_with_the_api_key(start: Start) -> None:
    client = start(api_key="the-api-key")
    assert client.get("/exit-policy/strategies").status_code == 401
    headers = {"Authorization": "Bearer the-api-key"}
    assert client.get("/exit-policy/strategies", headers=headers).status_code == 200
