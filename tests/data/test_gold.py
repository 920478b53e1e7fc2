"""Gold entities over the sequences of a text, the ones that splitting loses, and the way back to characters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from service.data.gold import gold_spans, label_names
from service.spans.types import Entity, Span
from service.text.encoder import TextConfig, TextEncoder
from tests.tokenizers_ import bert_tokenizer

LABELS = ("LOC", "ORG", "PER")
LABEL_IDS = {label: number for number, label in enumerate(LABELS, 1)}
LETTERS = "a b c d e f g h"  # with six words to a window: words 0 to 5 and 2 to 7


def encoder(window_pieces: int = 256, overlap_pieces: int = 64) -> TextEncoder:
    return TextEncoder(bert_tokenizer(), TextConfig("en", "words", window_pieces, overlap_pieces), LABELS, nested=True)


def entity(text: str, part: str, label: str = "LOC") -> Entity:
    return Entity(text.index(part), text.index(part) + len(part), label)


def gold(text: str, *parts: str, **sizes: int) -> tuple[list[list[tuple[int, int]]], list[str]]:
    """Spans by sequence as (start, end), and the text of the lost entities."""
    entities = [entity(text, part) for part in parts]
    spans, lost = gold_spans(encoder(**sizes).encode(text), entities, LABEL_IDS)
    return [[span[:2] for span in of_sequence] for of_sequence in spans], [text[e.start : e.end] for e in lost]


def test_gold_entities_become_spans_of_words_with_label_numbers() -> None:
    text = "Anna works for Bank of New York."
    entities = [entity(text, "Anna", "PER"), entity(text, "Bank of New York", "ORG"), entity(text, "New York", "LOC")]
    spans, lost = gold_spans(encoder().encode(text), entities, LABEL_IDS)
    assert (spans, lost) == ([[Span(0, 1, 3), Span(3, 7, 2), Span(5, 7, 1)]], [])


def test_every_sentence_counts_its_words_from_zero() -> None:
    assert gold("Anna met Bob. Zoe met Omar.", "Bob", "Zoe", "Omar") == ([[(2, 3)], [(0, 1), (2, 3)]], [])


def test_an_entity_across_a_sentence_boundary_is_lost() -> None:
    text = "Anna met Bob. Zoe met Omar."
    assert gold(text, "Bob. Zoe", "Anna") == ([[(0, 1)], []], ["Bob. Zoe"])


def test_an_entity_in_the_overlap_of_two_windows_is_gold_in_both() -> None:
    assert gold(LETTERS, "c d", window_pieces=8, overlap_pieces=4) == ([[(2, 4)], [(0, 2)]], [])


def test_an_entity_that_only_one_window_holds_whole_is_gold_in_that_one() -> None:
    assert gold(LETTERS, "b c", "e f g", window_pieces=8, overlap_pieces=4) == ([[(1, 3)], [(2, 5)]], [])


def test_an_entity_that_no_window_holds_whole_is_lost() -> None:
    assert gold(LETTERS, "b c d e f g", window_pieces=8, overlap_pieces=4) == ([[], []], ["b c d e f g"])


def test_an_entity_whose_ends_are_no_word_boundaries_is_lost() -> None:
    parts = ("Ann", "nna", "Anna ", " met", "na met Bo")
    assert gold("Anna met Bob.", *parts) == ([[]], list(parts))


def test_entities_of_a_blank_text_or_behind_the_last_word_are_lost() -> None:
    beyond = Entity(3, 5, "LOC")
    for text in ("", "   ", "Bob  "):
        assert gold_spans(encoder().encode(text), [beyond], LABEL_IDS)[1] == [beyond]


def test_a_combining_mark_belongs_to_the_gold_word_that_it_marks() -> None:
    text = "Jose\u0301 met Rene\u0301."
    assert gold(text, "Jose\u0301", "Rene\u0301") == ([[(0, 1), (2, 3)]], [])
    assert gold(text, "Jose")[1] == ["Jose"]


@st.composite
def annotated(draw: st.DrawFn) -> tuple[str, list[Entity]]:
    """A text of words of many scripts, and entities from the start of a word to the end of the same or a later one."""
    word = st.sampled_from(
        ["Anna", "zoe", "co-op", "e\u0301t\u0301", "北", "שלום", "\U0001f44d\U0001f3fd", "4x4", "x" * 9]
    )
    words = draw(st.lists(word, min_size=1, max_size=16))
    blanks = draw(
        st.lists(st.sampled_from([" ", ". ", "\r\n", "\n\n", "\u3000"]), min_size=len(words), max_size=len(words))
    )
    starts = [sum(map(len, words[:i])) + sum(map(len, blanks[:i])) for i in range(len(words))]
    position = st.integers(0, len(words) - 1)
    ranges = draw(st.lists(st.tuples(position, position, st.sampled_from(LABELS)), max_size=6))
    entities = {Entity(starts[min(a, b)], starts[max(a, b)] + len(words[max(a, b)]), label) for a, b, label in ranges}
    text = "".join(word + blank for word, blank in zip(words, blanks, strict=True))
    return text, sorted(entities, key=lambda item: (item.start, -item.end, item.label))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(drawn=annotated())
def test_gold_spans_map_back_to_the_same_characters(drawn: tuple[str, list[Entity]]) -> None:
    text, entities = drawn
    encoded = encoder().encode(text)
    spans, lost = gold_spans(encoded, entities, LABEL_IDS)
    assert encoder().entities(encoded, spans) == [entity for entity in entities if entity not in lost]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(drawn=annotated(), window_pieces=st.sampled_from([6, 9, 14]), overlap_pieces=st.sampled_from([0, 4, 8]))
def test_every_gold_span_of_a_window_names_the_characters_of_an_entity(
    drawn: tuple[str, list[Entity]], window_pieces: int, overlap_pieces: int
) -> None:
    text, entities = drawn
    encoded = encoder(window_pieces, overlap_pieces).encode(text, split=False)
    spans, lost = gold_spans(encoded, entities, LABEL_IDS)
    named = {
        Entity(int(sequence.word_starts[span.start]), int(sequence.word_ends[span.end - 1]), LABELS[span.label - 1])
        for sequence, of_sequence in zip(encoded.sequences, spans, strict=True)
        for span in of_sequence
    }
    assert named == set(entities) - set(lost)


def test_label_names_are_the_labels_that_occur_sorted() -> None:
    examples = [[Entity(0, 1, "PER"), Entity(2, 3, "LOC")], [], [Entity(0, 1, "LOC")]]
    assert label_names(examples) == ("LOC", "PER")
    assert label_names([]) == ()
