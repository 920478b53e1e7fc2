"""What an exit said about some sequences: its packed span table, and what follows from it, worked out once.

A policy looks at nothing else. Everything here is per sequence: nothing depends on who else is in the reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from service.exits.confidence import entropy
from service.spans.decode import decode
from service.spans.table import num_cells
from service.spans.types import Span

SpanSet = frozenset[tuple[int, int, int]]  # start, end, label


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Which sequence each cell of a packed table belongs to.

    sequence (cells,) index of the sequence
    counts   cells of every sequence: Z of Eq. 7
    """

    sequence: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, num_words: Sequence[int], device: torch.device) -> Cells:
        """The cells of sequences of so many words, one after another."""
        counts = tuple(num_cells(words) for words in num_words)
        owners = torch.arange(len(counts), device=device)
        return cls(owners.repeat_interleave(torch.tensor(counts, device=device)), counts)

    def sum(self, per_cell: Tensor) -> Tensor:
        """(cells,) -> (sequences,) float64 sum over every sequence's cells, cell by cell."""
        sums = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return sums.index_add_(0, self.sequence, per_cell.double())

    def mean(self, per_cell: Tensor) -> Tensor:
        """(cells,) -> (sequences,) float64 mean over every sequence's cells."""
        return self.sum(per_cell) / torch.tensor(self.counts, device=per_cell.device, dtype=torch.float64)

    def max(self, per_cell: Tensor) -> Tensor:
        """(cells,) -> (sequences,) float64 largest over every sequence's cells, and never below 0."""
        largest = torch.zeros(len(self.counts), device=per_cell.device, dtype=torch.float64)
        return largest.scatter_reduce_(0, self.sequence, per_cell.double(), "amax")


class Reading:
    """One exit's word on some sequences, packed.

    table      (cells, K) float32 log-probabilities
    num_words  of every sequence
    nested     whether decoded entities may contain each other
    """

    def __init__(
        self, table: Tensor, num_words: Sequence[int], *, nested: bool, spans: Sequence[list[Span]] | None = None
    ) -> None:
        self._tables: tuple[Tensor, ...] = (table,)
        self._parts: tuple[Reading, ...] = ()  # that it was joined of, or split into
        self.num_words = tuple(num_words)
        self.nested = nested
        if spans is not None:
            self.spans = list(spans)

    @classmethod
    def join(cls, readings: Sequence[Reading]) -> Reading:
        """Readings of the same exit, one after another; tables are joined only when somebody asks for one.

        Decoding the whole decodes its parts, and the other way round.
        """
        if len(readings) == 1:
            return readings[0]
        joined = cls.__new__(cls)
        joined._tables = tuple(table for reading in readings for table in reading._tables)
        joined._parts = tuple(readings)
        joined.num_words = tuple(words for reading in readings for words in reading.num_words)
        joined.nested = readings[0].nested
        return joined

    def split(self) -> list[Reading]:
        """One reading a sequence, the same ones every time; what was decoded stays so."""
        if len(self.num_words) == 1:
            return [self]
        if len(self._parts) < len(self.num_words):
            spans = self.spans if self.is_decoded else [None] * len(self.num_words)
            tables = self.table.split(self.cells.counts)
            self._parts = tuple(
                Reading(table, (words,), nested=self.nested, spans=None if found is None else [found])
                for table, words, found in zip(tables, self.num_words, spans, strict=True)
            )
        return list(self._parts)

    @property
    def is_decoded(self) -> bool:
        """Whether `spans` is known already."""
        return "spans" in self.__dict__ or (bool(self._parts) and all(part.is_decoded for part in self._parts))

    @cached_property
    def table(self) -> Tensor:
        """(cells, K) log-probabilities."""
        return self._tables[0] if len(self._tables) == 1 else torch.cat(self._tables)

    @cached_property
    def cells(self) -> Cells:
        """Which cell is whose."""
        return Cells.of(self.num_words, self.table.device)

    @cached_property
    def entropy(self) -> Tensor:
        """(cells,) normalised entropy."""
        return entropy(self.table)

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """(cells,) highest log-probability and (cells,) its label."""
        best = self.table.max(dim=1)
        return best.values, best.indices

    @cached_property
    def spans(self) -> list[list[Span]]:
        """The decoded entities of every sequence; what a part has decoded is not decoded again."""
        undecoded = [part for part in self._parts if not part.is_decoded]
        if len(undecoded) < len(self._parts):
            if undecoded:
                _ = Reading.join(undecoded).spans  # together: one copy
            return [spans for part in self._parts for spans in part.spans]
        log_probs, labels = (column.cpu().split(self.cells.counts) for column in self.best)
        found = [
            decode(of_labels.numpy(), of_probs.numpy(), words, nested=self.nested)
            for of_labels, of_probs, words in zip(labels, log_probs, self.num_words, strict=True)
        ]
        remaining = iter(found)
        for part in self._parts:
            part.spans = list(islice(remaining, len(part.num_words)))
        return found

    @cached_property
    def span_sets(self) -> list[SpanSet]:
        """The decoded entities of every sequence as sets: probabilities do not count."""
        return [frozenset((span.start, span.end, span.label) for span in spans) for spans in self.spans]
