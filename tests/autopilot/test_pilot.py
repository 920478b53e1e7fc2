"""The pilot: from traffic to changes of the policy, and who wins. Time passes only when told, but in the last tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from service.autopilot import pilot as pilot_module
from service.autopilot.law import CALM_S
from service.autopilot.pilot import Autopilot
from service.autopilot.traffic import Traffic
from service.engine.admission import EngineLoad
from service.exits.operating_points import Calibration
from service.exits.policies.budgeted import Budgeted
from service.exits.policies.full_depth import FullDepth
from tests.api.servers_ import wait_until
from tests.autopilot.cockpit_ import WISH, Cockpit
from tests.exits.calibrations_ import ACCURATE, BALANCED, CALIBRATION, FAST
from tests.policy.live_ import change, start

BUSY = EngineLoad(0, 0, waiting_s=9.0)


@pytest.fixture
def cockpit(tmp_path: Path) -> Cockpit:
    """Calibrated, and switched on at level 0."""
    live = start(tmp_path, calibration=CALIBRATION)
    change(live, preset="accurate")
    change(live, autopilot=WISH)
    return Cockpit(live)


def test_while_it_is_off_nothing_moves(cockpit: Cockpit) -> None:
    change(cockpit.live, autopilot=None)
    version = cockpit.live.current.version
    cockpit.look(3, waiting_s=9.0)
    assert cockpit.live.current.version == version


def test_a_queue_makes_it_climb_and_calm_brings_it_back(cockpit: Cockpit) -> None:
    assert cockpit.look(0.1, waiting_s=0.06) == 1
    assert cockpit.live.current.policy == BALANCED
    assert cockpit.look(1.1, waiting_s=0.06) == 2
    assert cockpit.live.current.policy == FAST
    assert cockpit.look(CALM_S + 0.2) == 1
    assert cockpit.look(CALM_S + 0.2) == 0
    assert cockpit.live.current.policy == ACCURATE
    moves = [entry.after for entry in cockpit.live.history() if entry.by == "autopilot"]
    assert [move.parameters["strategy"] for move in moves] == ["vee", "gated_vote", "sentee", "gated_vote"]


def test_a_version_is_made_for_every_move_and_for_nothing_else(cockpit: Cockpit) -> None:
    cockpit.look(20)
    assert cockpit.live.current.version == 3
    cockpit.look(0.1, waiting_s=0.06)
    cockpit.look(1)
    assert cockpit.live.current.version == 4


def test_a_change_by_hand_ends_the_flight(cockpit: Cockpit) -> None:
    cockpit.look(0.1, waiting_s=0.06)
    change(cockpit.live, strategy="full_depth")
    cockpit.look(5, waiting_s=9.0)
    assert cockpit.live.current.policy == FullDepth()


def test_a_change_by_hand_between_look_and_move_wins(cockpit: Cockpit, monkeypatch: pytest.MonkeyPatch) -> None:
    make = cockpit.live.change

    def change_late(changes: dict[str, Any], **how: Any) -> dict[str, Any]:
        if how["source"] == "autopilot":
            make({"strategy": "budgeted", "layer": 2}, source="api")
        return make(changes, **how)

    monkeypatch.setattr(cockpit.live, "change", change_late)
    cockpit.look(0.1, waiting_s=9.0)
    assert cockpit.live.current.policy == Budgeted(2)
    assert [entry.by for entry in cockpit.live.history()[:2]] == ["api", "api"]
    cockpit.look(3, waiting_s=9.0)
    assert cockpit.live.current.policy == Budgeted(2)


def test_a_new_objective_begins_anew_from_the_level_where_it_is(cockpit: Cockpit) -> None:
    assert cockpit.look(0.1, waiting_s=0.06) == 1
    change(cockpit.live, autopilot={"p95_ms": 1_000})
    cockpit.look(0.1, waiting_s=9.0)
    assert cockpit.look(2, waiting_s=0.2) == 1  # no threat to that objective
    assert cockpit.look(0.1, waiting_s=0.6) == 2


def test_a_level_that_shadow_runs_close_is_left(cockpit: Cockpit) -> None:
    change(cockpit.live, autopilot={"max_disagreement": 0.05})
    assert cockpit.look(2, waiting_s=0.06) == 2
    for run in range(200):
        cockpit.live.observe_shadow(cockpit.live.capture(), run % 4 == 0)
    assert cockpit.look(0.1, waiting_s=9.0) == 1
    assert cockpit.look(5, waiting_s=9.0) == 1


def test_a_policy_that_a_new_calibration_took_off_the_ladder_makes_way_for_level_zero(
    tmp_path: Path, cockpit: Cockpit
) -> None:
    cockpit.look(0.1, waiting_s=0.06)
    anew = Calibration(tuple(point for point in CALIBRATION.points if point.parameters != BALANCED.to_json()))
    after = Cockpit(start(tmp_path, calibration=anew))
    assert after.live.current.level == 0
    assert (after.live.current.policy, after.live.current.updated_by) == (ACCURATE, "autopilot")


# the thread


def test_its_thread_flies_on_its_own_and_ends_when_told(cockpit: Cockpit) -> None:
    pilot = Autopilot(cockpit.live, Traffic(time.monotonic), lambda: BUSY, time.monotonic)
    pilot.start()
    wait_until(lambda: cockpit.live.current.level)
    pilot.close()
    assert cockpit.live.current.updated_by == "autopilot"


def test_one_that_never_started_closes(cockpit: Cockpit) -> None:
    cockpit.pilot.close()


def test_a_move_that_cannot_be_saved_is_logged_and_tried_again(
    cockpit: Cockpit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pilot_module, "PAUSE_S", 0.01)
    pilot = Autopilot(cockpit.live, Traffic(time.monotonic), lambda: BUSY, time.monotonic)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        pilot.start()
        wait_until(lambda: "could not do what it wanted" in caplog.text)
        assert cockpit.live.current.level == 0
    wait_until(lambda: cockpit.live.current.level)
    pilot.close()
