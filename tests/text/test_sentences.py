"""Sentences cover the text and none is without a letter. Words, windows and pieces are tested beside this file."""

from __future__ import annotations

import itertools
import time

import pytest
import sentencex
from hypothesis import given, settings
from hypothesis import strategies as st

from service.text import sentences as module
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


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\u2028"])
def test_a_line_break_ends_an_item_and_in_wrapped_prose_only_what_the_full_stops_end(line_break: str) -> None:
    assert sentences(f"Anna{line_break}Bob{line_break}Prague") == [f"Anna{line_break}", f"Bob{line_break}", "Prague"]
    assert len(sentences(f"She lives in New{line_break}York with Bob.")) == 1


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("He went to a bar in Ft. Worth on Monday.", ["He went to a bar in Ft. Worth on Monday."]),
        ("See www.Example.com for it.", ["See www.Example.com for it."]),
        ("She lives in the U.S. She likes it.", ["She lives in the U.S. ", "She likes it."]),
        ("He left Apple Inc. The firm grew.", ["He left Apple Inc. ", "The firm grew."]),
        ("He works in Washington, D.C. But she left.", ["He works in Washington, D.C. ", "But she left."]),
        (
            "He works for Apple Inc. Microsoft Corp. is a rival.",
            ["He works for Apple Inc. ", "Microsoft Corp. is a rival."],
        ),
        ("She lives in the U.S. Google is there.", ["She lives in the U.S. ", "Google is there."]),
        (
            "The U.S. is large and the U.S. Senate was in session.",
            ["The U.S. is large and the U.S. Senate was in session."],
        ),
        ("He left Apple Inc. Chief executives were sad.", ["He left Apple Inc. Chief executives were sad."]),
        ("U.S. Sen. John McCain Jr. said so.", ["U.S. Sen. John McCain Jr. said so."]),
        ("J. R. R. Tolkien wrote it.", ["J. R. R. Tolkien wrote it."]),
    ],
)
def test_abbreviations_end_a_sentence_only_where_another_begins(text: str, cut: list[str]) -> None:
    assert sentences(text) == cut


def test_an_abbreviation_ends_no_sentence() -> None:
    assert sentences("Dr. Bell met Mr. Hill.") == ["Dr. Bell met Mr. Hill."]


def test_sentences_of_chinese_need_no_blank() -> None:
    assert sentences("他在北京。我在上海！", "zh") == ["他在北京。", "我在上海！"]


def test_an_empty_text_has_no_sentence() -> None:
    assert split_sentences("", "en") == []


# long texts, which are read in chunks

PROSE = (
    "Anna left. ",
    "Bob stayed in Berlin, as he had said.\n",
    "Did Dr. Smith see it? ",
    "Yes!\n\n",
    "1. The first of two items\n\n",
    "Prices rose by 3.5 per cent on Monday. ",
    "北京很大。",
    'He said: "We agree. It is done. We go now." Then they left. ',
    "«Il pleut. Il neige.» Anna laughed. ",
    "Ben (who came late. Very late.) sat down. ",
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(parts=st.lists(st.sampled_from(PROSE), min_size=20, max_size=60), chunk=st.integers(150, 300))
def test_prose_is_split_alike_whatever_the_chunks(parts: list[str], chunk: int) -> None:
    text = "".join(parts)
    at_once = split_sentences(text, "en")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_CHARS", chunk)
        assert split_sentences(text, "en") == at_once


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=texts, chunk=st.integers(1, 8))
def test_chunks_cover_every_text_without_gap_or_overlap(text: str, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_CHARS", chunk)
        assert "".join(sentences(text)) == text


def test_a_sentence_longer_than_a_chunk_is_not_cut() -> None:
    long = "word and " * 3_000 + "end. "
    assert sentences(f"{long}Anna left.") == [long, "Anna left."]


@pytest.mark.parametrize("fragment", ["“", "a\n\n", "1. ", "漢。", "Mr. ", "a", " ", "x. “", "A. " + "b" * 9_000 + " "])
def test_the_segmenter_reads_no_text_more_than_about_twice_and_never_much_at_a_time(
    fragment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    segment = sentencex.get_sentence_boundaries
    monkeypatch.setattr(
        sentencex, "get_sentence_boundaries", lambda of, text: read.append(len(text)) or segment(of, text)
    )
    text = fragment * (50_000 // len(fragment))
    assert "".join(sentences(text)) == text
    assert max(read) <= module.CHUNK_CHARS and sum(read) <= 2 * len(text) + module.CHUNK_CHARS  # so its time is linear


def test_no_character_is_looked_at_twice_for_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(str):
        looked_at = 0

        def __getitem__(self, key: object) -> str:
            found = super().__getitem__(key)  # type: ignore[index]
            Counted.looked_at += len(found)
            return found

    text = Counted("1. " * 5_000)
    split_sentences(text, "en")
    assert Counted.looked_at <= 4 * len(text)


@pytest.mark.parametrize(
    "fragment",
    ["A.", "A. ", "U.S. ", "Inc. ", "Inc. A Inc. ", "the U.S. Aa is ", "Ft. ", "a\n", "a\t", "a | ", " ", ". ", "“"],
)
def test_the_time_for_twice_the_text_is_about_twice_as_long(fragment: str) -> None:
    def seconds(chars: int) -> float:
        text = fragment * (chars // len(fragment))
        return min(timed(text) for _ in range(3))

    def timed(text: str) -> float:
        started = time.process_time()
        split_sentences(text, "en")
        return time.process_time() - started

    assert seconds(80_000) < 3 * seconds(40_000) + 0.01  # with the square it would be four times as long
