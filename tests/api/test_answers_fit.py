"""An answer that is not what the API's document says is a fault of ours, and no answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from service.api.respond import respond
from service.api.routes import exit_policy
from service.api.schemas.exit_policy import ExitPolicyOut
from service.api.schemas.hugging_face import HuggingFaceEntity
from service.exits.policies import STRATEGIES

ITEM = {"entity_group": "LOC", "score": 0.5, "word": "Oslo", "start": 3, "end": 7}
SHADOW = {"runs": 0, "disagreements": 0, "disagreement_rate": None, "disagreement_interval": None}
OBSERVED = {"average_exit_layer": None, "sequences": 0, "since": "noon", "shadow": SHADOW}
AROUND = {"version": 1, "updated_at": "noon", "updated_by": "api", "preset": None, "expected": None}
VEE = {"strategy": "vee", "measure": "kl", "pooling": "mean", "tau": -1, "patience": 1, "ensemble": False}
POLICY = {**VEE, **AROUND, "observed": OBSERVED, "autopilot": None, "promise": None}


def test_what_fits_is_answered_in_the_models_order() -> None:
    answer = respond(HuggingFaceEntity, dict(reversed(ITEM.items())), status=201, headers={"X-A": "b"})
    assert answer.body == json.dumps(ITEM, separators=(",", ":")).encode()
    assert (answer.status_code, answer.headers["X-A"], answer.media_type) == (201, "b", "application/json")


def test_what_is_absent_stays_absent_and_a_whole_number_whole() -> None:
    assert bytes(respond(HuggingFaceEntity, {**ITEM, "index": 1}).body).endswith(b'"end":7,"index":1}')
    assert respond(ExitPolicyOut, POLICY).body == json.dumps(POLICY, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "drifted",
    [
        {name: value for name, value in ITEM.items() if name != "word"},
        {**ITEM, "label": "LOC"},
        {**ITEM, "start": "3"},
        {**ITEM, "start": 3.0},
        {**ITEM, "score": math.nan},
        {**ITEM, "index": None},
    ],
    ids=["a field less", "a field more", "a number as text", "an index as float", "no number", "null for absent"],
)
def test_what_does_not_fit_is_refused(drifted: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        respond(HuggingFaceEntity, drifted)


@pytest.mark.parametrize(
    "drifted",
    [
        {**POLICY, "strategy": "budgeted"},
        {**POLICY, "layer": 2},
        {**POLICY, "updated_by": "somebody"},
        {**POLICY, "observed": {**OBSERVED, "shadow": {**SHADOW, "rate": 0.5}}},
    ],
    ids=["another strategy's parameters", "a parameter more", "nobody we know", "a field more, deep inside"],
)
def test_a_policy_that_is_not_its_strategys_is_refused(drifted: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        respond(ExitPolicyOut, drifted)


def test_a_route_whose_answer_drifted_fails_instead(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, show = start(), exit_policy._policy
    monkeypatch.setattr(exit_policy, "_policy", lambda state: {**show(state), "forgotten": "in the schema"})
    answer = client.get("/exit-policy")
    assert (answer.status_code, answer.json()["error_type"]) == (500, "InternalError")


def test_the_document_shows_the_policy_of_every_strategy(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    shown = document["components"]["schemas"]
    for method in ("get", "patch"):
        answer = document["paths"]["/exit-policy"][method]["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer["discriminator"]["mapping"].keys() == STRATEGIES.keys()
    for policy in STRATEGIES.values():
        properties = list(shown[f"{policy.__name__}InForce"]["properties"])
        assert properties == ["strategy", *policy.parameters(), *AROUND, "observed", "autopilot", "promise", "dry_run"]
