"""The whole text path over Unicode of every kind and every family of tokenizers: what must hold for any text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from service.spans.decode import decode
from service.spans.table import cell_words, num_cells
from service.spans.types import Span
from service.text.encoder import TextConfig, TextEncoder
from service.text.types import EncodedText, SequenceInput
from service.text.words import TableUnit, find_words
from tests.tokenizers_ import bert_tokenizer, byte_level_tokenizer, metaspace_tokenizer

LABELS = ("LOC", "PER")
SNIPPETS = (
    *("Anna", " met ", "Bob", "New York", "co-op's", "[SEP]", "##a", "\u2581", "4x4", ". ", "1. ", "?!", "\u2026"),
    *(" ", "   ", "\t", "\n", "\r\n", "\n\n", "\r", "\u00a0", "\u3000", "\u2028", "\x85", "\x1c", "\v"),
    *("北京", "。", "他在上海大学", "東京タワー", "한국어", "नमस्ते", "สวัสดี", "שלום", "مرحبا، ", "\u202eabc\u202c"),
    *("\u0301", "e\u0301", "é", "n\u0303o", "\u200d", "\u200b", "\ufeff", "\u2060", "\x00", "\x1f", "\ufffd"),
    *("\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e8\U0001f1ff", "\U0001f44d\U0001f3fd", "\u2764\ufe0f"),
    *("\ufdfa", "\u00a8", "½", "ﬁn", "İ", "ß", "Ǆ", "\U000e0041", "\U00020000", "x" * 60, "\u0301" * 9, "北" * 40),
)
texts = st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=6), max_size=14).map("".join)
configs = st.builds(
    TextConfig,
    language=st.sampled_from(["en", "zh", "ar"]),
    table_unit=st.sampled_from(["words", "pieces"]),
    window_pieces=st.sampled_from([3, 8, 20, 64]),
    overlap_pieces=st.sampled_from([0, 3, 8, 30]),
)
over_all_texts = given(text=texts, config=configs, split=st.booleans())
seeded = settings(derandomize=True, deadline=None, max_examples=120)
FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "bert": cache(bert_tokenizer),
    "cased": cache(lambda: bert_tokenizer(lowercase=False)),
    "byte_level": cache(byte_level_tokenizer),
    "metaspace": cache(metaspace_tokenizer),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def encode(family: str, text: str, config: TextConfig, split: bool) -> EncodedText:
    return TextEncoder(FAMILIES[family](), config, LABELS, nested=True).encode(text, split=split)


def owned_words(sequence: SequenceInput) -> list[tuple[int, int]]:
    words = list(zip(sequence.word_starts.tolist(), sequence.word_ends.tolist(), strict=True))
    return words[slice(*sequence.owned)]


@every_family
@seeded
@over_all_texts
def test_every_word_is_a_piece_of_the_text_without_blanks_around_it(
    family: str, text: str, config: TextConfig, split: bool
) -> None:
    for sequence in encode(family, text, config, split).sequences:
        for start, end in zip(sequence.word_starts, sequence.word_ends, strict=True):
            assert 0 <= start < end <= len(text)
            assert text[start:end] == text[start:end].strip()


@every_family
@seeded
@over_all_texts
def test_words_and_sequences_are_in_order_and_words_share_no_character(
    family: str, text: str, config: TextConfig, split: bool
) -> None:
    sequences = encode(family, text, config, split).sequences
    assert all((sequence.word_starts[1:] >= sequence.word_ends[:-1]).all() for sequence in sequences)
    owned = [word for sequence in sequences for word in owned_words(sequence)]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(owned))
    starts = [sequence.start for sequence in sequences]
    assert starts == sorted(set(starts))


@every_family
@seeded
@over_all_texts
def test_the_owned_words_of_all_sequences_are_the_words_of_the_text(
    family: str, text: str, config: TextConfig, split: bool
) -> None:
    encoding = FAMILIES[family]().encode(text, add_special_tokens=False)
    words = find_words(text, encoding, config.table_unit)
    sequences = encode(family, text, config, split).sequences
    owned = [word for sequence in sequences for word in owned_words(sequence)]
    assert owned == list(zip(words.starts.tolist(), words.ends.tolist(), strict=True))


@every_family
@seeded
@over_all_texts
def test_every_letter_and_digit_of_a_text_lies_in_a_word(
    family: str, text: str, config: TextConfig, split: bool
) -> None:
    covered = {
        position
        for sequence in encode(family, text, config, split).sequences
        for start, end in owned_words(sequence)
        for position in range(start, end)
    }
    assert {position for position, character in enumerate(text) if character.isalnum()} <= covered


@every_family
@seeded
@over_all_texts
def test_every_sequence_fits_the_window_between_its_special_pieces(
    family: str, text: str, config: TextConfig, split: bool
) -> None:
    specials = FAMILIES[family]().encode("").ids
    for sequence in encode(family, text, config, split).sequences:
        assert 3 <= sequence.num_pieces <= config.window_pieces
        assert [sequence.piece_ids[0], sequence.piece_ids[-1]] == specials
        assert len(sequence.shape_ids) == sequence.num_pieces
        assert sequence.first_piece[0] == 1
        assert (np.diff(sequence.first_piece) > 0).all()
        assert sequence.first_piece[-1] < sequence.num_pieces - 1


def random_spans(sequence: SequenceInput, generator: np.random.Generator, nested: bool) -> list[Span]:
    cells = num_cells(sequence.num_words)
    labels = generator.integers(0, len(LABELS) + 1, cells) * (generator.random(cells) < 0.3)
    scores = np.log(generator.random(cells, dtype=np.float32) + 1e-6)
    table = np.stack([*cell_words(sequence.num_words), labels, scores], axis=1).astype(np.float32)
    return decode(table[labels > 0], nested=nested)


@every_family
@pytest.mark.parametrize("nested", [True, False])
@seeded
@given(text=texts, config=configs, split=st.booleans(), seed=st.integers(0, 999))
def test_entities_of_any_decoded_table_are_ordered_trimmed_and_compatible(
    family: str, nested: bool, text: str, config: TextConfig, split: bool, seed: int
) -> None:
    encoder = TextEncoder(FAMILIES[family](), config, LABELS, nested)
    encoded, generator = encoder.encode(text, split=split), np.random.default_rng(seed)
    entities = encoder.entities(encoded, [random_spans(item, generator, nested) for item in encoded.sequences])
    assert all(0 <= entity.start < entity.end <= len(text) for entity in entities)
    assert all(text[entity.start : entity.end] == text[entity.start : entity.end].strip() for entity in entities)
    ranges = [(entity.start, entity.end) for entity in entities]
    assert ranges == sorted(set(ranges), key=lambda span: (span[0], -span[1]))
    for index, (_start, end) in enumerate(ranges):  # later ones start no earlier
        assert all(other >= end or (nested and other_end <= end) for other, other_end in ranges[index + 1 :])


@every_family
@seeded
@given(batch=st.lists(texts, max_size=4), config=configs)
def test_a_batch_of_texts_is_cut_as_each_text_alone(family: str, batch: list[str], config: TextConfig) -> None:
    encoder = TextEncoder(FAMILIES[family](), config, LABELS, nested=True)
    for text, together in zip(batch, encoder.encode_batch(batch), strict=True):
        alone = encoder.encode(text)
        assert together.text == text
        assert [list(item.piece_ids) for item in together.sequences] == [
            list(item.piece_ids) for item in alone.sequences
        ]
        assert [item.owned for item in together.sequences] == [item.owned for item in alone.sequences]


@every_family
@pytest.mark.parametrize("unit", ["words", "pieces"])
def test_a_long_sentence_of_every_script_comes_back_word_for_word(family: str, unit: TableUnit) -> None:
    text = " ".join(snippet for snippet in SNIPPETS if snippet.isalpha()) * 3
    encoded = encode(family, text, TextConfig(table_unit=unit, window_pieces=32, overlap_pieces=8), split=False)
    words = [text[start:end] for sequence in encoded.sequences for start, end in owned_words(sequence)]
    assert "".join(words) == "".join(text.split())
