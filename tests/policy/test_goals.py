"""What the autopilot is asked for, and the levels it may use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from service.errors import BadInput
from service.exits.disagreement import Disagreement
from service.exits.policies.budgeted import Budgeted
from service.exits.policy import ExitPolicy
from service.policy.goals import Ladder, Objective
from tests.exits.calibrations_ import ACCURATE, BALANCED, FAST

OBJECTIVE = Objective(p95_ms=100, max_f1_loss=1.0)
LEVELS: tuple[ExitPolicy, ...] = (ACCURATE, BALANCED, FAST)
SURE = Disagreement(1_000, 100)  # a rate of 10 %, at least 7 and at most 14
UNSURE = Disagreement(10, 2)


def ladder(max_disagreement: float | None) -> Ladder:
    return Ladder(Objective(100, 1.0, max_disagreement), LEVELS, (1.5, 2.1, 2.8))


def refusal(current: Objective | None, changes: object) -> str:
    with pytest.raises(BadInput) as error:
        Objective.merged(current, changes)
    return str(error.value)


def test_an_objective_is_what_was_asked_for() -> None:
    assert Objective.merged(None, {"p95_ms": 50, "max_f1_loss": 0}) == Objective(50, 0, None)
    asked = {"p95_ms": 50.5, "max_f1_loss": -0.1, "max_disagreement": 0.02}
    assert asdict(Objective.merged(None, asked)) == {**asked, "certified": False}


def test_a_part_of_an_objective_changes_that_part() -> None:
    limited = Objective.merged(OBJECTIVE, {"max_disagreement": 0.05})
    assert limited == Objective(100, 1.0, 0.05)
    assert Objective.merged(limited, {"p95_ms": 20}) == Objective(20, 1.0, 0.05)
    assert Objective.merged(limited, {"max_disagreement": None}) == OBJECTIVE


@pytest.mark.parametrize("missing", ["p95_ms", "max_f1_loss"])
def test_a_first_objective_says_what_p95_and_what_loss(missing: str) -> None:
    given = {name: value for name, value in asdict(OBJECTIVE).items() if name != missing}
    assert f'autopilot needs {missing}, as in {{"p95_ms": 100' in refusal(None, given)
    assert f"autopilot needs {missing}" in refusal(OBJECTIVE, {missing: None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p95_ms": 0.5}, "autopilot.p95_ms is 0.5; expected a number from 1 to 60000"),
        ({"p95_ms": 60_001}, "from 1 to 60000"),
        ({"p95_ms": "fast"}, "autopilot.p95_ms is 'fast'; expected a number"),
        ({"p95_ms": True}, "autopilot.p95_ms is True"),
        ({"p95_ms": float("nan")}, "autopilot.p95_ms is nan"),
        ({"max_f1_loss": 101}, "autopilot.max_f1_loss is 101; expected a number from -100 to 100"),
        ({"max_f1_loss": [1]}, "autopilot.max_f1_loss is a list; expected a number"),
        ([[1] * 100], "autopilot is [[1, 1, 1, 1, 1, 1, ...]]; expected an object such as"),
        ({"max_disagreement": 1.1}, "autopilot.max_disagreement is 1.1; expected a number from 0 to 1"),
        ({"max_disagreement": -0.1}, "autopilot.max_disagreement is -0.1"),
        (
            {"level": 2},
            "autopilot.level cannot be set; it has ['p95_ms', 'max_f1_loss', 'max_disagreement', 'certified']",
        ),
        ({"p99_ms": 2}, "autopilot has no p99_ms; it has ['p95_ms', 'max_f1_loss', 'max_disagreement', 'certified']"),
        (7, "autopilot is 7; expected an object such as"),
        (True, "or null to switch it off"),
    ],
    ids=str,
)
def test_what_cannot_be_an_objective_is_told_what_can(changes: Any, message: str) -> None:
    assert message in refusal(OBJECTIVE, changes)


def test_a_level_is_the_place_of_a_policy_on_the_ladder() -> None:
    assert [ladder(None).level_of(policy) for policy in LEVELS] == [0, 1, 2]
    assert ladder(None).level_of(Budgeted(1)) is None


@pytest.mark.parametrize(
    ("max_disagreement", "found", "highest"),
    [
        (None, {BALANCED: SURE}, 2),
        (0.05, {}, 2),
        (0.05, {BALANCED: UNSURE, FAST: UNSURE}, 2),
        (0.12, {BALANCED: SURE}, 2),  # observed below the limit
        (0.08, {BALANCED: SURE}, 2),  # observed over it, which is no proof
        (0.05, {FAST: SURE}, 1),
        (0.05, {BALANCED: SURE}, 0),
        (0.05, {BALANCED: SURE, FAST: Disagreement(1_000)}, 0),
        (0.05, {ACCURATE: SURE}, 0),  # there is nothing more accurate
    ],
)
def test_no_level_is_used_that_is_proven_to_disagree_too_often_and_none_beyond_it(
    max_disagreement: float | None, found: dict[ExitPolicy, Disagreement], highest: int
) -> None:
    assert ladder(max_disagreement).highest_level(lambda policy: found.get(policy, Disagreement())) == highest
