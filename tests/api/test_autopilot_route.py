"""The autopilot and shadow runs over HTTP: on, off, seen in policy, history and metrics; and a server that flies."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.state import Service
from tests.api.servers_ import AS_ADMIN, ENTITY_TEXT, GatedStepper, sample, use_stepper, wait_until
from tests.exits.calibrations_ import ACCURATE, BALANCED

Start = Callable[..., TestClient]
Build = Callable[..., Service]
WISH = {"p95_ms": 100, "max_f1_loss": 1.0}  # levels: ACCURATE, BALANCED


@pytest.fixture
def calibrated(start: Start, calibrated_folder: Path) -> TestClient:
    """A server of a calibrated model."""
    return start(model=str(calibrated_folder))


def change(client: TestClient, changes: object, status: int = 200) -> dict[str, Any]:
    """The body of a PATCH by the administrator."""
    response = client.patch("/exit-policy", json=changes, headers=AS_ADMIN)
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


def autopilot(client: TestClient) -> dict[str, Any] | None:
    found: dict[str, Any] | None = client.get("/exit-policy").json()["autopilot"]
    return found


# on and off


def test_a_patch_switches_it_on_and_null_switches_it_off(calibrated: TestClient) -> None:
    assert autopilot(calibrated) is None
    on = change(calibrated, {"autopilot": WISH})
    assert on["autopilot"] == {**WISH, "max_disagreement": None, "certified": False, "level": 1, "highest_level": 1}
    assert (on["version"], on["updated_by"], on["preset"]) == (2, "api", "balanced")
    assert autopilot(calibrated) == on["autopilot"]
    assert change(calibrated, {"autopilot": None})["autopilot"] is None
    assert autopilot(calibrated) is None


def test_it_takes_the_admin_key(calibrated: TestClient) -> None:
    assert calibrated.patch("/exit-policy", json={"autopilot": WISH}).status_code == 401
    assert autopilot(calibrated) is None


@pytest.mark.parametrize("manual", [{"preset": "balanced"}, {"tau": 0.2}, {"rollback_to": 1}], ids=str)
def test_a_manual_patch_switches_it_off(calibrated: TestClient, manual: dict[str, Any]) -> None:
    change(calibrated, {"autopilot": WISH})
    assert change(calibrated, manual)["autopilot"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p95_ms": 100}, "autopilot needs max_f1_loss"),
        ({"max_f1_loss": 1}, "autopilot needs p95_ms"),
        ({}, "autopilot needs p95_ms and max_f1_loss"),
        ({**WISH, "p95_ms": -1}, "autopilot.p95_ms is -1; expected a number from 1 to 60000"),
        ({**WISH, "max_f1_loss": -1}, "max_f1_loss is -1; this model's operating points reach -0.12 or more"),
        ({**WISH, "max_disagreement": 2}, "autopilot.max_disagreement is 2; expected a number from 0 to 1"),
        ({**WISH, "level": 0}, "autopilot.level cannot be set"),
        (True, "or null to switch it off"),
    ],
    ids=str,
)
def test_what_it_cannot_keep_is_refused_and_told_what_it_can(
    calibrated: TestClient, changes: object, message: str
) -> None:
    assert message in change(calibrated, {"autopilot": changes}, 422)["error"]
    assert calibrated.get("/exit-policy").json()["version"] == 1


def test_it_is_refused_beside_anything_else_and_without_calibration(start: Start, calibrated: TestClient) -> None:
    assert "stands alone" in change(calibrated, {"autopilot": WISH, "preset": "fast"}, 422)["error"]
    assert "calibrated operating points" in change(start(), {"autopilot": WISH}, 422)["error"]


def test_it_is_on_after_a_restart(start: Start, build: Build, calibrated_folder: Path) -> None:
    on = change(start(model=str(calibrated_folder)), {"autopilot": WISH})
    restarted = start(build(model=str(calibrated_folder)))
    assert restarted.get("/exit-policy").json() == on
    assert sample(restarted, "ner_autopilot_enabled") == 1


def test_the_metrics_say_that_it_is_on_and_what_for(calibrated: TestClient) -> None:
    assert sample(calibrated, "ner_autopilot_enabled") == sample(calibrated, "ner_autopilot_level") == 0
    assert math.isnan(sample(calibrated, "ner_autopilot_objective_p95_seconds"))
    change(calibrated, {"autopilot": WISH})
    assert sample(calibrated, "ner_autopilot_enabled") == sample(calibrated, "ner_autopilot_level") == 1
    assert sample(calibrated, "ner_autopilot_objective_p95_seconds") == 0.1
    change(calibrated, {"preset": "fast"})
    assert sample(calibrated, "ner_autopilot_enabled") == sample(calibrated, "ner_autopilot_level") == 0
    assert math.isnan(sample(calibrated, "ner_autopilot_objective_p95_seconds"))


# a server that flies


def test_a_queue_makes_the_server_faster_and_calm_brings_accuracy_back(
    start: Start, build: Build, calibrated_folder: Path, gated: GatedStepper
) -> None:
    service = build(model=str(calibrated_folder))
    use_stepper(service, gated)
    client = start(service)
    change(client, {"preset": "accurate"})
    change(client, {"autopilot": WISH})
    with ThreadPoolExecutor(2) as pool:
        stuck = pool.submit(client.post, "/ner", json={"text": ENTITY_TEXT})
        wait_until(gated.arrived.is_set)
        waits = pool.submit(client.post, "/ner", json={"text": ENTITY_TEXT})
        wait_until(lambda: (autopilot(client) or {})["level"] == 1)
        gated.gate.set()
        assert [answer.result().json()["policy_version"] for answer in (stuck, waits)] == [3, 4]
    wait_until(lambda: (autopilot(client) or {})["level"] == 0)
    moves = [entry for entry in client.get("/exit-policy/history").json() if entry["by"] == "autopilot"]
    on = {"autopilot": {**WISH, "max_disagreement": None, "certified": False}}
    assert [entry["after"] for entry in moves] == [ACCURATE.to_json() | on, BALANCED.to_json() | on]
    assert sample(client, "ner_exit_policy_changes_total", source="autopilot") == 2
    assert sample(client, "ner_autopilot_moves_total", direction="faster") == 1
    assert sample(client, "ner_autopilot_moves_total", direction="slower") == 1


def test_what_requests_took_from_their_arrival_on_reaches_the_autopilot(start: Start, build: Build) -> None:
    service = build()
    client = start(service)
    totals = [client.post("/ner", json={"text": ENTITY_TEXT}).json()["timing_ms"]["total"] for _ in range(20)]
    seen = service.traffic.look(service.engine.load(), 0.0, 0)
    assert seen.p95_s == pytest.approx(sorted(totals)[18] / 1_000, abs=1e-6)
    assert seen.done_pieces == seen.admitted_pieces > 0 and 0 < seen.busy_s < seen.interval_s


# shadow runs


def test_early_leavers_run_on_and_are_counted_apart(start: Start) -> None:
    client = start(shadow_fraction=1.0)
    change(client, {"strategy": "budgeted", "layer": 1})
    assert math.isnan(sample(client, "ner_shadow_disagreement_bound"))
    assert client.get("/exit-policy").json()["observed"]["shadow"] == {
        "runs": 0,
        "disagreements": 0,
        "disagreement_rate": None,
        "disagreement_interval": None,
    }
    for _ in range(3):
        client.post("/ner", json={"text": ENTITY_TEXT})  # it has entities at the last layer alone
    client.post("/ner", json={"text": "Ben", "exit_policy": {"layer": 2}})
    wait_until(lambda: sample(client, "ner_shadow_runs_total") == 3)
    observed = client.get("/exit-policy").json()["observed"]
    assert (observed["sequences"], observed["average_exit_layer"]) == (3, 1.0)
    shadow = observed["shadow"]
    assert (shadow["runs"], shadow["disagreements"], shadow["disagreement_rate"]) == (3, 3, 1.0)
    assert sample(client, "ner_shadow_disagreements_total") == 3
    assert sample(client, "ner_shadow_disagreement_bound") == shadow["disagreement_interval"][1] == 1.0
    assert sample(client, "ner_sequences_total") == sample(client, "ner_exit_layer_count") == 4
    assert sample(client, "ner_layers_executed_total") == 3 * 1 + 2  # what shadows run is not among them


def test_a_fraction_of_zero_runs_no_shadows(start: Start) -> None:
    client = start(shadow_fraction=0.0)
    change(client, {"strategy": "budgeted", "layer": 1})
    for _ in range(3):
        client.post("/ner", json={"text": ENTITY_TEXT})
    assert sample(client, "ner_shadow_runs_total") == 0
    assert sample(client, "ner_exit_layer_count") == 3
