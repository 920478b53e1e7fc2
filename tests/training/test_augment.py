"""Changed texts: the gold entities move with their words, and each change does what it says."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.data.readers import Example, example_of_words
from service.training.augment import (
    Augmenter,
    Tokens,
    collect_names,
    item,
    joined,
    titles_outside,
    with_initials,
    with_marks,
    with_other_names,
    with_symbols,
    with_titles,
    with_typos,
    without_punctuation,
)
from service.training.phrases import FORMS, KEYS, PHRASES, TITLES
from service.training.recipe import Augmentation

WORDS = ("Yesterday", "Anna", "Lind", "left", "Oslo", ",", "said", "Acme", ".")
ANNA, OSLO, ACME = (1, 3, "PER"), (4, 5, "LOC"), (7, 8, "ORG")
TOKENS = Tokens(WORDS, (ANNA, OSLO, ACME), ((6, 7),), frozenset({"PER", "LOC", "ORG"}))
NAMES = {"PER": (("Bo", "Ek"),), "LOC": (("New", "Town"),), "ORG": (("Zeta",),)}


def named(tokens: Tokens) -> dict[str, str]:
    return {label: " ".join(tokens.words[first:last]) for first, last, label in tokens.spans}


def many(change: object, tokens: Tokens = TOKENS, count: int = 200) -> list[Tokens]:
    draw = random.Random(1)
    return [change(tokens, draw) for _ in range(count)]  # type: ignore[operator]


def test_tokens_become_the_example_they_were_made_of() -> None:
    example = TOKENS.example()
    assert example.text == " ".join(WORDS)
    assert [example.text[e.start : e.end] for e in example.entities] == ["Anna Lind", "Oslo", "Acme"]
    assert example.annotation.ignored == ((32, 36),) and example.annotation.labels == TOKENS.labels
    assert Tokens.of(example) == TOKENS


def test_what_is_inserted_at_the_edge_of_an_entity_stays_outside_and_what_is_replaced_inside() -> None:
    edited = TOKENS.edited([(1, 1, ["Dr."]), (3, 3, ["!"]), (4, 5, ["New", "Town"]), (5, 6, []), (7, 7, ["*"])])
    assert edited.words == ("Yesterday", "Dr.", "Anna", "Lind", "!", "left", "New", "Town", "said", "*", "Acme", ".")
    assert named(edited) == {"PER": "Anna Lind", "LOC": "New Town", "ORG": "Acme"}
    assert [edited.words[first:last] for first, last in edited.ignored] == [("said",)]


def test_an_entity_without_words_is_left_out() -> None:
    assert named(TOKENS.edited([(4, 5, [])])) == {"PER": "Anna Lind", "ORG": "Acme"}


@settings(derandomize=True, deadline=None, max_examples=300)
@given(data=st.data())
def test_entities_that_no_edit_touches_keep_their_words(data: st.DataObject) -> None:
    edits = []
    position = 0
    while position <= len(WORDS):
        first = data.draw(st.integers(position, len(WORDS)))
        last = data.draw(st.integers(first, min(first + 2, len(WORDS))))
        edits.append((first, last, ["x"] * data.draw(st.integers(0, 2))))
        position = last + 1
    edited = TOKENS.edited(edits)
    for first, last, label in TOKENS.spans:
        if all(e_last <= first or e_first >= last for e_first, e_last, _ in edits):
            assert " ".join(WORDS[first:last]) == named(edited)[label]


def test_names_are_those_that_look_like_names_and_mostly_have_one_label() -> None:
    def example(name: str, label: str) -> Example:
        words = name.split()
        return example_of_words(words, [(0, len(words), label)])

    names = [
        "Anna Lind",
        "the bank",
        "Oslo",
        "oslo",
        "A1",
        "end.",
        "Acme Inc.",
        "U.S.",
        "King",
        "King",
        "@anna",
        "Rome.",
    ]
    labels = ["PER", "ORG", "LOC", "LOC", "ORG", "PER", "ORG", "LOC", "PER", "ORG", "PER", "LOC"]
    assert collect_names([example(*pair) for pair in zip(names, labels, strict=True)]) == {
        "LOC": (("Oslo",), ("U.S.",)),
        "ORG": (("Acme", "Inc."),),
        "PER": (("Anna", "Lind"),),
    }


def test_other_names_take_the_place_of_names_of_their_label() -> None:
    found = many(lambda tokens, draw: with_other_names(tokens, NAMES, draw))
    assert {"PER": "Bo Ek", "LOC": "New Town", "ORG": "Zeta"} in [named(tokens) for tokens in found]
    assert all(named(t)["PER"] in ("Anna Lind", "Bo Ek") for t in found)
    small = TOKENS.respelled(str.lower)
    assert {named(t)["PER"] for t in many(lambda t, draw: with_other_names(t, NAMES, draw), small)} == {
        "anna lind",
        "bo ek",
    }


def test_common_titles_inside_of_persons_are_left_outside() -> None:
    words = ("Mr.", "Dr", "Lind", "met", "Dr", "and", "Pope", "Leo")
    tokens = Tokens(words, ((0, 3, "PER"), (4, 5, "PER"), (6, 8, "PER")))
    assert titles_outside(tokens).spans == ((2, 3, "PER"), (4, 5, "PER"), (6, 8, "PER"))
    assert titles_outside(Tokens(("Dr", "Oetker"), ((0, 2, "ORG"),))).spans == ((0, 2, "ORG"),)


def test_titles_stand_before_persons_and_outside_of_them() -> None:
    for tokens in many(with_titles):
        person = next(span for span in tokens.spans if span[2] == "PER")
        assert named(tokens)["PER"] in ("Anna Lind", "Lind")
        assert tokens.words[person[0] - 1].rstrip(".") in ("Yesterday", *TITLES)
        assert named(tokens) | {"PER": ""} == named(TOKENS) | {"PER": ""}
    assert len({tokens.words for tokens in many(with_titles)}) > 50


def test_initials_are_part_of_the_person() -> None:
    found = {named(tokens)["PER"] for tokens in many(with_initials)}
    assert {"Anna Lind", "A. Lind", "A Lind"} <= found
    assert all(name.endswith("Lind") for name in found)


def test_punctuation_is_left_out_but_not_inside_of_names() -> None:
    tokens = Tokens((",", "U.", ".", "S", ".", "!"), ((1, 4, "LOC"),))
    assert without_punctuation(tokens).words == ("U.", ".", "S")
    assert without_punctuation(Tokens((".", "!"), ())).words == (".", "!")


def test_typos_change_few_words_and_no_entity_bounds() -> None:
    found = many(with_typos)
    changed = [sum(a != b for a, b in zip(t.words, WORDS, strict=True)) for t in found]
    assert 0 < sum(changed) < 0.15 * len(WORDS) * len(found)
    assert all(t.spans == TOKENS.spans for t in found)


@pytest.mark.parametrize("change", [with_marks, with_symbols])
def test_marks_and_symbols_stay_outside_of_names(change: object) -> None:
    found = many(change)
    assert all(named(tokens) == named(TOKENS) for tokens in found)
    assert all(len(tokens.words) > len(WORDS) for tokens in found)


def test_joined_texts_keep_their_entities_and_ignored_words() -> None:
    both = joined([TOKENS, TOKENS])
    assert both.words == WORDS * 2 and both.labels == TOKENS.labels
    assert [both.words[first:last] for first, last, _ in both.spans[3:]] == [("Anna", "Lind"), ("Oslo",), ("Acme",)]
    assert both.ignored == ((6, 7), (15, 16))


def test_items_are_whole_texts_whose_names_are_marked() -> None:
    draw = random.Random(1)
    found = [item({**NAMES, "MISC": (("Opus",),)}, draw) for _ in range(500)]
    assert all(tokens.words and tokens.labels is None for tokens in found)
    assert not any("{" in word for tokens in found for word in tokens.words)
    marked = {label: {named(t)[label] for t in found if label in named(t)} for label in ("PER", "LOC", "ORG", "MISC")}
    assert marked == {"PER": {"Bo Ek"}, "LOC": {"New Town"}, "ORG": {"Zeta"}, "MISC": {"Opus"}}
    known = {"{ANY}", "{NUMBER}", *(f"{{{label}}}" for label in KEYS)}
    assert {part for form in (*FORMS, *PHRASES) for part in form.split() if "{" in part} <= known


def test_an_augmenter_changes_as_often_as_the_rates_say_and_nothing_without_rates() -> None:
    texts = [TOKENS] * 400
    assert Augmenter(Augmentation(), NAMES)(texts, random.Random(1)) == [(TOKENS, True)] * 400
    lower = Augmenter(Augmentation(lower=0.25), NAMES)(texts, random.Random(1))
    assert 70 < sum(tokens.words[1] == "anna" for tokens, _ in lower) < 130
    found = Augmenter(Augmentation(joined=1.0), NAMES)(texts, random.Random(1))
    assert not any(is_split for _, is_split in found)
    assert sum(len(tokens.words) for tokens, _ in found) == 400 * len(WORDS)
    assert 2 * len(WORDS) < max(len(tokens.words) for tokens, _ in found) <= 128 + len(WORDS)
    everything = Augmentation(*[0.5] * 12)
    changed = Augmenter(everything, {**NAMES, "MISC": (("Opus",),)})(texts, random.Random(1))
    assert changed == Augmenter(everything, {**NAMES, "MISC": (("Opus",),)})(texts, random.Random(1))
    for tokens, _ in changed:
        assert replace(Tokens.of(tokens.example()), labels=tokens.labels) == tokens
