"""Sentences cover the text and none is without a letter. Words, windows and pieces are tested beside this file."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.text.sentences import split_sentences

FRAGMENTS = (
    "Anna left.",
    " ",
    "1. ",
    "?!",
    "\n",
    "\r\n",
    "\n\n",
    "Dr. ",
    "北京。",
    "שלום. ",
    "👍🏽 ",
    "e\u0301. ",
    "\u200b",
    "\x00",
)
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=12).map("".join)


def sentences(text: str, language: str = "en") -> list[str]:
    return [text[start:end] for start, end in split_sentences(text, language)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=texts, language=st.sampled_from(["en", "zh", "ar", "xx"]))
def test_sentences_cover_the_text_without_gap_or_overlap(text: str, language: str) -> None:
    assert "".join(sentences(text, language)) == text
    bounds = split_sentences(text, language)
    assert all(start < end for start, end in bounds)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(bounds))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=texts)
def test_no_sentence_is_without_a_letter_unless_the_text_is(text: str) -> None:
    if any(character.isalpha() for character in text):
        assert all(any(character.isalpha() for character in sentence) for sentence in sentences(text))
    else:
        assert len(sentences(text)) == (1 if text else 0)


def test_a_text_is_cut_behind_its_full_stops_and_keeps_the_blank_with_the_left_part() -> None:
    assert sentences("Anna left. Bob stayed.") == ["Anna left. ", "Bob stayed."]


@pytest.mark.parametrize("number", ["1. ", "2.) ", "* ", "— ", "3.5. "])
def test_a_stretch_without_letters_joins_the_sentence_that_follows(number: str) -> None:
    assert sentences(f"Anna left. {number}Bob stayed.") == ["Anna left. ", f"{number}Bob stayed."]


def test_a_tail_without_letters_joins_the_last_sentence() -> None:
    assert sentences("Anna left. Bob stayed. 12. 34.") == ["Anna left. ", "Bob stayed. 12. 34."]


def test_a_text_of_only_digits_and_marks_is_one_sentence() -> None:
    assert sentences("1. 2. 3?\n\n4!") == ["1. 2. 3?\n\n4!"]


@pytest.mark.parametrize("blank_line", ["\n\n", "\r\n\r\n", "\n\n\n"])
def test_a_blank_line_ends_a_sentence_even_without_a_full_stop(blank_line: str) -> None:
    assert [sentence.strip() for sentence in sentences(f"Anna Bell{blank_line}Prague")] == ["Anna Bell", "Prague"]


def test_a_single_line_break_ends_no_sentence() -> None:
    assert len(sentences("Anna met\nBob in\r\nPrague")) == 1


def test_an_abbreviation_ends_no_sentence() -> None:
    assert sentences("Dr. Bell met Mr. Hill.") == ["Dr. Bell met Mr. Hill."]


def test_sentences_of_chinese_need_no_blank() -> None:
    assert sentences("他在北京。我在上海！", "zh") == ["他在北京。", "我在上海！"]


def test_an_empty_text_has_no_sentence() -> None:
    assert split_sentences("", "en") == []
