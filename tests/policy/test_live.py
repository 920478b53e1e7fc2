"""The live exit policy: versions, history, conflicts, the state file, what is refused, what is observed."""

from __future__ import annotations

import json
import os
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service.errors import BadInput, EngineFailed, PolicyConflict
from service.exits.disagreement import Disagreement
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.exits.policies.learned import Learned
from service.exits.policies.vee import Vee
from service.exits.policy import ExitPolicy
from service.policy.captured import CapturedPolicy
from service.policy.live import LivePolicy
from service.policy.observed import Observed
from service.policy.versions import PolicyState, PolicyVersion
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
from tests.policy.live_ import change, record, refusal, start

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
def live(tmp_path: Path) -> LivePolicy:
    return start(tmp_path)


@pytest.fixture
def calibrated(tmp_path: Path) -> LivePolicy:
    return start(tmp_path, calibration=CALIBRATION)


# versions and history


def test_the_first_start_takes_the_default_policy_as_version_one(live: LivePolicy) -> None:
    assert live.current == PolicyVersion(Vee(), 1, "2024-05-01T12:00:00.000+00:00", "start", None)
    assert [(entry.version, entry.by, entry.before) for entry in live.history()] == [(1, "start", None)]


def test_the_state_is_the_version_and_what_is_known_of_it(live: LivePolicy) -> None:
    nothing = Observed(average_exit_layer=None, sequences=0, since=live.current.updated_at, shadow=Disagreement())
    assert live.describe() == PolicyState(live.current, preset=None, observed=nothing, highest_level=None)


def test_versions_count_up_and_a_change_answers_with_the_whole_policy(live: LivePolicy) -> None:
    answers = [change(live, tau=tau) for tau in (-0.1, -0.2, -0.3)]
    assert [(answer.version, answer.in_force.policy) for answer in answers] == [
        (2, Vee(tau=-0.1)),
        (3, Vee(tau=-0.2)),
        (4, Vee(tau=-0.3)),
    ]
    assert live.describe() == answers[-1]
    assert live.capture() == CapturedPolicy(Vee(tau=-0.3), 4)


def test_history_is_newest_first_and_says_what_was_before_and_after(live: LivePolicy) -> None:
    live.change({"patience": 2}, source="api", changed_by="ada")
    live.change({"strategy": "full_depth"}, source="autopilot")
    newest, older, first = live.history()
    assert (newest.version, newest.by, newest.changed_by) == (3, "autopilot", None)
    assert (newest.before, newest.after) == (record(Vee(patience=2)), record(FullDepth()))
    assert (older.version, older.by, older.changed_by) == (2, "api", "ada")
    assert (older.before, older.after) == (first.after, newest.before)
    assert first.at < older.at < newest.at


def test_whoever_listens_hears_of_every_version_put_in_force(tmp_path: Path) -> None:
    heard: list[PolicyVersion] = []
    live = start(tmp_path, on_change=heard.append)
    change(live, tau=-0.5)
    assert [version.version for version in heard] == [1, 2] and heard[-1] == live.current


def test_a_dry_run_answers_as_if_and_changes_nothing(tmp_path: Path) -> None:
    heard: list[PolicyVersion] = []
    live = start(tmp_path, on_change=heard.append)
    before, file = (live.describe(), live.history()), (tmp_path / STATE_FILE).read_bytes()
    answered = live.change({"tau": -0.5}, source="api", dry_run=True)
    assert (answered.in_force.policy, answered.version) == (Vee(tau=-0.5), 2)
    assert (live.describe(), live.history()) == before and len(heard) == 1
    assert (tmp_path / STATE_FILE).read_bytes() == file


def test_a_dry_run_refuses_what_a_change_would(live: LivePolicy) -> None:
    with pytest.raises(BadInput):
        live.change({"tau": 1}, source="api", dry_run=True)
    with pytest.raises(PolicyConflict):
        live.change({"tau": -1}, source="api", if_versions=(9,), dry_run=True)


def test_a_change_made_from_an_old_version_is_a_conflict(live: LivePolicy) -> None:
    assert live.change({"tau": -0.5}, source="api", if_versions=(1,)).version == 2
    with pytest.raises(PolicyConflict, match="names version 1, but version 2 is in force"):
        live.change({"tau": -0.7}, source="api", if_versions=(1,))
    assert live.current.policy == Vee(tau=-0.5)


