"""The autopilot's side of the live policy: on and off, who wins, what is kept, shadow runs counted by policy."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from service.engine.controls import Controls, PolicyVersion
from service.engine.objective import Objective
from service.engine.sequence import CapturedPolicy
from service.errors import BadInput, PolicyConflict
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policy import ExitPolicy
from tests.engine.controls_ import change, refusal, start
from tests.engine.scripted_ import DEADLINE_S
from tests.exits.calibrations_ import ACCURATE, BALANCED, CALIBRATION, FAST

WISH = {"p95_ms": 100, "max_f1_loss": 4.0}  # levels: ACCURATE, BALANCED, FAST
ON = {**WISH, "max_disagreement": None}


@pytest.fixture
def controls(tmp_path: Path) -> Controls:
    """Calibrated, at the preset `balanced`."""
    return start(tmp_path, calibration=CALIBRATION)


def move(controls: Controls, policy: ExitPolicy) -> dict[str, Any]:
    """A move of the autopilot."""
    return controls.change(policy.to_json(), source="autopilot", if_version=controls.current.version)


# on and off


def test_it_is_off_until_it_is_switched_on(controls: Controls) -> None:
    assert controls.describe()["autopilot"] is None and controls.highest_level() is None
    answered = change(controls, autopilot=WISH)
    assert answered["autopilot"] == {**ON, "level": 1, "highest_level": 2}
    assert (answered["version"], answered["updated_by"]) == (2, "api")
    assert answered == controls.describe()
    assert change(controls, autopilot=None)["autopilot"] is None


def test_it_goes_on_from_the_policy_in_force_where_that_is_a_level_and_else_from_level_zero(
    controls: Controls,
) -> None:
    change(controls, preset="fast")
    assert change(controls, autopilot=WISH)["autopilot"]["level"] == 2
    assert controls.current.policy == FAST
    change(controls, strategy="budgeted", layer=2)
    assert change(controls, autopilot=WISH)["autopilot"]["level"] == 0
    assert controls.current.policy == ACCURATE


def test_switching_it_off_leaves_the_policy_as_it_is(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    move(controls, FAST)
    change(controls, autopilot=None)
    assert (controls.current.policy, controls.current.objective) == (FAST, None)


def test_a_smaller_loss_than_that_of_the_policy_in_force_begins_at_level_zero(controls: Controls) -> None:
    change(controls, preset="fast")
    answered = change(controls, autopilot={"p95_ms": 100, "max_f1_loss": 1.0})
    assert (answered["autopilot"]["level"], answered["autopilot"]["highest_level"]) == (0, 1)


def test_a_part_of_the_objective_can_be_changed_while_it_is_on(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    move(controls, FAST)
    answered = change(controls, autopilot={"p95_ms": 50})
    assert answered["autopilot"] == {**ON, "p95_ms": 50, "level": 2, "highest_level": 2}


@pytest.mark.parametrize(
    "manual",
    [{"tau": 0.3}, {"preset": "fast"}, {"speedup": 2}, {"rollback_to": 1}, {"strategy": "full_depth"}],
    ids=str,
)
def test_any_change_by_hand_switches_it_off(controls: Controls, manual: dict[str, Any]) -> None:
    change(controls, autopilot=WISH)
    assert change(controls, **manual)["autopilot"] is None
    assert controls.current.objective is None


def test_its_own_moves_do_not(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    answered = move(controls, FAST)
    assert answered["autopilot"] == {**ON, "level": 2, "highest_level": 2}
    assert (answered["preset"], answered["updated_by"]) == ("fast", "autopilot")


def test_a_change_by_hand_wins_over_a_move_that_was_decided_before_it(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    looked_at = controls.current.version
    change(controls, strategy="full_depth")
    with pytest.raises(PolicyConflict):
        controls.change(FAST.to_json(), source="autopilot", if_version=looked_at)
    assert (controls.current.policy, controls.current.objective) == (FullDepth(), None)


def test_in_a_race_the_last_word_is_a_persons(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    stop = threading.Event()

    def fly() -> None:
        while not stop.is_set():
            current = controls.current
            if current.objective is None:
                continue
            try:
                policy = FAST if current.policy == BALANCED else BALANCED
                controls.change(policy.to_json(), source="autopilot", if_version=current.version)
            except PolicyConflict:
                pass

    pilot = threading.Thread(target=fly)
    pilot.start()
    for layer in (1, 2, 3) * 5:
        change(controls, autopilot=WISH)
        answered = change(controls, strategy="budgeted", layer=layer)
        assert controls.describe() == answered and controls.current.policy == Budgeted(layer)
    stop.set()
    pilot.join(DEADLINE_S)
    assert controls.current.policy == Budgeted(3)


# what is refused


def test_it_stands_alone(controls: Controls) -> None:
    for others in ({"tau": 0.3}, {"preset": "fast"}, {"version": 3}):
        assert "autopilot stands alone" in refusal(controls, {"autopilot": WISH, **others})
        assert "autopilot stands alone" in refusal(controls, {"autopilot": None, **others})


def test_it_needs_calibrated_points(tmp_path: Path) -> None:
    message = refusal(start(tmp_path), {"autopilot": WISH})
    assert message.startswith("autopilot needs calibrated operating points")


def test_a_loss_that_leaves_no_point_is_told_which_does(controls: Controls) -> None:
    message = refusal(controls, {"autopilot": {"p95_ms": 100, "max_f1_loss": -1}})
    assert message == "max_f1_loss is -1; this model's operating points reach -0.12 or more F1 x 100 below full depth"


def test_a_request_cannot_fly_for_itself(controls: Controls) -> None:
    with pytest.raises(BadInput, match="autopilot"):
        controls.capture({"autopilot": WISH})


def test_a_dry_run_shows_the_ladder_and_changes_nothing(controls: Controls) -> None:
    before = controls.describe()
    answered = controls.change({"autopilot": WISH}, source="api", dry_run=True)
    assert answered["autopilot"] == {**ON, "level": 1, "highest_level": 2}
    assert controls.describe() == before


# what is kept


def test_a_restart_finds_it_on_at_the_level_where_it_was(tmp_path: Path, controls: Controls) -> None:
    change(controls, autopilot={**WISH, "max_disagreement": 0.1})
    move(controls, FAST)
    after = start(tmp_path, calibration=CALIBRATION)
    assert after.current == controls.current and after.current.level == 2
    assert after.current.objective == Objective(100, 4.0, 0.1)
    assert after.history() == controls.history()


def test_a_restart_after_it_was_switched_off_finds_it_off(tmp_path: Path, controls: Controls) -> None:
    change(controls, autopilot=WISH)
    change(controls, autopilot=None)
    assert start(tmp_path, calibration=CALIBRATION).current.objective is None


def test_the_history_says_when_it_was_on_and_what_it_did(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    move(controls, FAST)
    change(controls, preset="balanced")
    off, moved, on, _ = controls.history()
    assert (on["by"], on["before"], on["after"]) == ("api", BALANCED.to_json(), {**BALANCED.to_json(), "autopilot": ON})
    assert (moved["by"], moved["before"], moved["after"]) == (
        "autopilot",
        on["after"],
        {**FAST.to_json(), "autopilot": ON},
    )
    assert (off["by"], off["before"], off["after"]) == ("api", moved["after"], BALANCED.to_json())


def test_a_rollback_to_one_of_its_versions_brings_back_the_policy_and_not_the_autopilot(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    move(controls, FAST)
    change(controls, strategy="full_depth")
    answered = change(controls, rollback_to=3)
    assert controls.current.policy == FAST and answered["autopilot"] is None


@pytest.mark.parametrize("kept", [{"p95_ms": 100}, {"p95_ms": 100, "max_f1_loss": -9}, "on", 1])
def test_a_state_file_with_an_objective_that_cannot_be_kept_is_set_aside(
    tmp_path: Path, controls: Controls, kept: object
) -> None:
    change(controls, autopilot=WISH)
    file = tmp_path / "exit_policy.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["current"]["policy"]["autopilot"] = kept
    file.write_text(json.dumps(state), encoding="utf-8")
    after = start(tmp_path, calibration=CALIBRATION)
    assert (after.current.version, after.current.objective) == (1, None)
    assert "state file was unusable" in after.history()[0]["changed_by"]


def test_whoever_listens_hears_of_objective_and_level(tmp_path: Path) -> None:
    heard: list[PolicyVersion] = []
    controls = start(tmp_path, calibration=CALIBRATION, on_change=heard.append)
    change(controls, autopilot=WISH)
    move(controls, FAST)
    change(controls, autopilot=None)
    assert [(version.level, version.objective) for version in heard] == [
        (None, None),
        (1, Objective(100, 4.0)),
        (2, Objective(100, 4.0)),
        (None, None),
    ]


# shadow runs


def shadows(controls: Controls) -> tuple[int, int]:
    found = controls.describe()["observed"]["shadow"]
    return found["runs"], found["disagreements"]


def test_shadow_runs_count_for_the_policy_that_they_left_under(controls: Controls) -> None:
    assert shadows(controls) == (0, 0)
    for disagrees in (True, False, False):
        controls.observe_shadow(controls.capture(), disagrees)
    controls.observe_shadow(CapturedPolicy(Budgeted(1), 1, is_override=True), True)
    described = controls.describe()["observed"]["shadow"]
    assert shadows(controls) == (3, 1) and described["disagreement_rate"] == pytest.approx(1 / 3)
    assert described["disagreement_interval"] == controls.disagreement().interval


def test_a_change_by_hand_begins_a_new_count_and_one_from_before_is_no_part_of_it(controls: Controls) -> None:
    before = controls.capture()
    controls.observe_shadow(before, True)
    assert change(controls, tau=0.3)["observed"]["shadow"]["runs"] == 0
    change(controls, preset="balanced")
    controls.observe_shadow(before, True)
    assert shadows(controls) == (0, 0)


def test_the_autopilot_comes_back_to_a_policy_and_so_does_its_count(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    controls.observe_shadow(controls.capture(), True)
    fast = move(controls, FAST)
    assert fast["observed"]["shadow"]["runs"] == 0
    assert move(controls, BALANCED)["observed"]["shadow"]["runs"] == 1
    assert shadows(controls) == (1, 1)


def test_a_shadow_that_ends_after_a_move_still_counts_for_its_policy(controls: Controls) -> None:
    change(controls, autopilot=WISH)
    captured = controls.capture()
    move(controls, FAST)
    controls.observe_shadow(captured, True)
    move(controls, BALANCED)
    assert shadows(controls) == (1, 1)


def test_a_level_that_disagrees_too_often_is_closed_until_a_person_sets_it_anew(controls: Controls) -> None:
    change(controls, autopilot={**WISH, "max_disagreement": 0.05})
    move(controls, FAST)
    for run in range(200):
        controls.observe_shadow(controls.capture(), run % 4 == 0)
    assert controls.highest_level() == controls.describe()["autopilot"]["highest_level"] == 1
    assert move(controls, BALANCED)["autopilot"] == {**ON, "max_disagreement": 0.05, "level": 1, "highest_level": 1}
    assert change(controls, autopilot={"p95_ms": 90})["autopilot"]["highest_level"] == 2
