"""What processes measured, as plain values that can be sent, and put together to what one process would have measured.

Counts and times add up. A gauge says itself how it is put together (`Series.gauge`); what the client library measures
of a process is named here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

Family = dict[str, Any]  # name, text, type, across, and samples as [name, labels, value]
OF_PROCESSES = {
    "process_virtual_memory_bytes": "sum",
    "process_resident_memory_bytes": "sum",
    "process_start_time_seconds": "min",
    "process_open_fds": "sum",
    "process_max_fds": "sum",
}
ADDING_UP = ("counter", "histogram", "summary")


def _known(choose: Callable[[Iterable[float]], float]) -> Callable[[Sequence[float]], float]:
    """Return a choice among numbers that passes over NaN, which a gauge shows where there is no value."""

    def among(values: Sequence[float]) -> float:
        return choose([value for value in values if not math.isnan(value)] or [math.nan])

    return among


ACROSS: Mapping[str, Callable[[Sequence[float]], float]] = {"sum": _known(sum), "max": _known(max), "min": _known(min)}


def snapshot(registry: CollectorRegistry, across: Mapping[str, str]) -> list[Family]:
    """Return all series of a registry; across: how those are put together that do not simply add up, by family."""
    return [
        {
            "name": family.name,
            "text": family.documentation,
            "type": family.type,
            "across": across.get(family.name) or OF_PROCESSES.get(family.name, "sum"),
            "samples": [[one.name, dict(one.labels), one.value] for one in family.samples],
        }
        for family in registry.collect()
    ]


@dataclass(slots=True)
class _Together:
    """One family of several processes: by sample, what each of them says."""

    first: Family
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = field(default_factory=dict)

    def metric(self) -> Metric:
        metric = Metric(self.first["name"], self.first["text"], self.first["type"])
        for (name, labels), values in self.values.items():
            across = "min" if name.endswith("_created") else self.first["across"]
            metric.add_sample(name, dict(labels), ACROSS[across](values))
        return metric


def together(snapshots: Iterable[Sequence[Family]]) -> Iterator[Metric]:
    """Return the series of several processes as those of one."""
    families: dict[str, _Together] = {}
    for of_process in snapshots:
        for family in of_process:
            whole = families.setdefault(family["name"], _Together(family))
            for name, labels, value in family["samples"]:
                whole.values.setdefault((name, tuple(labels.items())), []).append(value)
    for whole in families.values():
        yield whole.metric()


def that_stay(ended: Sequence[Family]) -> list[Family]:
    """Return those series of a process that ended which still count: its counters, so that none ever goes back."""
    return [family for family in ended if family["type"] in ADDING_UP]


def condensed(snapshots: Sequence[Sequence[Family]]) -> list[Family]:
    """Return the counters of several processes as those of one, so that they do not grow with every one that ends."""
    across = {family["name"]: family["across"] for families in snapshots for family in families}
    return [
        {
            "name": metric.name,
            "text": metric.documentation,
            "type": metric.type,
            "across": across[metric.name],
            "samples": [[one.name, dict(one.labels), one.value] for one in metric.samples],
        }
        for metric in together(snapshots)
    ]
