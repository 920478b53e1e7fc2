"""What an exit said: pooled, summed up, decoded, joined and split, each worked out once."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.exits import confidence
from service.exits import reading as reading_module
from service.exits.candidates import Candidates
from service.exits.reading import MIN_LOG_PROB, Reading
from service.spans.decode import choose, decode
from service.spans.table import SUMMARY, num_cells
from service.spans.types import FloatArray
from tests.exits import naive_
from tests.exits.tables_ import alone, random_readings, reading_of, seeded, without_tables

NUM_WORDS = (4, 1, 3, 1, 6)
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
    return count_decoding(monkeypatch)


@pytest.fixture
def summed_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_entropies(monkeypatch)


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The candidates of every sequence that is decoded from here on, in order."""
    found: list[bytes] = []

    def noted(candidates: FloatArray, *, nested: bool) -> FloatArray:
        found.append(candidates.tobytes())
        return choose(candidates, nested=nested)

    monkeypatch.setattr(reading_module, "choose", noted)
    return found


def count_entropies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cells of every table whose entropy is worked out from here on, in order."""
    found: list[int] = []

    def noted(table: Tensor) -> Tensor:
        found.append(len(table))
        return confidence.entropy(table)

    monkeypatch.setattr(reading_module, "entropy", noted)
    return found


def candidates_of(one: Reading) -> list[bytes]:
    return [own.tobytes() for own in one.candidates.split()]


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


def test_a_fresh_part_or_join_is_of_the_same_sequences(decoded: list[bytes]) -> None:
    parts = [*reading().split(), *reading(1).split()]
    joined = Reading.join([parts[7], parts[2], parts[3]])
    assert joined.fresh().spans == joined.spans == [*parts[7].spans, *parts[2].spans, *parts[3].fresh().spans]
    assert decoded == 2 * [own.tobytes() for own in joined.candidates.split()] + candidates_of(parts[3])


# joined and split


def test_all_parts_of_a_batch_in_order_are_the_batch_itself() -> None:
    whole, other = reading(), reading(1)
    parts = whole.split()
    assert Reading.join(parts) is whole
    assert Reading.join([Reading.join(parts[:3]), Reading.join(parts[3:])]) is whole
    for some in (parts[1:], parts[::-1], [*parts, parts[0]], [*parts, *other.split()], parts[:1]):
        assert Reading.join(some) is not whole
    assert Reading.join(Reading.join(parts[::-1]).split()[::-1]) is whole


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


def test_of_entities_joined_to_candidates_only_the_candidates_are_decoded(decoded: list[bytes]) -> None:
    first, second = reading(0).entities, reading(1).entities
    known, unknown = given_by("entities", 0, NUM_WORDS, True), given_by("candidates", 1, NUM_WORDS, True)
    del decoded[:]
    joined = Reading.join([known, unknown])
    assert of_every_sequence(joined.entities) == of_every_sequence(first) + of_every_sequence(second)
    assert decoded == candidates_of(unknown) and not joined.candidates.are_entities


def test_what_was_joined_joins_again() -> None:
    parts = reading().split()
    joined = Reading.join([Reading.join(parts[3:]), parts[2], Reading.join(parts[:2])])
    tables = reading().table.split([10, 1, 6, 1, 21])
    assert torch.equal(joined.table, torch.cat([tables[index] for index in (3, 4, 2, 0, 1)]))
    assert joined.spans == [reading().spans[index] for index in (3, 4, 2, 0, 1)]


def test_one_reading_is_joined_and_split_to_itself() -> None:
    one = reading(num_words=[3])
    assert Reading.join([one]) is one and one.split() == [one]


def test_parts_share_what_the_whole_has_worked_out(decoded: list[bytes], summed_up: list[int]) -> None:
    whole = reading()
    spans, rows, parts = whole.spans, whole.summary_rows, whole.split()
    assert [part.spans for part in parts] == [[own] for own in spans]
    assert [part.summary_rows for part in parts] == [[row] for row in rows]
    joined = Reading.join(parts[::-1])
    assert joined.spans == spans[::-1] and joined.summary_rows == rows[::-1]
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
        joined = Reading.join(parts[::-1])
        assert joined.spans == spans[::-1] and joined.summary_rows == whole.summary_rows[::-1]
        with pytest.raises(AssertionError, match="nobody"):
            _ = joined.table
    assert torch.equal(joined.table, torch.cat([part.table for part in parts[::-1]]))


def test_a_part_alone_decodes_no_more_than_itself(decoded: list[bytes]) -> None:
    whole = reading()
    spans = whole.split()[2].spans
    assert decoded == candidates_of(whole)[2:3]
    assert whole.spans[2] is spans[0] and sorted(decoded) == sorted(candidates_of(whole))


def test_keys_are_cut_for_the_whole_batch_where_its_entities_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    handed_in = reading()
    decoded, bare = reading(), Reading(None, NUM_WORDS, nested=True, candidates=handed_in.entities)
    keys, spans = handed_in.entity_keys, decoded.spans
    assert spans == handed_in.spans
    assert [one.split()[0].entity_keys for one in (decoded, bare)] == [keys[:1], keys[:1]]
    monkeypatch.setattr(Reading, "entities", property(lambda _: 1 / 0))
    for one in (decoded, bare):
        assert [key for part in one.split() for key in part.entity_keys] == keys


def test_a_batch_goes_with_the_last_reading_of_it() -> None:
    whole = reading()
    part, table = whole.split()[0], ref(whole.table)
    joined = Reading.join([part, reading(1).split()[0]])
    _ = whole.spans, part.spans, joined.spans, joined.summary
    gc.disable()
    try:
        del whole, part
        assert table() is not None
        del joined
        assert table() is None  # without any search for what refers to itself
    finally:
        gc.enable()


# whoever asks, and in whatever order

SIZES: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(("table", "log_probs", "probs", "labels", "entropy"), num_cells),
    "word_uncertainty": int,
    **dict.fromkeys(("cell_counts", "summary", "summary_on_device"), lambda words: 1),
}
OF_ITEMS = ("summary_rows", "spans", "span_sets", "entity_keys")
QUESTIONS = (*SIZES, *OF_ITEMS, "best", "candidates", "entities")


def answers(one: Reading, name: str) -> list[bytes]:
    """What a reading says of every sequence, to the last bit."""
    if name == "best":
        of_both = [np.stack(values, axis=1) for values in zip(*(_by_cell(one, part) for part in one.best), strict=True)]
        return [own.tobytes() for own in of_both]
    found = getattr(one, name)
    if isinstance(found, Candidates):
        return [own.tobytes() for own in found.split()]
    if name in OF_ITEMS:
        return [repr(sorted(own) if name == "span_sets" else own).encode() for own in found]
    ends = np.cumsum([SIZES[name](words) for words in one.num_words])
    return [own.tobytes() for own in np.split(np.asarray(found), ends[:-1])]


def _by_cell(one: Reading, per_cell: Tensor) -> list[FloatArray]:
    return np.split(per_cell.numpy().astype(np.float32), one.first_cells[1:])


def given_by(kind: str, seed: int, num_words: Sequence[int], nested: bool) -> Reading:
    """A batch as an executor gives it that works out nothing, its candidates, or its entities."""
    one = reading(seed, num_words, nested=nested)
    candidates = {"table": None, "candidates": one.candidates, "entities": one.entities}[kind]
    return Reading(one.table, num_words, nested=nested, candidates=candidates)


@seeded
@given(st.data())
def test_a_figure_is_the_same_to_the_last_bit_whoever_asks_first_and_is_worked_out_once(data: st.DataObject) -> None:
    num_words = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    kinds, nested = data.draw(st.permutations(["table", "candidates", "entities"])), data.draw(st.booleans())
    one, other = (given_by(kinds[seed], seed, num_words, nested) for seed in (0, 1))
    expected = {name: answers(one.fresh(), name) + answers(other.fresh(), name) for name in QUESTIONS}
    parts = [*one.split(), *other.split()]
    asked: list[Reading] = [one, other, *parts]
    places = [[*range(len(num_words))], [*range(len(num_words), 2 * len(num_words))], *([i] for i in range(len(parts)))]
    with pytest.MonkeyPatch.context() as patched:
        decoded, summed_up = count_decoding(patched), count_entropies(patched)
        for _ in range(data.draw(st.integers(1, 12))):
            if data.draw(st.booleans()):  # regroup what there is
                members = data.draw(st.lists(st.integers(0, len(asked) - 1), min_size=1, max_size=4))
                asked.append(Reading.join([asked[member] for member in members]))
                places.append([place for member in members for place in places[member]])
            who, name = data.draw(st.integers(0, len(asked) - 1)), data.draw(st.sampled_from(QUESTIONS))
            assert answers(asked[who], name) == [expected[name][place] for place in places[who]]
    assert Counter(decoded) <= Counter(candidates_of(one) + candidates_of(other)) and len(summed_up) <= 2
