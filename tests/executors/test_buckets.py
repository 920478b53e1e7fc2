"""The sizes that steps on a GPU are filled up to, and what a step is told."""

from __future__ import annotations

import numpy as np
import pytest

from service.executors.buckets import LONGEST, ROWS, SEQUENCES, UNUSED, Bucket, Kind, laid_out
from tests.models_ import random_sequences

INPUTS = random_sequences((5, 1, 17))
BUCKET = Bucket(64, 4, 32)


def told(kind: Kind, *, before: list[np.ndarray] | None = None) -> dict[str, np.ndarray]:
    after = np.arange(100, 100 + sum(one.num_pieces for one in INPUTS))
    array = laid_out(kind, INPUTS, before or [], after)
    assert array.shape == (kind.size,)
    return {name: array[place] for name, place in kind.places()}


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([3], Bucket(32, 1, 32)),
        ([32], Bucket(32, 1, 32)),
        ([33], Bucket(64, 1, 64)),
        ([20, 3, 9], Bucket(32, 4, 32)),
        ([512, *[3] * 200], Bucket(1_536, 256, 512)),
        ([128] * 64, Bucket(8_192, 64, 128)),
    ],
)
def test_a_step_is_filled_up_to_the_next_sizes(lengths: list[int], expected: Bucket) -> None:
    assert Bucket.of(lengths) == expected


@pytest.mark.parametrize("lengths", [[LONGEST[-1] + 1], [3] * (SEQUENCES[-1] + 1), [1_000] * 9])
def test_what_no_bucket_holds_has_none(lengths: list[int]) -> None:
    assert sum(lengths) <= ROWS[-1] or len(lengths) == 9
    assert Bucket.of(lengths) is None


def test_every_number_has_one_place_and_there_is_no_other() -> None:
    for first in (1, 2):
        for with_exit in (False, True):
            kind = Kind(first, 3, with_exit, with_table=False, bucket=BUCKET)
            places = [place for _, place in kind.places()]
            assert [place.start for place in places] == [0, *(place.stop for place in places[:-1])]
            assert places[-1].stop == kind.size


def test_sequences_beyond_the_last_one_are_empty() -> None:
    found = told(Kind(1, 1, with_exit=True, with_table=False, bucket=BUCKET))
    lengths, words = [one.num_pieces for one in INPUTS], [one.num_words for one in INPUTS]
    assert np.diff(found["cu_seqlens"].view(np.int32)[:5]).tolist() == [*lengths, 0]
    assert np.diff(found["word_starts"]).tolist() == [*words, 0]
    assert np.diff(found["cell_starts"]).tolist() == [15, 1, 153, 0]


def test_rows_beyond_the_last_one_are_read_from_and_written_to_a_row_that_is_nobodys() -> None:
    before = [np.arange(10, 10 + one.num_pieces) for one in INPUTS]
    found = told(Kind(2, 2, with_exit=False, with_table=False, bucket=BUCKET), before=before)
    count = sum(map(len, before))
    assert found["before"].tolist() == [*np.concatenate(before), *[UNUSED] * (64 - count)]
    assert found["after"].tolist() == [*range(100, 100 + count), *[UNUSED] * (64 - count)]
    assert "piece_ids" not in found and "first_piece" not in found


def test_words_are_told_where_their_pieces_lie_among_all_sequences() -> None:
    found = told(Kind(1, 4, with_exit=True, with_table=True, bucket=BUCKET))
    pieces = found["piece_ids"]
    for start, own in zip(found["cu_seqlens"].view(np.int32), INPUTS, strict=False):
        assert pieces[start : start + own.num_pieces].tolist() == own.piece_ids.tolist()
        assert found["positions"][start : start + own.num_pieces].tolist() == list(range(own.num_pieces))
    for name in ("first_piece", "last_piece"):
        expected = np.concatenate([own.piece_ids[getattr(own, name)] for own in INPUTS])
        assert pieces[found[name][: len(expected)]].tolist() == expected.tolist()
