"""What clients see: connections, requests, their times and answers. The engine's own series are in engine.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from service.metrics.series import SECONDS_BUCKETS, Series

STAGES = ("tokenize", "queue", "inference", "decode")
RefusedFor = Literal["queue_full", "too_late", "too_large", "not_ready"]
LineOutcome = Literal["result", "error"]


class HttpMetrics:
    """The series that the HTTP server and the routes that answer texts write."""

    def __init__(self, series: Series, entity_labels: Iterable[str]) -> None:
        self._requests = series.counters("ner_requests", "HTTP requests", "endpoint", "code")
        for endpoint in ("/ner", "/ner/stream", "/", "/exit-policy"):
            self._requests(endpoint, "200")
        self._rejected = series.counters("ner_requests_rejected", "Requests refused before they ran", "reason")
        for reason in get_args(RefusedFor):
            self._rejected(reason)
        self._timed_out = series.counter("ner_requests_timed_out", "Requests whose time limit passed")
        self._left = series.counter("ner_requests_client_left", "Requests whose client left first")

        self._streams = series.gauge("ner_streams", "Streams of lines that are open", "sum")
        self._lines = series.counters("ner_stream_lines", "Lines of streams that were answered", "outcome")
        for outcome in get_args(LineOutcome):
            self._lines(outcome)

        self._connections = series.gauge("ner_connections", "Open connections", "sum")
        self._refused_connections = series.counters("ner_connections_refused", "Connections cut off", "reason")
        for reason in ("crowded", "slow", "malformed", "head_too_large"):
            self._refused_connections(reason)

        self._duration = series.histogram(
            "ner_request_duration_seconds",
            "POST /ner and /, first byte to answer; interactive requests alone, since bulk work may wait",
            SECONDS_BUCKETS,
        )
        self._stages = {
            stage: series.histogram(f"ner_request_{stage}_seconds", f"Time of a request in {stage}", SECONDS_BUCKETS)
            for stage in STAGES
        }
        self._entities = series.counters("ner_entities", "Entities answered", "label")
        for label in entity_labels:
            self._entities(label)

    def set_connections(self, open_connections: int) -> None:
        """Set the number of open connections."""
        self._connections.set(open_connections)

    def connection_refused(self, reason: str) -> None:
        """Count a connection that was cut off: to make room, or because of what its client did."""
        self._refused_connections(reason).inc()

    def request_done(self, endpoint: str, code: int) -> None:
        """Count an HTTP request that was answered."""
        self._requests(endpoint, str(code)).inc()

    def request_refused(self, reason: RefusedFor) -> None:
        """Count a request that was refused before it ran."""
        self._rejected(reason).inc()

    def request_timed_out(self) -> None:
        """Count a request whose time limit passed."""
        self._timed_out.inc()

    def client_left(self) -> None:
        """Count a request whose client left before the answer."""
        self._left.inc()

    def set_streams(self, open_streams: int) -> None:
        """Set the number of open streams; called before every scrape."""
        self._streams.set(open_streams)

    def line_answered(self, outcome: LineOutcome) -> None:
        """Count a line of a stream that has a result or an error."""
        self._lines(outcome).inc()

    def request_answered(self, duration_s: float, stages_s: Mapping[str, float]) -> None:
        """Count the answer to an interactive request with its duration and times by stage, in seconds."""
        self._duration.observe(duration_s)
        for stage, seconds in stages_s.items():
            self._stages[stage].observe(seconds)

    def entities_answered(self, labels: Iterable[str]) -> None:
        """Count entities of an answer by their labels."""
        for label in labels:
            self._entities(label).inc()
