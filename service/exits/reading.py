"""What an exit said about some sequences: its packed span table, and what follows from it, worked out once.

A policy looks at nothing else. Everything here is per sequence: nothing depends on who else is in the reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.exits.confidence import entropy
from service.spans.decode import choose, spans_of
from service.spans.table import SUMMARY, cell_words, num_cells
from service.spans.types import FloatArray, IntArray, Span

Projections = tuple[FloatArray, FloatArray]
SpanSet = frozenset[tuple[int, int, int]]  # start, end, label
Figures = NDArray[np.float64]
BYTES_OF_A_KEY = 12  # first word, last word and label of an entity, as float32
MIN_LOG_PROB = -30.0  # keeps a probability of 0 from making a divergence infinite


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Which sequence each cell of a packed table belongs to.

    sequence (cells,) index of the sequence
    counts   cells of every sequence: Z of Eq. 7
    sizes    (sequences,) the same, on the device
    """

    sequence: Tensor
    counts: tuple[int, ...]
    sizes: Tensor

    @classmethod
    def of(cls, num_words: Sequence[int], device: torch.device) -> Cells:
        """The cells of sequences of so many words, one after another."""
        counts = tuple(num_cells(words) for words in num_words)
        sizes = torch.tensor(counts, device=device)
        return cls(torch.arange(len(counts), device=device).repeat_interleave(sizes), counts, sizes)

    def sum(self, per_cell: Tensor) -> Tensor:
        """(cells,) -> (sequences,) float64 sum over every sequence's cells, cell by cell."""
        sums = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return sums.index_add_(0, self.sequence, per_cell.double())

    def mean(self, per_cell: Tensor) -> Tensor:
        """(cells,) -> (sequences,) float64 mean over every sequence's cells."""
        return self.sum(per_cell) / self.sizes

    def max(self, per_cell: Tensor) -> Tensor:
        """(cells,) -> (sequences,) float64 largest over every sequence's cells, and never below 0."""
        largest = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return largest.scatter_reduce_(0, self.sequence, per_cell.double(), "amax")


@dataclass(frozen=True, eq=False)
class Candidates:
    """The cells whose most probable label is an entity's, sequence by sequence, in the order of the table.

    counts         of every sequence
    cells          (candidates, 4): first word, last word, label, its log-probability
    are_entities   whether those that conflict with better ones have been left out, see `service.spans.decode`
    """

    counts: tuple[int, ...]
    cells: FloatArray
    are_entities: bool = False

    @cached_property
    def bounds(self) -> list[int]:
        """(sequences + 1,) where each one's cells begin, and where the last one's end."""
        return list(accumulate(self.counts, initial=0))

    def of(self, sequence: int) -> FloatArray:
        """The cells of one sequence."""
        return self.cells[self.bounds[sequence] : self.bounds[sequence + 1]]

    def split(self) -> list[FloatArray]:
        """The cells of every sequence."""
        return [self.cells[start:end] for start, end in pairwise(self.bounds)]

    @staticmethod
    def join(cells: Sequence[FloatArray], *, are_entities: bool) -> Candidates:
        """One sequence's cells after another."""
        return Candidates(tuple(map(len, cells)), np.concatenate(cells), are_entities)


