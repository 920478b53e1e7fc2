"""Promises over HTTP: asked for, refused, kept, seen in policy, history, levels and metrics; and a real server."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from service.models.store import load_model, write_operating_points
from service.promise.agreement import disagreement_for_loss, least_gold_f1
from tests.api.servers_ import (
    ADMIN_KEY,
    AS_ADMIN,
    ENTITY_TEXT,
    PATIENCE_S,
    ServerProcess,
    sample,
    wait_until,
)
from tests.levels.promised_ import FASTEST, LEVELS, PROMISING, SAFE
from tests.models_ import save_tiny_model

Start = Callable[..., TestClient]
WISH = {"max_disagreement": 0.5, "confidence": 0.5}  # soon proven, by sentences in which nothing leaves early
FULL = {"strategy": "full_depth"}
TEXTS = [ENTITY_TEXT] * 50


@pytest.fixture(scope="session")
def promising_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with PROMISING: at its first layers it is not sure enough to leave, so all levels agree."""
    folder = save_tiny_model(tmp_path_factory.mktemp("promising") / "tiny" / "1")
    provenance = {"data": "by hand", "weights_sha256": load_model(folder).weights_sha256}
    write_operating_points(folder, replace(PROMISING, provenance=provenance).to_json())
    return folder


@pytest.fixture
def sampled(start: Start, promising_folder: Path) -> TestClient:
    """A server that samples every sentence."""
    return start(model=str(promising_folder), sample_fraction=1.0, shadow_fraction=0.0)


def change(client: TestClient, changes: object, status: int = 200) -> dict[str, Any]:
    """The body of a PATCH by the administrator."""
    response = client.patch("/exit-policy", json=changes, headers=AS_ADMIN)
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


