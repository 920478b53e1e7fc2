"""Every Prometheus series of the service, in one class that is handed in; nothing here decides anything."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.engine.sequence import Sequence
from service.errors import Overloaded
from service.policy.versions import PolicyVersion

_SECONDS = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    0.75,
    1,
    1.5,
    2,
    5,
    10,
)
_STEP_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STEP_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
STAGES = ("tokenize", "queue", "inference", "decode")
_EXPECTED = {
    "f1": "F1 x 100 of the policy in force",
    "f1_loss": "F1 x 100 of full depth minus that of the policy in force",
    "average_exit_layer": "Average exit layer of the policy in force",
    "speedup_latency": "Time of full depth / time of the policy in force",
}


class _WordLayers(Collector):
    """The histogram of layers per word. It counts the words of a sequence at one go, which the library's does not."""

    def __init__(self, model: str, num_layers: int) -> None:
        self._model = model
        self._counts = np.zeros(num_layers + 1, dtype=np.int64)

    def count(self, sequence: Sequence) -> None:
        """All words of a sequence that left."""
        if sequence.words is None:
            self._counts[sequence.layer] += sequence.input.num_words
        else:
            self._counts += np.bincount(sequence.words.layers, minlength=len(self._counts))

    def collect(self) -> Iterable[Metric]:
        counts = self._counts.copy()
        family = HistogramMetricFamily("ner_word_layers", "Layers that moved a word, per word", labels=["model_name"])
        buckets = [(f"{layer:.1f}", float(total)) for layer, total in enumerate(np.cumsum(counts)) if layer]
        buckets.append(("+Inf", buckets[-1][1]))
        family.add_metric([self._model], buckets, float(counts @ np.arange(len(counts))))
        return [family]