class Reading:
    """One exit's word on some sequences, packed.

    table      (cells, K) float32 log-probabilities
    num_words  of every sequence
    nested     whether decoded entities may contain each other

    An executor that has worked out cells, summary or candidates itself hands them in, and may then leave the table out.
    """

    def __init__(
        self,
        table: Tensor | None,
        num_words: Sequence[int],
        *,
        nested: bool,
        cells: Cells | None = None,
        summary: Figures | None = None,
        candidates: Candidates | None = None,
        word_uncertainty: FloatArray | None = None,
        projections: Projections | None = None,
    ) -> None:
        self._table = table
        self._projections = projections
        self._given = summary, candidates
        self.num_words = tuple(num_words)
        self.nested = nested
        if cells is not None:
            self.cells = cells
        if summary is not None:
            self.summary = summary
        if candidates is not None:
            self.candidates = candidates
        if word_uncertainty is not None:
            self.word_uncertainty = word_uncertainty

    def fresh(self) -> Reading:
        """The same as the executor gave it, with nothing worked out yet."""
        summary, candidates = self._given
        return Reading(
            self._table,
            self.num_words,
            nested=self.nested,
            summary=summary,
            candidates=candidates,
            projections=self._projections,
        )

    @staticmethod
    def join(readings: Sequence[Reading]) -> Reading:
        """Readings of the same exit, one after another; what each has worked out is not worked out again."""
        return readings[0] if len(readings) == 1 else _Joined(readings)

    def split(self) -> list[Reading]:
        """One reading a sequence, the same ones every time."""
        return [self] if len(self.num_words) == 1 else list(self._parts)

    @cached_property
    def _parts(self) -> list[Reading]:
        return [_Part(self, index) for index in range(len(self.num_words))]

    @property
    def table(self) -> Tensor:
        """(cells, K) log-probabilities."""
        if self._table is None:
            raise RuntimeError("an exit was run without its table, and somebody looks at it")
        return self._table

    @property
    def projections(self) -> Projections:
        """(words, rank) and (words, rank): what the exit made of every word as the first and as the last of a span."""
        if self._projections is None:
            raise RuntimeError("only a model with prototypes keeps what its exits make of words")
        return self._projections

    def words_of_cells(self, cells: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """First words and last words of some cells of the packed table, counted over all sequences; and sequences."""
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
        """Which cell is whose."""
        return Cells.of(self.num_words, self.table.device)

    @cached_property
    def log_probs(self) -> FloatArray:
        """(cells, K) on the host, at least MIN_LOG_PROB: for measures that compare tables."""
        found: FloatArray = np.maximum(self.table.cpu().numpy(), np.float32(MIN_LOG_PROB))  # a device-to-host copy
        return found

    @cached_property
    def probs(self) -> FloatArray:
        """(cells, K) on the host."""
        found: FloatArray = np.exp(self.log_probs)
        return found

    @cached_property
    def labels(self) -> IntArray:
        """(cells,) most probable label, on the host."""
        found: IntArray = self.log_probs.argmax(axis=1)
        return found

    @cached_property
    def cell_counts(self) -> IntArray:
        """(sequences,) valid cells: Z of Eq. 7."""
        return np.array([num_cells(words) for words in self.num_words])

    @cached_property
    def first_cells(self) -> IntArray:
        """(sequences,) where each one's cells begin."""
        return np.cumsum(self.cell_counts) - self.cell_counts

    @cached_property
    def entropy(self) -> Tensor:
        """(cells,) normalised entropy."""
        return entropy(self.table)

    @cached_property
    def word_uncertainty(self) -> FloatArray:
        """(words,) float32, of all sequences: the largest normalised entropy of a cell that the word begins or ends."""
        starts = np.concatenate([[0], np.cumsum(self.num_words)])
        pairs = [cell_words(words) for words in self.num_words]
        first = np.concatenate([start + first for start, (first, _) in zip(starts, pairs, strict=False)])
        last = np.concatenate([start + last for start, (_, last) in zip(starts, pairs, strict=False)])
        found = torch.zeros(int(starts[-1]), device=self.table.device)
        for words in (first, last):
            found.scatter_reduce_(0, torch.from_numpy(words).to(found.device), self.entropy, "amax")
        host: FloatArray = found.cpu().numpy()
        return host

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """(cells,) highest log-probability and (cells,) its label."""
        best = self.table.max(dim=1)
        return best.values, best.indices

    @cached_property
    def figures(self) -> Tensor:
        """(sequences, SUMMARY) where the table is."""
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

    @cached_property
    def summary(self) -> Figures:
        """(sequences, SUMMARY) on the host."""
        found: Figures = self.figures.cpu().numpy()  # a device-to-host copy
        return found

    @cached_property
    def summary_rows(self) -> list[list[float]]:
        """The summary as plain floats."""
        rows: list[list[float]] = self.summary.tolist()
        return rows

    def figure(self, name: str) -> Figures:
        """(sequences,) one figure of the summary."""
        column: Figures = self.summary[:, SUMMARY.index(name)]
        return column

    @cached_property
    def candidates(self) -> Candidates:
        """What decoding chooses from, on the host."""
        log_probs, labels = self.best
        cells = labels.nonzero().squeeze(1)
        chosen = torch.stack([cells.double(), labels[cells].double(), log_probs[cells].double()], dim=1)
        rows = chosen.cpu().numpy()  # a device-to-host copy
        starts = np.concatenate([[0], np.cumsum([num_cells(words) for words in self.num_words])])
        index = rows[:, 0].astype(np.int64)
        owner = np.searchsorted(starts, index, side="right") - 1
        found = np.empty((len(rows), 4), dtype=np.float32)
        found[:, 2:] = rows[:, 1:]
        for sequence in np.unique(owner).tolist():
            own = owner == sequence
            first, last = cell_words(self.num_words[sequence])
            within = index[own] - starts[sequence]
            found[own, 0], found[own, 1] = first[within], last[within]
        return Candidates(tuple(np.bincount(owner, minlength=len(self.num_words)).tolist()), found)

    @cached_property
    def entities(self) -> Candidates:
        """The candidates that decoding chooses; what a part has decoded is not decoded again."""
        if self.candidates.are_entities:
            return self.candidates
        if "_parts" in self.__dict__:
            return Candidates.join([part.entities.cells for part in self._parts], are_entities=True)
        chosen = [choose(cells, nested=self.nested) for cells in self.candidates.split()]
        return Candidates.join(chosen, are_entities=True)

    @cached_property
    def spans(self) -> list[list[Span]]:
        """The decoded entities of every sequence."""
        return [spans_of(cells) if len(cells) else [] for cells in self.entities.split()]

    @cached_property
    def entity_keys(self) -> list[bytes]:
        """Of every sequence, equal where the decoded entities are: BYTES_OF_A_KEY an entity, probabilities left out."""
        keys = self.entities.cells[:, :3].tobytes()
        return [keys[BYTES_OF_A_KEY * start : BYTES_OF_A_KEY * end] for start, end in pairwise(self.entities.bounds)]

    @cached_property
    def span_sets(self) -> list[SpanSet]:
        """The decoded entities of every sequence as sets: probabilities do not count."""
        return [frozenset([span[:3] for span in spans]) for spans in self.spans]


class _Part(Reading):
    """One sequence of a reading; what is worked out at one go, is worked out for the whole."""

    def __init__(self, whole: Reading, index: int) -> None:
        self._whole, self._index = whole, index
        self.num_words = (whole.num_words[index],)
        self.nested = whole.nested

    @property
    def table(self) -> Tensor:
        return self._whole.table[self._cells]

    @cached_property
    def summary(self) -> Figures:
        return self._whole.summary[self._index : self._index + 1]

    @cached_property
    def candidates(self) -> Candidates:
        return self._of(self._whole.candidates)

    @cached_property
    def word_uncertainty(self) -> FloatArray:
        return self._whole.word_uncertainty[self._words]

    @property
    def projections(self) -> Projections:
        starts, ends = self._whole.projections
        return starts[self._words], ends[self._words]

    @cached_property
    def _words(self) -> slice:
        start = sum(self._whole.num_words[: self._index])
        return slice(start, start + self.num_words[0])

    @cached_property
    def entities(self) -> Candidates:
        return self._of(self._whole.entities) if self._is_decoded else super().entities

    @cached_property
    def entity_keys(self) -> list[bytes]:
        return [self._whole.entity_keys[self._index]] if self._is_decoded else super().entity_keys

    def _of(self, candidates: Candidates) -> Candidates:
        cells = candidates.of(self._index)
        return Candidates((len(cells),), cells, candidates.are_entities)

    @property
    def _is_decoded(self) -> bool:
        """Whether that is known for the whole; a part alone decodes no more than itself."""
        return "entities" in self._whole.__dict__ or self._whole.candidates.are_entities

    @property
    def log_probs(self) -> FloatArray:
        return self._whole.log_probs[self._cells]

    @property
    def probs(self) -> FloatArray:
        return self._whole.probs[self._cells]

    @property
    def labels(self) -> IntArray:
        return self._whole.labels[self._cells]

    @cached_property
    def _cells(self) -> slice:
        start = int(self._whole.first_cells[self._index])
        return slice(start, start + num_cells(self.num_words[0]))

    def fresh(self) -> Reading:
        return self._whole.fresh().split()[self._index]


class _Joined(Reading):
    """Several readings of one exit, as one."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._joined = tuple(readings)
        self.num_words = tuple(words for reading in readings for words in reading.num_words)
        self.nested = readings[0].nested

    @cached_property
    def _parts(self) -> list[Reading]:
        return [part for reading in self._joined for part in reading.split()]

    @cached_property
    def table(self) -> Tensor:
        return torch.cat([reading.table for reading in self._joined])

    @cached_property
    def summary(self) -> Figures:
        return np.concatenate([reading.summary for reading in self._joined])

    @cached_property
    def candidates(self) -> Candidates:
        return _joined([reading.candidates for reading in self._joined])

    @cached_property
    def entities(self) -> Candidates:
        return _joined([reading.entities for reading in self._joined])

    @property
    def projections(self) -> Projections:
        starts, ends = zip(*(reading.projections for reading in self._joined), strict=True)
        return np.concatenate(starts), np.concatenate(ends)

    @cached_property
    def word_uncertainty(self) -> FloatArray:
        return np.concatenate([reading.word_uncertainty for reading in self._joined])

    @cached_property
    def entity_keys(self) -> list[bytes]:
        return [key for reading in self._joined for key in reading.entity_keys]

    @cached_property
    def log_probs(self) -> FloatArray:
        return np.concatenate([reading.log_probs for reading in self._joined])

    @cached_property
    def probs(self) -> FloatArray:
        return np.concatenate([reading.probs for reading in self._joined])

    @cached_property
    def labels(self) -> IntArray:
        return np.concatenate([reading.labels for reading in self._joined])

    @cached_property
    def spans(self) -> list[list[Span]]:
        return [spans for reading in self._joined for spans in reading.spans]

    @cached_property
    def span_sets(self) -> list[SpanSet]:
        return [spans for reading in self._joined for spans in reading.span_sets]

    def fresh(self) -> Reading:
        return _Joined([reading.fresh() for reading in self._joined])


def _joined(candidates: Sequence[Candidates]) -> Candidates:
    counts = tuple(count for one in candidates for count in one.counts)
    cells = np.concatenate([one.cells for one in candidates])
    return Candidates(counts, cells, all(one.are_entities for one in candidates))
