"""Decoding in machine code against decoding in Python."""

from __future__ import annotations

import numpy as np
import pytest

from service.kernels.entities import choose
from service.spans import decode
from service.spans.table import cell_words
from service.spans.types import FloatArray

WORDS = 14
flat_and_nested = pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])


def chosen(cells: FloatArray, nested: bool) -> FloatArray:
    cells = cells.copy()
    return cells[: choose(cells, np.full(len(cells), -1), nested)]


def candidates(of_cells: np.ndarray, log_probs: np.ndarray) -> FloatArray:
    """Some cells of a table, in its order; label 1 or 2."""
    first, last = (words[of_cells] for words in cell_words(WORDS))
    return np.stack([first, last, 1 + of_cells % 2, log_probs], axis=1).astype(np.float32)


@flat_and_nested
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 13, 40, 105])
def test_the_kernel_chooses_what_python_chooses(count: int, nested: bool) -> None:
    random = np.random.default_rng(count)
    for _ in range(50):
        cells = np.sort(random.choice(WORDS * (WORDS + 1) // 2, count, replace=False))
        rows = candidates(cells, np.log(random.uniform(0.3, 1.0, count)))
        assert chosen(rows, nested).tolist() == decode.choose(rows, nested=nested).tolist()


@flat_and_nested
def test_among_equally_probable_ones_the_first_of_the_table_is_chosen(nested: bool) -> None:
    cells = np.arange(WORDS * (WORDS + 1) // 2)
    rows = candidates(cells, np.full(len(cells), -0.5))
    assert chosen(rows, nested).tolist() == decode.choose(rows, nested=nested).tolist()
    assert chosen(rows, nested)[0].tolist() == [0.0, 0.0, 1.0, -0.5]


def test_spans_that_only_touch_are_both_kept_and_those_that_cross_are_not() -> None:
    rows = np.array([[0, 2, 1, -0.1], [2, 4, 1, -0.2], [3, 5, 1, -0.3]], dtype=np.float32)
    for nested in (True, False):
        assert chosen(rows, nested)[:, :2].tolist() == [[0, 2], [3, 5]]


def test_a_span_inside_another_is_kept_by_a_nested_model_alone() -> None:
    rows = np.array([[0, 4, 1, -0.1], [1, 2, 2, -0.2]], dtype=np.float32)
    assert [len(chosen(rows, nested)) for nested in (True, False)] == [2, 1]


def test_what_was_chosen_is_chosen_again() -> None:
    random = np.random.default_rng(0)
    rows = candidates(np.arange(0, 105, 2), np.log(random.uniform(0.3, 1.0, 53)))
    for nested in (True, False):
        once = chosen(rows, nested)
        assert 1 < len(once) < len(rows) and np.array_equal(chosen(once, nested), once)
