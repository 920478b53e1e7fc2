"""Measures what a policy costs in time: layer by layer and exit by exit, on one device, one sentence at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.evaluation.replay import Replay
from service.executors.executor import Executor
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.spans.types import IntArray
from service.stepping.every_exit import run_to_full_depth
from service.text.types import SequenceInput

Seconds = NDArray[np.float64]

_WISHES: Sequence[dict[str, Any]] = (
    {"with_exit": False, "with_table": False},
    {"with_exit": True, "with_table": False},
    {"with_exit": True, "with_table": True},
)


@dataclass(frozen=True, slots=True, eq=False)
class PolicyCost:
    """Holds the time that a policy takes for a sequence, by the sequence's length and exit layer.

    lengths  (lengths,) pieces
    seconds  (layers, lengths) for a sequence that leaves after that layer, from its word pieces to its decoded spans
    """

    lengths: IntArray
    seconds: Seconds

    def of(self, replay: Replay) -> float:
        """Return the seconds for all sequences of a replay, run one at a time.

        Between measured lengths the time is interpolated linearly.
        """
        total = 0.0
        for layer, seconds in enumerate(self.seconds, 1):
            leaving = replay.num_pieces[replay.layers_run == layer]
            total += float(np.interp(leaving, self.lengths, seconds).sum())
        return total


class CostMeter:
    """Measures the steps of an executor on sequences of spread lengths, one sequence a step.

    The time does not include what the engine adds around a step (scheduling, futures).

    lengths        (lengths,) pieces
    first_layer_s  (lengths,) seconds that the first layer takes, embedding included
    layer_s        (lengths,) seconds that any other layer takes
    exit_s         (lengths,) seconds that an exit adds to a layer when it leaves out its table
    table_s        (lengths,) seconds that an exit adds to a layer when it gives its table
    """

    def __init__(
        self, executor: Executor, sequences: Sequence[SequenceInput], *, num_lengths: int = 12, repeats: int = 25
    ) -> None:
        """Measure `num_lengths` lengths, each on one of `sequences`; every step is repeated `repeats` times."""
        by_length = sorted(sequences, key=lambda sequence: sequence.num_pieces)
        shortest, longest = by_length[0].num_pieces, by_length[-1].num_pieces
        wanted = np.unique(np.geomspace(shortest, longest, num_lengths).round())
        all_lengths = np.array([sequence.num_pieces for sequence in by_length])
        chosen = sorted({min(int(np.searchsorted(all_lengths, length)), len(by_length) - 1) for length in wanted})
        self._samples = [by_length[index] for index in chosen]
        self._executor, self._repeats = executor, repeats
        self._num_layers = executor.config.num_layers
        self.lengths = np.array([sample.num_pieces for sample in self._samples])
        self._costs: dict[Hashable, PolicyCost] = {}
        self._readings = [self._run(sample) for sample in self._samples]
        self.first_layer_s, self.layer_s, self.exit_s, self.table_s = self._measure_executor()

    def cost(self, policy: ExitPolicy) -> PolicyCost:
        """Return what a policy takes: layers, the exits that it needs, its evidence, and decoding at the end.

        It is measured once for all policies of the same kind.
        """
        kind = policy.kind(self._num_layers)
        if kind not in self._costs:
            self._costs[kind] = self._cost(policy)
        return self._costs[kind]

    def _cost(self, policy: ExitPolicy) -> PolicyCost:
        seconds = np.zeros((self._num_layers, len(self._samples)))
        running = np.zeros(len(self._samples))
        for layer in range(1, self._num_layers + 1):
            running += self.first_layer_s if layer == 1 else self.layer_s
            seconds[layer - 1] = running  # no sequence leaves here, unless its exit is computed
            if policy.needs_exit(layer, self._num_layers):
                evidence_s, decode_s = self._measure_policy(policy, layer)
                running += (self.table_s if policy.compares_tables else self.exit_s) + evidence_s
                seconds[layer - 1] = running + decode_s
        return PolicyCost(self.lengths, seconds)

    def _run(self, sample: SequenceInput) -> list[Reading]:
        ((_, readings),) = run_to_full_depth(self._executor, [sample])
        return readings

    def _measure_executor(self) -> tuple[Seconds, Seconds, Seconds, Seconds]:
        """Return first_layer_s, layer_s, exit_s and table_s.

        The steps take turns, so that a slow moment of the machine does not fall on one of them alone.
        """
        rows = []
        for sample in self._samples:
            (state,), _ = self._executor.run_layer(1, [sample], [None], with_exit=False)
            later, before = (2, state) if self._num_layers > 1 else (1, None)
            steps = [partial(self._executor.run_layer, 1, [sample], [None], **_WISHES[0])]
            steps += [partial(self._executor.run_layer, later, [sample], [before], **wishes) for wishes in _WISHES]
            rows.append(self._time_in_turns(steps))
        first, plain, with_exit, with_table = np.array(rows).T
        return first, plain, np.maximum(with_exit - plain, 0.0), np.maximum(with_table - plain, 0.0)

    def _measure_policy(self, policy: ExitPolicy, layer: int) -> tuple[Seconds, Seconds]:
        """Return the seconds of the policy's evidence after `layer`, and of decoding there: (lengths,) each.

        Decoding does not count again what was decoded for the evidence already.
        """
        needed = [m for m in range(1, layer + 1) if policy.needs_exit(m, self._num_layers)]
        evidence_s, decode_s = [], []
        for of_layers in self._readings:
            earlier = [of_layers[m - 1].fresh() for m in needed[:-1]]
            for index in range(1, len(earlier) + 1):  # earlier ones have been looked at, as in serving
                policy.evidence(earlier[:index])
            times = []
            for _ in range(self._repeats):
                current = of_layers[layer - 1].fresh()
                started = time.perf_counter()
                if layer < self._num_layers:
                    policy.evidence([*earlier, current]).tolist()
                seen = time.perf_counter()
                _ = policy.prediction([*earlier, current]).spans
                times.append((seen - started, time.perf_counter() - seen))
            evidence_s.append(min(pair[0] for pair in times))
            decode_s.append(min(pair[1] for pair in times))
        return np.array(evidence_s), np.array(decode_s)

    def _time_in_turns(self, steps: Sequence[Callable[[], object]]) -> list[float]:
        """Return the seconds of every step: the fewest of all tries, which is what it takes undisturbed."""
        fewest = [math.inf] * len(steps)
        for _ in range(self._repeats):
            for index, step in enumerate(steps):
                started = time.perf_counter()
                step()
                self._executor.wait()
                fewest[index] = min(fewest[index], time.perf_counter() - started)
        return fewest
