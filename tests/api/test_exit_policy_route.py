"""The exit policy over HTTP: read, change, who was first, what was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from starlette.testclient import TestClient

from service.api.schemas.exit_policy import VersionOut
from service.exits.policies import STRATEGIES
from service.exits.policy import ExitPolicy
from service.policy.goals import GOALS, OF_PROMISE, Objective
from tests.api.servers_ import AS_ADMIN, sample
from tests.exits.calibrations_ import ACCURATE, BALANCED, CALIBRATION, FAST, SLOW_TO_DECIDE

Start = Callable[..., TestClient]
DEFAULT = {"strategy": "vee", "measure": "kl", "pooling": "mean", "tau": -0.001, "patience": 1, "ensemble": False}
BUDGET = {"strategy": "budgeted", "layer": 2}
TEXT = "Anna works at Acme Labs in Oslo."


@pytest.fixture
def client(start: Start) -> TestClient:
    """A server of the test's own, since its policy changes."""
    return start()


@pytest.fixture
def calibrated(start: Start, calibrated_folder: Path) -> TestClient:
    """A server of a calibrated model."""
    return start(model=str(calibrated_folder))


def change(
    client: TestClient, changes: object, status: int = 200, *, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The body of a PATCH by the administrator."""
    response = client.patch("/exit-policy", json=changes, headers={**AS_ADMIN, **(headers or {})})
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


def test_the_policy_has_exactly_the_fields_of_the_wire(client: TestClient) -> None:
    response = client.get("/exit-policy")
    policy = response.json()
    since = policy["updated_at"]
    assert policy == DEFAULT | {
        "version": 1,
        "updated_at": since,
        "updated_by": "start",
        "preset": None,
        "expected": None,
        "observed": {
            "average_exit_layer": None,
            "sequences": 0,
            "since": since,
            "shadow": {"runs": 0, "disagreements": 0, "disagreement_rate": None, "disagreement_interval": None},
        },
        "autopilot": None,
        "promise": None,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|\+00:00)", since)
    assert (response.headers["ETag"], response.headers["X-Exit-Policy-Version"]) == ('"1"', "1")


def test_a_policy_names_only_what_its_strategy_has(client: TestClient) -> None:
    policy = change(client, BUDGET)
    assert policy["layer"] == 2
    assert not policy.keys() & {"tau", "patience", "measure", "pooling"}


@pytest.mark.parametrize("content_type", ["application/json", "application/merge-patch+json"])
def test_a_patch_answers_with_the_whole_policy(client: TestClient, content_type: str) -> None:
    headers = {**AS_ADMIN, "Content-Type": content_type}
    response = client.patch("/exit-policy", content='{"tau": -0.5}', headers=headers)
    assert response.status_code == 200
    policy = response.json()
    assert policy.items() >= (DEFAULT | {"tau": -0.5, "version": 2, "updated_by": "api"}).items()
    assert (response.headers["ETag"], response.headers["X-Exit-Policy-Version"]) == ('"2"', "2")
    assert client.get("/exit-policy").json() == policy


def test_a_patch_without_the_json_content_type_is_told_which_header_to_send(client: TestClient) -> None:
    response = client.patch("/exit-policy", content='{"tau": -0.5}', headers=AS_ADMIN)
    assert response.status_code == 422
    assert "Content-Type: application/json" in response.json()["error"]


def test_null_takes_a_parameter_back_to_its_default(client: TestClient) -> None:
    assert change(client, {"tau": -0.5, "patience": 2})["patience"] == 2
    assert change(client, {"patience": None}).items() >= (DEFAULT | {"tau": -0.5}).items()


def test_the_very_next_answer_follows_a_patch(client: TestClient) -> None:
    for version, layer in enumerate((1, 3, 2), 2):
        assert change(client, {"strategy": "budgeted", "layer": layer})["version"] == version
        response = client.post("/ner", json={"text": TEXT})
        assert (response.json()["policy_version"], response.json()["exit_layer"]) == (version, layer)
        assert response.headers["X-Exit-Policy-Version"] == str(version)


def test_observed_counts_the_sequences_under_the_version_in_force(client: TestClient) -> None:
    change(client, BUDGET)
    client.post("/ner", json={"texts": [TEXT, TEXT]})
    client.post("/ner", json={"text": TEXT, "exit_policy": {"layer": 1}})  # not under this policy
    observed = client.get("/exit-policy").json()["observed"]
    assert (observed["average_exit_layer"], observed["sequences"]) == (2.0, 2)
    assert change(client, {"layer": 3})["observed"]["sequences"] == 0


@pytest.mark.parametrize("etag", ['"1"', "*", 'W/"1"', '"7", "1"', '"1","2",W/"3"', '"1" , "9"'])
def test_a_patch_that_read_the_policy_in_force_is_taken(client: TestClient, etag: str) -> None:
    assert change(client, BUDGET, headers={"If-Match": etag})["version"] == 2


@pytest.mark.parametrize("etag", ['"2" "1"', '"1", x', "", "garbage", '"1x"', '"-1"', '"' + "9" * 5_000 + '"'])
def test_an_if_match_that_is_no_etag_of_ours_is_refused_and_changes_nothing(client: TestClient, etag: str) -> None:
    refused = change(client, BUDGET, 422, headers={"If-Match": etag})
    assert refused["error_type"] == "BadInput" and "expected ETags" in refused["error"]
    assert client.get("/exit-policy").json()["version"] == 1


@pytest.mark.parametrize("etag", ['"2"', '"0"', '"2", "3"'])
def test_a_patch_that_somebody_outran_changes_nothing(client: TestClient, etag: str) -> None:
    refused = change(client, BUDGET, 412, headers={"If-Match": etag})
    assert refused["error_type"] == "PolicyConflict"
    assert client.get("/exit-policy").json()["version"] == 1


def test_of_two_patches_with_one_etag_the_second_is_refused(client: TestClient) -> None:
    etag = client.get("/exit-policy").headers["ETag"]
    change(client, {"tau": -0.5}, headers={"If-Match": etag})
    refused = change(client, {"tau": -0.7}, 412, headers={"If-Match": etag})
    assert "version 2 is in force" in refused["error"]
    assert client.get("/exit-policy").json()["tau"] == -0.5


def test_a_dry_run_answers_and_changes_nothing(client: TestClient) -> None:
    before = client.get("/exit-policy").json()
    response = client.patch("/exit-policy?dry_run=true", json=BUDGET, headers=AS_ADMIN)
    assert response.json().items() >= {**BUDGET, "dry_run": True}.items()
    assert client.get("/exit-policy").json() == before
    assert len(client.get("/exit-policy/history").json()) == 1
    assert "dry_run" not in change(client, {"tau": -0.5}) and "dry_run" not in before


@pytest.mark.parametrize("query", ["dryrun=true", "dry-run=true", "DRY_RUN=true", "dry_run=true&dry_run=false", "x"])
def test_a_misspelt_dry_run_changes_nothing_and_is_told_its_name(client: TestClient, query: str) -> None:
    refused = client.patch(f"/exit-policy?{query}", json=BUDGET, headers=AS_ADMIN)
    assert (refused.status_code, refused.json()["error_type"]) == (422, "BadInput")
    assert "dry_run" in refused.json()["error"]
    assert client.get("/exit-policy").json()["version"] == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", path) for path in ("/exit-policy", "/livez", "/readyz", "/health", "/metrics", "/info", "/models")]
    + [("GET", "/exit-policy/strategies"), ("GET", "/exit-policy/history"), ("GET", "/exit-policy/operating-points")]
    + [("POST", "/ner"), ("POST", "/")],
)
def test_no_call_ignores_a_query_parameter_that_it_does_not_know(client: TestClient, method: str, path: str) -> None:
    refused = client.request(method, f"{path}?lmit=2", json={} if method == "POST" else None)
    assert refused.status_code == 422 and "unknown query parameters: lmit" in refused.json()["error"]


def test_without_a_key_nothing_is_said_of_the_query(client: TestClient) -> None:
    assert client.patch("/exit-policy?dryrun=true", json=BUDGET).status_code == 401


def test_pages_for_people_take_any_query(client: TestClient) -> None:
    assert [client.get(f"{path}?utm=a").status_code for path in ("/", "/console/main.js", "/docs")] == [200] * 3


def test_the_history_comes_in_pages_each_with_the_way_to_the_next(client: TestClient) -> None:
    for layer in (1, 2, 3, 4):
        change(client, {"strategy": "budgeted", "layer": layer})
    pages, url = [], "/exit-policy/history?limit=2"
    while url:
        answer = client.get(url)
        pages.append([entry["version"] for entry in answer.json()])
        url = answer.links["next"]["url"] if answer.links else ""
    assert pages == [[5, 4], [3, 2], [1]]
    assert [entry["version"] for entry in client.get("/exit-policy/history?before=3").json()] == [2, 1]
    for query in ("limit=0", "limit=1001", "before=0", "limit=a"):
        assert client.get(f"/exit-policy/history?{query}").status_code == 422


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("Zoë 王".encode(), "Zoë 王"), (b"Zo\xeb", "Zoë"), ("王".encode() * 200, "王" * 200), (b"ann", "ann")],
)
def test_whoever_changed_it_is_kept_as_they_wrote_it(client: TestClient, sent: bytes, kept: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in AS_ADMIN.items()]
    assert client.patch("/exit-policy", json=BUDGET, headers=[*headers, (b"X-Changed-By", sent)]).status_code == 200
    assert client.get("/exit-policy/history").json()[0]["changed_by"] == kept


def test_a_name_that_is_too_long_is_refused(client: TestClient) -> None:
    refused = change(client, BUDGET, 422, headers={"X-Changed-By": "a" * 201})
    assert "X-Changed-By has 201 characters; the limit is 200" in refused["error"]


def test_a_dry_run_refuses_what_would_be_refused(client: TestClient) -> None:
    response = client.patch("/exit-policy?dry_run=true", json={"tau": "low"}, headers=AS_ADMIN)
    assert response.status_code == 422


def test_a_dry_run_hands_out_no_etag_that_a_later_change_could_match(client: TestClient) -> None:
    dry = client.patch("/exit-policy?dry_run=true", json=BUDGET, headers=AS_ADMIN)
    change(client, {"tau": -0.5})
    assert dry.headers.get("ETag") != client.get("/exit-policy").headers["ETag"]


def test_the_history_tells_who_changed_what_newest_first(client: TestClient) -> None:
    change(client, BUDGET, headers={"X-Changed-By": "ann@example.org"})
    change(client, {"layer": 3})
    newest, middle, oldest = client.get("/exit-policy/history").json()
    assert list(newest) == ["version", "at", "by", "changed_by", "before", "after"]
    assert [entry["version"] for entry in (newest, middle, oldest)] == [3, 2, 1]
    assert (middle["by"], middle["changed_by"]) == ("api", "ann@example.org")
    assert (middle["before"], middle["after"]) == (DEFAULT, BUDGET)
    assert (newest["changed_by"], newest["before"]) == (None, BUDGET)
    assert (oldest["by"], oldest["before"], oldest["after"]) == ("start", None, DEFAULT)


def test_a_rollback_is_a_new_version_with_the_old_parameters(client: TestClient) -> None:
    change(client, BUDGET)
    rolled_back = change(client, {"rollback_to": 1})
    assert rolled_back.items() >= (DEFAULT | {"version": 3}).items()
    assert client.get("/exit-policy/history").json()[0]["after"] == DEFAULT


@pytest.mark.parametrize("version", [0, 3, -1, "1", None, 1.5, True, [1], {"version": 1}])
def test_a_rollback_to_an_unknown_version_names_the_known_ones(client: TestClient, version: object) -> None:
    change(client, BUDGET)
    assert "versions 1 to 2" in change(client, {"rollback_to": version}, 422)["error"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "empty"),
        ({"version": 3}, "version"),
        ({"updated_by": "me"}, "updated_by"),
        ({"observed": {}}, "observed"),
        ({"threshold": 1}, "threshold"),
        ({"layer": 2}, "layer"),
        ({"tau": 0.1}, "tau"),
        ({"tau": "low"}, "tau"),
        ({"patience": 0}, "patience"),
        ({"strategy": "magic"}, "budgeted"),
        ({"strategy": "budgeted", "layer": 5}, "4 layers"),
        ({"strategy": "budgeted", "tau": -0.5}, "tau"),
        ({"strategy": "learned"}, "calibrate it first"),
        ({"ensemble": "yes"}, "ensemble is 'yes'"),
        ({"measure": "js", "tau": 0.5}, "from -1 to 0"),
        ({"preset": "fast"}, "calibrated"),
        ({"speedup": 2}, "calibrated"),
        ({"speedup": 2, "preset": "fast"}, "one goal"),
        ({"rollback_to": 1, "tau": -0.5}, "one goal"),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_name(client: TestClient, changes: dict[str, Any], named: str) -> None:
    assert named in change(client, changes, 422)["error"]
    assert client.get("/exit-policy").json()["version"] == 1


@pytest.mark.parametrize("changes", [[], "fast", 7, None])
def test_a_change_that_is_no_object_is_refused(client: TestClient, changes: object) -> None:
    change(client, changes, 422)


def test_a_model_that_was_not_calibrated_has_no_operating_points(client: TestClient) -> None:
    assert client.get("/exit-policy/operating-points").json() == []


def test_a_calibrated_model_shows_its_operating_points_cheapest_first(calibrated: TestClient) -> None:
    points = calibrated.get("/exit-policy/operating-points").json()
    assert points == json.loads(json.dumps([point.to_json() for point in CALIBRATION.points]))
    assert points[0].keys() >= {"parameters", "f1", "average_exit_layer", "speedup_layers", "speedup_latency", "preset"}


def test_a_calibrated_model_starts_from_the_balanced_preset_and_says_what_to_expect(calibrated: TestClient) -> None:
    policy = calibrated.get("/exit-policy").json()
    assert policy.items() >= {**BALANCED.to_json(), "preset": "balanced", "version": 1}.items()
    assert (policy["expected"]["f1"], policy["expected"]["f1_interval"]) == (82.0, [81.0, 83.0])


@pytest.mark.parametrize(
    ("goal", "policy", "preset"),
    [
        ({"speedup": 2.5}, FAST, "fast"),
        ({"preset": "fast"}, FAST, "fast"),
        ({"preset": "accurate"}, ACCURATE, "accurate"),
        ({"max_f1_loss": 0.5}, ACCURATE, "accurate"),
        ({"average_exit_layer": 2.1}, SLOW_TO_DECIDE, None),
    ],
    ids=str,
)
def test_a_goal_puts_its_operating_point_in_force(
    calibrated: TestClient, goal: dict[str, Any], policy: ExitPolicy, preset: str | None
) -> None:
    changed = change(calibrated, goal)
    assert changed.items() >= {**policy.to_json(), "preset": preset, "version": 2}.items()
    assert changed["expected"]["speedup_layers"] == 4 / changed["expected"]["average_exit_layer"]
    answered = calibrated.post("/ner", json={"text": TEXT}).json()
    assert answered["policy_version"] == 2 and calibrated.get("/exit-policy").json()["observed"]["sequences"] == 1


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"speedup": 3}, "speedup is 3; this model's operating points reach 1 to 2.84 times"),
        ({"speedup": True}, "speedup is True; this model's operating points reach 1 to 2.84 times"),
        ({"speedup": "2"}, "full depth's measured speed; expected a number"),
        ({"foo": None}, "has no parameter foo"),
        ({"autopiolt": None}, "the goal nearest to autopiolt is autopilot"),
        ({"prest": "fast"}, "the goal nearest to prest is preset"),
        ({"max_f1_loss": -1}, "max_f1_loss is -1; this model's operating points reach -0.12 or more F1"),
        ({"max_f1_loss": "little"}, "max_f1_loss is 'little'; this model's operating points reach -0.12 or more"),
        ({"average_exit_layer": 1.2}, "reach 1.32 or more layers per sequence"),
        ({"preset": "slow"}, "preset is 'slow'; expected one of ['accurate', 'balanced', 'fast']"),
        ({"preset": ["fast"]}, "preset is ['fast']; expected one of"),
        ({"speedup": 2, "max_f1_loss": 1}, "exactly one goal"),
        ({"preset": "fast", "tau": 0.1}, "exactly one goal"),
    ],
    ids=str,
)
def test_a_goal_that_cannot_be_reached_is_told_what_can(
    calibrated: TestClient, goal: dict[str, Any], message: str
) -> None:
    assert message in change(calibrated, goal, 422)["error"]
    assert calibrated.get("/exit-policy").json()["version"] == 1


@pytest.mark.parametrize("wish", ["1" + "0" * 400, "-1" + "0" * 400, "NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("goal", ["speedup", "max_f1_loss", "average_exit_layer"])
def test_no_number_is_too_odd_for_an_answer(calibrated: TestClient, goal: str, wish: str) -> None:
    headers = {**AS_ADMIN, "Content-Type": "application/json"}
    response = calibrated.patch("/exit-policy", content=f'{{"{goal}": {wish}}}', headers=headers)
    assert response.status_code in (200, 400, 422)


def test_a_request_of_its_own_takes_any_strategy_of_a_calibrated_model(calibrated: TestClient) -> None:
    for strategy in calibrated.get("/models").json()[0]["strategies"]:
        response = calibrated.post("/ner", json={"text": TEXT, "exit_policy": {"strategy": strategy}, "trace": True})
        assert response.status_code == 200, response.text
        (sequence,) = response.json()["sequences"]
        assert len(sequence["trace"]) == sequence["exit_layer"]
    refused = calibrated.post("/ner", json={"text": TEXT, "exit_policy": {"rollback_to": 1}})
    assert refused.status_code == 422 and "rollback_to cannot be set for one request" in refused.json()["error"]


@pytest.mark.parametrize("goal", [{"preset": "fast"}, {"max_f1_loss": 100}, {"average_exit_layer": 1.5}])
def test_a_request_of_its_own_takes_a_goal(calibrated: TestClient, goal: dict[str, Any]) -> None:
    answer = calibrated.post("/ner", json={"text": TEXT, "exit_policy": goal, "trace": True}).json()
    assert answer["exit_policy"] == FAST.to_json() and answer["policy_version"] == 1
    assert calibrated.get("/exit-policy").json()["preset"] == "balanced"


def test_a_change_shows_in_the_metrics_at_once(client: TestClient) -> None:
    change(client, {"tau": -0.5, "patience": 2})
    assert sample(client, "ner_exit_policy_tau") == -0.5
    assert sample(client, "ner_exit_policy_patience") == 2
    assert sample(client, "ner_exit_policy_version") == 2
    assert sample(client, "ner_exit_policy_changes_total", source="api") == 1
    assert sample(client, "ner_exit_policy_info", strategy="vee", measure="kl") == 1
    change(client, BUDGET)
    assert sample(client, "ner_exit_policy_info", strategy="budgeted") == 1
    assert sample(client, "ner_exit_policy_tau") != sample(client, "ner_exit_policy_tau")  # NaN: it has none


# what /docs shows


def operation(client: TestClient, method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()["paths"][path][method]
    return found


def test_every_example_of_a_change_is_taken_whatever_is_in_force(calibrated: TestClient) -> None:
    contents = operation(calibrated, "patch", "/exit-policy")["requestBody"]["content"]
    assert contents.keys() == {"application/json", "application/merge-patch+json"}
    for kind, content in contents.items():
        assert len(content["examples"]) > 3
        for example in content["examples"].values():
            for before in ({"preset": "balanced"}, BUDGET, {"strategy": "full_depth"}):
                change(calibrated, before)
                change(calibrated, example["value"], headers={"Content-Type": kind})


def test_every_example_of_a_request_is_answered(client: TestClient) -> None:
    components = client.get("/openapi.json").json()["components"]["schemas"]
    for path in ("/ner", "/"):
        content = operation(client, "post", path)["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].rsplit("/", 1)[1]
        assert [client.post(path, json=example).status_code for example in components[name]["examples"]] == [200]


def test_the_shape_of_a_change_has_every_parameter_and_every_goal(client: TestClient) -> None:
    for content in operation(client, "patch", "/exit-policy")["requestBody"]["content"].values():
        schema = content["schema"]
        parameters = {name for strategy in STRATEGIES.values() for name in strategy.parameters()}
        assert schema["properties"].keys() == {"strategy", *parameters, *GOALS, *OF_PROMISE, "autopilot"}
        assert set(schema["properties"]["strategy"]["enum"]) == STRATEGIES.keys()
        assert schema["properties"]["autopilot"]["properties"].keys() == {field.name for field in fields(Objective)}


def test_the_shape_of_the_policy_in_force_has_the_fields_of_every_strategy(client: TestClient) -> None:
    components = client.get("/openapi.json").json()["components"]["schemas"]
    for method in ("get", "patch"):
        response = operation(client, method, "/exit-policy")["responses"]["200"]
        shapes = response["content"]["application/json"]["schema"]["oneOf"]
        found = [components[shape["$ref"].rsplit("/", 1)[1]]["properties"] for shape in shapes]
        assert {of["strategy"]["const"]: of.keys() - {"strategy"} for of in found} == {
            name: {*strategy.parameters(), *get_type_hints(VersionOut)} for name, strategy in STRATEGIES.items()
        }
