"""Fits to the traffic over HTTP: what they are fitted to, installed, offered, promised, and taken back; the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from service.commands.traffic import ServerRefused, TrafficServer, calibrate_from_traffic, go_back
from service.errors import BadInput
from service.evaluation import fit_rule as fit_rule_module
from service.evaluation import traffic as traffic_module
from service.promise.records import SampleRecords
from tests.api.servers_ import ADMIN_KEY, AS_ADMIN, ENTITY_TEXT, sample, wait_until
from tests.evaluation.sampled_ import records
from tests.policy.fits_ import fitted

Start = Callable[..., TestClient]
PATH = "/exit-policy/fits"
NEVER = (1e-9, 2e-9)  # thresholds at which nobody leaves early, so that levels agree with full depth
WISH = {"max_disagreement": 0.5, "confidence": 0.5}


@pytest.fixture
def sampled(start: Start, calibrated_folder: Path) -> TestClient:
    """A server that samples every sentence."""
    return start(model=str(calibrated_folder), sample_fraction=1.0, shadow_fraction=0.0)


def send(client: TestClient, requests: int) -> None:
    before = sample(client, "ner_promise_samples_total")
    for _ in range(requests):
        assert client.post("/ner", json={"texts": [ENTITY_TEXT] * 50}).status_code == 200
    wait_until(lambda: sample(client, "ner_promise_samples_total") == before + 50 * requests)


def install(client: TestClient, body: Any, status: int = 201) -> dict[str, Any]:
    response = client.post(PATH, json=body, headers=AS_ADMIN)
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()
    return told


def strategies(client: TestClient) -> list[str]:
    return [level["parameters"]["strategy"] for level in client.get("/exit-policy/levels").json()["levels"]]


# what they are fitted to


def test_samples_are_told_to_the_administrator_as_numbers_alone(sampled: TestClient) -> None:
    assert sampled.get("/exit-policy/samples").status_code == 401
    send(sampled, 1)
    answer = sampled.get("/exit-policy/samples", headers=AS_ADMIN)
    found = SampleRecords.from_bytes(answer.content)
    assert (len(found), found.num_layers) == (50, 4)
    assert set(found.weights.tolist()) == {1.0} and found.correct[:, -1].all()
    assert not any(word.encode() in answer.content for word in ENTITY_TEXT.split() if len(word) > 3)


@pytest.mark.parametrize("off", [{"sample_records": 0}, {"sample_fraction": 0.0}], ids=str)
def test_where_none_are_kept_it_says_what_to_set(start: Start, calibrated_folder: Path, off: dict[str, Any]) -> None:
    client = start(model=str(calibrated_folder), **off)
    answer = client.get("/exit-policy/samples", headers=AS_ADMIN)
    assert answer.status_code == 422 and "NER_SAMPLE_RECORDS" in answer.json()["error"]


# installed, promised, taken back


def test_what_is_installed_stands_beside_the_models_own_points_and_is_promised(sampled: TestClient) -> None:
    own = strategies(sampled)
    assert sampled.get(PATH).json()["fits"] == []
    told = install(sampled, fitted(*NEVER))
    assert (told["in_force"], told["fits"][0]["fit"], told["fits"][0]["provenance"]) == (1, 1, {"samples": 400})
    assert strategies(sampled) == [*own, "learned_on_traffic", "learned_on_traffic"]
    assert len(sampled.get("/exit-policy/operating-points").json()) == len(own)
    assert sampled.patch("/exit-policy", json=WISH, headers=AS_ADMIN).status_code == 200
    wait_until(lambda: sampled.get("/exit-policy/levels").json()["promise"])
    send(sampled, 4)
    wait_until(lambda: sampled.get("/exit-policy").json()["strategy"] == "learned_on_traffic")
    policy = sampled.get("/exit-policy").json()
    assert (policy["fit"], policy["promise"]["certified"]) == (1, True)
    assert policy["expected"]["f1_loss"] in (0.5, 1.0)
    answer = sampled.post("/ner", json={"text": ENTITY_TEXT}).json()
    assert answer["exit_layer"] == 4 and answer["sequences"][0]["exit_reason"] == "last_layer"
    back = sampled.patch(PATH, json={"in_force": 0}, headers=AS_ADMIN).json()
    assert back["in_force"] == 0 and strategies(sampled) == own
    wait_until(lambda: sampled.get("/exit-policy").json()["strategy"] != "learned_on_traffic")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "rule"),
    ({**fitted(0.1), "points": []}, "points"),
    ({**fitted(0.1), "rule": {}}, "operating points of the traffic"),
    ({**fitted(0.1), "points": [{"tau": 0.1}]}, "operating points of the traffic"),
    ({**fitted(0.1), "luck": 1}, "luck"),
    ({**fitted(0.1), "provenance": {"deep": {"deeper": 1}}}, "provenance"),
]


def test_what_is_no_fit_or_not_kept_or_has_no_admin_key_is_refused(
    sampled: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for body, message in REFUSED:
        assert message in install(sampled, body, 422)["error"]
    refused = sampled.patch(PATH, json={"in_force": 3}, headers=AS_ADMIN)
    assert refused.status_code == 422 and "expected one of [0]" in refused.json()["error"]
    assert sampled.post(PATH, json=fitted(0.1)).status_code == 401
    assert sampled.patch(PATH, json={"in_force": 0}).status_code == 401
    monkeypatch.setattr(sampled.app.state.service.settings, "policy_store", "redis://elsewhere")  # type: ignore[attr-defined]
    assert "replicas share the exit policy" in install(sampled, fitted(0.1), 422)["error"]
    assert sampled.get(PATH).json()["fits"] == []


# the command


@pytest.fixture
def server(sampled: TestClient, monkeypatch: pytest.MonkeyPatch) -> TrafficServer:
    """What the command sees of a server, whose samples are made up."""
    monkeypatch.setenv("NER_ADMIN_KEY", ADMIN_KEY)
    monkeypatch.setattr(traffic_module, "FEWEST_FOR_A_RULE", 600)
    monkeypatch.setattr(fit_rule_module, "STEPS", 200)
    made_up = records(600)
    monkeypatch.setattr(type(sampled.app.state.service.recorder), "records", lambda _: made_up)  # type: ignore[attr-defined]

    def ask(request: httpx.Request) -> httpx.Response:
        found = sampled.request(request.method, request.url.path, content=request.content, headers=request.headers)
        return httpx.Response(found.status_code, content=found.content)

    return TrafficServer("http://testserver/", httpx.MockTransport(ask))


@pytest.mark.parametrize(
    ("changes", "point"),
    [
        ({"provenance": {"a": "\ud800"}}, {}),
        ({"provenance": {"a": "x" * 20_000}}, {}),
        ({}, {"f1": True}),
    ],
)
def test_what_could_not_be_told_again_is_not_installed(
    sampled: TestClient, changes: dict[str, Any], point: dict[str, Any]
) -> None:
    good = fitted(*NEVER)
    body = {**good, **changes, "points": [{**one, **point} for one in good["points"]]}
    headers = {**AS_ADMIN, "Content-Type": "application/json"}
    answer = sampled.post(PATH, content=json.dumps(body), headers=headers)
    assert answer.status_code == 422, answer.text
    assert sampled.get(PATH).json()["in_force"] == 0
    install(sampled, good)


def test_the_command_fits_to_the_traffic_installs_and_goes_back(sampled: TestClient, server: TrafficServer) -> None:
    told = calibrate_from_traffic(server)
    assert "600 samples; the rule and thresholds were fitted." in told and "installed as fit 1" in told
    fits = sampled.get(PATH).json()
    assert fits["in_force"] == 1 and fits["fits"][0]["provenance"]["samples"] == 600
    layers = [point["average_exit_layer"] for point in fits["fits"][0]["points"]]
    assert layers == sorted(layers) and layers[0] < 2
    again = calibrate_from_traffic(server)
    assert "nothing was installed: that is no clear gain" in again
    assert sampled.get(PATH).json()["in_force"] == 1
    assert go_back(server) == "the model's own operating points are in force, and no others"
    assert sampled.get(PATH).json()["in_force"] == 0


def test_the_command_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NER_ADMIN_KEY", raising=False)
    monkeypatch.delenv("NER_ADMIN_KEY_FILE", raising=False)
    with pytest.raises(BadInput, match="NER_ADMIN_KEY_FILE"):
        TrafficServer("http://server")
    monkeypatch.setenv("NER_ADMIN_KEY", "wrong")
    refusing = TrafficServer("http://server", httpx.MockTransport(lambda _: httpx.Response(401, text="no such key")))
    with pytest.raises(ServerRefused, match="GET http://server/exit-policy/fits got 401: no such key"):
        calibrate_from_traffic(refusing)

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(ServerRefused, match="http://server did not answer: connection refused"):
        go_back(TrafficServer("http://server", httpx.MockTransport(away)))