class Metrics:
    """One instance a server; `model_name` labels every series. Implements the engine's observer."""

    def __init__(self, model_name: str, num_layers: int, labels: Iterable[str], build: dict[str, str]) -> None:
        """labels: entity labels; build: values of ner_build_info's labels."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        GCCollector(registry=self.registry)
        self._model = model_name

        requests = self._counter("ner_requests", "HTTP requests", "endpoint", "code")
        self._requests = requests
        for endpoint in ("/ner", "/", "/exit-policy"):
            requests.labels(model_name, endpoint, "200")
        self._rejected = self._counter("ner_requests_rejected", "Requests refused before they ran", "reason")
        for reason in ("queue_full", "too_large", "not_ready"):
            self._rejected.labels(model_name, reason)
        self._running = self._gauge("ner_requests_running", "Requests whose first sequence has started")
        self._waiting = self._gauge("ner_requests_waiting", "Requests admitted that have not started")
        self._capacity = self._gauge("ner_queue_capacity", "Most texts that may wait and run")
        self._timed_out = self._counter("ner_requests_timed_out", "Requests whose time limit passed").labels(model_name)
        self._left = self._counter("ner_requests_client_left", "Requests whose client left first").labels(model_name)

        self._connections = self._gauge("ner_connections", "Open connections")
        self._refused_connections = self._counter("ner_connections_refused", "Connections cut off", "reason")
        for reason in ("crowded", "slow", "malformed", "head_too_large"):
            self._refused_connections.labels(model_name, reason)

        self._duration = self._histogram(
            "ner_request_duration_seconds", "POST /ner and /, first byte to answer", _SECONDS
        )
        self._stages = {
            stage: self._histogram(f"ner_request_{stage}_seconds", f"Time of a request in {stage}", _SECONDS)
            for stage in STAGES
        }

        self._exit_layer = self._histogram("ner_exit_layer", "Exit layer per sequence", range(1, num_layers + 1))
        self._word_layers = _WordLayers(model_name, num_layers)
        self.registry.register(self._word_layers)
        self._exit_reason = self._counter("ner_exit_reason", "Why sequences left", "reason")
        for reason in ("vote", "confidence", "learned", "budget", "last_layer"):
            self._exit_reason.labels(model_name, reason)
        self._executed = self._counter("ner_layers_executed", "Layers run, summed over sequences").labels(model_name)
        self._saved = self._counter("ner_layers_saved", "Layers not run, summed over sequences").labels(model_name)
        self._tokens = self._counter("ner_tokens", "Pieces of answered sequences").labels(model_name)
        self._sequences = self._counter("ner_sequences", "Sequences answered").labels(model_name)
        self._entities = self._counter("ner_entities", "Entities answered", "label")
        for label in labels:
            self._entities.labels(model_name, label)

        self._step_sequences = self._histogram("ner_step_batch_sequences", "Sequences in a step", _STEP_SEQUENCES)
        self._step_tokens = self._histogram("ner_step_batch_tokens", "Pieces in a step", _STEP_TOKENS)
        self._step_seconds = self._histogram("ner_step_seconds", "Time of a layer step", _SECONDS)

        self._tau = self._gauge("ner_exit_policy_tau", "tau in force; NaN for a strategy without one")
        self._patience = self._gauge("ner_exit_policy_patience", "patience in force; NaN for a strategy without one")
        self._version = self._gauge("ner_exit_policy_version", "Version of the policy in force")
        self._expected = {
            field: self._gauge(f"ner_exit_policy_expected_{field}", f"{text}, by calibration; NaN where not measured")
            for field, text in _EXPECTED.items()
        }
        self._in_force: PolicyVersion | None = None
        self._policy_info = Gauge(
            "ner_exit_policy_info",
            "The strategy in force",
            ("model_name", "strategy", "measure"),
            registry=self.registry,
        )
        self._policy_changes = self._counter("ner_exit_policy_changes", "Changes of the policy", "source")
        for source in ("api", "autopilot"):
            self._policy_changes.labels(model_name, source)
        self._autopilot = self._gauge("ner_autopilot_enabled", "1 while the autopilot is on")
        self._objective = self._gauge("ner_autopilot_objective_p95_seconds", "p95 that it is to keep; NaN while off")
        self._level = self._gauge(
            "ner_autopilot_level",
            "0: the most accurate point that the autopilot may use; each step up one point faster",
        )
        moves = self._counter("ner_autopilot_moves", "Moves of the autopilot", "direction")
        self._moves = {direction: moves.labels(model_name, direction) for direction in ("faster", "slower")}
        self._shadow_runs = self._counter("ner_shadow_runs", "Early leavers that were run on to full depth").labels(
            model_name
        )
        self._shadow_disagreements = self._counter(
            "ner_shadow_disagreements", "Of these, the ones with other entities at full depth"
        ).labels(model_name)
        self._disagreement_bound = self._gauge(
            "ner_shadow_disagreement_bound",
            "Upper bound (95 %) of the share of early leavers, under the policy in force, with other entities at full "
            "depth; NaN before any run",
        )
        self._speedup = self._gauge(
            "ner_speedup_layers", "Layers of the model / average exit layer under the policy in force"
        )

        self._engine_up = self._gauge("ner_engine_up", "1 while the engine can make progress")
        self._step_age = self._gauge("ner_engine_last_step_age_seconds", "Age of the step that is running, else 0")
        info = Gauge("ner_build_info", "What runs", ("model_name", *build), registry=self.registry)
        info.labels(model_name, *build.values()).set(1)

    def render(
        self, *, engine_up: bool, step_age_s: float, speedup_layers: float | None, disagreement_bound: float | None
    ) -> bytes:
        """The exposition text; what changes without an event is passed in."""
        self._disagreement_bound.set(math.nan if disagreement_bound is None else disagreement_bound)
        self._speedup.set(math.nan if speedup_layers is None else speedup_layers)
        self._engine_up.set(engine_up)
        self._step_age.set(step_age_s)
        return generate_latest(self.registry)

    def set_queue_capacity(self, texts: int) -> None:
        """Said once, at start."""
        self._capacity.set(texts)

    def set_connections(self, open_connections: int) -> None:
        """A client connected or left."""
        self._connections.set(open_connections)

    def connection_refused(self, reason: str) -> None:
        """A connection was cut off: to make room, or for what its client did."""
        self._refused_connections.labels(self._model, reason).inc()

    def request_done(self, endpoint: str, code: int) -> None:
        """An HTTP request was answered."""
        self._requests.labels(self._model, endpoint, str(code)).inc()

    def request_refused(self, error: Exception) -> None:
        """A request was turned away before it ran."""
        self._rejected.labels(self._model, "queue_full" if isinstance(error, Overloaded) else "not_ready").inc()

    def request_too_large(self) -> None:
        """A request was over a limit of size."""
        self._rejected.labels(self._model, "too_large").inc()

    def request_timed_out(self) -> None:
        """A request's time limit passed."""
        self._timed_out.inc()

    def client_left(self) -> None:
        """Nobody waited for a request any more."""
        self._left.inc()

    def request_answered(self, duration_s: float, stages_s: dict[str, float], labels: Iterable[str]) -> None:
        """A request has its answer: times by stage, labels of the entities in it."""
        self._duration.observe(duration_s)
        for stage, seconds in stages_s.items():
            self._stages[stage].observe(seconds)
        for label in labels:
            self._entities.labels(self._model, label).inc()

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """See EngineObserver."""
        self._step_sequences.observe(sequences)
        self._step_tokens.observe(pieces)
        self._step_seconds.observe(seconds)
        self._executed.inc(sequences)

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """See EngineObserver."""
        self._exit_layer.observe(sequence.exit_layer)
        self._word_layers.count(sequence)
        self._exit_reason.labels(self._model, sequence.exit_reason).inc()
        self._saved.inc(num_layers - sequence.exit_layer)
        self._tokens.inc(sequence.input.num_pieces)
        self._sequences.inc()

    def queue_changed(self, waiting: int, running: int) -> None:
        """See EngineObserver."""
        self._waiting.set(waiting)
        self._running.set(running)

    def shadow_done(self, disagrees: bool) -> None:
        """An early leaver was run on to full depth."""
        self._shadow_runs.inc()
        self._shadow_disagreements.inc(disagrees)

    def policy_changed(self, version: PolicyVersion) -> None:
        """A policy came into force."""
        values = version.policy.to_json()
        self._tau.set(values.get("tau", math.nan))
        self._patience.set(values.get("patience", math.nan))
        self._version.set(version.version)
        for field, gauge in self._expected.items():
            gauge.set(math.nan if version.expected is None else version.expected[field])
        self._policy_info.clear()
        self._policy_info.labels(self._model, values["strategy"], values.get("measure", "")).set(1)
        self._autopilot.set(version.objective is not None)
        self._objective.set(version.objective.p95_ms / 1_000 if version.objective else math.nan)
        self._level.set(version.level or 0)
        before, self._in_force = self._in_force, version
        if before is None:  # the first is the one found at start, whoever set it
            return
        self._policy_changes.labels(self._model, version.updated_by).inc()
        if version.updated_by == "autopilot":
            self._moves["faster" if (version.level or 0) > (before.level or 0) else "slower"].inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("model_name", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model_name",), registry=self.registry).labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        histogram = Histogram(name, text, ("model_name",), registry=self.registry, buckets=tuple(buckets))
        return histogram.labels(self._model)
