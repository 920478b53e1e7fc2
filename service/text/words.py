"""Finds the words and pieces of a text by the backbone's own tokenizer. Sentences and windows are cut elsewhere."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from tokenizers import Encoding, Regex, Tokenizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as Successively

from service.spans.types import IntArray

TableUnit = Literal["words", "pieces"]

WORD_SHAPES = ("other", "lower", "initial", "capital", "caps", "mixed", "digits", "alphanumeric", "punctuation")
_SHAPE_IDS = {shape: index for index, shape in enumerate(WORD_SHAPES)}
LONGEST_REMEMBERED = 32  # characters of a word whose shape is remembered
_ZERO_WIDTH_JOINER = "\u200d"


_SYMBOLS = Regex(r"[\p{So}\p{Sm}\p{Sc}\p{Sk}\x{200D}\x{FE0F}]+")  # emoji, arrows, signs of currency, ™, °, №


def split_symbols(tokenizer: Tokenizer) -> None:
    """Make a run of symbols a word of its own, where BERT's tokenizer would take it and the name beside it for one.

    Its vocabulary knows hardly any such word, so that the name would be lost. Tokenizers that know every byte stay.
    """
    if isinstance(tokenizer.pre_tokenizer, BertPreTokenizer):
        tokenizer.pre_tokenizer = Successively([BertPreTokenizer(), Split(_SYMBOLS, "isolated")])


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Holds the words of one text and their pieces, without special pieces.

    piece_ids     (pieces,) vocabulary ids
    bounds        (words + 1,) the pieces of word w are piece_ids[bounds[w]:bounds[w + 1]]
    starts, ends  (words,) character offsets in the text, ends exclusive
    shape_ids     (words,) class of spelling: an index into WORD_SHAPES
    """

    piece_ids: IntArray
    bounds: IntArray
    starts: IntArray
    ends: IntArray
    shape_ids: IntArray

    def __len__(self) -> int:
        return len(self.starts)


def find_words(text: str, encoding: Encoding, table_unit: TableUnit) -> Words:
    """Return the words of `text`, given its encoding without special pieces.

    With table_unit "pieces", every piece is a word. With "words", a word is what the tokenizer's pre-tokeniser yields:
    for BERT a run of characters between white space, punctuation and symbols, and every CJK character, and every run of
    symbols. Characters that the
    tokenizer drops (control and zero-width characters) belong to no word; combining marks after a word belong to it;
    blanks at its ends do not. Words share no character: where one character has several pieces (bytes of an emoji, a
    decomposed ligature), these pieces are one word.
    """
    ids, offsets = encoding.ids, encoding.offsets
    word_ids = encoding.word_ids if table_unit == "words" else range(len(ids))
    piece_ids: list[int] = []
    bounds: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    last_word_id: int | None = None
    for piece_id, (start, end), word_id in zip(ids, offsets, word_ids, strict=True):
        if start == end or text[start:end].isspace():
            continue
        if word_id == last_word_id or (ends and start < ends[-1]):
            ends[-1] = max(ends[-1], end)
        else:
            bounds.append(len(piece_ids))
            starts.append(start)
            ends.append(end)
        last_word_id = word_id
        piece_ids.append(piece_id)
    bounds.append(len(piece_ids))
    shapes: list[int] = []
    is_ascii = text.isascii()
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        while text[start].isspace():
            start += 1
        while text[end - 1].isspace():
            end -= 1
        if not is_ascii:
            limit = starts[index + 1] if index + 1 < len(starts) else len(text)
            while end < limit and _belongs_to_previous(text[end]):
                end += 1
        starts[index], ends[index] = start, end
        shapes.append(word_shape(text[start:end]))
    return Words(*(np.array(values, dtype=np.int64) for values in (piece_ids, bounds, starts, ends, shapes)))


def _belongs_to_previous(character: str) -> bool:
    return character == _ZERO_WIDTH_JOINER or unicodedata.category(character).startswith("M")


def word_shape(word: str) -> int:
    """Return the class of a word's spelling, an index into `WORD_SHAPES`: what an uncased vocabulary throws away."""
    return _remembered_shape(word) if len(word) <= LONGEST_REMEMBERED else _SHAPE_IDS[_shape_name(word)]


@lru_cache(maxsize=1 << 16)  # of words this short some 10 MB, however hostile the texts
def _remembered_shape(word: str) -> int:
    return _SHAPE_IDS[_shape_name(word)]


def _shape_name(word: str) -> str:
    if not any(character.isalnum() for character in word):
        return "punctuation" if word.isascii() else "other"
    if not any(character.isalpha() for character in word):
        return "digits"
    if any(character.isdigit() for character in word):
        return "alphanumeric"
    if word.islower():
        return "lower"
    if word.isupper():
        return "capital" if len(word) == 1 else "caps"
    if not any(character.isupper() for character in word):
        return "other"
    return "initial" if word[0].isupper() and word[1:].islower() else "mixed"
