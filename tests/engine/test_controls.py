"""The live exit policy: versions, history, conflicts, the state file, what is refused, what is observed."""

from __future__ import annotations

import json
import os
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service.engine.controls import Controls, PolicyVersion
from service.engine.sequence import CapturedPolicy
from service.errors import BadInput, EngineFailed, PolicyConflict
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.learned import Learned
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from tests.engine.controls_ import change, refusal, start
from tests.engine.scripted_ import DEADLINE_S
from tests.exits.calibrations_ import (
    ACCURATE,
    BALANCED,
    CALIBRATION,
    FAST,
    PATIENT,
    RULE,
    SLOW_TO_DECIDE,
    VEE_BY_MEAN_KL,
)

STATE_FILE = "exit_policy.json"
UNUSABLE = {
    "torn": b'{"model": "tiny@1", "current": {"policy": {"strat',
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "not an object": b"[1, 2]",
    "a field missing": b'{"model": "tiny@1"}',
    "null": b"null",
    "an unknown strategy": b'{"model": "tiny@1", "current": {"policy": {"strategy": "eev"}, "version": 3}}',
    "a tau out of range": b'{"model": "tiny@1", "current": {"policy": {"strategy": "vee", "tau": 1}, "version": 3}}',
    "a policy that is no object": b'{"model": "tiny@1", "current": {"policy": "vee", "version": 3}}',
    "an infinite version": b'{"model": "tiny@1", "current": {"policy": {"strategy": "vee"}, "version": 1e999}}',
    "nested too deep": b"[" * 100_000,
}


@pytest.fixture
def controls(tmp_path: Path) -> Controls:
    return start(tmp_path)


@pytest.fixture
def calibrated(tmp_path: Path) -> Controls:
    return start(tmp_path, calibration=CALIBRATION)


# versions and history


def test_the_first_start_takes_the_default_policy_as_version_one(controls: Controls) -> None:
    assert controls.current == PolicyVersion(Vee(), 1, "2024-05-01T12:00:00.000+00:00", "start", None)
    assert [(entry["version"], entry["by"], entry["before"]) for entry in controls.history()] == [(1, "start", None)]


def test_a_policy_on_the_wire_has_its_parameters_and_everything_around_them(controls: Controls) -> None:
    described = controls.describe()
    assert {name: described.pop(name) for name in Vee().to_json()} == Vee().to_json()
    since = "2024-05-01T12:00:00.000+00:00"
    shadow = {"runs": 0, "disagreements": 0, "disagreement_rate": None, "disagreement_interval": None}
    observed = {"average_exit_layer": None, "sequences": 0, "since": since, "shadow": shadow}
    around = {"version": 1, "updated_at": since, "updated_by": "start", "preset": None, "expected": None}
    assert described == {**around, "observed": observed, "autopilot": None}


def test_versions_count_up_and_a_change_answers_with_the_whole_policy(controls: Controls) -> None:
    answers = [change(controls, tau=tau) for tau in (-0.1, -0.2, -0.3)]
    assert [(answer["version"], answer["tau"]) for answer in answers] == [(2, -0.1), (3, -0.2), (4, -0.3)]
    assert controls.describe() == answers[-1]
    assert controls.capture() == CapturedPolicy(Vee(tau=-0.3), 4)


def test_history_is_newest_first_and_says_what_was_before_and_after(controls: Controls) -> None:
    controls.change({"patience": 2}, source="api", changed_by="ada")
    controls.change({"strategy": "full_depth"}, source="autopilot")
    newest, older, first = controls.history()
    assert (newest["version"], newest["by"], newest["changed_by"]) == (3, "autopilot", None)
    assert (newest["before"], newest["after"]) == (Vee(patience=2).to_json(), FullDepth().to_json())
    assert (older["version"], older["by"], older["changed_by"]) == (2, "api", "ada")
    assert (older["before"], older["after"]) == (first["after"], newest["before"])
    assert first["at"] < older["at"] < newest["at"]


