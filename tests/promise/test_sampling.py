"""Sentences are drawn with a probability that is known before, kept in the bytes that are counted, and forgotten."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from service.errors import BadInput
from service.promise.sampling import MAX_WEIGHT, SampleBuffer, SamplingDesign
from service.text.types import SequenceInput
from tests.models_ import TEXTS, tiny_config, tiny_text_encoder

ENCODER = tiny_text_encoder(tiny_config())
DESIGN = SamplingDesign(0.5, 40_000, longest_pieces=64)


def sequences() -> list[SequenceInput]:
    return [sequence for text in ENCODER.encode_batch(TEXTS) for sequence in text.sequences]


def fill(buffer: SampleBuffer, count: int, seed: int = 0) -> list[tuple[float, bool]]:
    """Offer so many sentences; -> the probability of each, and whether it was drawn."""
    draw, some = np.random.default_rng(seed), sequences()
    return [(buffer.probability, buffer.offer(some[i % len(some)], draw.random())) for i in range(count)]


def test_the_probability_falls_by_halves_while_the_second_half_of_the_buffer_fills() -> None:
    design = SamplingDesign(0.4, 100_000, longest_pieces=10)
    used = [0, 49_999, 50_000, 62_499, 62_500, 75_000, 87_500, 99_000]
    assert [0.4 / design.probability(of) for of in used] == [1, 1, 2, 2, 4, 8, 16, 16]
    assert design.probability(100_000 - design.bytes_of_longest + 1) == 0


def test_what_is_drawn_is_never_dropped_and_the_buffer_stays_within_its_limit() -> None:
    buffer = SampleBuffer(DESIGN)
    drawn = 0
    for _, is_drawn in fill(buffer, 20_000):
        drawn += is_drawn
    assert len(buffer) == drawn == buffer.counts.drawn
    assert 0.8 * DESIGN.limit_bytes < buffer.used_bytes <= DESIGN.limit_bytes
    assert buffer.counts.uncovered > 0 and buffer.counts.offered == 20_000


def test_every_sample_keeps_the_probability_it_was_drawn_with_and_the_lowest_since_the_one_before() -> None:
    buffer = SampleBuffer(DESIGN)
    offered = fill(buffer, 3_000)
    before = 0
    for _ in range(len(buffer)):
        sample = buffer.take()
        probability, is_drawn = offered[sample.position]
        assert is_drawn and sample.probability == probability
        since = [one for one, _ in offered[before : sample.position + 1] if one]
        assert sample.least == min(since)
        assert 1 <= buffer.weight(sample) <= buffer.heaviest(sample) <= MAX_WEIGHT
        before = sample.position + 1


def test_a_short_peak_of_which_nothing_was_drawn_leaves_its_lowest_probability_to_the_next_sample() -> None:
    buffer = SampleBuffer(SamplingDesign(0.5, 20_000, longest_pieces=64))
    (some, *_) = sequences()
    while buffer.probability == 0.5:
        buffer.offer(some, 0.0)
    buffer.offer(some, 0.9)  # offered with 1/4, not drawn
    while len(buffer) > 1:
        buffer.take()
    buffer.offer(some, 0.3)  # drawn with 1/2
    buffer.take()
    sample = buffer.take()
    assert (sample.probability, sample.least) == (0.5, 0.25)
    assert (buffer.weight(sample), buffer.heaviest(sample)) == (1.0, 2.0)


def test_totals_by_weight_are_unbiased_though_peaks_are_sampled_less() -> None:
    """Sentences 0 to 199 are worth 1 each; they arrive faster than samples are run, and the buffer fills."""
    totals = []
    (some, *_) = sequences()
    for seed in range(400):
        draw, buffer, total = np.random.default_rng(seed), SampleBuffer(SamplingDesign(0.5, 24_000, 64)), 0.0
        for _ in range(200):
            buffer.offer(some, draw.random())
        assert not buffer.counts.uncovered and buffer.probability < 0.5
        while len(buffer):
            total += 1 / buffer.take().probability
        totals.append(total)
    error = np.std(totals) / len(totals) ** 0.5
    assert error < 2 and abs(np.mean(totals) - 200) < 3 * error


def test_whether_a_sentence_is_drawn_does_not_depend_on_what_it_is() -> None:
    short, *_, long = sorted(sequences(), key=lambda sequence: sequence.num_pieces)
    for used in range(0, DESIGN.limit_bytes, 997):
        probability = DESIGN.probability(used)
        for sequence in (short, long):
            buffer = SampleBuffer(DESIGN)
            buffer.used_bytes = used
            assert buffer.offer(sequence, probability - 1e-9) == (probability > 0)
            assert not buffer.offer(sequence, probability)


def test_a_sample_is_run_as_what_was_offered_but_its_place_in_the_text_is_not_kept() -> None:
    buffer = SampleBuffer(SamplingDesign(1.0, 1_000_000, longest_pieces=64))
    for offered in sequences():
        buffer.offer(offered, 0.0)
        kept = buffer.take().sequence()
        for name in ("piece_ids", "shape_ids", "first_piece", "last_piece"):
            assert np.array_equal(getattr(kept, name), getattr(offered, name))
        assert kept.owned == offered.owned
        assert kept.word_starts.tolist() == list(range(offered.num_words))


def test_samples_are_taken_in_the_order_in_which_they_came() -> None:
    buffer = SampleBuffer(DESIGN)
    fill(buffer, 300)
    positions = [buffer.take().position for _ in range(len(buffer))]
    assert positions == sorted(positions) and buffer.counts.run == len(positions)
    with pytest.raises(IndexError):
        buffer.take()


def test_the_bytes_that_are_counted_are_at_least_those_that_are_used() -> None:
    buffer, some = SampleBuffer(SamplingDesign(1.0, 400_000, longest_pieces=64)), sequences()
    gc.collect()
    tracemalloc.start()
    try:
        for index in range(2_000):
            buffer.offer(some[index % len(some)], 0.01)
        used, _ = tracemalloc.get_traced_memory()
        assert 0.5 * buffer.used_bytes < used < buffer.used_bytes
        while len(buffer):
            buffer.take()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert buffer.used_bytes == 0 and left < 30_000


def test_an_hour_of_500_sentences_a_second_at_one_in_a_hundred_is_some_megabytes() -> None:
    sentence = max(sequences(), key=lambda sequence: sequence.num_pieces)
    buffer = SampleBuffer(SamplingDesign(1.0, 1_000_000, longest_pieces=64))
    buffer.offer(sentence, 0.0)
    assert 18_000 * buffer.used_bytes < 10_000_000


def test_a_fraction_of_0_draws_nothing_and_needs_no_room() -> None:
    buffer = SampleBuffer(SamplingDesign(0.0, 0, longest_pieces=64))
    assert not any(is_drawn for _, is_drawn in fill(buffer, 100)) and len(buffer) == 0


def test_a_fraction_that_is_none_and_a_buffer_without_room_are_refused() -> None:
    with pytest.raises(BadInput, match=r"is 1\.5; expected a number from 0 to 1"):
        SamplingDesign(1.5, 10_000, 64)
    with pytest.raises(BadInput, match="has 100 bytes, but a sequence of 64 pieces takes"):
        SamplingDesign(0.5, 100, 64)