def test_concurrent_changes_get_distinct_consecutive_versions(tmp_path: Path) -> None:
    live, barrier = start(tmp_path), threading.Barrier(8)
    versions: list[int] = []

    def change_often() -> None:
        barrier.wait(DEADLINE_S)
        versions.extend(change(live, patience=i + 1).version for i in range(5))

    threads = [threading.Thread(target=change_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(versions) == list(range(2, 42))
    history = live.history()
    assert [entry.version for entry in history] == list(range(41, 0, -1))
    assert all(newer.before == older.after for newer, older in pairwise(history))
    assert start(tmp_path).history() == history


def test_of_concurrent_changes_from_the_same_version_one_wins(live: LivePolicy) -> None:
    barrier, outcomes = threading.Barrier(8), list[str]()

    def change_once() -> None:
        barrier.wait(DEADLINE_S)
        try:
            live.change({"tau": -0.5}, source="api", if_versions=(1,))
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
    assert change(after, layer=1).version == 4


def test_history_forgets_the_oldest_beyond_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.policy.live.HISTORY_LENGTH", 3)
    live = start(tmp_path)
    for patience in range(1, 6):
        change(live, patience=patience)
    assert [entry.version for entry in live.history()] == [6, 5, 4]
    assert start(tmp_path).history() == live.history()
    assert "versions 4 to 6 are kept" in refusal(live, {"rollback_to": 1})


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_state_file_is_set_aside_and_the_default_starts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    live = start(tmp_path)
    assert (live.current.policy, live.current.version) == (Vee(), 1)
    assert (tmp_path / "exit_policy.unusable-1").read_bytes() == content
    (entry,) = live.history()
    assert entry.by == "start" and "state file was unusable" in entry.changed_by
    assert start(tmp_path).history() == [entry]


def test_a_state_file_of_another_model_is_set_aside_and_the_default_starts(tmp_path: Path) -> None:
    change(start(tmp_path, model="other@2"), tau=-0.5)
    content = (tmp_path / STATE_FILE).read_bytes()
    live = start(tmp_path)
    assert (live.current.policy, live.current.version) == (Vee(), 1)
    assert [entry.changed_by for entry in live.history()] == ["the state file was of other@2"]
    assert (tmp_path / "exit_policy.unusable-1").read_bytes() == content


def test_the_state_file_is_whole_json_after_every_change(tmp_path: Path) -> None:
    live = start(tmp_path / "made" / "on demand")
    change(live, tau=-0.5)
    state = json.loads((tmp_path / "made" / "on demand" / STATE_FILE).read_text(encoding="utf-8"))
    assert state["model"] == "tiny@1"
    assert state["current"]["policy"] == Vee(tau=-0.5).to_json()
    assert [entry["version"] for entry in state["history"]] == [1, 2]


def test_a_change_that_cannot_be_written_leaves_the_old_policy_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start(tmp_path)
    before, file = (live.describe(), live.history()), (tmp_path / STATE_FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(EngineFailed, match="nothing was changed"):
            change(live, tau=-0.5)
    assert (live.describe(), live.history()) == before
    assert (tmp_path / STATE_FILE).read_bytes() == file
    assert change(live, tau=-0.5).version == 2


# what a change may be


def test_a_rollback_brings_a_known_version_back_as_a_new_one(live: LivePolicy) -> None:
    change(live, tau=-0.5, patience=2)
    change(live, strategy="full_depth")
    answered = change(live, rollback_to=2)
    assert (answered.version, live.current.policy) == (4, Vee(tau=-0.5, patience=2))
    assert live.history()[0].before == record(FullDepth())
    change(live, rollback_to=1)
    assert live.current.policy == Vee()


@pytest.mark.parametrize("version", [0, 3, -1, "1", None, 1.0, 1.5, True, [1], {"version": 1}])
def test_a_rollback_to_an_unknown_version_is_told_which_are_kept(live: LivePolicy, version: object) -> None:
    change(live, tau=-0.5)
    assert f"rollback_to is {version!r}; versions 1 to 2 are kept" in refusal(live, {"rollback_to": version})


def test_two_goals_or_a_goal_with_parameters_are_refused(live: LivePolicy) -> None:
    for changes in ({"speedup": 2, "preset": "fast"}, {"rollback_to": 1, "tau": -0.5}, {"preset": "fast", "tau": -1}):
        message = refusal(live, changes)
        assert str(sorted(changes)) in message and "exactly one goal of ['speedup', 'max_f1_loss'" in message


@pytest.mark.parametrize("name", ["version", "updated_at", "updated_by", "expected", "observed"])
def test_a_read_only_field_is_refused(live: LivePolicy, name: str) -> None:
    assert f"{name} cannot be set" in refusal(live, {name: 1, "tau": -0.5})


def test_an_unknown_field_is_told_which_parameters_there_are(live: LivePolicy) -> None:
    message = refusal(live, {"threshold": -0.5})
    assert "no parameter threshold; it has ['measure', 'pooling', 'tau', 'patience', 'ensemble']" in message


def test_an_empty_change_is_refused(live: LivePolicy) -> None:
    assert "empty" in refusal(live, {})


@pytest.mark.parametrize("goal", ["speedup", "max_f1_loss", "average_exit_layer", "preset"])
def test_a_goal_without_calibration_is_told_what_to_do_instead(live: LivePolicy, goal: str) -> None:
    message = refusal(live, {goal: 2})
    assert message.startswith(f"{goal} needs calibrated operating points") and "tau and patience" in message


def test_a_layer_beyond_the_model_is_refused(live: LivePolicy) -> None:
    assert "this model has 4 layers" in refusal(live, {"strategy": "budgeted", "layer": 5})


# a calibrated model


def measured(policy: ExitPolicy) -> dict[str, Any]:
    """The figures of an operating point."""
    point = next(point for point in CALIBRATION.points if point.parameters == policy.to_json())
    return point.expected()


def test_a_calibrated_model_starts_from_the_balanced_preset(calibrated: LivePolicy) -> None:
    assert (calibrated.current.policy, calibrated.current.version) == (BALANCED, 1)
    described = calibrated.describe()
    assert (described.preset, described.in_force.expected) == ("balanced", measured(BALANCED))
    assert calibrated.history()[0].after == record(BALANCED)


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
    calibrated: LivePolicy, goal: str, wish: object, policy: ExitPolicy, preset: str | None
) -> None:
    answered = change(calibrated, **{goal: wish})
    assert (calibrated.current.policy, calibrated.current.version) == (policy, 2)
    assert (answered.preset, answered.in_force.expected) == (preset, measured(policy))
    assert answered == calibrated.describe() and answered.in_force.policy == policy


def test_a_dry_run_of_a_goal_says_what_to_expect_and_changes_nothing(calibrated: LivePolicy) -> None:
    before = (calibrated.describe(), calibrated.history())
    answered = calibrated.change({"preset": "accurate"}, source="api", dry_run=True)
    assert (answered.in_force.policy, answered.preset) == (ACCURATE, "accurate")
    assert answered.in_force.expected == measured(ACCURATE)
    assert (calibrated.describe(), calibrated.history()) == before


def test_of_a_policy_that_was_not_measured_nothing_is_expected(calibrated: LivePolicy) -> None:
    answered = change(calibrated, tau=0.25)
    assert (answered.preset, answered.in_force.expected) == (None, None)
    back = change(calibrated, tau=0.2)
    assert (back.preset, back.in_force.expected) == ("balanced", measured(BALANCED))


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
    calibrated: LivePolicy, changes: dict[str, Any], policy: ExitPolicy
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
def test_a_goal_out_of_reach_is_told_what_can_be_had(
    calibrated: LivePolicy, changes: dict[str, Any], reach: str
) -> None:
    assert reach in refusal(calibrated, changes)


def test_a_rollback_brings_back_what_a_goal_chose(calibrated: LivePolicy) -> None:
    change(calibrated, average_exit_layer=2.1)
    change(calibrated, strategy="full_depth")
    assert change(calibrated, rollback_to=2).in_force.expected == measured(SLOW_TO_DECIDE)
    assert calibrated.current.policy == SLOW_TO_DECIDE
    assert change(calibrated, rollback_to=1).preset == "balanced"


def test_a_restart_restores_a_learned_policy_with_the_models_rule(tmp_path: Path, calibrated: LivePolicy) -> None:
    change(calibrated, strategy="learned", tau=0.5)
    after = start(tmp_path, calibration=CALIBRATION)
    assert (after.current.policy, after.current.version) == (Learned(tau=0.5, rule=RULE), 2)
    assert "rule" not in (tmp_path / STATE_FILE).read_text(encoding="utf-8")


def test_a_learned_policy_of_a_model_that_lost_its_rule_is_set_aside(tmp_path: Path, calibrated: LivePolicy) -> None:
    change(calibrated, strategy="learned")
    after = start(tmp_path)
    assert (after.current.policy, after.current.version) == (Vee(), 1)
    (entry,) = after.history()
    assert "learned needs a rule" in entry.changed_by and (tmp_path / "exit_policy.unusable-1").exists()


def test_a_state_file_wins_over_the_balanced_preset(tmp_path: Path, live: LivePolicy) -> None:
    change(live, tau=-0.5)
    assert start(tmp_path, calibration=CALIBRATION).current.policy == Vee(tau=-0.5)


def test_operating_points_are_the_front_alone_cheapest_first(calibrated: LivePolicy, tmp_path: Path) -> None:
    points = calibrated.operating_points()
    assert [point.parameters for point in points] == [
        policy.to_json() for policy in (FAST, BALANCED, SLOW_TO_DECIDE, ACCURATE)
    ]
    assert [point.preset for point in points] == ["fast", "balanced", None, "accurate"]
    assert start(tmp_path / "other").operating_points() == ()


@pytest.mark.parametrize(
    ("goal", "policy"),
    [({"preset": "fast"}, FAST), ({"speedup": 1.0}, ACCURATE), ({"max_f1_loss": 100}, FAST), ({}, BALANCED)],
)
def test_an_override_may_be_a_goal_which_is_met_as_by_a_change(
    calibrated: LivePolicy, goal: dict[str, Any], policy: ExitPolicy
) -> None:
    captured = calibrated.capture(goal)
    assert captured == CapturedPolicy(policy, 1, is_override=True)
    assert calibrated.current.version == 1 and calibrated.current.policy == BALANCED
    if goal:
        assert change(calibrated, **goal).in_force.policy == policy


@pytest.mark.parametrize("changes", [{"preset": "fast", "tau": 1}, {"preset": "fast", "speedup": 2}, {"preset": "no"}])
def test_an_override_is_held_to_the_rules_of_a_change(calibrated: LivePolicy, changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refused:
        calibrated.capture(changes)
    assert str(refused.value) == refusal(calibrated, changes)


def test_an_override_takes_calibrated_defaults_and_nothing_that_outlives_it(calibrated: LivePolicy) -> None:
    learned = calibrated.capture({"strategy": "learned", "tau": 0.5})
    assert learned == CapturedPolicy(Learned(tau=0.5, rule=RULE), 1, is_override=True)
    assert calibrated.capture({"strategy": "vee"}).policy == VEE_BY_MEAN_KL
    for changes in ({"rollback_to": 1}, {"autopilot": {"p95_ms": 100, "max_f1_loss": 1.0}}, {"autopilot": None}):
        with pytest.raises(BadInput, match="cannot be set for one request"):
            calibrated.capture(changes)


# one request's own policy


def test_an_override_is_the_live_policy_with_changes_and_changes_nothing(live: LivePolicy) -> None:
    change(live, tau=-0.5)
    before = live.describe()
    assert live.capture({"patience": 3}) == CapturedPolicy(Vee(tau=-0.5, patience=3), 2, is_override=True)
    assert live.capture({"strategy": "budgeted", "layer": 1}) == CapturedPolicy(Budgeted(1), 2, is_override=True)
    assert live.describe() == before


@pytest.mark.parametrize("name", ["speedup", "preset", "rollback_to", "version", "observed", "threshold"])
def test_an_override_takes_no_more_than_a_change(live: LivePolicy, name: str) -> None:
    with pytest.raises(BadInput, match=name):
        live.capture({name: 1})


# a request that was checked when it came and starts now


def test_what_was_captured_is_renewed_to_itself_while_its_version_is_in_force(live: LivePolicy) -> None:
    for override in (None, {"patience": 3}):
        captured = live.capture(override)
        assert live.renew(captured, override) is captured


def test_what_was_captured_before_a_change_is_captured_anew(live: LivePolicy) -> None:
    captured, overridden = live.capture(), live.capture({"patience": 3})
    change(live, tau=-0.5)
    assert live.renew(captured) == CapturedPolicy(Vee(tau=-0.5), 2)
    assert live.renew(overridden, {"patience": 3}) == CapturedPolicy(Vee(tau=-0.5, patience=3), 2, is_override=True)


def test_changes_that_no_longer_fit_the_policy_in_force_are_refused_when_they_are_renewed(live: LivePolicy) -> None:
    captured = live.capture({"tau": -0.5})
    change(live, strategy="budgeted", layer=2)
    with pytest.raises(BadInput, match="no parameter tau"):
        live.renew(captured, {"tau": -0.5})


# what is observed


def observed(live: LivePolicy) -> tuple[float | None, int]:
    found = live.describe().observed
    return found.average_exit_layer, found.sequences


def test_observed_is_the_average_over_sequences_under_the_live_version(live: LivePolicy) -> None:
    assert observed(live) == (None, 0)
    for layer in (2, 3, 4, 4):
        live.observe(live.capture(), layer)
    assert observed(live) == (3.25, 4)


def test_overrides_and_older_versions_are_not_observed(live: LivePolicy) -> None:
    old = live.capture()
    change(live, tau=-0.5)
    live.observe(old, 4)
    live.observe(CapturedPolicy(Budgeted(1), live.current.version, is_override=True), 1)
    assert observed(live) == (None, 0)
    live.observe(live.capture(), 2)
    assert observed(live) == (2.0, 1)


def test_a_change_starts_a_new_observation_and_a_dry_run_does_not(live: LivePolicy) -> None:
    live.observe(live.capture(), 2)
    live.change({"tau": -0.5}, source="api", dry_run=True)
    assert observed(live) == (2.0, 1)
    answered = change(live, tau=-0.5)
    assert observed(live) == (None, 0)
    assert answered.observed.since == answered.in_force.updated_at
