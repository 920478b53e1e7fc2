"""What an exit said about some sequences: its packed span table, and what follows from it, worked out once.

A policy looks at nothing else. Everything here is per sequence: nothing depends on who else is in the reading. Where
it is remembered is the business of `service.exits.batch`.
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
    """Make a property of what follows so quickly from entities that it is worked out for all once those are known."""
    return OneByOne(work_out, _is_decoded)


def _is_decoded(batch: Batch) -> bool:
    candidates = batch.figures.get("candidates")
    return (candidates is not None and candidates.are_entities) or "_chosen" in batch.figures


class Reading:
    """One exit's word on some sequences, packed.

    It looks at a batch that an executor ran, at a part of it (`split`), or at parts of several (`join`). Whichever it
    is, and in whatever order one asks, a figure is worked out once and is the same to the last bit. What is cheapest
    for many sequences at one go is worked out for the whole batch; decoding, only for the sequences asked about.
    """

    _parts: list[Reading] | None = None  # once it was split

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
        """Read a batch. An executor that has worked out a figure itself hands it in, and may then leave out the table.

        table      (cells, K) float32 log-probabilities
        num_words  of every sequence
        nested     whether decoded entities may contain each other
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
        if summary is not None:  # as if somebody had asked for it
            self.summary = summary
        if candidates is not None:
            self.candidates = candidates
        if cells is not None:
            self.cells = cells

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Reading:
        """Look at sequences of batches. Who looks at all of one batch, in order, gets the same reading as everybody."""
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
        """Look at all sequences of a batch: always the same reading, as long as anybody holds it."""
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
        """Put readings of the same exit one after another; what each has worked out is not worked out again.

        All parts of one batch, in order, are that batch's reading itself.
        """
        if len(readings) == 1:
            return readings[0]
        return Reading.of([stretch for reading in readings for stretch in reading.stretches])

    def split(self) -> list[Reading]:
        """Return one reading a sequence, the same ones every time."""
        if len(self.num_words) == 1:
            return [self]
        if self._parts is None:
            look = self._looking_at
            self._parts = [look(((of, at, at + 1),)) for of, start, end in self.stretches for at in range(start, end)]
        return list(self._parts)

    def fresh(self) -> Reading:
        """Return the same as the executor gave it, with nothing worked out yet."""
        anew = {batch: batch.fresh() for batch, _, _ in self.stretches}
        return Reading.of([(anew[batch], start, end) for batch, start, end in self.stretches])

    @cached_property
    def num_words(self) -> tuple[int, ...]:
        """Count the words of every sequence."""
        return tuple(words for batch, start, end in self.stretches for words in batch.num_words[start:end])

    @property
    def nested(self) -> bool:
        """Tell whether decoded entities may contain each other."""
        return self.stretches[0][0].nested

    @per_cell
    def table(self) -> Tensor:
        """Return the (cells, K) log-probabilities. Raises RuntimeError where an executor left them out."""
        raise RuntimeError("an exit was run without its table, and somebody looks at it")

    @per_word
    def projections(self) -> Projections:
        """Return what the exit made of every word as the first and as the last of a span: (words, rank) twice.

        Raises RuntimeError where the executor did not hand them in.
        """
        raise RuntimeError("only a model with prototypes keeps what its exits make of words")

    def words_of_cells(self, cells: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Find the words and sequences of some cells of the packed table.

        cells: (n,) -> (n,) first word and (n,) last word, inclusive, counted over all sequences; (n,) sequence
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
        """Tell which cell is whose."""
        return Cells.of(self.num_words, self.table.device)

    @per_cell
    def log_probs(self) -> FloatArray:
        """Bring the table to the host: (cells, K), at least MIN_LOG_PROB, for measures that compare tables."""
        found: FloatArray = np.maximum(self.table.cpu().numpy(), np.float32(MIN_LOG_PROB))  # a device-to-host copy
        return found

    @per_cell
    def probs(self) -> FloatArray:
        """Return the (cells, K) probabilities, on the host."""
        found: FloatArray = np.exp(self.log_probs)
        return found

    @per_cell
    def labels(self) -> IntArray:
        """Find the most probable label of every cell: (cells,), on the host."""
        found: IntArray = self.log_probs.argmax(axis=1)
        return found

    @per_sequence
    def cell_counts(self) -> IntArray:
        """Count the valid cells of every sequence: (sequences,), Z of Eq. 7 of VEE-BERT."""
        return np.array([num_cells(words) for words in self.num_words])

    @cached_property
    def first_cells(self) -> IntArray:
        """Tell where each sequence's cells begin: (sequences,)."""
        return np.cumsum(self.cell_counts) - self.cell_counts

    @per_cell
    def entropy(self) -> Tensor:
        """Return the normalised entropy of every cell: (cells,) in [0, 1]."""
        return entropy(self.table)

    @per_word
    def word_uncertainty(self) -> FloatArray:
        """Find the largest normalised entropy of a cell that each word begins or ends: (words,) float32."""
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
        """Find every cell's highest log-probability and its label: (cells,) twice."""
        best = self.table.max(dim=1)
        return best.values, best.indices

    @per_sequence
    def summary_on_device(self) -> Tensor:
        """Sum up every sequence's table: (sequences, SUMMARY) float64, where the table is."""
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
        """Bring the summary to the host: (sequences, SUMMARY) float64."""
        found: DoubleArray = self.summary_on_device.cpu().numpy()  # a device-to-host copy
        return found

    @per_sequence
    def summary_rows(self) -> list[list[float]]:
        """Return the summary as plain floats, a row a sequence."""
        rows: list[list[float]] = self.summary.tolist()
        return rows

    def figure(self, name: str) -> DoubleArray:
        """Return one figure of the summary, by its name in SUMMARY: (sequences,) float64."""
        column: DoubleArray = self.summary[:, SUMMARY.index(name)]
        return column

    @per_sequence
    def candidates(self) -> Candidates:
        """Find what decoding chooses from, on the host."""
        log_probs, labels = self.best
        cells = labels.nonzero().squeeze(1)
        chosen = torch.stack([cells.double(), labels[cells].double(), log_probs[cells].double()], dim=1)
        rows = chosen.cpu().numpy()  # a device-to-host copy
        return Candidates.at(rows[:, 0].astype(np.int64), rows[:, 1:], self.num_words)

    @OneByOne
    def _chosen(self) -> list[FloatArray]:
        """Decode: the candidates of every sequence that are entities."""
        if self.candidates.are_entities:
            return self.candidates.split()
        return [choose(cells, nested=self.nested) for cells in self.candidates.split()]

    @property
    def entities(self) -> Candidates:
        """Return the candidates that decoding chooses."""
        return self.candidates if self.candidates.are_entities else Candidates.join(self._chosen, are_entities=True)

    @OneByOne
    def spans(self) -> list[list[Span]]:
        """Return the decoded entities of every sequence."""
        return [spans_of(cells) if len(cells) else [] for cells in self.entities.split()]

    @once_decoded
    def entity_keys(self) -> list[bytes]:
        """Return bytes for every sequence that are equal where the decoded entities are, whatever their probabilities.

        An entity takes up BYTES_OF_A_KEY of them.
        """
        entities = self.entities
        keys = entities.cells[:, :3].tobytes()
        return [keys[BYTES_OF_A_KEY * start : BYTES_OF_A_KEY * end] for start, end in pairwise(entities.bounds)]

    @OneByOne
    def span_sets(self) -> list[SpanSet]:
        """Return the decoded entities of every sequence as sets of (start, end, label), probabilities left out."""
        return [frozenset([span[:3] for span in spans]) for spans in self.spans]
