"""The autopilot's side of the live policy: on and off, who wins, what is kept, shadow runs counted by policy."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from service.errors import BadInput, PolicyConflict
from service.exits.disagreement import Disagreement
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policy import ExitPolicy
from service.policy.captured import CapturedPolicy
from service.policy.goals import Objective
from service.policy.live import LivePolicy
from service.policy.versions import PolicyState, PolicyVersion
from tests.engine.scripted_ import DEADLINE_S
from tests.exits.calibrations_ import ACCURATE, BALANCED, CALIBRATION, FAST
from tests.policy.live_ import change, record, refusal, start

WISH = {"p95_ms": 100, "max_f1_loss": 4.0}  # levels: ACCURATE, BALANCED, FAST
ON = Objective(100, 4.0)
OFF = (None, None, None)


@pytest.fixture
def live(tmp_path: Path) -> LivePolicy:
    """Calibrated, at the preset `balanced`."""
    return start(tmp_path, calibration=CALIBRATION)


def move(live: LivePolicy, policy: ExitPolicy) -> PolicyState:
    """A move of the autopilot."""
    return live.change(policy.to_json(), source="autopilot", if_versions=(live.current.version,))


def flies(state: PolicyState) -> tuple[Objective | None, int | None, int | None]:
    """The autopilot's objective, its level, and the highest that it may use; three times None while it is off."""
    return state.in_force.objective, state.in_force.level, state.highest_level


# on and off


def test_it_is_off_until_it_is_switched_on(live: LivePolicy) -> None:
    assert flies(live.describe()) == OFF and live.highest_level() is None
    answered = change(live, autopilot=WISH)
    assert flies(answered) == (ON, 1, 2)
    assert (answered.version, answered.in_force.updated_by) == (2, "api")
    assert answered == live.describe()
    assert flies(change(live, autopilot=None)) == OFF


def test_it_goes_on_from_the_policy_in_force_where_that_is_a_level_and_else_from_level_zero(
    live: LivePolicy,
) -> None:
    change(live, preset="fast")
    assert change(live, autopilot=WISH).in_force.level == 2
    assert live.current.policy == FAST
    change(live, strategy="budgeted", layer=2)
    assert change(live, autopilot=WISH).in_force.level == 0
    assert live.current.policy == ACCURATE