def test_whoever_listens_hears_of_every_version_put_in_force(tmp_path: Path) -> None:
    heard: list[PolicyVersion] = []
    controls = start(tmp_path, on_change=heard.append)
    change(controls, tau=-0.5)
    assert [version.version for version in heard] == [1, 2] and heard[-1] == controls.current


def test_a_dry_run_answers_as_if_and_changes_nothing(tmp_path: Path) -> None:
    heard: list[PolicyVersion] = []
    controls = start(tmp_path, on_change=heard.append)
    before, file = (controls.describe(), controls.history()), (tmp_path / STATE_FILE).read_bytes()
    answered = controls.change({"tau": -0.5}, source="api", dry_run=True)
    assert (answered["tau"], answered["version"]) == (-0.5, 2)
    assert (controls.describe(), controls.history()) == before and len(heard) == 1
    assert (tmp_path / STATE_FILE).read_bytes() == file


def test_a_dry_run_refuses_what_a_change_would(controls: Controls) -> None:
    with pytest.raises(BadInput):
        controls.change({"tau": 1}, source="api", dry_run=True)
    with pytest.raises(PolicyConflict):
        controls.change({"tau": -1}, source="api", if_version=9, dry_run=True)


def test_a_change_made_from_an_old_version_is_a_conflict(controls: Controls) -> None:
    assert controls.change({"tau": -0.5}, source="api", if_version=1)["version"] == 2
    with pytest.raises(PolicyConflict, match="names version 1, but version 2 is in force"):
        controls.change({"tau": -0.7}, source="api", if_version=1)
    assert controls.current.policy == Vee(tau=-0.5)


