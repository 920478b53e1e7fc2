"""The layout of a packed span table. Decoding is tested in test_decode."""

from __future__ import annotations

import pytest

from service.spans import table
from service.spans.table import LONGEST_REMEMBERED, cell_index, cell_words, num_cells


@pytest.mark.parametrize("num_words", [1, 2, 3, 17, 64])
def test_cell_index_agrees_with_cell_words(num_words: int) -> None:
    cells = list(zip(*(words.tolist() for words in cell_words(num_words)), strict=True))
    assert [cell_index(num_words, first, last) for first, last in cells] == list(range(num_cells(num_words)))


def test_cells_are_the_spans_with_first_word_up_to_last_word_row_by_row() -> None:
    first, last = cell_words(3)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


def test_a_table_over_no_words_has_no_cells() -> None:
    assert num_cells(0) == 0
    assert [len(words) for words in cell_words(0)] == [0, 0]


def test_the_shared_cell_words_cannot_be_written_to() -> None:
    for words in cell_words(4):
        with pytest.raises(ValueError, match="read-only"):
            words[0] = 1


def test_only_the_cells_of_short_tables_are_remembered_and_they_come_to_few_bytes() -> None:
    kept = 0
    for num_words in range(LONGEST_REMEMBERED + 20):
        kept += sum(words.nbytes for words in cell_words(num_words)) * (num_words <= LONGEST_REMEMBERED)
    assert table._remembered.cache_info().currsize <= LONGEST_REMEMBERED + 1
    assert cell_words(LONGEST_REMEMBERED) is cell_words(LONGEST_REMEMBERED)
    assert cell_words(LONGEST_REMEMBERED + 1) is not cell_words(LONGEST_REMEMBERED + 1)
    assert kept < 46_000_000
