"""Words as the tokenizer's own pre-tokeniser cuts them, with exact offsets. Sequences are tested in test_encoder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer

from service.text import words as module
from service.text.words import WORD_SHAPES, TableUnit, Words, find_words, split_symbols, word_shape
from tests.tokenizers_ import CHINESE, bert_tokenizer, byte_level_tokenizer, metaspace_tokenizer

E_ACUTE = "e\u0301"  # two characters
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
FLAG = "\U0001f1e8\U0001f1ff"


def cut(text: str, tokenizer: Tokenizer | None = None, unit: TableUnit = "words") -> Words:
    tokenizer = tokenizer or bert_tokenizer()
    split_symbols(tokenizer)
    return find_words(text, tokenizer.encode(text, add_special_tokens=False), unit)


def words_of(text: str, tokenizer: Tokenizer | None = None, unit: TableUnit = "words") -> list[str]:
    words = cut(text, tokenizer, unit)
    return [text[start:end] for start, end in zip(words.starts.tolist(), words.ends.tolist(), strict=True)]


def test_bert_cuts_words_at_blanks_and_punctuation() -> None:
    assert words_of("  Anna's bank,\tthe city.\r\n") == ["Anna", "'", "s", "bank", ",", "the", "city", "."]


@pytest.mark.parametrize("unit", ["words", "pieces"])
def test_every_chinese_character_is_a_word(unit: TableUnit) -> None:
    assert words_of(f"{CHINESE} 北京", unit=unit) == [*CHINESE, "北", "京"]


def test_with_pieces_every_piece_is_a_word() -> None:
    words = cut("Bob zoos", unit="pieces")
    assert words_of("Bob zoos", unit="pieces") == ["Bob", "z", "o", "o", "s"]
    assert words.bounds.tolist() == list(range(len(words.piece_ids) + 1))


def test_the_pieces_of_a_word_lie_between_its_bounds() -> None:
    tokenizer, words = bert_tokenizer(), cut("Anna met zoe")
    pieces = [tokenizer.id_to_token(piece) for piece in words.piece_ids.tolist()]
    assert [pieces[a:b] for a, b in zip(words.bounds, words.bounds[1:], strict=False)] == [
        ["anna"],
        ["met"],
        ["z", "##o", "##e"],
    ]


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_combining_mark_belongs_to_the_word_before_it(lowercase: bool) -> None:
    tokenizer = bert_tokenizer(lowercase=lowercase)
    assert words_of(f"caf{E_ACUTE} caf{E_ACUTE}s {E_ACUTE}", tokenizer) == [f"caf{E_ACUTE}", f"caf{E_ACUTE}s", E_ACUTE]


def test_a_combining_mark_with_nothing_before_it_belongs_to_no_word() -> None:
    assert words_of("\u0301\u0301 bob") == ["bob"]


@pytest.mark.parametrize("emoji", [FAMILY, FLAG, "\U0001f44d\U0001f3fd", "\u2764\ufe0f"])
def test_an_emoji_of_several_characters_is_one_word(emoji: str) -> None:
    assert words_of(f"Anna {emoji} bob") == ["Anna", emoji, "bob"]


@pytest.mark.parametrize("symbol", [*"😍→™®©★°€£✓№♥☕", "👍🏽", "❤\ufe0f", "😍😍😍"])
def test_symbols_beside_a_word_are_words_of_their_own(symbol: str) -> None:
    assert words_of(f"Anna{symbol}bob {symbol}zoe{symbol}") == ["Anna", symbol, "bob", symbol, "zoe", symbol]


def test_a_tokenizer_that_knows_every_byte_keeps_its_words() -> None:
    before = byte_level_tokenizer().pre_tokenizer
    tokenizer = byte_level_tokenizer()
    split_symbols(tokenizer)
    assert type(tokenizer.pre_tokenizer) is type(before)


@pytest.mark.parametrize("invisible", ["\x00", "\u200b", "\ufeff", "\u2060", "\u202e"])
def test_characters_that_bert_drops_belong_to_no_word(invisible: str) -> None:
    assert words_of(f"{invisible}Anna{invisible} {invisible} bob") == ["Anna", "bob"]


@pytest.mark.parametrize("blank", [" ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u2003"])
@pytest.mark.parametrize("build", [bert_tokenizer, byte_level_tokenizer, metaspace_tokenizer])
def test_blanks_of_every_kind_stay_outside_of_words(blank: str, build: Callable[[], Tokenizer]) -> None:
    assert words_of(f"{blank}{blank}Anna{blank}bob{blank}", build()) == ["Anna", "bob"]


@pytest.mark.parametrize("build", [bert_tokenizer, byte_level_tokenizer, metaspace_tokenizer])
def test_right_to_left_words_keep_their_logical_order(build: Callable[[], Tokenizer]) -> None:
    assert words_of("אנה גרה שם مرحبا بكم", build()) == ["אנה", "גרה", "שם", "مرحبا", "بكم"]


def test_words_never_share_a_character_though_one_character_may_decompose_into_several() -> None:
    ligature = "\ufdfa"  # four words in its compatibility decomposition
    assert words_of(f"anna {ligature} bob", metaspace_tokenizer()) == ["anna", ligature, "bob"]


def test_a_character_of_several_byte_pieces_is_one_word_even_with_pieces() -> None:
    assert words_of("b\U0001f600京", byte_level_tokenizer(), unit="pieces") == ["b", "\U0001f600", "京"]


@pytest.mark.parametrize("blank", ["", " ", "\r\n\t", "\u3000", "\u200b\x00"])
def test_a_blank_text_has_no_words(blank: str) -> None:
    assert len(cut(blank)) == 0
    assert cut(blank).bounds.tolist() == [0]


@pytest.mark.parametrize(
    ("word", "shape"),
    [
        ("anna", "lower"),
        ("Anna", "initial"),
        ("A", "capital"),
        ("ABC", "caps"),
        ("McA", "mixed"),
        ("1984", "digits"),
        ("4x4", "alphanumeric"),
        ("...", "punctuation"),
        ("北", "other"),
        ("\U0001f600", "other"),
    ],
)
def test_the_shape_of_a_word_is_its_spelling(word: str, shape: str) -> None:
    assert WORD_SHAPES[word_shape(word)] == shape


def test_shapes_come_from_the_text_and_not_from_lowercased_pieces() -> None:
    assert [WORD_SHAPES[shape] for shape in cut("Anna MET bob 42 .").shape_ids] == [
        "initial",
        "caps",
        "lower",
        "digits",
        "punctuation",
    ]


def test_long_words_are_not_remembered_so_that_hostile_texts_fill_no_memory() -> None:
    known = module._remembered_shape.cache_info().currsize
    for length in range(module.LONGEST_REMEMBERED + 1, module.LONGEST_REMEMBERED + 200):
        assert WORD_SHAPES[word_shape("A" * length)] == "caps"
    assert module._remembered_shape.cache_info().currsize == known
