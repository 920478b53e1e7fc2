"""What a policy costs in time: measured layer by layer and exit by exit, on one device, one sentence at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.evaluation.replay import Replay
from service.exits.policy import ExitPolicy
from service.exits.reading import Reading
from service.models.multi_exit import MultiExitModel
from service.models.packed import pack
from service.spans.types import IntArray
from service.text.types import SequenceInput

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PolicyCost:
    """What a policy takes for a sequence, by its length and the layer it leaves at.

    lengths  (lengths,) pieces
    seconds  (layers, lengths) of a sequence that leaves behind that layer, from the embedding to its decoded spans
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
    """Measures the steps of the forward path on sequences of spread lengths.

    What the engine adds around a step (scheduling, futures) is not in it.
    """

    def __init__(
        self,
        model: MultiExitModel,
        sequences: Sequence[SequenceInput],
        *,
        device: torch.device,
        num_lengths: int = 12,
        repeats: int = 25,
    ) -> None:
        """model: on `device`, in eval mode; sequences: real ones, from which some of every length are taken."""
        by_length = sorted(sequences, key=lambda sequence: sequence.num_pieces)
        shortest, longest = by_length[0].num_pieces, by_length[-1].num_pieces
        wanted = np.unique(np.geomspace(shortest, longest, num_lengths).round())
        all_lengths = np.array([sequence.num_pieces for sequence in by_length])
        chosen = sorted({min(int(np.searchsorted(all_lengths, length)), len(by_length) - 1) for length in wanted})
        self._samples = [by_length[index] for index in chosen]
        self._model, self._device, self._repeats = model, device, repeats
        self._num_layers = model.config.num_layers
        self.lengths = np.array([sample.num_pieces for sample in self._samples])
        self._costs: dict[Hashable, PolicyCost] = {}
        self.embed_s, self.layer_s, self.exit_s, self._tables = self._measure_model()

    def cost(self, policy: ExitPolicy) -> PolicyCost:
        """Embedding, layers, the exits that the policy needs, its evidence, and decoding where it leaves.

        Measured once for all policies of a kind.
        """
        kind = policy.kind(self._num_layers)
        if kind not in self._costs:
            self._costs[kind] = self._cost(policy)
        return self._costs[kind]

    def _cost(self, policy: ExitPolicy) -> PolicyCost:
        seconds = np.tile(self.embed_s, (self._num_layers, 1))
        running = np.zeros(len(self._samples))
        for layer in range(1, self._num_layers + 1):
            running += self.layer_s
            if policy.needs_table(layer, self._num_layers):
                evidence_s, decode_s = self._measure_policy(policy, layer)
                running += self.exit_s + evidence_s
                seconds[layer - 1] += running + decode_s
            else:
                seconds[layer - 1] += running  # nobody leaves here
        return PolicyCost(self.lengths, seconds)

    @torch.inference_mode()
    def _measure_model(self) -> tuple[Seconds, Seconds, Seconds, list[list[torch.Tensor]]]:
        rows, tables = [], []
        model = self._model
        for sample in self._samples:
            packed = pack([sample], self._device)
            tables.append(model(packed))
            hidden = model.embed(packed)
            embed_s = self._time(model.embed, packed)
            layer_s = self._time(model.run_layer, 1, hidden, packed)
            rows.append((embed_s, layer_s, self._time(model.exit_table, 1, hidden, packed)))
        embed_s, layer_s, exit_s = np.array(rows).T
        return embed_s, layer_s, exit_s, tables

    @torch.inference_mode()
    def _measure_policy(self, policy: ExitPolicy, layer: int) -> tuple[Seconds, Seconds]:
        """(lengths,) seconds of the policy's evidence behind `layer`, and of decoding what it did not decode."""
        needed = [m for m in range(1, layer + 1) if policy.needs_table(m, self._num_layers)]
        evidence_s, decode_s = [], []
        for sample, tables in zip(self._samples, self._tables, strict=True):
            earlier = [self._reading(tables[m - 1], sample) for m in needed[:-1]]
            policy.evidence([*earlier, self._reading(tables[layer - 1], sample)])  # earlier ones decoded, as in serving
            for index in range(1, len(earlier) + 1):
                policy.evidence(earlier[:index])
            times = []
            for _ in range(self._repeats):
                current = self._reading(tables[layer - 1], sample)
                started = time.perf_counter()
                policy.evidence([*earlier, current]).tolist()
                seen = time.perf_counter()
                _ = policy.prediction([*earlier, current]).spans
                times.append((seen - started, time.perf_counter() - seen))
            evidence_s.append(min(pair[0] for pair in times))
            decode_s.append(min(pair[1] for pair in times))
        return np.array(evidence_s), np.array(decode_s)

    def _reading(self, table: torch.Tensor, sample: SequenceInput) -> Reading:
        return Reading(table, [sample.num_words], nested=self._model.config.nested)

    def _time(self, step: Callable[..., torch.Tensor], *arguments: object) -> float:
        """Seconds of a step, synchronised: the fewest of some tries, what it takes when nothing disturbs it."""
        times = []
        for _ in range(self._repeats):
            self._synchronize()
            started = time.perf_counter()
            step(*arguments)
            self._synchronize()
            times.append(time.perf_counter() - started)
        return min(times)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
