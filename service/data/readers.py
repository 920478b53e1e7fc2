"""Reads annotated files into texts with gold entities; a malformed line is refused with its file and number.

The words of a sentence are joined by single spaces; from there on, the text is handled like any other text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.errors import DataRefused
from service.spans.score import WHOLE, Annotation
from service.spans.types import Entity

WordSpan = tuple[int, int, str]  # first word, end (exclusive), label
Sentence = tuple[list[str], list[WordSpan], list[tuple[int, int]], frozenset[str] | None, str]  # for example_of_words


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
        examples = [example_of_words(*sentence) for sentence in reader(path)]
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


def read_conll(path: Path) -> Iterator[Sentence]:
    """Read CoNLL columns; yield the words and spans of every sentence. Raises DataRefused for a malformed line.

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
                    yield words, _spans_of_tags(tags), [], None, ""
                words, tags = [], []
                continue
            if len(columns) < 2:
                raise DataRefused(f"{path}:{number}: {line.strip()!r} has one column; expected a word and a tag")
            _check_tag(columns[-1], path, number)
            words.append(columns[0])
            tags.append(columns[-1])
    if words:
        yield words, _spans_of_tags(tags), [], None, ""


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


def read_jsonl(path: Path) -> Iterator[Sentence]:
    """Read one JSON object per line; yield its words and spans. Raises DataRefused for a malformed line.

    An object is {"tokens": [str, ...], "entities": [[first, after the last, label], ...]}; entities may be nested.
    Where not all is annotated, it has "ignored": [[first, after the last], ...] too, and "annotated": [label, ...];
    "source" names the corpus it is from, where a file has texts of several.
    """
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                words, entities = record["tokens"], record["entities"]
                spans = [(first, last, label) for first, last, label in entities]
                ignored = [(first, last) for first, last in record.get("ignored", [])]
                labels, source = record.get("annotated"), record.get("source", "")
            except (ValueError, KeyError, TypeError) as error:
                expected = '{"tokens": [...], "entities": [[first, after the last, label], ...]}'
                raise DataRefused(f"{path}:{number}: expected {expected}: {error!r}") from error
            _check_record(words, [*spans, *((first, last, "ignored") for first, last in ignored)], path, number)
            if not (labels is None or (isinstance(labels, list) and all(isinstance(label, str) for label in labels))):
                raise DataRefused(f"{path}:{number}: annotated is {labels!r}; expected a list of labels")
            if not isinstance(source, str):
                raise DataRefused(f"{path}:{number}: source is {source!r}; expected a name")
            if words:
                yield words, spans, ignored, None if labels is None else frozenset(labels), source


def _check_record(words: object, spans: Sequence[tuple[object, object, object]], path: Path, number: int) -> None:
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise DataRefused(f"{path}:{number}: tokens must be a list of strings that are not empty")
    for first, last, label in spans:
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first < last <= len(words)):
            raise DataRefused(f"{path}:{number}: entity [{first}, {last}] lies outside the {len(words)} tokens")
        if not (isinstance(label, str) and label):
            raise DataRefused(f"{path}:{number}: the label {label!r} is not a string")


Reader = Callable[[Path], Iterator[Sentence]]
READERS: Mapping[str, Reader] = {".conll": read_conll, ".txt": read_conll, ".jsonl": read_jsonl}
