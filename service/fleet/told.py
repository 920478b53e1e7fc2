"""What a replica tells of its metrics: to Ray, which has them for Prometheus, and to whoever asks the replica."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from service.policy.thread import LookingThread
from service.processes.families import Family

PERIOD_S = 5.0  # between two times that Ray is told, as between two scrapes
PAUSE_S = 30.0  # after one that failed

Labels = tuple[tuple[str, str], ...]


class Gauge(Protocol):
    """A gauge of Serve, which adds the labels of the replica."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Show a value under these labels until there is another one."""


class ReplicaMetrics:
    """Tells Ray every series of this replica, from `start` to `close`. It takes the place of `service.processes.link`.

    Ray has no way to take over a count or a histogram as it stands, so each sample becomes a gauge of the same name:
    what Prometheus reads is the same, but for the type. A series that is gone is shown as 0.
    """

    def __init__(self, replica: str, gauge_of: Callable[[str, str, tuple[str, ...]], Gauge]) -> None:
        """replica: its id, as Serve names it; gauge_of: makes the gauge of a name, a help text, and names of labels."""
        self._replica = replica
        self._gauge_of = gauge_of
        self._gauges: dict[tuple[str, tuple[str, ...]], Gauge] = {}
        self._shown: set[tuple[str, Labels]] = set()
        self._describe: Callable[[], Mapping[str, Any]] | None = None
        self._thread: _Telling | None = None

    def start(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        """Begin to tell; describe: returns, under `families`, all series, see `service.processes.families`."""
        self._describe = describe
        self._thread = _Telling(self.tell)
        self._thread.start()

    def close(self) -> None:
        """Tell no more. Ray shows what it was told last until the replica's process is gone."""
        if self._thread is not None:
            self._thread.close()

    def metrics(self) -> bytes:
        """Return the metrics of this replica alone in Prometheus' text format, with its id in the label `replica`."""
        return generate_latest(cast("CollectorRegistry", _Labelled(self._families(), self._replica)))

    def tell(self) -> None:
        """Tell Ray every series as it stands."""
        shown: set[tuple[str, Labels]] = set()
        for family in self._families():
            for name, labels, value in family["samples"]:
                self._gauge(name, family["text"], labels).set(value, labels)
                shown.add((name, tuple(labels.items())))
        for name, gone in self._shown - shown:
            self._gauge(name, "", dict(gone)).set(0.0, dict(gone))
        self._shown = shown

    def _families(self) -> Sequence[Family]:
        return self._describe()["families"] if self._describe is not None else ()

    def _gauge(self, name: str, text: str, labels: Mapping[str, str]) -> Gauge:
        names = tuple(labels)
        if (name, names) not in self._gauges:
            self._gauges[name, names] = self._gauge_of(name, text, names)
        return self._gauges[name, names]


class _Telling(LookingThread):
    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__("told", period_s=PERIOD_S, pause_s=PAUSE_S, failure="Ray could not be told the metrics")
        self._tell = tell

    def look(self) -> None:
        """Tell once."""
        self._tell()


class _Labelled:
    """See prometheus_client's registry: families with one label more."""

    def __init__(self, families: Iterable[Family], replica: str) -> None:
        self._families = families
        self._replica = replica

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family["name"], family["text"], family["type"])
            for name, labels, value in family["samples"]:
                metric.add_sample(name, {**labels, "replica": self._replica}, value)
            yield metric
