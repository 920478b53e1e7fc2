"""Measures what layers, exits and the engine's Python take on this machine, which must have nothing else to do.

Layers and exits are timed alone; the engine's Python is what is left of the time of bursts of texts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.engines import PolicyInForce, policies_of
from benchmarks.simulated_fleet.costs import Costs, Grid, KernelCosts, PythonCosts
from benchmarks.simulated_fleet.loop_measuring import measure_loop
from benchmarks.simulated_fleet.recorder import record
from benchmarks.simulated_fleet.recording import Recording
from benchmarks.simulated_fleet.stepped import SteppedEngine
from benchmarks.watched import Watched
from service.engine.engine import EngineLimits
from service.engine.reuse import ReuseSource
from service.engine.sequence import Request
from service.engine.sequence import Sequence as EngineSequence
from service.executors.choose import make_executor
from service.executors.executor import Executor
from service.exits.policy import ExitPolicy
from service.metrics.engine import EngineMetrics
from service.metrics.series import Series
from service.models.device import available_cores
from service.models.store import StoredModel
from service.stepping.stepper import ModelStepper
from service.text.types import EncodedText, SequenceInput

BATCHES = (1, 2, 4, 8, 16, 32, 64)
QUANTILES = (0.05, 0.3, 0.6, 0.85, 0.97)  # of the sequences' lengths: the lengths that are measured
SHORT_STEP = 64  # pieces: so that a burst has many steps
BURST_TEXTS, BURSTS = 300, 3


def measure_kernels(executor: Executor, inputs: Sequence[SequenceInput], tries: int) -> KernelCosts:
    """Time every layer, with its exit and without, over steps of several lengths and sizes."""
    ordered = sorted(inputs, key=lambda sequence: sequence.num_pieces)
    num_layers = executor.config.num_layers
    lengths: list[int] = []
    layers: list[list[list[float]]] = [[] for _ in range(num_layers)]
    exits: list[list[list[float]]] = [[] for _ in range(num_layers)]
    for quantile in QUANTILES:
        middle = int(quantile * (len(ordered) - 1))
        length = ordered[middle].num_pieces
        if lengths and length <= lengths[-1]:
            continue
        lengths.append(length)
        near = sorted(ordered, key=lambda sequence, length=length: abs(sequence.num_pieces - length))  # type: ignore[misc]
        batches = [batch for batch in BATCHES if batch * length <= executor.max_step_pieces]
        of_batches = [_time_layers(executor, near[:batch], tries) for batch in batches]
        for layer in range(num_layers):
            layers[layer].append([without[layer] for without, _ in of_batches])
            exits[layer].append([max(0.0, exit_s[layer]) for _, exit_s in of_batches])
    return KernelCosts(tuple(lengths), BATCHES, tuple(map(_frozen, layers)), tuple(map(_frozen, exits)))


def _frozen(grid: Sequence[Sequence[float]]) -> Grid:
    return tuple(map(tuple, grid))


def _time_layers(executor: Executor, inputs: Sequence[SequenceInput], tries: int) -> tuple[list[float], list[float]]:
    """Return by layer the median seconds of a step without its exit, and what the exit takes beside it."""
    num_layers = executor.config.num_layers
    seconds = np.empty((2, tries + 1, num_layers))
    for number in range(tries + 1):
        for with_exit in (0, 1):
            states: list[Any] = [None] * len(inputs)
            for layer in range(1, num_layers + 1):
                started = time.perf_counter()
                states, _ = executor.run_layer(layer, inputs, states, with_exit=bool(with_exit), with_table=False)
                seconds[with_exit, number, layer - 1] = time.perf_counter() - started
    without, with_them = np.median(seconds[:, 1:], axis=1)  # the first try fetches and lays out
    return without.tolist(), (with_them - without).tolist()


@dataclass(slots=True)
class _Counting:
    """Counts what an engine does, and tells the service's own metrics."""

    metrics: EngineMetrics
    policy: ExitPolicy
    num_layers: int
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("step", "sequence", "evidence", "answer"), 0))

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """Count a step."""
        self.counts["step"] += 1
        self.counts["sequence"] += sequences
        looks = type(self.policy).evidence is not ExitPolicy.evidence  # the static cut does not
        if looks and layer < self.num_layers and self.policy.needs_exit(layer, self.num_layers):
            self.counts["evidence"] += sequences
        self.metrics.step_done(layer, sequences, pieces, seconds)

    def sequence_left(self, sequence: EngineSequence, num_layers: int) -> None:
        """Count a sequence that left."""
        self.counts["answer"] += 1
        self.metrics.sequence_left(sequence, num_layers)

    def sequence_reused(self, sequence: EngineSequence, source: ReuseSource) -> None:
        """Ignore it."""

    def queue_changed(self, waiting: int, running: int) -> None:
        """Pass it on."""
        self.metrics.queue_changed(waiting, running)


