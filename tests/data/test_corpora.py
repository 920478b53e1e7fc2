"""A corpus with labels of its own: what becomes of each label, and which one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.data.corpora import Corpus
from service.data.readers import example_of_words, read_examples
from service.errors import DataRefused
from service.spans.score import WHOLE, Annotation

WORDS = ["Ada", "met", "Bo", "in", "May", "at", "Acme"]
EXAMPLE = example_of_words(WORDS, [(0, 1, "person"), (2, 3, "PER"), (4, 5, "date"), (6, 7, "firm")])
CORPUS = Corpus(
    "train", "dev", "test", annotated=("PER",), labels={"person": "PER"}, ignored=("firm",), no_entities=("date",)
)


def test_labels_are_mapped_ignored_or_dropped_as_the_corpus_says() -> None:
    mapped = CORPUS.mapped(EXAMPLE, Path("train"))
    assert [(mapped.text[e.start : e.end], e.label) for e in mapped.entities] == [("Ada", "PER"), ("Bo", "PER")]
    assert mapped.annotation.labels == {"PER"}
    assert [mapped.text[start:end] for start, end in mapped.annotation.ignored] == ["Acme"]


def test_words_have_the_label_that_the_corpus_fixes_whatever_they_are_marked_as() -> None:
    corpus = replace(CORPUS, annotated=("PER", "MISC"), fixed_labels={"MISC": "Ada Cy"})
    mapped = corpus.mapped(EXAMPLE, Path("train"))
    assert [(mapped.text[e.start : e.end], e.label) for e in mapped.entities] == [("Ada", "MISC"), ("Bo", "PER")]


def test_a_label_that_is_not_described_is_refused_by_name() -> None:
    with pytest.raises(DataRefused, match="train has the label 'city', which the recipe does not name"):
        CORPUS.mapped(example_of_words(WORDS, [(0, 1, "city")]), Path("train"))


def test_a_corpus_without_any_description_keeps_its_labels(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("Ada\tB-person\n", encoding="utf-8")
    (example,) = Corpus("a", "b", "c").read(tmp_path / "a.conll")
    assert (example.entities[0].label, example.annotation) == ("person", WHOLE)


def test_only_what_is_annotated_and_not_ignored_counts() -> None:
    found = {(0, 3, "PER"), (8, 10, "LOC"), (14, 17, "PER")}
    assert Annotation(frozenset({"PER"}), ((15, 20),)).counted(found, ()) == {(0, 3, "PER")}
    assert Annotation(None, ((3, 8),)).counted(found, ()) == found
    assert WHOLE.counted(found, ()) == found


def test_what_is_marked_counts_as_right_though_its_label_is_not_annotated_throughout() -> None:
    gold = {(0, 3, "PER"), (8, 10, "LOC")}
    found = {*gold, (14, 17, "LOC")}
    assert Annotation(frozenset({"PER"})).counted(found, gold) == gold


def test_json_lines_say_what_is_annotated(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"tokens": ["Ada", "met", "Bo"], "entities": [[0, 1, "PER"]], "annotated": ["PER"], "ignored": [[2, 3]]}\n'
    )
    (example,) = read_examples(path)
    assert example.annotation == Annotation(frozenset({"PER"}), ((8, 10),))


@pytest.mark.parametrize("extra", ['"annotated": "PER"', '"annotated": [1]', '"ignored": [[2, 9]]', '"ignored": [2]'])
def test_a_wrong_description_in_a_line_is_refused(tmp_path: Path, extra: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"tokens": ["Ada", "met"], "entities": [], %s}\n' % extra)  # noqa: UP031  (braces)
    with pytest.raises(DataRefused, match=r"a\.jsonl:1"):
        read_examples(path)
