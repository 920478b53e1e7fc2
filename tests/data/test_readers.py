"""Readers of annotated files: the tag schemes agree, and whatever is malformed is refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.data.readers import Example, WordSpan, _spans_of_tags, read_examples
from service.errors import DataRefused
from service.spans.score import Annotation
from service.spans.types import Entity

WORDS = ["Zoe", "Bell", "met", "Omar", "Diaz", "Rosa", "in", "New", "Town"]
SCHEMES = {  # Zoe Bell | Omar Diaz, Rosa side by side | New Town
    "IOB1": "I-PER I-PER O I-PER I-PER B-PER O I-LOC I-LOC",
    "IOB2": "B-PER I-PER O B-PER I-PER B-PER O B-LOC I-LOC",
    "BIOES": "B-PER E-PER O B-PER E-PER S-PER O B-LOC E-LOC",
    "BILOU": "B-PER L-PER O B-PER L-PER U-PER O B-LOC L-LOC",
}


def write(folder: Path, content: str, name: str = "data.conll") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def columns(tags: str, words: list[str] = WORDS) -> str:
    return "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags.split(), strict=True))


def found(example: Example) -> list[tuple[str, str]]:
    return [(example.text[entity.start : entity.end], entity.label) for entity in example.entities]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_tag_scheme_gives_the_same_entities(scheme: str, tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path, columns(SCHEMES[scheme])))
    assert example.text == "Zoe Bell met Omar Diaz Rosa in New Town"
    assert found(example) == [("Zoe Bell", "PER"), ("Omar Diaz", "PER"), ("Rosa", "PER"), ("New Town", "LOC")]


@st.composite
def tagged(draw: st.DrawFn) -> tuple[list[WordSpan], dict[str, list[str]]]:
    """Random spans side by side or apart, and the tags that each scheme writes for them."""
    spans: list[WordSpan] = []
    tags: dict[str, list[str]] = {"IOB1": [], "IOB2": [], "BIOES": []}
    for label, length in draw(st.lists(st.tuples(st.sampled_from(["", "PER", "LOC"]), st.integers(1, 3)), max_size=8)):
        start = len(tags["IOB2"])
        rest = [f"I-{label}"] * (length - 1)
        if not label:
            for scheme in tags.values():
                scheme += ["O"] * length
            continue
        touches = bool(spans) and spans[-1][1:] == (start, label)
        spans.append((start, start + length, label))
        tags["IOB1"] += [f"B-{label}" if touches else f"I-{label}", *rest]
        tags["IOB2"] += [f"B-{label}", *rest]
        tags["BIOES"] += [f"B-{label}", *rest[1:], f"E-{label}"] if rest else [f"S-{label}"]
    return spans, tags


@settings(derandomize=True, deadline=None, max_examples=200)
@given(drawn=tagged())
def test_any_spans_come_back_from_any_tag_scheme(drawn: tuple[list[WordSpan], dict[str, list[str]]]) -> None:
    spans, tags = drawn
    assert all(_spans_of_tags(scheme_tags) == spans for scheme_tags in tags.values())


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("I-PER B-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("I-PER I-PER", [(0, 2, "PER")]),
        ("I-PER I-LOC", [(0, 1, "PER"), (1, 2, "LOC")]),
        ("B-PER I-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC")]),
        ("I-PER O I-PER", [(0, 1, "PER"), (2, 3, "PER")]),
        ("E-PER I-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("S-PER S-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("B-PER S-PER I-PER", [(0, 1, "PER"), (1, 2, "PER"), (2, 3, "PER")]),
        ("O O", []),
    ],
)
def test_an_entity_begins_at_b_or_s_at_a_new_label_and_behind_a_finished_one(tags: str, spans: list[WordSpan]) -> None:
    assert _spans_of_tags(tags.split()) == spans


def test_a_label_may_hold_a_dash(tmp_path: Path) -> None:
    assert found(read_examples(write(tmp_path, "Zoe B-per-son\nBell I-per-son\n"))[0]) == [("Zoe Bell", "per-son")]


def test_the_word_is_the_first_column_and_the_tag_the_last(tmp_path: Path) -> None:
    assert found(read_examples(write(tmp_path, "Zoe NNP B-NP B-PER\nsang VBD B-VP O\n"))[0]) == [("Zoe", "PER")]


def test_empty_lines_part_sentences_and_docstart_lines_are_passed_over(tmp_path: Path) -> None:
    content = "-DOCSTART- -X- O O\n\nZoe B-PER\n\n \nBell B-PER\n-DOCSTART- -X- O O\r\nRosa B-PER"
    assert [example.text for example in read_examples(write(tmp_path, content))] == ["Zoe", "Bell", "Rosa"]


def test_an_entity_never_runs_on_into_the_next_sentence(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path, "Zoe B-PER\n\nBell I-PER\n"))
    assert [found(example) for example in examples] == [[("Zoe", "PER")], [("Bell", "PER")]]


def test_a_word_with_a_no_break_space_in_it_stays_one_word(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path, "10\u00a0000\tB-NUM\nborn\tO\n"))
    assert (example.text, found(example)) == ("10\u00a0000 born", [("10\u00a0000", "NUM")])


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path: Path) -> None:
    record = json.dumps({"tokens": ["Zoe"], "entities": []})
    assert read_examples(write(tmp_path, "\ufeffZoe O\n"))[0].text == "Zoe"
    assert read_examples(write(tmp_path, f"\ufeff{record}\n", "data.jsonl"))[0].text == "Zoe"


def test_jsonl_reads_nested_entities_over_tokens(tmp_path: Path) -> None:
    record = {"tokens": ["Bank", "of", "Näw", "Town", "."], "entities": [[0, 4, "ORG"], [2, 4, "LOC"]]}
    (example,) = read_examples(write(tmp_path, json.dumps(record) + "\n\n", "data.jsonl"))
    assert example == Example("Bank of Näw Town .", (Entity(0, 16, "ORG"), Entity(8, 16, "LOC")))


def test_a_jsonl_record_without_tokens_is_no_example(tmp_path: Path) -> None:
    content = '{"tokens": [], "entities": []}\n{"tokens": ["Zoe"], "entities": []}\n'
    assert [example.text for example in read_examples(write(tmp_path, content, "data.jsonl"))] == ["Zoe"]


@pytest.mark.parametrize("tag", ["X-PER", "PER", "B-", "-PER", "b-PER", "BI-PER", "o", "B_PER", "-"])
def test_a_malformed_tag_is_refused_with_its_line(tag: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"Zoe B-PER\n\nBell {tag}\n")
    with pytest.raises(DataRefused) as refusal:
        read_examples(path)
    assert str(refusal.value).startswith(f"{path}:3: {tag!r} is no tag")


def test_a_line_of_one_column_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "Zoe B-PER\nBell\n", "data.txt")
    with pytest.raises(DataRefused) as refusal:
        read_examples(path)
    assert str(refusal.value).startswith(f"{path}:2: 'Bell' has one column")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", '{"tokens": [...], '),
        ("[1, 2]", '{"tokens": [...], '),
        ("null", '{"tokens": [...], '),
        ('{"tokens": ["Zoe"]}', "KeyError"),
        ('{"entities": []}', "KeyError"),
        ('{"tokens": ["Zoe"], "entities": [[0, 1]]}', "not enough values"),
        ('{"tokens": ["Zoe"], "entities": [7]}', '{"tokens": [...], '),
        ('{"tokens": ["Zoe"], "entities": null}', '{"tokens": [...], '),
        ('{"tokens": ["Zoe"], "entities": [[0, 2, "PER"]]}', "[0, 2] lies outside the 1 tokens"),
        ('{"tokens": ["Zoe"], "entities": [[-1, 1, "PER"]]}', "[-1, 1] lies outside"),
        ('{"tokens": ["Zoe"], "entities": [[0, 0, "PER"]]}', "[0, 0] lies outside"),
        ('{"tokens": ["Zoe"], "entities": [["0", 1, "PER"]]}', "lies outside"),
        ('{"tokens": ["Zoe"], "entities": [[0, 0.5, "PER"]]}', "lies outside"),
        ('{"tokens": [], "entities": [[0, 1, "PER"]]}', "lies outside the 0 tokens"),
        ('{"tokens": ["Zoe"], "entities": [[0, 1, 7]]}', "label 7 is not a string"),
        ('{"tokens": ["Zoe"], "entities": [[0, 1, ""]]}', "label '' is not"),
        ('{"tokens": ["Zoe", ""], "entities": []}', "tokens must be"),
        ('{"tokens": ["Zoe", 7], "entities": []}', "tokens must be"),
        ('{"tokens": "Zoe", "entities": []}', "tokens must be"),
        ('{"tokens": {"Zoe": 1}, "entities": [[0, 1, "PER"]]}', "tokens must be"),
        ('{"text": "Zoe"}', "KeyError"),
        ('{"text": 7, "entities": []}', "text is 7; expected a string"),
        ('{"text": "Zoe", "entities": [[0, 3, "PER"]]}', "TypeError"),
        ('{"text": "Zoe", "entities": [{"start": 0, "end": 4, "label": "PER"}]}', "[0, 4] lies outside the 3 char"),
        ('{"text": "Zoe", "entities": [{"start": 0, "end": 3, "label": ""}]}', "label '' is not"),
        ('{"text": "Zoe", "entities": [], "ignored": [[2, 1]]}', "[2, 1] lies outside"),
        ('{"text": "Zoe", "entities": [], "source": 7}', "source is 7; expected a name"),
    ],
)
def test_a_malformed_record_is_refused_with_its_line(line: str, complaint: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'{{"tokens": ["Rosa"], "entities": []}}\n\n{line}\n', "data.jsonl")
    with pytest.raises(DataRefused) as refusal:
        read_examples(path)
    assert str(refusal.value).startswith(f"{path}:3: ")
    assert complaint in str(refusal.value)


def test_a_record_may_hold_a_text_as_it_is_with_its_entities_by_character(tmp_path: Path) -> None:
    record = {
        "line": 1,
        "text": "Zoe's\tin  Oslo.",
        "entities": [
            {"start": 0, "end": 3, "text": "Zoe", "label": "PER", "score": 0.9},
            {"start": 10, "end": 14, "text": "Oslo", "label": "LOC", "score": 0.8},
        ],
        "ignored": [[5, 9]],
        "annotated": ["LOC", "PER"],
        "source": "mine",
    }
    (example,) = read_examples(write(tmp_path, json.dumps(record), "data.jsonl"))
    annotation = Annotation(frozenset(("LOC", "PER")), ((5, 9),))
    entities = (Entity(0, 3, "PER"), Entity(10, 14, "LOC"))
    assert example == Example(record["text"], entities, annotation, "mine")


@pytest.mark.parametrize("name", ["data.csv", "data", "data.CONLL"])
def test_an_unknown_suffix_is_refused_and_the_known_ones_listed(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, "Zoe B-PER\n", name)
    with pytest.raises(DataRefused, match=r"\['\.conll', '\.jsonl', '\.txt'\]") as refusal:
        read_examples(path)
    assert str(path) in str(refusal.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder.conll").mkdir()
    for path in (tmp_path / "missing.conll", tmp_path / "folder.conll"):
        with pytest.raises(DataRefused) as refusal:
            read_examples(path)
        assert str(path) in str(refusal.value)


@pytest.mark.parametrize("name", ["data.conll", "data.jsonl"])
@pytest.mark.parametrize("content", ["", "\n\n \n"])
def test_an_empty_file_is_refused_by_name(name: str, content: str, tmp_path: Path) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(DataRefused) as refusal:
        read_examples(path)
    assert str(refusal.value) == f"{path} holds no sentence"


@pytest.mark.parametrize("name", ["data.conll", "data.jsonl"])
def test_a_file_that_is_not_utf8_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes("Zoé B-PER\n".encode("latin-1"))
    with pytest.raises(DataRefused, match="UTF-8") as refusal:
        read_examples(path)
    assert str(path) in str(refusal.value)
