"""Remembers what was worked out for the sequences of one step: once, even if the sequences are regrouped.

What is worked out, and how, is defined in `service.exits.reading`: a reading looks at sequences of batches, and its
figures are properties of the two kinds that are defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any, Generic, Protocol, Self, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from service.exits.candidates import Candidates
from service.spans.table import num_cells

T = TypeVar("T")
Size = Callable[[int], int]  # from the words of a sequence to the entries that a figure has for it


class Batch:
    """Holds the sequences of one step, and all figures of them that have been worked out so far.

    It holds no strong reference to a reading, so its tensors are freed as soon as no reading looks at it any more.

    num_words  of every sequence
    nested     whether decoded entities may contain each other
    given      figures by name, as the executor handed them in; None for one that it did not
    figures    figures that are known for all sequences, by name: an array of all entries, or a list of items
    items      figures that are known for single sequences, by name: a list with an item or None for each
    missing    how many items of each list in `items` are None, by name
    reading    a weak reference to the reading that looks at all sequences
    """

    __slots__ = ("_bounds", "figures", "given", "items", "missing", "nested", "num_words", "reading")

    def __init__(
        self, num_words: Sequence[int], nested: bool, given: dict[str, Any], reading: Callable[[], Any] = lambda: None
    ) -> None:
        self.num_words = tuple(num_words)
        self.nested = nested
        self.given = given
        self.figures = given.copy()
        self.items: dict[str, list[Any]] = {}
        self.missing: dict[str, int] = {}
        self.reading = reading
        self._bounds: dict[Size, list[int]] = {}

    def fresh(self) -> Batch:
        """Return a copy as the executor gave it, with nothing worked out yet."""
        return Batch(self.num_words, self.nested, self.given)

    def bounds(self, size: Size) -> list[int]:
        """Return where the entries of each sequence begin, and where the last ones end: sequences + 1 numbers."""
        found = self._bounds.get(size)
        if found is None:
            found = self._bounds[size] = list(accumulate(map(size, self.num_words), initial=0))
        return found


Stretch = tuple[Batch, int, int]  # consecutive sequences of a batch: the first, and the end, exclusive


class View(Protocol):
    """An object that looks at sequences of batches: a reading."""

    @property
    def stretches(self) -> Sequence[Stretch]:
        """The sequences that the view looks at, in order."""

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Self:
        """Make a view of some stretches."""

    @classmethod
    def all_of(cls, batch: Batch) -> Self:
        """Make a view of all sequences of a batch."""


class AtOneGo(Generic[T]):
    """A property of a view that is worked out for the whole batch together and remembered in the batch.

    A view gets the part that belongs to its sequences. For one stretch that is a slice, which copies nothing (of a
    tuple, a slice of each of its figures); several stretches are concatenated, which copies.
    """

    def __init__(self, work_out: Callable[[Any], T], size: Size) -> None:
        """Take `work_out`, which returns the figure for a view of a whole batch, and the figure's `size`."""
        self._work_out, self._size, self.__doc__ = work_out, size, work_out.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: View, owner: type) -> T: ...
    def __get__(self, view: View | None, owner: type) -> Any:
        if view is None:
            return self
        shares, latest, figure = [], None, None
        for batch, start, end in view.stretches:
            if batch is not latest:
                latest, figure = batch, batch.figures.get(self._name)
                if figure is None:
                    figure = batch.figures[self._name] = self._work_out(view.all_of(batch))
            if end - start == len(batch.num_words):
                shares.append(figure)
            else:
                bounds = batch.bounds(self._size)
                shares.append(_cut(figure, bounds[start], bounds[end]))
        found = shares[0] if len(shares) == 1 else _concatenated(shares)
        setattr(view, self._name, found)  # hides this property: the next read costs nothing
        return found


def per_cell(work_out: Callable[[Any], T]) -> AtOneGo[T]:
    """Turn a method into a property whose figure has an entry for every valid cell."""
    return AtOneGo(work_out, num_cells)


def per_word(work_out: Callable[[Any], T]) -> AtOneGo[T]:
    """Turn a method into a property whose figure has an entry for every word."""
    return AtOneGo(work_out, int)


def per_sequence(work_out: Callable[[Any], T]) -> AtOneGo[T]:
    """Turn a method into a property whose figure has an entry for every sequence."""
    return AtOneGo(work_out, _one)


def _one(num_words: int) -> int:
    return 1


class OneByOne(Generic[T]):
    """A property of a view: a list with one item per sequence, each worked out once, when it is first asked for."""

    def __init__(self, work_out: Callable[[Any], list[T]], is_cheap: Callable[[Batch], bool] = lambda _: False) -> None:
        """Take the function that works the items out.

        work_out  returns the items for a view of sequences of one batch
        is_cheap  tells of a batch whether all its items together cost hardly more than a single one
        """
        self._work_out, self._is_cheap, self.__doc__ = work_out, is_cheap, work_out.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: View, owner: type) -> list[T]: ...
    def __get__(self, view: View | None, owner: type) -> Any:
        if view is None:
            return self
        found: list[T] = []
        for batch, start, end in view.stretches:
            known = batch.figures.get(self._name)
            found += self._asked(view, batch, start, end) if known is None else known[start:end]
        setattr(view, self._name, found)  # hides this property: the next read costs nothing
        return found

    def _asked(self, view: View, batch: Batch, start: int, end: int) -> list[T]:
        """Return the items of the sequences from `start` to `end`; work out those that are missing."""
        count, known = len(batch.num_words), batch.items.get(self._name)
        if known is None:
            if end - start == count or self._is_cheap(batch):
                items = batch.figures[self._name] = self._work_out(view.all_of(batch))
                return items[start:end]
            known = batch.items[self._name] = [None] * count
            batch.missing[self._name] = count
        missing = [index for index in range(start, end) if known[index] is None]
        if missing:
            is_view = len(missing) == end - start and len(view.stretches) == 1
            asked = view if is_view else view.of([(batch, index, index + 1) for index in missing])
            for index, item in zip(missing, self._work_out(asked), strict=True):
                known[index] = item
            batch.missing[self._name] -= len(missing)
            if not batch.missing[self._name]:
                batch.figures[self._name] = known
        return known[start:end]


def _cut(figure: Any, start: int, end: int) -> Any:
    return tuple(each[start:end] for each in figure) if isinstance(figure, tuple) else figure[start:end]


def _concatenated(shares: list[Any] | tuple[Any, ...]) -> Any:
    """Concatenate shares of a figure: tuples, tensors, arrays, candidates or lists."""
    first = shares[0]
    if isinstance(first, tuple):
        return tuple(_concatenated(columns) for columns in zip(*shares, strict=True))
    if isinstance(first, Tensor):
        return torch.cat(shares)
    if isinstance(first, np.ndarray):
        return np.concatenate(shares)
    if isinstance(first, Candidates):
        return Candidates.concatenate(shares)
    return list(chain.from_iterable(shares))
