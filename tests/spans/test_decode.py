"""Greedy decoding against a naive transcription of Yu et al. (2020), and by hand where the rules have corners."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.spans import decode as decode_module
from service.spans.decode import FEW, decode, keep_compatible
from service.spans.table import cell_words, num_cells
from service.spans.types import FloatArray, Span

Cell = tuple[int, int]  # first and last word, inclusive

seeded = settings(derandomize=True, deadline=None, max_examples=200)
both_models = pytest.mark.parametrize("nested", [True, False])


def naive(cells: dict[Cell, float], nested: bool) -> list[Cell]:
    """Best log-probability first, ties by (start, end); a candidate is kept unless it clashes with a kept one."""
    kept: list[Cell] = []
    for start, end in sorted(cells, key=lambda cell: (-cells[cell], cell)):
        if nested:
            clashes = any(s < start <= e < end or start < s <= end < e for s, e in kept)
        else:
            clashes = any(s <= end and start <= e for s, e in kept)
        if not clashes:
            kept.append((start, end))
    return sorted(kept)


def candidates(cells: dict[Cell, float], label: int = 1) -> FloatArray:
    """In the order of a table."""
    rows = [(first, last, label, cells[first, last]) for first, last in sorted(cells)]
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def decoded(cells: dict[Cell, float], nested: bool) -> list[Cell]:
    return [(span.start, span.end - 1) for span in decode(candidates(cells), nested=nested)]


@st.composite
def candidate_cells(draw: st.DrawFn) -> dict[Cell, float]:
    num_words = draw(st.integers(1, 14))
    cell = st.tuples(st.integers(0, num_words - 1), st.integers(0, num_words - 1)).map(
        lambda ends: (min(ends), max(ends))
    )
    log_prob = st.sampled_from([-0.5, -1.0, -1.5]) | st.floats(-9, 0, width=32)  # few values: many ties
    return draw(st.dictionaries(cell, log_prob, max_size=30))


@both_models
@seeded
@given(cells=candidate_cells())
def test_decode_is_the_naive_greedy_algorithm(cells: dict[Cell, float], nested: bool) -> None:
    assert decoded(cells, nested) == naive(cells, nested)


@both_models
@pytest.mark.parametrize("seed", range(8))
def test_decode_is_the_naive_greedy_algorithm_on_a_table_full_of_candidates(seed: int, nested: bool) -> None:
    generator = np.random.default_rng(seed)
    every_cell = zip(*(words.tolist() for words in cell_words(24)), strict=True)
    scores = np.log(generator.integers(1, 40, num_cells(24)) / 40).astype(np.float32)
    cells = dict(zip(every_cell, scores.tolist(), strict=True))
    assert decoded(cells, nested) == naive(cells, nested)


@both_models
@pytest.mark.parametrize("count", [FEW - 1, FEW, FEW + 1])
def test_few_candidates_and_many_are_sorted_alike(count: int, nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(count)
    starts = generator.integers(0, 20, count)
    ends = (starts + generator.integers(1, 6, count)).tolist()
    costs = generator.choice([0.25, 0.5, 0.75], count).tolist()  # many ties
    kept = keep_compatible(starts.tolist(), ends, costs, nested=nested)
    for few in (0, count):
        monkeypatch.setattr(decode_module, "FEW", few)
        assert keep_compatible(starts.tolist(), ends, costs, nested=nested) == kept


@seeded
@given(cells=candidate_cells())
def test_spans_of_a_flat_model_never_overlap(cells: dict[Cell, float]) -> None:
    spans = decode(candidates(cells), nested=False)
    assert all(left.end <= right.start for left, right in pairwise(spans))


@both_models
def test_spans_that_share_one_word_at_their_ends_cross(nested: bool) -> None:
    assert decoded({(1, 2): -0.1, (2, 3): -0.2}, nested) == [(1, 2)]
    assert decoded({(1, 2): -0.2, (2, 3): -0.1}, nested) == [(2, 3)]


@both_models
def test_spans_side_by_side_are_both_kept(nested: bool) -> None:
    assert decoded({(1, 2): -0.1, (3, 3): -0.2, (0, 0): -3.0}, nested) == [(0, 0), (1, 2), (3, 3)]


@pytest.mark.parametrize("inner", [(1, 1), (2, 2), (3, 3), (1, 2), (2, 3)])
@pytest.mark.parametrize("inner_score", [-0.1, -2.0])
def test_a_span_inside_another_is_kept_by_a_nested_model_and_refused_by_a_flat_one(
    inner: Cell, inner_score: float
) -> None:
    cells = {(1, 3): -1.0, inner: inner_score}
    assert decoded(cells, nested=True) == sorted(cells)
    assert decoded(cells, nested=False) == [inner if inner_score > -1.0 else (1, 3)]


def test_a_refused_span_refuses_no_other() -> None:
    cells = {(2, 3): -0.1, (1, 2): -0.2, (0, 1): -0.3}  # (1, 2) crosses both of its neighbours
    assert decoded(cells, nested=True) == decoded(cells, nested=False) == [(0, 1), (2, 3)]


@both_models
def test_ties_go_to_the_earlier_start_and_then_to_the_earlier_end(nested: bool) -> None:
    assert decoded({(2, 3): -0.5, (1, 2): -0.5}, nested) == [(1, 2)]
    assert decoded({(1, 2): -0.5, (1, 3): -0.5, (3, 4): -0.5}, False) == [(1, 2), (3, 4)]


def test_a_span_carries_its_label_and_its_probability() -> None:
    (span,) = decode(candidates({(0, 1): float(np.log(0.25))}, label=2), nested=True)
    assert span == Span(0, 2, 2, pytest.approx(0.25))
    assert [type(value) for value in span] == [int, int, int, float]


def test_spans_come_in_order_of_start_and_end_whatever_their_scores() -> None:
    cells = {(3, 4): -0.1, (0, 4): -0.2, (0, 1): -0.3, (0, 0): -0.4}
    assert decoded(cells, nested=True) == [(0, 0), (0, 1), (0, 4), (3, 4)]


@both_models
def test_a_table_without_candidates_has_no_spans(nested: bool) -> None:
    assert decode(candidates({}), nested=nested) == []


@both_models
def test_survivors_are_named_by_index_and_cheapest_first(nested: bool) -> None:
    assert keep_compatible([0, 1, 4], [2, 3, 5], [0.3, 0.5, 0.1], nested=nested) == [2, 0]
