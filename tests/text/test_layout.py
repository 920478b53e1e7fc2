"""Lines, cells and list entries end items; the breaks of wrapped prose do not; the time is linear."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.text import layout
from service.text.layout import item_ends


def items(text: str) -> list[str]:
    bounds = [0, *item_ends(text), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


@pytest.mark.parametrize(
    "parts",
    [
        ["London\n", "Paris\n", "Berlin"],
        ["London\r\n", "Paris\r\n", "Berlin\r\n"],
        ["london\n", "paris\n", "berlin"],
        ["Name: John Smith\n", "City: London"],
        ["By John Smith\n", "LONDON (Reuters) - The bank said on Monday it would go."],
        ["Best regards,\n", "John Smith\n", "Acme Inc.\n", "12 Main Street\n", "London"],
        ["- London\n", "- Paris\n", "* Rome"],
        ["1. London\n", "2. Paris"],
        ["John Smith\t", "London\t", "42\n", "Anna Lind\t", "Oslo"],
        ["| John Smith | ", "London |\n", "| Anna Lind | ", "Oslo |"],
        ["John Smith    ", "London    ", "42"],
        ["play music by adele\n", "weather in paris"],
        ["I was in London yesterday\n", "John says hi"],
        ["Department of Computer Science\n", "Stanford University"],
        ["It ends here.\n", "\nYork is old."],
    ],
)
def test_every_item_of_a_layout_stands_alone(parts: list[str]) -> None:
    assert items("".join(parts)) == parts


@pytest.mark.parametrize(
    "text",
    [
        "She lives in New\nYork with Bob.",
        "He met Angela\nMerkel in Berlin.",
        "President Barack Obama flew to New\r\nYork on Monday.",
        "a letter to Mr.\nBrown of the bank",
        "The quick brown fox jumped over the lazy dog that slept near the river in New\n"
        "York and then decided to rest for a while before it travelled on to San\n"
        "Francisco, where its cousin Anna\n"
        "lived.",
    ],
)
def test_the_breaks_of_wrapped_prose_are_blanks(text: str) -> None:
    assert items(text) == [text]


def test_a_text_without_layout_is_one_item() -> None:
    assert item_ends("Anna met Bob. Zoe left.") == item_ends("") == item_ends("\n") == []


texts = st.text(alphabet=st.sampled_from("aB. \n\r\t|-:1\u2028"), max_size=40)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(text=texts)
def test_ends_lie_in_order_within_the_text_and_behind_a_break_a_tab_a_bar_or_blanks(text: str) -> None:
    ends = item_ends(text)
    assert ends == sorted(set(ends))
    assert all(0 < end < len(text) and re.search(r"[\n\r\t\u2028]\s*$|\| *$| {4}$", text[:end]) for end in ends)


@pytest.mark.parametrize(
    "fragment",
    ["a\n", "\t", "a\t", "a | ", "| ", "    ", "a    ", "Mr. \n", ".", '."', "- ", "a:\n", "x" * 99 + " of\n"],
)
def test_no_line_is_matched_beyond_its_own_length(fragment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    def counted(line: str, following: str, width: int, finished: bool) -> bool:
        nonlocal looked_at
        looked_at += len(line[-layout.MOST_LOOKED_AT :]) + len(following[: layout.MOST_LOOKED_AT])
        return goes_on(line, following, width, finished)

    goes_on = layout._goes_on
    monkeypatch.setattr(layout, "_goes_on", counted)
    text = fragment * (100_000 // len(fragment))
    item_ends(text)
    assert looked_at <= 2 * len(text)
