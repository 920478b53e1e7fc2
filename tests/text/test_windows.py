"""Windows over long sentences: what they hold and what they own. How they become sequences is in test_encoder."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.spans.types import IntArray
from service.text.windows import cut_windows


def bounds_of(lengths: list[int]) -> IntArray:
    return np.cumsum([0, *lengths])


windowed = {
    "lengths": st.lists(st.integers(1, 9) | st.integers(1, 2), min_size=1, max_size=60),
    "max_pieces": st.integers(1, 20),
    "overlap": st.integers(0, 25),
}
seeded = settings(derandomize=True, deadline=None, max_examples=300)


@seeded
@given(**windowed)
def test_owned_words_tile_the_sentence(lengths: list[int], max_pieces: int, overlap: int) -> None:
    windows = cut_windows(bounds_of(lengths), 0, len(lengths), max_pieces, overlap)
    owned = [word for _, _, first, last in windows for word in range(first, last)]
    assert owned == list(range(len(lengths)))


@seeded
@given(**windowed)
def test_a_window_holds_what_it_owns_and_owns_something(lengths: list[int], max_pieces: int, overlap: int) -> None:
    for first, last, own_first, own_last in cut_windows(bounds_of(lengths), 0, len(lengths), max_pieces, overlap):
        assert first <= own_first < own_last <= last


@seeded
@given(**windowed)
def test_only_a_word_alone_overfills_a_window(lengths: list[int], max_pieces: int, overlap: int) -> None:
    for first, last, _, _ in cut_windows(bounds_of(lengths), 0, len(lengths), max_pieces, overlap):
        assert sum(lengths[first:last]) <= max_pieces or last == first + 1


@seeded
@given(**windowed)
def test_neighbouring_windows_share_at_most_the_overlap(lengths: list[int], max_pieces: int, overlap: int) -> None:
    windows = cut_windows(bounds_of(lengths), 0, len(lengths), max_pieces, overlap)
    for left, right in itertools.pairwise(windows):
        assert left[0] < right[0] <= left[1] < right[1]
        assert sum(lengths[right[0] : left[1]]) <= overlap


@seeded
@given(first=st.integers(0, 9), **windowed)
def test_a_later_sentence_is_cut_as_if_it_stood_alone(
    lengths: list[int], max_pieces: int, overlap: int, first: int
) -> None:
    alone = cut_windows(bounds_of(lengths), 0, len(lengths), max_pieces, overlap)
    after = cut_windows(bounds_of([3] * first + lengths), first, first + len(lengths), max_pieces, overlap)
    assert after == [tuple(word + first for word in window) for window in alone]


def test_a_sentence_that_fits_is_one_window_that_owns_all() -> None:
    assert cut_windows(bounds_of([1, 2, 3]), 0, 3, 6, 4) == [(0, 3, 0, 3)]


def test_windows_overlap_and_meet_in_the_middle_of_the_overlap() -> None:
    assert cut_windows(bounds_of([1] * 10), 0, 10, 6, 2) == [(0, 6, 0, 5), (4, 10, 5, 10)]


def test_overlap_is_given_up_before_a_long_word() -> None:
    assert cut_windows(bounds_of([1, 1, 1, 5]), 0, 4, 6, 2) == [(0, 3, 0, 3), (2, 4, 3, 4)]


def test_a_word_longer_than_a_window_stands_alone() -> None:
    assert cut_windows(bounds_of([1, 1, 9, 1, 1]), 0, 5, 4, 2) == [(0, 2, 0, 2), (2, 3, 2, 3), (3, 5, 3, 5)]


def test_only_the_bounds_of_the_sentence_are_looked_at() -> None:
    """Else a text of many sentences would take time quadratic in its length."""

    class OwnAlone:
        def __getitem__(self, key: slice | int) -> IntArray:
            own = {500: 7, 501: 8, 502: 10, 503: 11}
            return np.array([own[at] for at in range(key.start, key.stop)] if isinstance(key, slice) else own[key])

    assert cut_windows(OwnAlone(), 500, 503, 10, 2) == [(500, 503, 500, 503)]  # type: ignore[arg-type]
    assert cut_windows(OwnAlone(), 500, 503, 3, 0) == [(500, 502, 500, 502), (502, 503, 502, 503)]  # type: ignore[arg-type]