def measure_engine(
    executor: Executor, encoded: Sequence[EncodedText], policies: Mapping[str, ExitPolicy]
) -> dict[str, float]:
    """Return what the engine's Python takes: bursts of several kinds, and the costs that explain them best."""
    rows, seconds, names = [], [], ("step", "sequence", "evidence", "answer")
    for policy in (policies["full_depth"], policies["budgeted 1"], policies["balanced"]):
        for most_pieces in (executor.max_step_pieces, SHORT_STEP):
            found = [_burst(executor, encoded[:BURST_TEXTS], policy, most_pieces) for _ in range(BURSTS)]
            rows.append([found[0][1][name] for name in names])
            seconds.append(statistics.median(python_s for python_s, _ in found))
    return dict(zip(names, not_negative(np.array(rows, dtype=float), np.array(seconds)), strict=True))


def _burst(
    executor: Executor, encoded: Sequence[EncodedText], policy: ExitPolicy, most_pieces: int
) -> tuple[float, dict[str, int]]:
    """Run all texts at once; return the seconds beside layers and exits, and what was done."""
    watched, num_layers = Watched(executor), executor.config.num_layers
    observer = _Counting(
        EngineMetrics(Series(CollectorRegistry(), "burst"), num_layers, policy.reasons), policy, num_layers
    )
    engine = SteppedEngine(
        ModelStepper(watched),
        policy=PolicyInForce(policy),
        limits=EngineLimits(max_step_pieces=most_pieces),
        observer=observer,
    )
    for text in encoded:
        engine.submit(Request((text,), deadline=float("inf"), submitted=0.0))
    started = time.perf_counter()
    while (step := engine.begin()) is not None:
        engine.end(step)
    return time.perf_counter() - started - watched.busy_s, observer.counts


def not_negative(rows: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> list[float]:
    """Return the factors, none below 0, with which the columns of `rows` come nearest to `values` (least squares)."""
    used = list(range(rows.shape[1]))
    factors = np.zeros(rows.shape[1])
    while used:
        found, *_ = np.linalg.lstsq(rows[:, used], values, rcond=None)
        if (found >= 0).all():
            factors[used] = found
            break
        used.pop(int(found.argmin()))
    return [float(factor) for factor in factors]


def measure(
    stored: StoredModel, texts: Sequence[str], tries: int, environment: Mapping[str, Any]
) -> tuple[Costs, Recording]:
    """Measure everything, and record the texts."""
    cores = available_cores()
    kernels, engine = {}, dict[str, float]()
    encoded = stored.text_encoder.encode_batch(texts)
    inputs = [sequence for text in encoded for sequence in text.sequences]
    for threads in sorted({1, cores}):
        executor = make_executor("auto", stored.model, threads=threads)
        kernels[threads] = measure_kernels(executor, inputs, tries)
        if threads == 1:
            engine = measure_engine(executor, encoded, policies_of(stored)[1])
            recording = record(stored, texts, executor)
            described = executor.describe()
        executor.close()
    nothing = dict.fromkeys(("turn", "take", "piece", "reply", "refusal", "wake", "client"), 0.0)
    told = {**environment, "model": stored.reference, "cores": cores, **described}
    costs = Costs(kernels, PythonCosts(**engine, **nothing), executor.max_step_pieces, told)
    with TemporaryDirectory() as folder:
        python = measure_loop(stored, texts, recording.pieces, costs, Path(folder))
    return Costs(kernels, python, executor.max_step_pieces, told), recording
