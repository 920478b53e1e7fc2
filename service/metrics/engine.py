"""What the engine does: its queue, its steps, the layers that sequences ran, shadow runs, its health."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import numpy as np
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.engine.reuse import ReuseSource
from service.engine.sequence import Sequence
from service.metrics.series import SECONDS_BUCKETS, Series

STEP_SEQUENCES_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEP_TOKENS_BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class EngineMetrics:
    """The engine's series, written as its observer.

    Layers are counted when a sequence leaves; the layers of a sequence that was dropped on the way are not counted, so
    executed + saved == layers of the model * sequences. The exit layer is a depth. If words halt one by one, a sequence
    runs fewer layers than its exit layer: the mean over its words.
    """

    def __init__(self, series: Series, num_layers: int, exit_reasons: Iterable[str]) -> None:
        """exit_reasons: the reasons for which sequences may leave; each has its counter from the start."""
        self._running = series.gauge(
            "ner_requests_running", "Interactive requests whose first sequence has started", "sum"
        )
        self._waiting = series.gauge(
            "ner_requests_waiting", "Interactive requests admitted that have not started", "sum"
        )
        self._capacity = series.gauge("ner_queue_capacity", "Most texts that may wait and run", "sum")
        self._bulk_requests = series.gauge(
            "ner_bulk_requests", "Requests of priority bulk, and lines of streams, that are admitted and open", "sum"
        )

        self._exit_layer = series.histogram(
            "ner_exit_layer",
            "Exit layer per sequence: the layer after which it left, a whole number also where words halt one by one",
            range(1, num_layers + 1),
        )
        self._word_layers = _WordLayers(series.model_name, num_layers)
        series.registry.register(self._word_layers)
        self._exit_reason = series.counters("ner_exit_reason", "Why sequences left", "reason")
        for reason in exit_reasons:
            self._exit_reason(reason)
        self._executed = series.counter(
            "ner_layers_executed",
            "Layers run, summed over the sequences that left; where words halt one by one, a sequence counts the mean "
            "over its words. Sequences dropped on the way, with a cancelled or failed request, are not counted",
        )
        self._saved = series.counter(
            "ner_layers_saved",
            "Layers not run, summed over the same sequences: with ner_layers_executed_total it comes to the layers of "
            "the model times ner_sequences_total",
        )
        self._tokens = series.counter("ner_tokens", "Pieces of answered sequences")
        self._sequences = series.counter("ner_sequences", "Sequences that ran and were answered")
        self._reused = series.counters(
            "ner_reused_sequences",
            "Sequences that ran no layer, since an equal one was under way or in the cache; no other series of "
            "sequences and layers counts them",
            "source",
        )
        for source in get_args(ReuseSource):
            self._reused(source)
        self._cache_bytes = series.gauge("ner_cache_bytes", "Memory of the answers kept for equal sentences", "sum")

        self._step_sequences = series.histogram(
            "ner_step_batch_sequences", "Sequences in a step", STEP_SEQUENCES_BUCKETS
        )
        self._step_tokens = series.histogram("ner_step_batch_tokens", "Pieces in a step", STEP_TOKENS_BUCKETS)
        self._step_seconds = series.histogram("ner_step_seconds", "Time of a layer step", SECONDS_BUCKETS)

        self._shadow_runs = series.counter("ner_shadow_runs", "Early leavers that were run on to full depth")
        self._shadow_disagreements = series.counter(
            "ner_shadow_disagreements", "Of these, the ones with other entities at full depth"
        )
        self._up = series.gauge("ner_engine_up", "1 while the engine can make progress", "min")
        self._step_age = series.gauge("ner_engine_last_step_age_seconds", "Age of the step that is running, else 0")

    def set_queue_capacity(self, texts: int) -> None:
        """Set the most texts that may wait and run; called once, at the start."""
        self._capacity.set(texts)

    def set_health(self, *, is_up: bool, step_age_s: float, cache_bytes: int, bulk_requests: int) -> None:
        """Set the engine's health, its cache's size and its bulk work; called before every scrape, without an event."""
        self._bulk_requests.set(bulk_requests)
        self._cache_bytes.set(cache_bytes)
        self._up.set(is_up)
        self._step_age.set(step_age_s)

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """See EngineObserver."""
        self._step_sequences.observe(sequences)
        self._step_tokens.observe(pieces)
        self._step_seconds.observe(seconds)

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """See EngineObserver."""
        self._exit_layer.observe(sequence.layer)
        self._word_layers.count(sequence)
        self._exit_reason(sequence.exit_reason).inc()
        self._executed.inc(sequence.layers_run)
        self._saved.inc(num_layers - sequence.layers_run)
        self._tokens.inc(sequence.input.num_pieces)
        self._sequences.inc()

    def sequence_reused(self, sequence: Sequence, source: ReuseSource) -> None:
        """See EngineObserver."""
        self._reused(source).inc()

    def queue_changed(self, waiting: int, running: int) -> None:
        """See EngineObserver."""
        self._waiting.set(waiting)
        self._running.set(running)

    def shadow_done(self, disagrees: bool) -> None:
        """Count a shadow run, and whether full depth disagreed."""
        self._shadow_runs.inc()
        self._shadow_disagreements.inc(disagrees)


class _WordLayers(Collector):
    """The histogram of layers per word. It counts all words of a sequence at once; the library's histogram cannot."""

    def __init__(self, model_name: str, num_layers: int) -> None:
        self._model_name = model_name
        self._counts = np.zeros(num_layers + 1, dtype=np.int64)

    def count(self, sequence: Sequence) -> None:
        """Count all words of a sequence that left."""
        if sequence.words is None:
            self._counts[sequence.layer] += sequence.input.num_words
        else:
            self._counts += np.bincount(sequence.words.layers, minlength=len(self._counts))

    def collect(self) -> Iterable[Metric]:
        counts = self._counts.copy()
        family = HistogramMetricFamily("ner_word_layers", "Layers that moved a word, per word", labels=["model_name"])
        buckets = [(f"{layer:.1f}", float(total)) for layer, total in enumerate(np.cumsum(counts)) if layer]
        buckets.append(("+Inf", buckets[-1][1]))
        family.add_metric([self._model_name], buckets, float(counts @ np.arange(len(counts))))
        return [family]
