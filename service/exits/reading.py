"""A reading: what an exit said of some sequences, its packed span table and figures of it, each worked out once.

A policy looks at nothing else. The figures of a sequence do not depend on which other sequences are in the reading.
`service.exits.batch` remembers what was worked out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from service.exits.batch import Batch, OneByOne, Stretch, per_cell, per_sequence, per_word
from service.exits.candidates import Candidates
from service.exits.cells import Cells
from service.exits.confidence import entropy
from service.spans.decode import choose, spans_of
from service.spans.table import SUMMARY, cell_words, num_cells
from service.spans.types import DoubleArray, FloatArray, IntArray, Span

Projections = tuple[FloatArray, FloatArray]
SpanSet = frozenset[tuple[int, int, int]]  # start, end, label
BYTES_OF_A_KEY = 12  # first word, last word and label of an entity, as float32
MIN_LOG_PROB = -30.0  # keeps a probability of 0 from making a divergence infinite
T = TypeVar("T")


def once_decoded(work_out: Callable[[Any], list[T]]) -> OneByOne[T]:
    """Turn a method into a `OneByOne` property that is worked out for the whole batch once its entities are known."""
    return OneByOne(work_out, _is_decoded)


def _is_decoded(batch: Batch) -> bool:
    candidates = batch.figures.get("candidates")
    return (candidates is not None and candidates.are_entities) or "_chosen" in batch.figures


class Reading:
    """Holds what one exit said of some sequences, packed.

    It looks at a batch that an executor ran, at a part of it (`split`), or at parts of several batches (`join`). In all
    cases, and in any order of reading them, a figure is worked out once and is the same to the last bit. Most figures
    are worked out for the whole batch together; decoding is done only for the sequences asked about.
    """

    _parts: list[Reading] | None = None  # after the first `split`

    def __init__(
        self,
        table: Tensor | None,
        num_words: Sequence[int],
        *,
        nested: bool,
        cells: Cells | None = None,
        summary: DoubleArray | None = None,
        candidates: Candidates | None = None,
        word_uncertainty: FloatArray | None = None,
        projections: Projections | None = None,
    ) -> None:
        """Make a reading of a batch. An executor that has worked out figures itself hands them in.

        table      (cells, K) float32 log-probabilities; None where the executor left it out
        num_words  of every sequence
        nested     whether decoded entities may contain each other
        cells      which cell belongs to which sequence, if it is known already
        others     figures of the same names, as the properties below describe them
        """
        given = {
            "table": table,
            "summary": summary,
            "candidates": candidates,
            "word_uncertainty": word_uncertainty,
            "projections": projections,
        }
        batch = Batch(num_words, nested, given, ref(self))
        self.num_words = batch.num_words
        self.stretches: Sequence[Stretch] = ((batch, 0, len(batch.num_words)),)
        if summary is not None:  # as if the property had been read
            self.summary = summary
        if candidates is not None:
            self.candidates = candidates
        if cells is not None:
            self.cells = cells

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Reading:
        """Return a reading of stretches. For all sequences of one batch, in order, it is the batch's shared reading."""
        (batch, start, end), *following = stretches
        merged: list[Stretch] = []
        for stretch in following:
            if stretch[0] is batch and stretch[1] == end:
                end = stretch[2]
            else:
                merged.append((batch, start, end))
                batch, start, end = stretch
        if not merged and end - start == len(batch.num_words):
            return cls.all_of(batch)
        return cls._looking_at((*merged, (batch, start, end)))

    @classmethod
    def all_of(cls, batch: Batch) -> Reading:
        """Return the reading of all sequences of a batch: the same object as long as something refers to it."""
        reading: Reading | None = batch.reading()
        if reading is None:
            reading = cls._looking_at(((batch, 0, len(batch.num_words)),))
            batch.reading = ref(reading)
        return reading

    @classmethod
    def _looking_at(cls, stretches: Sequence[Stretch]) -> Reading:
        reading = cls.__new__(cls)
        reading.stretches = stretches
        return reading

    @staticmethod
    def join(readings: Sequence[Reading]) -> Reading:
        """Return one reading of the sequences of several readings of the same exit, in order.

        Figures that are known already are not worked out again. All parts of one batch, in order, give that batch's
        shared reading.
        """
        if len(readings) == 1:
            return readings[0]
        return Reading.of([stretch for reading in readings for stretch in reading.stretches])

    def split(self) -> list[Reading]:
        """Return one reading per sequence, the same objects every time."""
        if len(self.num_words) == 1:
            return [self]
        if self._parts is None:
            look = self._looking_at
            self._parts = [look(((of, at, at + 1),)) for of, start, end in self.stretches for at in range(start, end)]
        return list(self._parts)

    def fresh(self) -> Reading:
        """Return a copy as the executor gave it, with nothing worked out yet."""
        anew = {batch: batch.fresh() for batch, _, _ in self.stretches}
        return Reading.of([(anew[batch], start, end) for batch, start, end in self.stretches])

    @cached_property
    def num_words(self) -> tuple[int, ...]:
        """The number of words of every sequence."""
        return tuple(words for batch, start, end in self.stretches for words in batch.num_words[start:end])

    @property
    def nested(self) -> bool:
        """Whether decoded entities may contain each other."""
        return self.stretches[0][0].nested

    @per_cell
    def table(self) -> Tensor:
        """The log-probabilities: (cells, K). Raises RuntimeError where the executor left them out."""
        raise RuntimeError("an exit was run without its table, and somebody looks at it")

    @per_word
    def projections(self) -> Projections:
        """The exit's projections of every word as the first and as the last word of a span: (words, rank) twice.

        Raises RuntimeError where the executor did not hand them in.
        """
        raise RuntimeError("only a model with prototypes keeps what its exits make of words")

    def words_of_cells(self, cells: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Return the first word, the last word (inclusive) and the sequence of some cells: (n,) each.

        cells: (n,) places in the packed table. Words are counted over all sequences of the reading.
        """
        owner = np.searchsorted(self.first_cells, cells, side="right") - 1
        word_starts = np.cumsum(self.num_words) - self.num_words
        first, last = np.empty(len(cells), dtype=np.int64), np.empty(len(cells), dtype=np.int64)
        for sequence in np.unique(owner).tolist():
            own = owner == sequence
            of_first, of_last = cell_words(self.num_words[sequence])
            within = cells[own] - self.first_cells[sequence]
            first[own] = word_starts[sequence] + of_first[within]
            last[own] = word_starts[sequence] + of_last[within]
        return first, last, owner

    @cached_property
    def cells(self) -> Cells:
        """Which sequence each cell belongs to."""
        return Cells.of(self.num_words, self.table.device)

    @per_cell
    def log_probs(self) -> FloatArray:
        """The table on the host, at least MIN_LOG_PROB, for measures that compare tables: (cells, K)."""
        found: FloatArray = np.maximum(self.table.cpu().numpy(), np.float32(MIN_LOG_PROB))  # a device-to-host copy
        return found

    @per_cell
    def probs(self) -> FloatArray:
        """The probabilities on the host: (cells, K)."""
        found: FloatArray = np.exp(self.log_probs)
        return found

    @per_cell
    def labels(self) -> IntArray:
        """The most probable label of every cell, on the host: (cells,)."""
        found: IntArray = self.log_probs.argmax(axis=1)
        return found

    @per_sequence
    def cell_counts(self) -> IntArray:
        """The number of valid cells of every sequence: (sequences,), Z of Eq. 7 of VEE-BERT."""
        return np.array([num_cells(words) for words in self.num_words])

    @cached_property
    def first_cells(self) -> IntArray:
        """Where the cells of each sequence begin: (sequences,)."""
        return np.cumsum(self.cell_counts) - self.cell_counts

    @per_cell
    def entropy(self) -> Tensor:
        """The normalised entropy of every cell: (cells,) in [0, 1]."""
        return entropy(self.table)

    @per_word
    def word_uncertainty(self) -> FloatArray:
        """The largest normalised entropy among the cells that each word begins or ends: (words,) float32."""
        starts = np.concatenate([[0], np.cumsum(self.num_words)])
        pairs = [cell_words(words) for words in self.num_words]
        first = np.concatenate([start + first for start, (first, _) in zip(starts, pairs, strict=False)])
        last = np.concatenate([start + last for start, (_, last) in zip(starts, pairs, strict=False)])
        found = torch.zeros(int(starts[-1]), device=self.table.device)
        for words in (first, last):
            found.scatter_reduce_(0, torch.from_numpy(words).to(found.device), self.entropy, "amax")
        host: FloatArray = found.cpu().numpy()
        return host

    @per_cell
    def best(self) -> tuple[Tensor, Tensor]:
        """The highest log-probability of every cell, and its label: (cells,) each."""
        best = self.table.max(dim=1)
        return best.values, best.indices

    @per_sequence
    def summary_on_device(self) -> Tensor:
        """The figures of SUMMARY for every sequence: (sequences, SUMMARY) float64, on the table's device."""
        cells, (log_prob, label) = self.cells, self.best
        unsure = 1.0 - log_prob.exp()  # (cells,) probability of everything but the most probable label
        figures = (
            cells.max(self.entropy),
            cells.mean(self.entropy),
            cells.mean(log_prob.exp()),
            0.0 - cells.sum(log_prob),
            cells.max(unsure.masked_fill(label > 0, 0.0)),
            cells.max(unsure.masked_fill(label == 0, 0.0)),
        )
        return torch.stack(figures, dim=1)

    @per_sequence
    def summary(self) -> DoubleArray:
        """The figures of SUMMARY for every sequence, on the host: (sequences, SUMMARY) float64."""
        found: DoubleArray = self.summary_on_device.cpu().numpy()  # a device-to-host copy
        return found

    @per_sequence
    def summary_rows(self) -> list[list[float]]:
        """The summary as plain floats, a row per sequence."""
        rows: list[list[float]] = self.summary.tolist()
        return rows

    def figure(self, name: str) -> DoubleArray:
        """Return one figure of the summary, by its name in SUMMARY: (sequences,) float64."""
        column: DoubleArray = self.summary[:, SUMMARY.index(name)]
        return column

    @per_sequence
    def candidates(self) -> Candidates:
        """The cells that decoding chooses from, on the host."""
        log_probs, labels = self.best
        cells = labels.nonzero().squeeze(1)
        chosen = torch.stack([cells.double(), labels[cells].double(), log_probs[cells].double()], dim=1)
        rows = chosen.cpu().numpy()  # a device-to-host copy
        return Candidates.at(rows[:, 0].astype(np.int64), rows[:, 1:], self.num_words)

    @OneByOne
    def _chosen(self) -> list[FloatArray]:
        """The candidates of every sequence that decoding keeps, (entities, 4) each."""
        if self.candidates.are_entities:
            return self.candidates.split()
        return [choose(cells, nested=self.nested) for cells in self.candidates.split()]

    @property
    def entities(self) -> Candidates:
        """The candidates that decoding keeps."""
        return self.candidates if self.candidates.are_entities else Candidates.join(self._chosen, are_entities=True)

    @OneByOne
    def spans(self) -> list[list[Span]]:
        """The decoded entities of every sequence."""
        return [spans_of(cells) if len(cells) else [] for cells in self.entities.split()]

    @once_decoded
    def entity_keys(self) -> list[bytes]:
        """The decoded entities of every sequence as bytes, without probabilities: equal bytes mean equal entities.

        Every entity takes BYTES_OF_A_KEY bytes.
        """
        entities = self.entities
        keys = entities.cells[:, :3].tobytes()
        return [keys[BYTES_OF_A_KEY * start : BYTES_OF_A_KEY * end] for start, end in pairwise(entities.bounds)]

    @OneByOne
    def span_sets(self) -> list[SpanSet]:
        """The decoded entities of every sequence as a set of (start, end, label), without probabilities."""
        return [frozenset([span[:3] for span in spans]) for spans in self.spans]
