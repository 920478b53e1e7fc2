"""The page at scale says what the results say, before the validation has been run and afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated_fleet.page import NOT_YET, page
from benchmarks.simulated_fleet.pictures import draw_fleet, draw_validation
from benchmarks.simulated_fleet.recording import Level, Recording
from benchmarks.simulated_fleet.sizing import PRESET, Plan, simulated
from tests.simulated_fleet.fleets_ import CUT, costs_of, recording_of

ENVIRONMENT = {"model": "slow@1", "processor": "made up", "cores": 2, "load_average": 0.1}
ROW = {
    "processes": 2,
    "rate": 431.7,
    "measured": {"p50_ms": 2.04, "p99_ms": 9.0, "goodput": 431.0},
    "simulated": {"p50_ms": 2.11, "p99_ms": 12.0, "goodput": 430.0},
}


@pytest.fixture(scope="module")
def results() -> Any:
    """Of a slow model: some ten requests a second and replica at full depth, so that there is little to simulate."""
    recording = recording_of()
    levels = {**recording.levels, PRESET: Level(CUT, 4.0, 1.0, (1,))}
    of_presets = Recording(recording.num_layers, recording.chars, recording.sequences, levels)
    costs = replace(costs_of(0.01, take=0.0001), environment=ENVIRONMENT)
    plan = Plan(costs, of_presets, cores=2, cell=2, seconds=0.5, warm_up_s=0.5, hour_s=0.5, day_cell=1)
    with ThreadPoolExecutor(1) as executor:
        return {**simulated(plan, executor), "environment": ENVIRONMENT}


def test_without_a_validation_the_page_says_so(results: Any) -> None:
    told = page(results, None)
    assert NOT_YET in told and "scale_validation.png" not in told


def test_a_validation_is_told_with_what_it_missed(results: Any) -> None:
    within = {"p50_ms": 1.0, "p99_ms": 0.0, "goodput": 1.0}
    told = page(results, {"within": within, "rows": [ROW]})
    assert "| 2 | 432 | 2.0 / 2.1 | 9.0 / 12.0 | 431.0 / 430.0 |" in told
    assert "p50 100%, p99 0%, goodput 100%" in told and NOT_YET not in told
    assert "103% of p50 and 133% of p99 is simulated" in " ".join(told.split())


def test_costs_that_were_not_measured_alone_are_told_so(results: Any) -> None:
    environment = results["environment"]
    quiet, busy = (page({**results, "environment": {**environment, "load_average": load}}, None) for load in (0.3, 4.2))
    assert "load average 4.2" in busy and "ratios, not figures" in busy
    assert "load average" not in quiet


def test_every_size_is_in_the_table_and_early_exit_takes_fewer(results: Any) -> None:
    told = page(results, None)
    for row in results["sizes"]:
        assert f"{row['replicas']:,} / {row['with_spare']:,}" in told
    full, early, flown = (row["replicas"] for row in results["sizes"] if row["rate"] == 100_000)
    assert early < 0.5 * full and flown < 0.6 * full


def test_a_day_has_its_p99_in_the_dinner_hour_and_a_lost_replica_loses_what_it_had_in_hand(results: Any) -> None:
    by_hour = {row["hour"]: row["offered"] for row in results["days"]["as full depth needs"]}
    assert max(by_hour, key=lambda hour: by_hour[hour]) in (18, 19)
    assert sum(row["lost"] for row in results["losses"]) > 0


def test_the_figures_are_drawn(results: Any, tmp_path: Path) -> None:
    draw_fleet(results, tmp_path / "fleet.png")
    draw_validation([ROW, {**ROW, "processes": 1}], tmp_path / "validation.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("fleet.png", "validation.png"))
