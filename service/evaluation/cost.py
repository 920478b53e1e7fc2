"""What a policy costs in time: measured layer by layer and exit by exit, on one device, one sentence at a time."""

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
    """What a policy takes for a sequence, by its length and the layer it leaves at.

    lengths  (lengths,) pieces
    seconds  (layers, lengths) of a sequence that leaves after that layer, from its word pieces to its decoded spans
    """

    lengths: IntArray
    seconds: Seconds

    def of(self, replay: Replay) -> float:
        """Seconds for all sequences of a replay, one at a time; between measured lengths by linear interpolation."""
        total = 0.0
        for layer, seconds in enumerate(self.seconds, 1):
            leaving = replay.num_pieces[replay.exit_layers == layer]
            total += float(np.interp(leaving, self.lengths, seconds).sum())
        return total


class CostMeter:
    """Measures the steps of an executor on sequences of spread lengths, one sequence a step.

    What the engine adds around a step (scheduling, futures) is not in it.

    lengths              (lengths,) pieces
    first_layer_s        (lengths,) seconds of the first layer, embedding included
    layer_s              (lengths,) of any other
    exit_s, table_s      (lengths,) what an exit adds to a layer: without and with the table itself
    """

    def __init__(
        self, executor: Executor, sequences: Sequence[SequenceInput], *, num_lengths: int = 12, repeats: int = 25
    ) -> None:
        """sequences: real ones, from which some of every length are taken."""
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
        """Layers, the exits that the policy needs, its evidence, and decoding where it leaves.

        Measured once for all policies of a kind.
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
            seconds[layer - 1] = running  # nobody leaves here, unless
            if policy.needs_exit(layer, self._num_layers):
                evidence_s, decode_s = self._measure_policy(policy, layer)
                running += (self.table_s if policy.compares_tables else self.exit_s) + evidence_s
                seconds[layer - 1] = running + decode_s
        return PolicyCost(self.lengths, seconds)

    def _run(self, sample: SequenceInput) -> list[Reading]:
        ((_, readings),) = run_to_full_depth(self._executor, [sample])
        return readings

    def _measure_executor(self) -> tuple[Seconds, Seconds, Seconds, Seconds]:
        """Steps take turns, so that a slow moment of the machine is none of a single one's."""
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
        """(lengths,) seconds of the policy's evidence after `layer`, and of decoding what it did not decode."""
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
        """Seconds of every step: the fewest of some tries, what it takes when nothing disturbs it."""
        fewest = [math.inf] * len(steps)
        for _ in range(self._repeats):
            for index, step in enumerate(steps):
                started = time.perf_counter()
                step()
                self._executor.wait()
                fewest[index] = min(fewest[index], time.perf_counter() - started)
        return fewest
