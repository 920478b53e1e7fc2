"""What an exit said: pooled, joined, split and decoded, each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from service.exits import reading as reading_module
from service.exits.reading import Cells, Reading
from service.spans.decode import decode
from tests.exits import naive_
from tests.exits.tables_ import alone, random_readings

NUM_WORDS = (4, 1, 3, 1, 6)
CPU = torch.device("cpu")
flat_and_nested = pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])


def reading(seed: int = 0, num_words: Sequence[int] = NUM_WORDS, *, nested: bool = True) -> Reading:
    (found,) = random_readings(num_words, 1, 3, seed, nested=nested)
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The words of every sequence that was decoded, in order."""
    num_words: list[int] = []

    def counted(labels: object, log_probs: object, words: int, *, nested: bool) -> object:
        num_words.append(words)
        return decode(labels, log_probs, words, nested=nested)  # type: ignore[arg-type]

    monkeypatch.setattr(reading_module, "decode", counted)
    return num_words


# cells


def test_cells_belong_to_their_sequences_in_order() -> None:
    cells = Cells.of([2, 1, 3], CPU)
    assert cells.counts == (3, 1, 6)
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
    for spans, (own,), table in zip(whole.spans, alone([whole]), naive_.tables_of(whole), strict=True):
        log_probs, labels = own.table.max(dim=1)
        assert spans == decode(labels.numpy(), log_probs.numpy(), own.num_words[0], nested=nested)
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


def test_asking_twice_decodes_once(decoded: list[int]) -> None:
    one = reading()
    assert not one.is_decoded
    assert one.spans is one.spans and one.is_decoded
    assert decoded == list(NUM_WORDS)


# joined and split


@pytest.mark.parametrize("num_words", [NUM_WORDS, [3]])
@flat_and_nested
def test_what_was_split_joins_to_the_same(num_words: Sequence[int], nested: bool) -> None:
    whole = reading(num_words=num_words, nested=nested)
    joined = Reading.join(whole.split())
    assert torch.equal(joined.table, whole.table) and joined.cells.counts == whole.cells.counts
    assert (joined.num_words, joined.nested, joined.spans) == (whole.num_words, nested, whole.spans)


def test_split_gives_every_sequence_its_own_cells() -> None:
    whole = reading()
    for part, (own,) in zip(whole.split(), alone([whole]), strict=True):
        assert torch.equal(part.table, own.table) and part.num_words == own.num_words and part.nested is own.nested


def test_readings_of_several_sequences_join_in_order() -> None:
    first, second = reading(0, [2, 3]), reading(1, [1, 4])
    joined = Reading.join([first, second])
    assert torch.equal(joined.table, torch.cat([first.table, second.table])) and joined.num_words == (2, 3, 1, 4)
    assert joined.spans == first.spans + second.spans
    assert [part.spans for part in joined.split()] == [[spans] for spans in joined.spans]


def test_one_reading_is_joined_and_split_to_itself() -> None:
    one = reading(num_words=[3])
    assert Reading.join([one]) is one and one.split() == [one]


def test_what_was_decoded_stays_so_split_and_joined(decoded: list[int]) -> None:
    whole = reading()
    spans = whole.spans
    parts = whole.split()
    assert all(part.is_decoded for part in parts) and [part.spans for part in parts] == [[own] for own in spans]
    assert Reading.join(parts).is_decoded and Reading.join(parts).spans == spans
    assert decoded == list(NUM_WORDS)


def test_what_is_decoded_together_is_known_to_each(decoded: list[int]) -> None:
    parts = reading().split()
    spans = Reading.join(parts[1:4]).spans
    assert decoded == list(NUM_WORDS[1:4])
    assert [part.is_decoded for part in parts] == [False, True, True, True, False]
    assert [part.spans for part in parts[1:4]] == [[own] for own in spans]
    assert Reading.join(parts).spans == reading().spans
    assert sorted(decoded) == sorted([*NUM_WORDS, *NUM_WORDS])  # the second reading() anew, no part twice


def test_a_reading_is_split_into_the_same_parts_every_time(decoded: list[int]) -> None:
    whole = reading()
    assert all(one is other for one, other in zip(whole.split(), whole.split(), strict=True))
    Reading.join(whole.split()).spans  # noqa: B018, decodes
    assert whole.is_decoded and whole.spans and decoded == list(NUM_WORDS)


def test_tables_are_joined_only_when_somebody_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reading()
    spans, parts = whole.spans, whole.split()

    def unwanted(*_: object) -> None:
        raise AssertionError("nobody asked for the table")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "cat", unwanted)
        joined = Reading.join(parts)
        assert joined.spans == spans
        with pytest.raises(AssertionError, match="nobody"):
            _ = joined.table
    assert torch.equal(joined.table, whole.table)