def test_concurrent_changes_get_distinct_consecutive_versions(tmp_path: Path) -> None:
    controls, barrier = start(tmp_path), threading.Barrier(8)
    versions: list[int] = []

    def change_often() -> None:
        barrier.wait(DEADLINE_S)
        versions.extend(change(controls, patience=i + 1)["version"] for i in range(5))

    threads = [threading.Thread(target=change_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(versions) == list(range(2, 42))
    history = controls.history()
    assert [entry["version"] for entry in history] == list(range(41, 0, -1))
    assert all(newer["before"] == older["after"] for newer, older in pairwise(history))
    assert start(tmp_path).history() == history


def test_of_concurrent_changes_from_the_same_version_one_wins(controls: Controls) -> None:
    barrier, outcomes = threading.Barrier(8), list[str]()

    def change_once() -> None:
        barrier.wait(DEADLINE_S)
        try:
            controls.change({"tau": -0.5}, source="api", if_version=1)
            outcomes.append("won")
        except PolicyConflict:
            outcomes.append("lost")

    threads = [threading.Thread(target=change_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


# the state file


def test_a_restart_restores_policy_version_and_history(tmp_path: Path) -> None:
    before = start(tmp_path)
    change(before, tau=-0.25, patience=2)
    change(before, strategy="budgeted", layer=2)
    after = start(tmp_path)
    assert after.current == before.current == PolicyVersion(Budgeted(2), 3, before.current.updated_at, "api", None)
    assert after.history() == before.history() and len(after.history()) == 3
    assert change(after, layer=1)["version"] == 4


def test_history_forgets_the_oldest_beyond_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.controls.HISTORY_LENGTH", 3)
    controls = start(tmp_path)
    for patience in range(1, 6):
        change(controls, patience=patience)
    assert [entry["version"] for entry in controls.history()] == [6, 5, 4]
    assert start(tmp_path).history() == controls.history()
    assert "versions 4 to 6 are kept" in refusal(controls, {"rollback_to": 1})


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_state_file_is_set_aside_and_the_default_starts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    controls = start(tmp_path)
    assert (controls.current.policy, controls.current.version) == (Vee(), 1)
    assert (tmp_path / "exit_policy.unusable").read_bytes() == content
    (entry,) = controls.history()
    assert entry["by"] == "start" and "state file was unusable" in entry["changed_by"]
    assert start(tmp_path).history() == [entry]


def test_a_state_file_of_another_model_is_set_aside_and_the_default_starts(tmp_path: Path) -> None:
    change(start(tmp_path, model="other@2"), tau=-0.5)
    content = (tmp_path / STATE_FILE).read_bytes()
    controls = start(tmp_path)
    assert (controls.current.policy, controls.current.version) == (Vee(), 1)
    assert [entry["changed_by"] for entry in controls.history()] == ["the state file was of other@2"]
    assert (tmp_path / "exit_policy.unusable").read_bytes() == content


def test_the_state_file_is_whole_json_after_every_change(tmp_path: Path) -> None:
    controls = start(tmp_path / "made" / "on demand")
    change(controls, tau=-0.5)
    state = json.loads((tmp_path / "made" / "on demand" / STATE_FILE).read_text(encoding="utf-8"))
    assert state["model"] == "tiny@1"
    assert state["current"]["policy"] == Vee(tau=-0.5).to_json()
    assert state["history"] == controls.history()[::-1]


def test_a_change_that_cannot_be_written_leaves_the_old_policy_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controls = start(tmp_path)
    before, file = (controls.describe(), controls.history()), (tmp_path / STATE_FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(EngineFailed, match="nothing was changed"):
            change(controls, tau=-0.5)
    assert (controls.describe(), controls.history()) == before
    assert (tmp_path / STATE_FILE).read_bytes() == file
    assert change(controls, tau=-0.5)["version"] == 2


# what a change may be


def test_a_rollback_brings_a_known_version_back_as_a_new_one(controls: Controls) -> None:
    change(controls, tau=-0.5, patience=2)
    change(controls, strategy="full_depth")
    answered = change(controls, rollback_to=2)
    assert (answered["version"], controls.current.policy) == (4, Vee(tau=-0.5, patience=2))
    assert controls.history()[0]["before"] == FullDepth().to_json()
    change(controls, rollback_to=1)
    assert controls.current.policy == Vee()


@pytest.mark.parametrize("version", [0, 3, -1, "1", None, 1.0, 1.5, True, [1], {"version": 1}])
def test_a_rollback_to_an_unknown_version_is_told_which_are_kept(controls: Controls, version: object) -> None:
    change(controls, tau=-0.5)
    assert f"rollback_to is {version!r}; versions 1 to 2 are kept" in refusal(controls, {"rollback_to": version})


def test_two_goals_or_a_goal_with_parameters_are_refused(controls: Controls) -> None:
    for changes in ({"speedup": 2, "preset": "fast"}, {"rollback_to": 1, "tau": -0.5}, {"preset": "fast", "tau": -1}):
        message = refusal(controls, changes)
        assert str(sorted(changes)) in message and "exactly one goal of ['speedup', 'max_f1_loss'" in message


@pytest.mark.parametrize("name", ["version", "updated_at", "updated_by", "expected", "observed"])
def test_a_read_only_field_is_refused(controls: Controls, name: str) -> None:
    assert f"{name} cannot be set" in refusal(controls, {name: 1, "tau": -0.5})


def test_an_unknown_field_is_told_which_parameters_there_are(controls: Controls) -> None:
    message = refusal(controls, {"threshold": -0.5})
    assert "no parameter threshold; it has ['measure', 'pooling', 'tau', 'patience', 'ensemble']" in message


def test_an_empty_change_is_refused(controls: Controls) -> None:
    assert "empty" in refusal(controls, {})


@pytest.mark.parametrize("goal", ["speedup", "max_f1_loss", "average_exit_layer", "preset"])
def test_a_goal_without_calibration_is_told_what_to_do_instead(controls: Controls, goal: str) -> None:
    message = refusal(controls, {goal: 2})
    assert message.startswith(f"{goal} needs calibrated operating points") and "tau and patience" in message


def test_a_layer_beyond_the_model_is_refused(controls: Controls) -> None:
    assert "this model has 4 layers" in refusal(controls, {"strategy": "budgeted", "layer": 5})


# a calibrated model


def measured(policy: ExitPolicy) -> dict[str, Any]:
    """The figures of an operating point on the wire."""
    point = next(point for point in CALIBRATION.points if point.parameters == policy.to_json())
    return {name: value for name, value in point.to_json().items() if name not in ("parameters", "preset")}


def test_a_calibrated_model_starts_from_the_balanced_preset(calibrated: Controls) -> None:
    assert (calibrated.current.policy, calibrated.current.version) == (BALANCED, 1)
    described = calibrated.describe()
    assert (described["preset"], described["expected"]) == ("balanced", measured(BALANCED))
    assert calibrated.history()[0]["after"] == BALANCED.to_json()


@pytest.mark.parametrize(
    ("goal", "wish", "policy", "preset"),
    [
        ("speedup", 2.5, FAST, "fast"),
        ("max_f1_loss", 0.5, ACCURATE, "accurate"),
        ("average_exit_layer", 2.1, SLOW_TO_DECIDE, None),
        ("preset", "fast", FAST, "fast"),
        ("preset", "balanced", BALANCED, "balanced"),
    ],
)
def test_a_goal_puts_its_operating_point_in_force(
    calibrated: Controls, goal: str, wish: object, policy: ExitPolicy, preset: str | None
) -> None:
    answered = change(calibrated, **{goal: wish})
    assert (calibrated.current.policy, calibrated.current.version) == (policy, 2)
    assert (answered["preset"], answered["expected"]) == (preset, measured(policy))
    assert answered == calibrated.describe() and answered.items() >= policy.to_json().items()


def test_a_dry_run_of_a_goal_says_what_to_expect_and_changes_nothing(calibrated: Controls) -> None:
    before = (calibrated.describe(), calibrated.history())
    answered = calibrated.change({"preset": "accurate"}, source="api", dry_run=True)
    assert answered.items() >= {**ACCURATE.to_json(), "preset": "accurate"}.items()
    assert answered["expected"] == measured(ACCURATE)
    assert (calibrated.describe(), calibrated.history()) == before


def test_of_a_policy_that_was_not_measured_nothing_is_expected(calibrated: Controls) -> None:
    answered = change(calibrated, tau=0.25)
    assert (answered["preset"], answered["expected"]) == (None, None)
    back = change(calibrated, tau=0.2)
    assert (back["preset"], back["expected"]) == ("balanced", measured(BALANCED))


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({"strategy": "budgeted"}, Budgeted(2)),
        ({"strategy": "vee"}, VEE_BY_MEAN_KL),
        ({"strategy": "vee", "measure": "edit", "pooling": "max"}, Vee("edit", "max", tau=-0.5)),
        ({"strategy": "pabee"}, PATIENT),
        ({"strategy": "learned"}, Learned(rule=RULE)),  # its own point is no default: it is an extreme of the front
        ({"gate": None, "tau": None}, BALANCED),
    ],
    ids=str,
)
def test_what_a_change_leaves_out_is_calibrated(
    calibrated: Controls, changes: dict[str, Any], policy: ExitPolicy
) -> None:
    change(calibrated, **changes)
    assert calibrated.current.policy == policy


@pytest.mark.parametrize(
    ("changes", "reach"),
    [
        ({"speedup": 3}, "1 to 2.84"),
        ({"speedup": "2"}, "1 to 2.84"),
        ({"max_f1_loss": -1}, "-0.12 or more"),
        ({"average_exit_layer": 1}, "1.32 or more"),
        ({"preset": "fastest"}, "['accurate', 'balanced', 'fast']"),
        ({"preset": None}, "['accurate', 'balanced', 'fast']"),
    ],
    ids=str,
)
def test_a_goal_out_of_reach_is_told_what_can_be_had(calibrated: Controls, changes: dict[str, Any], reach: str) -> None:
    assert reach in refusal(calibrated, changes)


def test_a_rollback_brings_back_what_a_goal_chose(calibrated: Controls) -> None:
    change(calibrated, average_exit_layer=2.1)
    change(calibrated, strategy="full_depth")
    assert change(calibrated, rollback_to=2)["expected"] == measured(SLOW_TO_DECIDE)
    assert calibrated.current.policy == SLOW_TO_DECIDE
    assert change(calibrated, rollback_to=1)["preset"] == "balanced"


def test_a_restart_restores_a_learned_policy_with_the_models_rule(tmp_path: Path, calibrated: Controls) -> None:
    change(calibrated, strategy="learned", tau=0.5)
    after = start(tmp_path, calibration=CALIBRATION)
    assert (after.current.policy, after.current.version) == (Learned(tau=0.5, rule=RULE), 2)
    assert "rule" not in (tmp_path / STATE_FILE).read_text(encoding="utf-8")


def test_a_learned_policy_of_a_model_that_lost_its_rule_is_set_aside(tmp_path: Path, calibrated: Controls) -> None:
    change(calibrated, strategy="learned")
    after = start(tmp_path)
    assert (after.current.policy, after.current.version) == (Vee(), 1)
    (entry,) = after.history()
    assert "learned needs a rule" in entry["changed_by"] and (tmp_path / "exit_policy.unusable").exists()


def test_a_state_file_wins_over_the_balanced_preset(tmp_path: Path, controls: Controls) -> None:
    change(controls, tau=-0.5)
    assert start(tmp_path, calibration=CALIBRATION).current.policy == Vee(tau=-0.5)


def test_operating_points_are_the_front_alone_cheapest_first(calibrated: Controls, tmp_path: Path) -> None:
    points = calibrated.operating_points()
    assert [point["parameters"] for point in points] == [
        policy.to_json() for policy in (FAST, BALANCED, SLOW_TO_DECIDE, ACCURATE)
    ]
    assert [point.get("preset") for point in points] == ["fast", "balanced", None, "accurate"]
    assert start(tmp_path / "other").operating_points() == []


def test_an_override_takes_calibrated_defaults_and_no_goals(calibrated: Controls) -> None:
    learned = calibrated.capture({"strategy": "learned", "tau": 0.5})
    assert learned == CapturedPolicy(Learned(tau=0.5, rule=RULE), 1, is_override=True)
    assert calibrated.capture({"strategy": "vee"}).policy == VEE_BY_MEAN_KL
    with pytest.raises(BadInput, match="preset cannot be set for one request"):
        calibrated.capture({"preset": "fast"})


# one request's own policy


def test_an_override_is_the_live_policy_with_changes_and_changes_nothing(controls: Controls) -> None:
    change(controls, tau=-0.5)
    before = controls.describe()
    assert controls.capture({"patience": 3}) == CapturedPolicy(Vee(tau=-0.5, patience=3), 2, is_override=True)
    assert controls.capture({"strategy": "budgeted", "layer": 1}) == CapturedPolicy(Budgeted(1), 2, is_override=True)
    assert controls.describe() == before


@pytest.mark.parametrize("name", ["speedup", "preset", "rollback_to", "version", "observed", "threshold"])
def test_an_override_takes_parameters_only(controls: Controls, name: str) -> None:
    with pytest.raises(BadInput, match=name):
        controls.capture({name: 1})


# what is observed


def observed(controls: Controls) -> tuple[float | None, int]:
    found = controls.describe()["observed"]
    return found["average_exit_layer"], found["sequences"]


def test_observed_is_the_average_over_sequences_under_the_live_version(controls: Controls) -> None:
    assert observed(controls) == (None, 0)
    for layer in (2, 3, 4, 4):
        controls.observe(controls.capture(), layer)
    assert observed(controls) == (3.25, 4)


def test_overrides_and_older_versions_are_not_observed(controls: Controls) -> None:
    old = controls.capture()
    change(controls, tau=-0.5)
    controls.observe(old, 4)
    controls.observe(CapturedPolicy(Budgeted(1), controls.current.version, is_override=True), 1)
    assert observed(controls) == (None, 0)
    controls.observe(controls.capture(), 2)
    assert observed(controls) == (2.0, 1)


def test_a_change_starts_a_new_observation_and_a_dry_run_does_not(controls: Controls) -> None:
    controls.observe(controls.capture(), 2)
    controls.change({"tau": -0.5}, source="api", dry_run=True)
    assert observed(controls) == (2.0, 1)
    answered = change(controls, tau=-0.5)
    assert observed(controls) == (None, 0)
    assert answered["observed"]["since"] == answered["updated_at"]