def levels(client: TestClient | httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/exit-policy/levels").json()
    return found


def send(client: TestClient | httpx.Client, requests: int) -> None:
    for _ in range(requests):
        assert client.post("/ner", json={"texts": TEXTS}).status_code == 200


# what is measured, whether or not anything is promised


def test_every_operating_point_is_measured_on_the_traffic(sampled: TestClient) -> None:
    assert levels(sampled)["sampling"]["samples"] == 0
    sampled.post("/ner", json={"texts": TEXTS, "exit_policy": {"tau": 0.3}})  # under a policy of its own
    send(sampled, 1)
    wait_until(lambda: sample(sampled, "ner_promise_samples_total") == 50)
    found = levels(sampled)
    assert found["promise"] is None
    sampling = {name: found["sampling"][name] for name in ("samples", "waiting", "sentences", "uncovered")}
    assert sampling == {"samples": 50, "waiting": 0, "sentences": 50, "uncovered": 0}
    assert [level["parameters"]["tau"] for level in found["levels"]] == [0.4, 0.2, 0.1]
    for level, point in zip(found["levels"], PROMISING.points, strict=True):
        assert (level["preset"], level["certified"]) == (point.preset, None)
        assert level["expected"]["average_exit_layer"] == point.average_exit_layer
        measured = level["measured"]
        low, high = measured["average_exit_layer_interval"]
        assert low <= measured["average_exit_layer"] <= high
        low, high = measured["agreement_interval"]
        assert 0 <= low < measured["agreement"] <= high
    assert sample(sampled, "ner_promise_sample_probability") == 1.0
    assert sample(sampled, "ner_promise_buffer_bytes") == sample(sampled, "ner_promise_uncovered_sentences") == 0
    assert math.isnan(sample(sampled, "ner_promise_max_disagreement"))
    upper = sample(sampled, "ner_promise_disagreement_bound", bound="upper")
    assert 0 <= sample(sampled, "ner_promise_disagreement_bound", bound="lower") < upper < 1


@pytest.mark.parametrize(
    "off", [{"sample_fraction": 0.0}, {"shadow_fraction": 0.0}], ids=["by itself", "with shadow runs"]
)
def test_where_nothing_is_sampled_levels_say_so_and_nothing_can_be_promised(
    start: Start, promising_folder: Path, off: dict[str, float]
) -> None:
    client = start(model=str(promising_folder), **off)
    send(client, 1)
    found = levels(client)
    assert found["sampling"] is None and {level["measured"] for level in found["levels"]} == {None}
    assert "NER_SAMPLE_FRACTION is 0" in change(client, WISH, 422)["error"]
    flight = {"p95_ms": 100, "max_f1_loss": 4, "max_disagreement": 0.1, "certified": True}
    assert "NER_SAMPLE_FRACTION is 0" in change(client, {"autopilot": flight}, 422)["error"]
    assert math.isnan(sample(client, "ner_promise_disagreement_bound", bound="upper"))


def test_samples_are_a_share_of_all_sentences_as_shadows_are_of_early_leavers(
    start: Start, promising_folder: Path
) -> None:
    assert levels(start(model=str(promising_folder)))["sampling"]["probability"] == 0.01


def test_a_model_without_calibration_has_no_levels(start: Start) -> None:
    client = start(sample_fraction=1.0)
    assert levels(client) == {"sampling": None, "promise": None, "feedback": None, "levels": []}
    assert "calibrated operating points" in change(client, WISH, 422)["error"]


def test_levels_need_the_key_that_reads_need(start: Start) -> None:
    assert start(api_key="sesame").get("/exit-policy/levels").status_code == 401


# what is asked for


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_disagreement": 0.9}, "max_disagreement is 0.9; expected a number from 0.0005 to 0.5"),
        ({"max_disagreement": "little"}, "max_disagreement is 'little'; expected a number"),
        ({"max_disagreement": True}, "max_disagreement is True; expected a number"),
        ({**WISH, "confidence": 1}, "confidence is 1; expected a number from 0.5 to 0.9999"),
        ({"confidence": 0.9}, "confidence needs max_disagreement beside it"),
        ({**WISH, "preset": "fast"}, "given ['preset'] beside ['confidence', 'max_disagreement']; a promise stands"),
        ({**WISH, "tau": 0.1}, "a promise stands alone"),
        ({**WISH, "strategy": "tokee"}, "strategy is 'tokee', whose words halt one by one; a run to full depth"),
        ({"promise": WISH}, "promise cannot be set"),
        ({"max_f1_loss": 1.0, "on": "dev"}, "on is 'dev'; expected 'traffic'"),
        ({"max_f1_loss": "little", "on": "traffic"}, "max_f1_loss is 'little'; expected a number"),
        ({"max_f1_loss": 10**400, "on": "traffic"}, "can be promised"),
        ({"max_f1_loss": 0.01, "on": "traffic"}, "with 83 F1 of full depth, a number from 0.07 to below"),
        ({"on": "traffic"}, "on stands beside max_f1_loss"),
        ({**WISH, "on": "traffic"}, "on stands beside max_f1_loss"),
        ({"max_f1_loss": 1.0, "confidence": 0.9}, "given ['max_f1_loss'] beside ['confidence']"),
        ({"autopilot": {"p95_ms": 9, "max_f1_loss": 1, "certified": True}}, "certified needs max_disagreement"),
        ({"autopilot": {"p95_ms": 9, "max_f1_loss": 1, "certified": 1}}, "autopilot.certified is 1; expected true"),
    ],
    ids=str,
)
def test_what_cannot_be_promised_is_refused_and_told_what_can(
    sampled: TestClient, changes: dict[str, Any], message: str
) -> None:
    assert message in change(sampled, changes, 422)["error"]
    assert sampled.get("/exit-policy").json()["version"] == 1


def test_a_promise_takes_the_admin_key_and_is_nothing_for_one_request(sampled: TestClient) -> None:
    assert sampled.patch("/exit-policy", json=WISH).status_code == 401
    own = sampled.post("/ner", json={"text": "Ben", "exit_policy": {"max_disagreement": 0.1}})
    assert own.status_code == 422 and "cannot be set for one request" in own.json()["error"]


