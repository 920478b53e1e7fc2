"""The page at scale says what the results say, before the validation has been run and afterwards."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.simulated_fleet.page import NOT_YET, page
from docs.generate import PROJECT

ROW = {
    "processes": 2,
    "rate": 431.7,
    "measured": {"p50_ms": 2.04, "p99_ms": 9.0, "goodput": 431.0},
    "simulated": {"p50_ms": 2.11, "p99_ms": 12.0, "goodput": 430.0},
}


def results() -> Any:
    return json.loads((PROJECT / "benchmarks/results/capacity.json").read_text(encoding="utf-8"))


def test_without_a_validation_the_page_says_so() -> None:
    told = page(results(), None)
    assert NOT_YET in told and "scale_validation.png" not in told


def test_a_validation_is_told_with_what_it_missed() -> None:
    within = {"p50_ms": 1.0, "p99_ms": 0.0, "goodput": 1.0}
    told = page(results(), {"within": within, "rows": [ROW]})
    assert "| 2 | 432 | 2.0 / 2.1 | 9.0 / 12.0 | 431.0 / 430.0 |" in told
    assert "p50 100%, p99 0%, goodput 100%" in told and NOT_YET not in told


def test_costs_that_were_not_measured_alone_are_told_so() -> None:
    found = results()
    environment = {**found["environment"], "put_together_from": ""}
    quiet, busy = (page({**found, "environment": {**environment, "load_average": load}}, None) for load in (0.3, 4.2))
    assert "load average 4.2" in busy and "ratios, not figures" in busy
    assert "load average" not in quiet


def test_every_size_is_in_the_table() -> None:
    found = results()
    told = page(found, None)
    for row in found["sizes"]:
        assert f"{row['replicas']:,} / {row['with_spare']:,}" in told
