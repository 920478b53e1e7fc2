"""A text to sequences of pieces, and decoded spans back to entities, on texts small enough to count by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from tokenizers import Tokenizer

from service.errors import ModelRefused
from service.spans.types import Entity, Span
from service.text import encoder as module
from service.text.encoder import TextConfig, TextEncoder
from service.text.types import EncodedText
from service.text.words import WORD_SHAPES
from tests.tokenizers_ import bert_tokenizer, byte_level_tokenizer, metaspace_tokenizer

LABELS = ("LOC", "PER")
LETTERS = "a b c d e f g h"  # eight words of one piece: with six to a window, words 0 to 5 and 2 to 7


def encoder(*, nested: bool = True, window_pieces: int = 256, overlap_pieces: int = 64) -> TextEncoder:
    config = TextConfig(window_pieces=window_pieces, overlap_pieces=overlap_pieces)
    return TextEncoder(bert_tokenizer(), config, LABELS, nested)


def entities_of_two_windows(nested: bool, left: list[Span], right: list[Span]) -> list[tuple[str, str]]:
    text_encoder = encoder(nested=nested, window_pieces=8, overlap_pieces=4)
    encoded = text_encoder.encode(LETTERS)
    return [(LETTERS[e.start : e.end], e.label) for e in text_encoder.entities(encoded, [left, right])]


@pytest.mark.parametrize("text", ["", "  \r\n\t", "\u200b", "\x00"])
def test_a_text_without_words_has_no_sequences_and_no_entities(text: str) -> None:
    encoded = encoder().encode(text)
    assert encoded.sequences == ()
    assert encoder().entities(encoded, []) == []


def test_each_sentence_is_a_sequence_and_split_false_gives_one() -> None:
    text = "Anna met Bob. Bob works in the city."
    assert [(item.start, item.end) for item in encoder().encode(text).sequences] == [(0, 13), (14, 36)]
    assert [(item.start, item.end) for item in encoder().encode(text, split=False).sequences] == [(0, 36)]


def test_splitting_adds_special_pieces_and_changes_no_other() -> None:
    text = "Anna met Bob. Zoe works in the city. 北京!"
    split, whole = encoder().encode(text).sequences, encoder().encode(text, split=False).sequences
    inner = [piece for sequence in split for piece in sequence.piece_ids[1:-1].tolist()]
    assert inner == whole[0].piece_ids[1:-1].tolist()


def test_the_pieces_of_a_sequence_are_the_tokenizers_own() -> None:
    text = "Anna met zoe's caf\u00e9 in 北京."
    assert encoder().encode(text).sequences[0].piece_ids.tolist() == bert_tokenizer().encode(text).ids


def test_a_sentence_of_only_digits_and_marks_joins_the_next_sequence() -> None:
    text = "Anna met Bob. 1. Bob met Anna."
    assert [text[item.start : item.end] for item in encoder().encode(text).sequences] == [
        "Anna met Bob.",
        "1. Bob met Anna.",
    ]


def test_every_piece_carries_the_shape_of_its_word_and_special_pieces_none() -> None:
    sequence = encoder().encode("Zoe 42").sequences[0]  # z ##o ##e 4 ##2
    shapes = [WORD_SHAPES[shape] for shape in sequence.shape_ids]
    assert shapes == ["other", "initial", "initial", "initial", "digits", "digits", "other"]
    assert sequence.first_piece.tolist() == [1, 4]
    assert sequence.last_piece.tolist() == [3, sequence.num_pieces - 2]


def test_a_long_sentence_becomes_windows_that_fit_and_overlap() -> None:
    sequences = encoder(window_pieces=8, overlap_pieces=2).encode(" ".join("abcdefghijklmnop")).sequences
    assert max(sequence.num_pieces for sequence in sequences) == 8
    assert all(right.start < left.end < right.end for left, right in pairwise(sequences))
    assert sum(last - first for first, last in (sequence.owned for sequence in sequences)) == 16


def test_a_word_longer_than_the_window_keeps_its_offsets_and_loses_only_its_last_pieces() -> None:
    sequence = encoder(window_pieces=8).encode("abcdefghij").sequences[0]
    assert (sequence.start, sequence.end, sequence.num_words) == (0, 10, 1)
    assert sequence.piece_ids.tolist() == [2, *bert_tokenizer().encode("abcdef").ids[1:-1], 3]


def test_spans_of_words_become_entities_of_characters_by_start_and_longer_first() -> None:
    text_encoder = encoder()
    encoded = text_encoder.encode("Bank of New York met Anna")
    entities = text_encoder.entities(encoded, [[Span(5, 6, 2, 0.5), Span(2, 4, 1, 0.75), Span(0, 4, 2), Span(0, 1, 1)]])
    assert entities == [
        Entity(0, 16, "PER"),
        Entity(0, 4, "LOC"),
        Entity(8, 16, "LOC", 0.75),
        Entity(21, 25, "PER", 0.5),
    ]


def test_entities_of_a_later_sentence_count_from_the_start_of_the_text() -> None:
    text_encoder, text = encoder(), "\r\n \U0001f600 Anna met Bob. Bob met Zoe."
    found = text_encoder.entities(text_encoder.encode(text), [[Span(1, 2, 2)], [Span(2, 3, 2)]])
    assert [text[entity.start : entity.end] for entity in found] == ["Anna", "Zoe"]


@pytest.mark.parametrize("nested", [True, False])
def test_an_entity_that_both_windows_of_an_overlap_find_comes_back_once(nested: bool) -> None:
    for first in (2, 3, 4):  # words 2 to 5 lie in both windows; the left one owns 2 and 3
        span = [Span(first, first + 2, 1)]
        expected = [(" ".join(LETTERS.split()[first : first + 2]), "LOC")]
        assert entities_of_two_windows(nested, span, [Span(first - 2, first, 1)]) == expected


def test_a_window_answers_only_for_entities_that_start_in_a_word_it_owns() -> None:
    assert entities_of_two_windows(True, [Span(4, 6, 1)], []) == []
    assert entities_of_two_windows(True, [Span(3, 6, 1)], []) == [("d e f", "LOC")]
    assert entities_of_two_windows(True, [], [Span(1, 3, 1)]) == []
    assert entities_of_two_windows(True, [], [Span(2, 3, 1)]) == [("e", "LOC")]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("left", "right", "kept"), [(0.9, 0.8, "d e f"), (0.8, 0.9, "f g h"), (0.9, 0.9, "d e f")])
def test_crossing_entities_of_neighbouring_windows_are_settled_by_score(
    nested: bool, left: float, right: float, kept: str
) -> None:
    found = entities_of_two_windows(nested, [Span(3, 6, 1, left)], [Span(3, 6, 2, right)])
    assert [text for text, _ in found] == [kept]


def test_an_entity_inside_one_of_the_other_window_stays_in_a_nested_model_only() -> None:
    left, right = [Span(3, 6, 1, 0.8)], [Span(2, 4, 2, 0.9)]
    assert entities_of_two_windows(True, left, right) == [("d e f", "LOC"), ("e f", "PER")]
    assert entities_of_two_windows(False, left, right) == [("e f", "PER")]


def test_a_model_says_something_about_every_sequence_or_it_is_our_bug() -> None:
    encoded = encoder().encode("Anna met Bob. Bob met Anna.")
    with pytest.raises(ValueError, match="zip"):
        encoder().entities(encoded, [[]])


def test_truncation_and_padding_of_a_tokenizer_file_are_switched_off() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    encoded = TextEncoder(tokenizer, TextConfig(), LABELS, nested=False).encode(LETTERS)
    assert encoded.num_pieces == 8 + 2


def test_a_tokenizer_without_special_pieces_is_refused() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.post_processor = None
    with pytest.raises(ModelRefused, match="0 special pieces"):
        TextEncoder(tokenizer, TextConfig(), LABELS, nested=False)


@pytest.mark.parametrize("build", [bert_tokenizer, byte_level_tokenizer, metaspace_tokenizer])
@pytest.mark.parametrize("text", ["\ud800", "Anna \udfff met", "\ud83d\ude00"])
def test_a_lone_surrogate_raises_and_is_never_guessed_at(build: Callable[[], Tokenizer], text: str) -> None:
    text_encoder = TextEncoder(build(), TextConfig(), LABELS, nested=False)
    for encode in (text_encoder.encode, lambda text: text_encoder.encode_batch([text])):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            encode(text)


def test_a_special_piece_written_in_a_text_is_text() -> None:
    encoder = TextEncoder(bert_tokenizer(), TextConfig(), ("PER",), nested=False)
    sequence = encoder.encode("Anna [SEP] met").sequences[0]
    assert sequence.num_words == 5  # the brackets are words of their own
    assert list(sequence.piece_ids).count(sequence.piece_ids[-1]) == 1


def test_texts_are_cut_in_parts_and_whoever_needs_no_more_of_them_stops_between_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text_encoder, batch = encoder(), ["Anna met Ben. " * 50, "", "In Oslo."]
    monkeypatch.setattr(module, "PART_SEQUENCES", 10)
    cutting = text_encoder.cutting(batch)
    parts, found = list[int](), list[EncodedText]()
    while not found:
        try:
            parts.append(next(cutting))
        except StopIteration as done:
            found = done.value
    assert len(parts) > 50 / 10 and set(parts) == {sum(text.num_pieces - 2 * len(text.sequences) for text in found)}
    for one, other in zip(found, text_encoder.encode_batch(batch), strict=True):
        assert [s.piece_ids.tolist() for s in one.sequences] == [s.piece_ids.tolist() for s in other.sequences]
    cutting = text_encoder.cutting(batch)
    next(cutting)
    cutting.close()


def test_a_batch_is_the_same_however_the_tokenizer_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text_encoder, batch = encoder(), ["Anna met Ben.", "", "In Oslo.", "Carla left. Ben stayed."]
    at_once = text_encoder.encode_batch(batch)
    monkeypatch.setattr(module, "SLICE_CHARS", 10)
    again = text_encoder.encode_batch(batch)
    assert [text.text for text in again] == batch
    for one, other in zip(at_once, again, strict=True):
        ids = [[sequence.piece_ids.tolist() for sequence in text.sequences] for text in (one, other)]
        assert ids[0] == ids[1]
