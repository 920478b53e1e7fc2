"""What several processes measured, put together."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry

from service.metrics.series import Series
from service.processes.families import Family, condensed, snapshot, that_stay, together


def measured(requests: int, running: float, seconds: tuple[float, ...], tau: float = math.nan) -> list[Family]:
    """What a process says that has some series of every kind."""
    registry = CollectorRegistry()
    series = Series(registry, "tiny@1")
    counters = series.counters("asked", "Requests", "code")
    counters("200").inc(requests)
    counters("429").inc(1)
    series.counters("changed", "Changes that every process sees", across="max")().inc(requests)
    series.gauge("running", "Requests under way", "sum").set(running)
    series.gauge("up", "1 while well", "min").set(running > 0)
    series.gauge("tau", "tau in force").set(tau)
    histogram = series.histogram("seconds", "Seconds", (0.1, 1.0))
    for one in seconds:
        histogram.observe(one)
    return snapshot(registry, series.across)


def figures(*snapshots: list[Family]) -> dict[tuple[str, ...], float]:
    """By name and by the labels' values other than the model."""
    return {
        (one.name, *(value for name, value in one.labels.items() if name != "model_name")): one.value
        for metric in together(snapshots)
        for one in metric.samples
        if not one.name.endswith("_created")
    }


def test_counts_and_times_add_up_and_gauges_as_they_say() -> None:
    found = figures(measured(3, 2.0, (0.05, 0.5)), measured(4, 0.0, (0.5, 3.0)))
    assert found["asked_total", "200"] == 7
    assert found["asked_total", "429"] == 2
    assert found["changed_total",] == 4
    assert found["running",] == 2
    assert found["up",] == 0
    assert [found["seconds_bucket", bound] for bound in ("0.1", "1.0", "+Inf")] == [1, 3, 4]
    assert (found["seconds_count",], found["seconds_sum",]) == (4, 4.05)


def test_what_one_process_knows_is_not_hidden_by_one_that_does_not() -> None:
    assert figures(measured(1, 1, (), tau=0.3), measured(1, 1, ()))["tau",] == 0.3
    assert math.isnan(figures(measured(1, 1, ()), measured(1, 1, ()))["tau",])


def test_the_counters_of_processes_that_ended_stay_and_their_gauges_do_not() -> None:
    ended: list[Family] = []
    for _ in range(3):
        ended = condensed([ended, that_stay(measured(5, 9.0, (0.5,)))])
    found = figures(ended, measured(1, 1.0, ()))
    assert found["asked_total", "200"] == 16
    assert found["running",] == 1
    assert found["seconds_count",] == 3
    assert found["changed_total",] == 5


def test_the_memory_of_processes_adds_up_and_the_oldest_start_counts() -> None:
    snapshots = []
    for resident, start in ((100.0, 7.0), (50.0, 5.0)):
        samples = {"process_resident_memory_bytes": resident, "process_start_time_seconds": start}
        registry = CollectorRegistry()
        for name, value in samples.items():
            Series(registry, "").facts(name, "Of the process").labels("").set(value)
        snapshots.append(snapshot(registry, {}))
    found = figures(*snapshots)
    assert found["process_resident_memory_bytes",] == 150
    assert found["process_start_time_seconds",] == 5
