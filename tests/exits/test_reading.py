"""What an exit said: pooled, summed up, decoded, joined and split, each worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from service.exits import confidence
from service.exits import reading as reading_module
from service.exits.reading import MIN_LOG_PROB, Candidates, Cells, Reading
from service.spans.decode import choose, decode
from service.spans.table import SUMMARY
from service.spans.types import FloatArray
from tests.exits import naive_
from tests.exits.tables_ import alone, random_readings, reading_of, without_tables

NUM_WORDS = (4, 1, 3, 1, 6)
CPU = torch.device("cpu")
ON_HOST = ("log_probs", "probs", "labels", "cell_counts", "first_cells")
flat_and_nested = pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])


def reading(seed: int = 0, num_words: Sequence[int] = NUM_WORDS, *, nested: bool = True) -> Reading:
    (found,) = random_readings(num_words, 1, 3, seed, nested=nested)
    return found


def bare(seed: int = 0, num_words: Sequence[int] = NUM_WORDS) -> Reading:
    """The same without its table."""
    (found,) = without_tables([reading(seed, num_words)])
    return found


def of_every_sequence(candidates: Candidates) -> list[list[tuple[float, ...]]]:
    return [[tuple(row) for row in own.tolist()] for own in candidates.split()]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The candidates of every sequence that was decoded, in order."""
    found: list[bytes] = []

    def noted(candidates: FloatArray, *, nested: bool) -> FloatArray:
        found.append(candidates.tobytes())
        return choose(candidates, nested=nested)

    monkeypatch.setattr(reading_module, "choose", noted)
    return found


