"""The keeper of a promise: what it serves, when it moves, who wins. Time passes only when told, but at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from service.levels import keeper as keeper_module
from service.levels.keeper import LEAST_GAP_S
from service.policy.promised import Certified, PromiseGoal
from tests.api.servers_ import wait_until
from tests.levels.promised_ import FASTEST, LEVELS, MIDDLE, PROMISING, SAFE
from tests.levels.watch_ import Watch
from tests.policy.live_ import change, start

WISH = {"max_disagreement": 0.02, "confidence": 0.9}
GOAL = PromiseGoal(0.02, 0.9)
FULL = FullDepth()


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Calibrated, at the preset `balanced`, and nothing promised."""
    return Watch(start(tmp_path, calibration=PROMISING))


def moves(watch: Watch) -> Iterator[tuple[dict[str, Any], str | None]]:
    """What the keeper did and why, oldest first."""
    for entry in reversed(watch.live.history()):
        if entry.by == "promise":
            yield dict(entry.after.parameters), entry.changed_by


def test_while_nothing_is_promised_nothing_moves_or_is_tested(watch: Watch) -> None:
    assert watch.look(*LEVELS) == MIDDLE
    assert watch.live.current.version == 1 and watch.levels.goals == [None]


def test_a_promise_begins_at_full_depth_and_ends_at_the_fastest_certified_level(watch: Watch) -> None:
    state = change(watch.live, **WISH)
    assert (state.in_force.policy, state.in_force.promise, state.is_certified) == (FULL, GOAL, True)
    assert watch.look() == FULL and watch.live.current.version == 2
    assert watch.look(SAFE, MIDDLE) == MIDDLE
    assert watch.levels.goals == [GOAL, GOAL]
    assert watch.live.current.promise == GOAL and watch.live.describe().is_certified
    why = "certified for a disagreement of at most 0.02 at a confidence of 0.9, by 123 samples since noon"
    assert list(moves(watch)) == [(MIDDLE.to_json(), why)]


def test_it_speeds_up_once_a_minute_at_most_and_slows_down_at_once(watch: Watch) -> None:
    change(watch.live, **WISH)
    assert watch.look(SAFE) == SAFE
    assert watch.look(SAFE, MIDDLE) == SAFE
    assert watch.look(*LEVELS, after_s=LEAST_GAP_S) == FASTEST
    assert watch.look(SAFE) == SAFE
    assert watch.look(SAFE, MIDDLE) == SAFE
    assert watch.look() == FULL
    assert watch.look(SAFE, after_s=1) == FULL
    assert watch.look(SAFE, after_s=LEAST_GAP_S) == SAFE


def test_it_says_why_it_slows_down(watch: Watch) -> None:
    change(watch.live, **WISH)
    watch.look(*LEVELS)
    watch.levels.alarms = 1
    watch.look(SAFE, MIDDLE)
    watch.look(SAFE)
    watch.look()
    reasons = [why.partition(" a disagreement of")[0] for _, why in moves(watch) if why]
    assert reasons[1:] == [
        "alarm: the level in force was proven to break the promise of",
        "no longer certified for",
        "nothing is certified for",
    ]


def test_until_it_has_looked_what_is_no_longer_certified_is_told_as_such(watch: Watch) -> None:
    change(watch.live, **WISH)
    watch.look(*LEVELS)
    watch.live.set_certified(Certified(GOAL, (SAFE,)))
    assert watch.live.describe().is_certified is False


def test_any_change_by_hand_ends_it(watch: Watch) -> None:
    change(watch.live, **WISH)
    watch.look(*LEVELS)
    state = change(watch.live, preset="accurate")
    assert (state.in_force.promise, state.is_certified) == (None, None)
    assert watch.look(*LEVELS, after_s=LEAST_GAP_S) == SAFE
    assert watch.levels.goals[-1] is None


def test_null_ends_it_and_leaves_the_policy_where_it_is(watch: Watch) -> None:
    change(watch.live, **WISH)
    watch.look(SAFE)
    state = change(watch.live, max_disagreement=None)
    assert (state.in_force.policy, state.in_force.promise) == (SAFE, None)


def test_a_change_by_hand_between_look_and_move_wins(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    change(watch.live, **WISH)
    make = watch.live.change

    def change_late(changes: dict[str, Any], **how: Any) -> Any:
        if how["source"] == "promise":
            make({"strategy": "budgeted", "layer": 2}, source="api")
        return make(changes, **how)

    monkeypatch.setattr(watch.live, "change", change_late)
    assert watch.look(*LEVELS) == Budgeted(2)
    assert watch.look(*LEVELS, after_s=LEAST_GAP_S) == Budgeted(2)


def test_the_same_promise_again_goes_on_from_what_is_certified_for_it_and_another_begins_anew(watch: Watch) -> None:
    change(watch.live, **WISH)
    watch.look(*LEVELS)
    assert change(watch.live, **WISH).in_force.policy == FASTEST
    assert change(watch.live, confidence=0.99).in_force.promise == PromiseGoal(0.02, 0.99)
    assert watch.live.current.policy == FULL


def test_after_a_restart_nothing_is_served_that_was_certified_before_it(tmp_path: Path, watch: Watch) -> None:
    change(watch.live, **WISH)
    watch.look(*LEVELS)
    again = Watch(start(tmp_path, calibration=PROMISING))
    assert again.live.current == watch.live.current
    again.keeper.start()
    assert (again.live.current.policy, again.live.current.promise) == (FULL, GOAL)
    again.keeper.close()


# the autopilot


FLIGHT = {"p95_ms": 100, "max_f1_loss": 4.0, "max_disagreement": 0.02, "certified": True}


def test_an_autopilot_of_certified_levels_may_use_what_is_certified_and_full_depth(watch: Watch) -> None:
    state = change(watch.live, autopilot=FLIGHT)
    assert (state.in_force.policy, state.in_force.level, state.highest_level) == (FULL, 0, 0)
    assert state.in_force.ladder is not None and state.in_force.ladder.policies == (FULL, *LEVELS)
    watch.look(SAFE, MIDDLE)
    assert watch.levels.goals == [PromiseGoal(0.02)]
    assert watch.live.highest_level() == watch.live.describe().highest_level == 2
    watch.look(SAFE)
    assert watch.live.highest_level() == 1 and watch.live.current.version == 2  # to move is the autopilot's business


def test_what_is_certified_for_another_promise_is_no_level_for_it(watch: Watch) -> None:
    change(watch.live, autopilot=FLIGHT)
    watch.look(*LEVELS)
    assert change(watch.live, autopilot={"p95_ms": 50}).highest_level == 3
    assert change(watch.live, autopilot={"max_disagreement": 0.01}).highest_level == 0


# the thread


def test_a_move_that_cannot_be_saved_is_logged_and_tried_again(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper_module, "PAUSE_S", 0.01)
    change(watch.live, **WISH)
    watch.levels.certified = LEVELS

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        watch.keeper.start()
        wait_until(lambda: "could not be kept as it should be" in caplog.text)
        assert watch.live.current.policy == FULL
    wait_until(lambda: watch.live.current.policy == FASTEST)
    watch.keeper.close()
