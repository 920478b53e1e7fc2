"""Every Prometheus series of the service. The metrics are handed in as objects, which record and decide nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest

from service.metrics.engine import EngineMetrics
from service.metrics.http import HttpMetrics
from service.metrics.policy import PolicyMetrics
from service.metrics.promise import PromiseMetrics
from service.metrics.series import Series

REPLACED = "ner_processes_replaced"
"""The counter of what happens to serving processes, which none of them can count."""


class Metrics:
    """All series of one server, in one registry: of HTTP, engine, exit policy and promises, and of the process."""

    def __init__(
        self,
        model_name: str,
        *,
        num_layers: int,
        entity_labels: Iterable[str],
        exit_reasons: Iterable[str],
        build: Mapping[str, str],
    ) -> None:
        """model_name: a label of every series but the process's; build: the values of ner_build_info's labels."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        GCCollector(registry=self.registry)
        series = Series(self.registry, model_name)
        series.gauge("ner_processes", "Serving processes that answer", "sum").set(1)
        series.counter(REPLACED, "Serving processes started in place of one that died")
        series.facts("ner_build_info", "What runs", *build).labels(model_name, *build.values()).set(1)
        self.http = HttpMetrics(series, entity_labels)
        self.engine = EngineMetrics(series, num_layers, exit_reasons)
        self.policy = PolicyMetrics(series)
        self.promise = PromiseMetrics(series)
        self.across = series.across

    def render(self) -> bytes:
        """Return all series in Prometheus' text format."""
        return generate_latest(self.registry)
