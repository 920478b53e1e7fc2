"""Reads annotated files into texts with gold entities; a malformed line is refused with its file and number.

The words of a sentence are joined by single spaces; from there on, the text is handled like any other text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.errors import DataRefused
from service.spans.score import WHOLE, Annotation
from service.spans.types import Entity

WordSpan = tuple[int, int, str]  # first word, end (exclusive), label


@dataclass(frozen=True, slots=True)
class Example:
    """Holds one annotated text, its gold entities, what of it is annotated, and the name of the corpus it is from."""

    text: str
    entities: tuple[Entity, ...]
    annotation: Annotation = WHOLE
    source: str = ""


def read_examples(path: Path) -> list[Example]:
    """Read a file by its suffix (see READERS). Raises DataRefused, with file and line where one is at fault."""
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataRefused(f"{path}: unknown suffix {path.suffix!r}; readers exist for {sorted(READERS)}")
    if not path.is_file():
        raise DataRefused(f"{path} does not exist; expected a data file, below the folder given by --data")
    try:
        examples = list(reader(path))
    except UnicodeDecodeError as error:
        raise DataRefused(f"{path} is not UTF-8 ({error}); convert it first") from error
    if not examples:
        raise DataRefused(f"{path} holds no sentence")
    return examples


def join(examples: Sequence[Example]) -> Example:
    """Join texts in which the same labels are annotated by single spaces into one."""
    entities: list[Entity] = []
    ignored: list[tuple[int, int]] = []
    length = 0
    for example in examples:
        entities += [replace(e, start=e.start + length, end=e.end + length) for e in example.entities]
        ignored += [(start + length, end + length) for start, end in example.annotation.ignored]
        length += len(example.text) + 1
    annotation = replace(examples[0].annotation, ignored=tuple(ignored))
    return Example(" ".join(example.text for example in examples), tuple(entities), annotation)


def example_of_words(
    words: Sequence[str],
    spans: Sequence[WordSpan],
    ignored: Sequence[tuple[int, int]] = (),
    labels: frozenset[str] | None = None,
    source: str = "",
) -> Example:
    """Join words by single spaces into a text.

    ignored, labels: as in Annotation, but by word
    """
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word) + 1

    def characters(first: int, last: int) -> tuple[int, int]:
        return starts[first], starts[last - 1] + len(words[last - 1])

    entities = tuple(Entity(*characters(first, last), label) for first, last, label in spans)
    annotation = Annotation(labels, tuple(characters(first, last) for first, last in ignored))
    return Example(" ".join(words), entities, annotation if labels is not None or ignored else WHOLE, source)


_COLUMN = re.compile(r"[^ \t\r\n]+")  # not \S: a word may hold a no-break space


def read_conll(path: Path) -> Iterator[Example]:
    """Read CoNLL columns; yield every sentence. Raises DataRefused for a malformed line.

    In a line the word is first and its tag last, with tabs or blanks between; an empty line ends a sentence. Tags may
    be IOB1, IOB2 or BIOES (B, I, E, S; also L and U, as in BILOU): an entity begins at B or S, at a change of label,
    and after O or a finished entity; it ends at E or S and before the next one begins. -DOCSTART- lines end a sentence,
    too.
    """
    words: list[str] = []
    tags: list[str] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            columns = _COLUMN.findall(line)
            if not columns or columns[0] == "-DOCSTART-":
                if words:
                    yield example_of_words(words, _spans_of_tags(tags))
                words, tags = [], []
                continue
            if len(columns) < 2:
                raise DataRefused(f"{path}:{number}: {line.strip()!r} has one column; expected a word and a tag")
            _check_tag(columns[-1], path, number)
            words.append(columns[0])
            tags.append(columns[-1])
    if words:
        yield example_of_words(words, _spans_of_tags(tags))


_TAG_PREFIXES = frozenset("BIESLU")


def _check_tag(tag: str, path: Path, number: int) -> None:
    prefix, dash, label = tag.partition("-")
    if tag != "O" and not (prefix in _TAG_PREFIXES and dash and label):
        raise DataRefused(f"{path}:{number}: {tag!r} is no tag; expected O, or one of B- I- E- S- (L- U-) and a label")


def _spans_of_tags(tags: Sequence[str]) -> list[WordSpan]:
    spans: list[WordSpan] = []
    is_open = False
    for index, tag in enumerate(tags):
        prefix, _, label = tag.partition("-")
        if tag == "O":
            is_open = False
            continue
        if not is_open or prefix in "BSU" or spans[-1][2] != label:
            spans.append((index, index + 1, label))
        else:
            spans[-1] = (spans[-1][0], index + 1, label)
        is_open = prefix not in "ESLU"
    return spans


def read_jsonl(path: Path) -> Iterator[Example]:
    """Read one JSON object per line; yield the texts. Raises DataRefused for a malformed line.

    An object is {"tokens": [str, ...], "entities": [[first, after the last, label], ...]}; entities may be nested.
    Or it is {"text": str, "entities": [{"start": ..., "end": ..., "label": ...}, ...]}, by character, as `ask --file`
    writes it and `POST /ner` answers. Where not all is annotated, it has "ignored": [[first, after the last], ...] too,
    and "annotated": [label, ...]; "source" names the corpus it is from, where a file has texts of several.
    """
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                example = _of_characters(record) if "text" in record else _of_words(record)
            except (ValueError, KeyError, TypeError) as error:
                expected = '{"tokens": [...], "entities": [[first, after the last, label], ...]}'
                raise DataRefused(f"{path}:{number}: expected {expected}, or a text: {error!r}") from error
            except DataRefused as error:
                raise DataRefused(f"{path}:{number}: {error}") from error
            if example.text:
                yield example


def _of_words(record: Mapping[str, Any]) -> Example:
    words, entities = record["tokens"], record["entities"]
    spans = [(first, last, label) for first, last, label in entities]
    ignored = [(first, last) for first, last in record.get("ignored", [])]
    labels, source = _rest(record)
    _check_words(words, [*spans, *((first, last, "ignored") for first, last in ignored)])
    return example_of_words(words, spans, ignored, labels, source)


def _of_characters(record: Mapping[str, Any]) -> Example:
    text = record["text"]
    if not isinstance(text, str):
        raise DataRefused(f"text is {text!r}; expected a string")
    entities = tuple(Entity(entity["start"], entity["end"], entity["label"]) for entity in record["entities"])
    ignored = tuple((start, end) for start, end in record.get("ignored", []))
    labels, source = _rest(record)
    _check_spans(
        [*((e.start, e.end, e.label) for e in entities), *((*stretch, "ignored") for stretch in ignored)],
        len(text),
        "characters",
    )
    annotation = Annotation(labels, ignored) if labels is not None or ignored else WHOLE
    return Example(text, entities, annotation, source)


def _rest(record: Mapping[str, Any]) -> tuple[frozenset[str] | None, str]:
    """Return which labels are annotated (None: all), and the name of the corpus."""
    labels, source = record.get("annotated"), record.get("source", "")
    if not (labels is None or (isinstance(labels, list) and all(isinstance(label, str) for label in labels))):
        raise DataRefused(f"annotated is {labels!r}; expected a list of labels")
    if not isinstance(source, str):
        raise DataRefused(f"source is {source!r}; expected a name")
    return None if labels is None else frozenset(labels), source


def _check_words(words: object, spans: Sequence[tuple[object, object, object]]) -> None:
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise DataRefused("tokens must be a list of strings that are not empty")
    _check_spans(spans, len(words), "tokens")


def _check_spans(spans: Sequence[tuple[object, object, object]], length: int, unit: str) -> None:
    for first, last, label in spans:
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first < last <= length):
            raise DataRefused(f"entity [{first}, {last}] lies outside the {length} {unit}")
        if not (isinstance(label, str) and label):
            raise DataRefused(f"the label {label!r} is not a string")


Reader = Callable[[Path], Iterator[Example]]
READERS: Mapping[str, Reader] = {".conll": read_conll, ".txt": read_conll, ".jsonl": read_jsonl}