def test_a_loss_of_f1_on_the_traffic_is_promised_by_the_disagreement_that_bounds_it(sampled: TestClient) -> None:
    promise = change(sampled, {"max_f1_loss": 2.0, "on": "traffic"})["promise"]
    disagreement = disagreement_for_loss(0.83, 0.02)
    assert promise == {
        "max_disagreement": pytest.approx(disagreement, abs=1e-6),
        "confidence": 0.95,
        "max_f1_loss": 2.0,
        "full_f1": 83.0,
        "certified": True,
    }
    assert 83 - 100 * least_gold_f1(0.83, promise["max_disagreement"]) == pytest.approx(2.0, abs=0.01)
    surer = change(sampled, {"confidence": 0.99})["promise"]
    assert surer == {**promise, "confidence": 0.99}
    wait_until(lambda: (levels(sampled)["promise"] or {}).get("max_f1_loss") == 2.0)
    assert change(sampled, {"max_disagreement": 0.1})["promise"] == {
        "max_disagreement": 0.1,
        "confidence": 0.99,
        "certified": True,
    }


def test_a_dry_run_of_a_promise_changes_nothing(sampled: TestClient) -> None:
    answer = sampled.patch("/exit-policy", params={"dry_run": "true"}, json=WISH, headers=AS_ADMIN).json()
    assert (answer["strategy"], answer["promise"]) == ("full_depth", {**WISH, "certified": True})
    assert levels(sampled)["promise"] is None and sampled.get("/exit-policy").json()["version"] == 1


# what is kept


def test_a_promise_is_kept_by_full_depth_until_a_level_is_certified(sampled: TestClient) -> None:
    begun = change(sampled, WISH)
    assert (begun["strategy"], begun["version"], begun["updated_by"]) == ("full_depth", 2, "api")
    assert begun["promise"] == {**WISH, "certified": True}
    wait_until(lambda: levels(sampled)["promise"])
    assert sample(sampled, "ner_promise_max_disagreement") == WISH["max_disagreement"]
    assert sample(sampled, "ner_promise_certified_levels") == 0
    send(sampled, 8)
    wait_until(lambda: sampled.get("/exit-policy").json()["updated_by"] == "promise")
    wait_until(lambda: levels(sampled)["sampling"]["waiting"] == 0)
    found = levels(sampled)
    assert {level["certified"] for level in found["levels"]} == {True}
    assert found["promise"].items() >= {**WISH, "samples": 400, "alarms": 0}.items()
    assert sample(sampled, "ner_promise_certified_levels") == len(LEVELS)
    assert sample(sampled, "ner_promise_served_is_certified") == 1
    assert sample(sampled, "ner_exit_policy_changes_total", source="promise") >= 1
    moved, asked, _ = sampled.get("/exit-policy/history").json()[-3:]
    assert asked["after"] == {**FULL, "promise": WISH}
    assert (moved["by"], moved["before"]) == ("promise", asked["after"])
    assert moved["changed_by"].startswith("certified for a disagreement of at most 0.5")
    assert moved["after"]["promise"] == WISH and moved["after"]["tau"] in [level.tau for level in LEVELS]


# a real server


def test_a_real_server_certifies_serves_and_begins_anew_when_it_is_restarted(
    promising_folder: Path, tmp_path: Path
) -> None:
    settings = {
        "NER_MODEL": str(promising_folder),
        "NER_STATE_DIR": str(tmp_path / "state"),
        "NER_ADMIN_KEY": ADMIN_KEY,
        "NER_THREADS": "1",
        "NER_DRAIN_S": "0",
        "NER_SAMPLE_FRACTION": "1",
    }
    served = []
    for _ in range(2):
        server = ServerProcess(tmp_path, **settings)
        try:
            with httpx.Client(base_url=server.wait_ready(), timeout=PATIENCE_S, trust_env=False) as client:
                if not served:
                    assert client.patch("/exit-policy", json=WISH, headers=AS_ADMIN).status_code == 200
                served.append(client.get("/exit-policy").json())
                send(client, 8)
                wait_until(lambda: client.get("/exit-policy").json()["strategy"] == SAFE.strategy)
                wait_until(lambda: levels(client)["levels"][0]["certified"])
                assert levels(client)["levels"][0]["parameters"] == FASTEST.to_json()
                server.terminate()
                assert server.wait_end() == 0
        finally:
            server.kill()
    first, again = served
    assert (first["strategy"], first["version"]) == ("full_depth", 2)
    assert (again["strategy"], again["promise"]) == ("full_depth", {**WISH, "certified": True})
    assert again["version"] > first["version"] + 1 and again["updated_by"] == "promise"