@pytest.fixture
def summed_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cells of every table whose entropy was worked out, in order."""
    found: list[int] = []

    def noted(table: Tensor) -> Tensor:
        found.append(len(table))
        return confidence.entropy(table)

    monkeypatch.setattr(reading_module, "entropy", noted)
    return found


def candidates_of(one: Reading) -> list[bytes]:
    return [own.tobytes() for own in one.candidates.split()]


# cells


def test_cells_belong_to_their_sequences_in_order() -> None:
    cells = Cells.of([2, 1, 3], CPU)
    assert cells.counts == tuple(cells.sizes.tolist()) == (3, 1, 6)
    assert cells.sequence.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("pool", "expected"),
    [(Cells.sum, [-5.0, 9.0]), (Cells.mean, [-5.0, 3.0]), (Cells.max, [0.0, 6.0])],  # a largest one is never below 0
)
def test_cells_pool_within_each_sequence(pool: Callable[[Cells, torch.Tensor], torch.Tensor], expected: object) -> None:
    pooled = pool(Cells.of([1, 2], CPU), torch.tensor([-5.0, 1.0, 6.0, 2.0]))
    assert pooled.dtype == torch.float64 and pooled.tolist() == expected


def test_the_largest_cell_is_never_below_what_stands_for_none() -> None:
    assert Cells.of([1, 1], CPU).max(torch.tensor([-5.0, 1.0])).tolist() == [0.0, 1.0]


def test_sums_are_of_float64() -> None:
    assert Cells.of([2], CPU).sum(torch.tensor([2.0**24, 1.0, 1.0])).item() == 2**24 + 2


# one reading


@flat_and_nested
def test_spans_are_those_of_every_sequences_own_table(nested: bool) -> None:
    whole = reading(nested=nested)
    for spans, table in zip(whole.spans, naive_.tables_of(whole), strict=True):
        rows = np.array(naive_.candidates(table), dtype=np.float32).reshape(-1, 4)
        assert spans == decode(rows, nested=nested)
        assert {span[:3] for span in spans} == naive_.decoded(table, nested)


def test_a_flat_and_a_nested_model_read_the_same_table_differently() -> None:
    flat, nested = reading(nested=False).span_sets, reading(nested=True).span_sets
    assert flat != nested and all(map(len, flat))


def test_span_sets_do_not_know_probabilities() -> None:
    one = reading()
    surer = Reading(2 * one.table, NUM_WORDS, nested=True)  # as good as log-probabilities here
    assert surer.span_sets == one.span_sets and surer.spans != one.spans


def test_best_and_entropy_are_cell_by_cell() -> None:
    one = reading()
    table = [cell for sequence in naive_.tables_of(one) for cell in sequence]
    assert one.best[0].tolist() == [max(cell) for cell in table]
    assert one.best[1].tolist() == [naive_.argmax(cell) for cell in table]
    assert one.entropy.tolist() == pytest.approx(naive_.entropies(table), abs=1e-6)


def test_the_host_has_the_table_as_logarithms_probabilities_and_labels() -> None:
    one = reading()
    assert one.log_probs.tolist() == one.table.tolist() and one.labels.tolist() == one.best[1].tolist()
    np.testing.assert_allclose(one.probs, one.table.double().exp(), rtol=1e-5)
    assert one.cell_counts.tolist() == [10, 1, 6, 1, 21] and one.first_cells.tolist() == [0, 10, 11, 17, 18]


def test_a_probability_of_zero_has_a_finite_logarithm_on_the_host() -> None:
    certain = reading_of([[0.0, 1.0, 0.0]])
    assert certain.log_probs.tolist() == [[MIN_LOG_PROB, 0.0, MIN_LOG_PROB]]
    assert certain.probs.tolist() == [[pytest.approx(0.0, abs=1e-12), 1.0, pytest.approx(0.0, abs=1e-12)]]


@pytest.mark.parametrize("seed", range(5))
def test_the_summary_is_what_naive_loops_find(seed: int) -> None:
    one = reading(seed)
    assert one.summary.dtype == np.float64 and one.summary.shape == (len(NUM_WORDS), len(SUMMARY))
    for row, table in zip(one.summary_rows, naive_.tables_of(one), strict=True):
        assert row == pytest.approx(naive_.summary(table), rel=1e-5, abs=1e-6)


def test_the_summary_by_hand() -> None:
    one = reading_of([[0.5, 0.5 - 1e-6], [0.9, 0.1], [0.25, 0.75]])
    expected = {"entropy_max": 1.0, "entropy_mean": 0.760091, "confidence_mean": 2.15 / 3, "doubt": 1.086190}
    expected |= {"missed": 0.5, "weakest": 0.25}
    assert {name: one.figure(name)[0] for name in SUMMARY} == pytest.approx(expected, abs=1e-5)


def test_a_figure_has_one_value_a_sequence() -> None:
    one = reading()
    assert [one.figure(name).tolist() for name in SUMMARY] == one.summary.T.tolist()
    assert one.summary_rows == one.summary.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_candidates_are_the_cells_of_entities_in_the_order_of_the_table(seed: int) -> None:
    one = reading(seed)
    assert one.candidates.cells.dtype == np.float32
    assert of_every_sequence(one.candidates) == [naive_.candidates(table) for table in naive_.tables_of(one)]


def test_sequences_without_candidates_keep_their_place() -> None:
    nothing, entity = reading_of([[0.9, 0.1]]), reading_of([[0.2, 0.8]])
    mixed = Reading(torch.cat([one.table for one in (nothing, entity, nothing)]), [1, 1, 1], nested=True)
    assert mixed.candidates.counts == (0, 1, 0) and [len(spans) for spans in mixed.spans] == [0, 1, 0]
    assert nothing.candidates.cells.shape == (0, 4) and nothing.spans == [[]]


def test_summary_and_candidates_do_not_depend_on_batch_mates() -> None:
    for seed in range(20):
        whole = reading(seed)
        apart = [own for (own,) in alone([whole])]
        assert whole.summary.tolist() == [own.summary.tolist()[0] for own in apart]
        assert candidates_of(whole) == [own.candidates.cells.tobytes() for own in apart]


def test_asking_twice_works_it_out_once(decoded: list[bytes], summed_up: list[int]) -> None:
    one = reading()
    assert one.spans is one.spans and one.summary is one.summary and one.candidates is one.candidates
    assert decoded == candidates_of(one) and summed_up == [len(one.table)]


# handed in by the executor


def test_what_is_handed_in_is_not_worked_out() -> None:
    given, other = reading(0), reading(1)
    one = Reading(given.table, NUM_WORDS, nested=True, summary=other.summary, candidates=other.candidates)
    assert one.summary is other.summary and one.candidates is other.candidates
    assert one.spans == other.spans != given.spans


@flat_and_nested
def test_a_reading_without_its_table_says_the_same(nested: bool) -> None:
    given = reading(nested=nested)
    (one,) = without_tables([given])
    assert (one.num_words, one.nested) == (NUM_WORDS, nested)
    assert one.spans == given.spans and one.span_sets == given.span_sets
    assert [one.figure(name).tolist() for name in SUMMARY] == [given.figure(name).tolist() for name in SUMMARY]


def test_a_reading_without_its_table_is_split_and_joined_like_any_other() -> None:
    given, one = reading(), bare()
    for part, same in zip(one.split(), given.split(), strict=True):
        assert (part.spans, part.summary_rows) == (same.spans, same.summary_rows)
        assert of_every_sequence(part.candidates) == of_every_sequence(same.candidates)
    joined = Reading.join([bare(1, [2, 3]), one.split()[4], one.split()[0]])
    assert joined.num_words == (2, 3, 6, 4)
    assert joined.spans == [*reading(1, [2, 3]).spans, given.spans[4], given.spans[0]]
    assert joined.summary_rows == [*reading(1, [2, 3]).summary_rows, given.summary_rows[4], given.summary_rows[0]]


@pytest.mark.parametrize("name", ["table", "best", "entropy", "cells", "log_probs", "probs", "labels"])
def test_whoever_looks_at_a_table_that_was_left_out_is_told_so(name: str) -> None:
    one = bare()
    for asked in (one, one.split()[1], Reading.join(one.split()[:2])):
        with pytest.raises(RuntimeError, match="without its table"):
            getattr(asked, name)


def test_a_fresh_reading_has_nothing_worked_out(decoded: list[bytes], summed_up: list[int]) -> None:
    one = reading()
    again = (one.spans, one.summary_rows)
    assert (one.fresh().spans, one.fresh().summary_rows) == again and one.fresh().table is one.table
    assert decoded == 2 * candidates_of(one) and summed_up == 2 * [len(one.table)]


def test_a_fresh_reading_keeps_what_was_handed_in(decoded: list[bytes]) -> None:
    one = bare()
    assert one.spans == one.fresh().spans and len(decoded) == 2 * len(NUM_WORDS)
    assert one.fresh().summary is one.summary and one.fresh().candidates is one.candidates


# joined and split


@pytest.mark.parametrize("num_words", [NUM_WORDS, [3]])
@flat_and_nested
def test_what_was_split_joins_to_the_same(num_words: Sequence[int], nested: bool) -> None:
    whole = reading(num_words=num_words, nested=nested)
    joined = Reading.join(whole.split())
    assert torch.equal(joined.table, whole.table) and joined.cells.counts == whole.cells.counts
    assert (joined.num_words, joined.nested, joined.spans) == (whole.num_words, nested, whole.spans)
    for name in ON_HOST:
        assert getattr(joined, name).tolist() == getattr(whole, name).tolist()
    assert joined.summary.tolist() == whole.summary.tolist() and candidates_of(joined) == candidates_of(whole)


def test_split_gives_every_sequence_its_own_cells() -> None:
    whole = reading()
    for part, (own,) in zip(whole.split(), alone([whole]), strict=True):
        assert torch.equal(part.table, own.table) and part.num_words == own.num_words and part.nested is own.nested
        assert [getattr(part, name).tolist() for name in ON_HOST] == [getattr(own, name).tolist() for name in ON_HOST]


def test_readings_of_several_sequences_join_in_order() -> None:
    first, second = reading(0, [2, 3]), reading(1, [1, 4])
    joined = Reading.join([first, second])
    assert torch.equal(joined.table, torch.cat([first.table, second.table])) and joined.num_words == (2, 3, 1, 4)
    assert joined.spans == first.spans + second.spans and joined.span_sets == first.span_sets + second.span_sets
    assert [part.spans for part in joined.split()] == [[spans] for spans in joined.spans]


def test_what_was_joined_joins_again() -> None:
    parts = reading().split()
    joined = Reading.join([Reading.join(parts[:2]), parts[2], Reading.join(parts[3:])])
    assert all(one is other for one, other in zip(joined.split(), parts, strict=True))
    assert joined.spans == reading().spans and torch.equal(joined.table, reading().table)


def test_one_reading_is_joined_and_split_to_itself() -> None:
    one = reading(num_words=[3])
    assert Reading.join([one]) is one and one.split() == [one]


def test_parts_share_what_the_whole_has_worked_out(decoded: list[bytes], summed_up: list[int]) -> None:
    whole = reading()
    spans, rows, parts = whole.spans, whole.summary_rows, whole.split()
    assert [part.spans for part in parts] == [[own] for own in spans]
    assert [part.summary_rows for part in parts] == [[row] for row in rows]
    assert Reading.join(parts).spans == spans and Reading.join(parts).summary_rows == rows
    assert decoded == candidates_of(whole) and summed_up == [len(whole.table)]


def test_what_a_part_is_asked_for_at_one_go_is_worked_out_for_the_whole(summed_up: list[int]) -> None:
    whole = reading()
    for part in whole.split():
        assert np.shares_memory(part.summary, whole.summary)
        assert np.shares_memory(part.candidates.cells, whole.candidates.cells) or part.candidates.counts == (0,)
        assert all(np.shares_memory(getattr(part, name), getattr(whole, name)) for name in ("log_probs", "probs"))
        assert part.table.untyped_storage().data_ptr() == whole.table.untyped_storage().data_ptr()
    assert summed_up == [len(whole.table)] and sum(whole.candidates.counts) > len(NUM_WORDS)


def test_what_is_decoded_together_is_known_to_each_and_to_the_whole(decoded: list[bytes]) -> None:
    whole = reading()
    parts = whole.split()
    spans, so_far = Reading.join(parts[1:4]).spans, list(decoded)
    assert [part.spans for part in parts[1:4]] == [[own] for own in spans] and decoded == so_far
    assert Reading.join(parts).spans == whole.spans and whole.spans[1:4] == spans
    assert sorted(decoded) == sorted(candidates_of(whole))  # no part twice


def test_a_reading_is_split_into_the_same_parts_every_time(decoded: list[bytes]) -> None:
    whole = reading()
    assert all(one is other for one, other in zip(whole.split(), whole.split(), strict=True))
    assert Reading.join(whole.split()).spans == whole.spans and decoded == candidates_of(whole)


def test_tables_are_joined_only_when_somebody_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reading()
    spans, parts = whole.spans, whole.split()

    def unwanted(*_: object) -> None:
        raise AssertionError("nobody asked for the table")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "cat", unwanted)
        joined = Reading.join(parts)
        assert joined.spans == spans and joined.summary_rows == whole.summary_rows
        with pytest.raises(AssertionError, match="nobody"):
            _ = joined.table
    assert torch.equal(joined.table, whole.table)