def test_switching_it_off_leaves_the_policy_as_it_is(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    move(live, FAST)
    change(live, autopilot=None)
    assert (live.current.policy, live.current.objective) == (FAST, None)


def test_a_smaller_loss_than_that_of_the_policy_in_force_begins_at_level_zero(live: LivePolicy) -> None:
    change(live, preset="fast")
    answered = change(live, autopilot={"p95_ms": 100, "max_f1_loss": 1.0})
    assert flies(answered) == (Objective(100, 1.0), 0, 1)


def test_a_part_of_the_objective_can_be_changed_while_it_is_on(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    move(live, FAST)
    answered = change(live, autopilot={"p95_ms": 50})
    assert flies(answered) == (Objective(50, 4.0), 2, 2)


@pytest.mark.parametrize(
    "manual",
    [{"tau": 0.3}, {"preset": "fast"}, {"speedup": 2}, {"rollback_to": 1}, {"strategy": "full_depth"}],
    ids=str,
)
def test_any_change_by_hand_switches_it_off(live: LivePolicy, manual: dict[str, Any]) -> None:
    change(live, autopilot=WISH)
    assert flies(change(live, **manual)) == OFF
    assert live.current.objective is None


def test_its_own_moves_do_not(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    answered = move(live, FAST)
    assert flies(answered) == (ON, 2, 2)
    assert (answered.preset, answered.in_force.updated_by) == ("fast", "autopilot")


def test_a_change_by_hand_wins_over_a_move_that_was_decided_before_it(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    looked_at = live.current.version
    change(live, strategy="full_depth")
    with pytest.raises(PolicyConflict):
        live.change(FAST.to_json(), source="autopilot", if_versions=(looked_at,))
    assert (live.current.policy, live.current.objective) == (FullDepth(), None)


def test_in_a_race_the_last_word_is_a_persons(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    stop = threading.Event()

    def fly() -> None:
        while not stop.is_set():
            current = live.current
            if current.objective is None:
                continue
            try:
                policy = FAST if current.policy == BALANCED else BALANCED
                live.change(policy.to_json(), source="autopilot", if_versions=(current.version,))
            except PolicyConflict:
                pass

    pilot = threading.Thread(target=fly)
    pilot.start()
    for layer in (1, 2, 3) * 5:
        change(live, autopilot=WISH)
        answered = change(live, strategy="budgeted", layer=layer)
        assert live.describe() == answered and live.current.policy == Budgeted(layer)
    stop.set()
    pilot.join(DEADLINE_S)
    assert live.current.policy == Budgeted(3)


# what is refused


def test_it_stands_alone(live: LivePolicy) -> None:
    for others in ({"tau": 0.3}, {"preset": "fast"}, {"version": 3}):
        assert "autopilot stands alone" in refusal(live, {"autopilot": WISH, **others})
        assert "autopilot stands alone" in refusal(live, {"autopilot": None, **others})


def test_it_needs_calibrated_points(tmp_path: Path) -> None:
    message = refusal(start(tmp_path), {"autopilot": WISH})
    assert message.startswith("autopilot needs calibrated operating points")


def test_a_loss_that_leaves_no_point_is_told_which_does(live: LivePolicy) -> None:
    message = refusal(live, {"autopilot": {"p95_ms": 100, "max_f1_loss": -1}})
    assert message == "max_f1_loss is -1; this model's operating points reach -0.12 or more F1 x 100 below full depth"


def test_a_request_cannot_fly_for_itself(live: LivePolicy) -> None:
    with pytest.raises(BadInput, match="autopilot"):
        live.capture({"autopilot": WISH})


def test_a_dry_run_shows_the_ladder_and_changes_nothing(live: LivePolicy) -> None:
    before = live.describe()
    answered = live.change({"autopilot": WISH}, source="api", dry_run=True)
    assert flies(answered) == (ON, 1, 2)
    assert live.describe() == before


# what is kept


def test_a_restart_finds_it_on_at_the_level_where_it_was(tmp_path: Path, live: LivePolicy) -> None:
    change(live, autopilot={**WISH, "max_disagreement": 0.1})
    move(live, FAST)
    after = start(tmp_path, calibration=CALIBRATION)
    assert after.current == live.current and after.current.level == 2
    assert after.current.objective == Objective(100, 4.0, 0.1)
    assert after.history() == live.history()


def test_a_restart_after_it_was_switched_off_finds_it_off(tmp_path: Path, live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    change(live, autopilot=None)
    assert start(tmp_path, calibration=CALIBRATION).current.objective is None


def test_the_history_says_when_it_was_on_and_what_it_did(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    move(live, FAST)
    change(live, preset="balanced")
    off, moved, on, _ = live.history()
    assert (on.by, on.before, on.after) == ("api", record(BALANCED), record(BALANCED, ON))
    assert (moved.by, moved.before, moved.after) == ("autopilot", on.after, record(FAST, ON))
    assert (off.by, off.before, off.after) == ("api", moved.after, record(BALANCED))


def test_a_rollback_to_one_of_its_versions_brings_back_the_policy_and_not_the_autopilot(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    move(live, FAST)
    change(live, strategy="full_depth")
    answered = change(live, rollback_to=3)
    assert live.current.policy == FAST and flies(answered) == OFF


@pytest.mark.parametrize("kept", [{"p95_ms": 100}, {"p95_ms": 100, "max_f1_loss": -9}, "on", 1])
def test_a_state_file_with_an_objective_that_cannot_be_kept_is_set_aside(
    tmp_path: Path, live: LivePolicy, kept: object
) -> None:
    change(live, autopilot=WISH)
    file = tmp_path / "exit_policy.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["current"]["policy"]["autopilot"] = kept
    file.write_text(json.dumps(state), encoding="utf-8")
    after = start(tmp_path, calibration=CALIBRATION)
    assert (after.current.version, after.current.objective) == (1, None)
    assert "state file was unusable" in after.history()[0].changed_by


def test_whoever_listens_hears_of_objective_and_level(tmp_path: Path) -> None:
    heard: list[PolicyVersion] = []
    live = start(tmp_path, calibration=CALIBRATION, on_change=heard.append)
    change(live, autopilot=WISH)
    move(live, FAST)
    change(live, autopilot=None)
    assert [(version.level, version.objective) for version in heard] == [
        (None, None),
        (1, Objective(100, 4.0)),
        (2, Objective(100, 4.0)),
        (None, None),
    ]


# shadow runs


def shadows(live: LivePolicy) -> tuple[int, int]:
    found = live.describe().observed.shadow
    return found.runs, found.disagreements


def test_shadow_runs_count_for_the_policy_that_they_left_under(live: LivePolicy) -> None:
    assert shadows(live) == (0, 0)
    for disagrees in (True, False, False):
        live.observe_shadow(live.capture(), disagrees)
    live.observe_shadow(CapturedPolicy(Budgeted(1), 1, is_override=True), True)
    assert live.disagreement() == live.describe().observed.shadow == Disagreement(3, 1)


def test_a_change_by_hand_begins_a_new_count_and_one_from_before_is_no_part_of_it(live: LivePolicy) -> None:
    before = live.capture()
    live.observe_shadow(before, True)
    assert change(live, tau=0.3).observed.shadow.runs == 0
    change(live, preset="balanced")
    live.observe_shadow(before, True)
    assert shadows(live) == (0, 0)


def test_the_autopilot_comes_back_to_a_policy_and_so_does_its_count(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    live.observe_shadow(live.capture(), True)
    fast = move(live, FAST)
    assert fast.observed.shadow.runs == 0
    assert move(live, BALANCED).observed.shadow.runs == 1
    assert shadows(live) == (1, 1)


def test_a_shadow_that_ends_after_a_move_still_counts_for_its_policy(live: LivePolicy) -> None:
    change(live, autopilot=WISH)
    captured = live.capture()
    move(live, FAST)
    live.observe_shadow(captured, True)
    move(live, BALANCED)
    assert shadows(live) == (1, 1)


def test_a_level_that_disagrees_too_often_is_closed_until_a_person_sets_it_anew(live: LivePolicy) -> None:
    change(live, autopilot={**WISH, "max_disagreement": 0.05})
    move(live, FAST)
    for run in range(200):
        live.observe_shadow(live.capture(), run % 4 == 0)
    assert live.highest_level() == live.describe().highest_level == 1
    assert flies(move(live, BALANCED)) == (Objective(100, 4.0, 0.05), 1, 1)
    assert change(live, autopilot={"p95_ms": 90}).highest_level == 2
