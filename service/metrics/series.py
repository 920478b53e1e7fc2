"""Makes series: all in one registry, with `model_name` as their first label. Which series there are, others decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS_BUCKETS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10),
)


Across = Literal["sum", "max", "min"]


class Series:
    """Makes the series of one model."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        self.registry = registry
        self.model_name = model_name
        self.across: dict[str, Across] = {}
        """How the series of several processes are put together, by family, where they do not add up."""

    def counter(self, name: str, text: str) -> Counter:
        """Return one counter; `text` is its help text, here and below."""
        return self.counters(name, text)()

    def counters(self, name: str, text: str, *labels: str, across: Across = "sum") -> Callable[..., Counter]:
        """Return a function from the labels' values to their counter, which it makes when it is first asked for.

        across: how the counters of several processes are put together, here and below
        """
        self.across[name] = across
        family = Counter(name, text, ("model_name", *labels), registry=self.registry)
        return cache(partial(family.labels, self.model_name))  # labels have few values

    def gauge(self, name: str, text: str, across: Across = "max") -> Gauge:
        """Return one gauge, at 0."""
        return self.gauges(name, text, across=across)()

    def gauges(self, name: str, text: str, *labels: str, across: Across = "max") -> Callable[..., Gauge]:
        """Return a function from the labels' values to their gauge, as `counters` does."""
        self.across[name] = across
        family = Gauge(name, text, ("model_name", *labels), registry=self.registry)
        return cache(partial(family.labels, self.model_name))

    def facts(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a gauge that states facts in its labels; the caller gives it `model_name`, too, and the value 1."""
        self.across[name] = "max"
        return Gauge(name, text, ("model_name", *labels), registry=self.registry)

    def histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        """Return one histogram; buckets: their upper bounds, rising, without infinity."""
        family = Histogram(name, text, ("model_name",), registry=self.registry, buckets=tuple(buckets))
        return family.labels(self.model_name)


def or_nan(value: float | None) -> float:
    """Return a value or, for None, NaN, which a gauge shows if there is no value."""
    return math.nan if value is None else value
