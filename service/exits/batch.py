"""What was worked out of the sequences of one step, remembered once, however they are regrouped afterwards.

What there is to work out, and how, is the business of `service.exits.reading`: its readings look at sequences of
batches, and their figures are properties of the two kinds that are defined here.
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
Size = Callable[[int], int]  # entries that a figure has for a sequence of so many words


class Batch:
    """The sequences of one step, and what is known of them so far.

    It refers to no reading, so that it goes, and its tensors with it, as soon as nobody looks at it any more.

    num_words  of every sequence
    nested     whether decoded entities may contain each other
    given      figures by name, as the executor worked them out itself, or None
    figures    what is known of all sequences, by name: one after another, or a list of items
    items      what is known of single sequences, by name: an item each, or None
    missing    by name, how many of those items are None
    reading    a weak reference to the one that looks at all sequences
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
        """Return the same as the executor gave it, with nothing worked out yet."""
        return Batch(self.num_words, self.nested, self.given)

    def bounds(self, size: Size) -> list[int]:
        """Tell where each sequence's entries begin and where the last one's end: sequences + 1 numbers."""
        found = self._bounds.get(size)
        if found is None:
            found = self._bounds[size] = list(accumulate(map(size, self.num_words), initial=0))
        return found


Stretch = tuple[Batch, int, int]  # sequences of a batch in a row: the first, and the end, exclusive


class View(Protocol):
    """What looks at sequences of batches: a reading."""

    @property
    def stretches(self) -> Sequence[Stretch]:
        """The sequences that it looks at, in order."""

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Self:
        """Look at these."""

    @classmethod
    def all_of(cls, batch: Batch) -> Self:
        """Look at all sequences of a batch."""


class AtOneGo(Generic[T]):
    """A property of a view, worked out for all of a batch at one go and remembered there; a view of it gets its share.

    A share is a slice that copies nothing (of a tuple, of each of its figures). Looking at several stretches copies.
    """

    def __init__(self, work_out: Callable[[Any], T], size: Size) -> None:
        """work_out: what the property is of a view of a whole batch."""
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
        setattr(view, self._name, found)  # hides this property: the next look at it costs nothing
        return found


def per_cell(work_out: Callable[[Any], T]) -> AtOneGo[T]:
    """Make a property of a figure that has an entry for every valid cell."""
    return AtOneGo(work_out, num_cells)


def per_word(work_out: Callable[[Any], T]) -> AtOneGo[T]:
    """Make a property of a figure that has an entry for every word."""
    return AtOneGo(work_out, int)


def per_sequence(work_out: Callable[[Any], T]) -> AtOneGo[T]:
    """Make a property of a figure that has an entry for every sequence."""
    return AtOneGo(work_out, _one)


def _one(num_words: int) -> int:
    return 1


class OneByOne(Generic[T]):
    """A property of a view with an item a sequence, worked out only for sequences that are asked about, each once."""

    def __init__(self, work_out: Callable[[Any], list[T]], is_cheap: Callable[[Batch], bool] = lambda _: False) -> None:
        """work_out: what the property is of a view of sequences of one batch.

        is_cheap: whether it costs least for all sequences of a batch at one go
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
        setattr(view, self._name, found)  # hides this property: the next look at it costs nothing
        return found

    def _asked(self, view: View, batch: Batch, start: int, end: int) -> list[T]:
        """Work out what is missing from start to end."""
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
    """One after another, of whatever kind a figure is."""
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
