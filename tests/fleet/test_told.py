"""What a replica tells of its metrics: every series as it stands, and 0 for one that is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from service.fleet.told import ReplicaMetrics
from service.processes.families import snapshot

Shown = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Ray:
    """Gauges as Serve has them: each with a name and names of labels, made once."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple[str, ...]]] = []
        self.shown: Shown = {}

    def gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Any:
        self.made.append((name, labels))
        shown = self.shown

        class OfRay:
            def set(self, value: float, tags: dict[str, str]) -> None:
                assert tuple(tags) == labels
                shown[name, tuple(tags.items())] = value

        return OfRay()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def describe(registry: CollectorRegistry) -> Callable[[], dict[str, Any]]:
    return lambda: {"families": snapshot(registry, {})}


def test_ray_shows_what_prometheus_would_read(
    registry: CollectorRegistry, describe: Callable[[], dict[str, Any]]
) -> None:
    Counter("ner_requests", "Requests", ["code"], registry=registry).labels("200").inc(3)
    seconds = Histogram("ner_step_seconds", "Steps", registry=registry, buckets=(1.0, 2.0))
    seconds.observe(1.5)
    ray = Ray()
    metrics = ReplicaMetrics("a", ray.gauge)
    metrics.start(describe)
    seconds.observe(0.5)
    metrics.tell()
    metrics.close()
    families = text_string_to_metric_families(metrics.metrics().decode())
    read = {(one.name, tuple(one.labels.items())): one.value for family in families for one in family.samples}
    assert {(name, (*labels, ("replica", "a"))): value for (name, labels), value in ray.shown.items()} == read
    assert ray.shown["ner_step_seconds_bucket", (("le", "2.0"),)] == 2
    assert len(ray.made) == len(set(ray.made))


def test_a_series_that_is_gone_is_shown_as_0(
    registry: CollectorRegistry, describe: Callable[[], dict[str, Any]]
) -> None:
    info = Gauge("ner_exit_policy_info", "In force", ["strategy"], registry=registry)
    info.labels("vee").set(1)
    ray = Ray()
    metrics = ReplicaMetrics("a", ray.gauge)
    metrics.start(describe)
    info.clear()
    info.labels("learned").set(1)
    metrics.tell()
    metrics.close()
    by_strategy = {dict(labels)["strategy"]: value for (_, labels), value in ray.shown.items()}
    assert by_strategy == {"vee": 0, "learned": 1}


def test_it_tells_from_a_thread_that_ends(describe: Callable[[], dict[str, Any]]) -> None:
    metrics = ReplicaMetrics("a", Ray().gauge)
    before = threading.active_count()
    metrics.start(describe)
    assert threading.active_count() == before + 1
    metrics.close()
    assert threading.active_count() == before
