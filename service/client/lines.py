"""Reads a file of texts: JSON lines, CSV with a header, or plain text with one text per line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from service.errors import BadInput

STANDARD_INPUT = Path("-")
_OF_A_RESULT = (
    "entities",
    "exit_layer",
    "num_layers",
    "sequences",
    "policy_version",
    "model",
    "timing_ms",
    "exit_policy",
)
OF_THE_ANSWER = frozenset(("line", "text", "given", "error", *_OF_A_RESULT))
"""Names in an answer that no field of a line may take; a line's own fields of these names are kept in `given`."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank; of CSV, one row.

    head     the first fields of its answer: the line's number from 1; its id, if any; its text and further fields, if
             they can be read
    problem  why it has no text; empty if it has one
    """

    head: dict[str, Any]
    problem: str = ""

    @property
    def number(self) -> int:
        """The line's number from 1, of a row its last one; blank lines count, too."""
        number: int = self.head["line"]
        return number

    @property
    def text(self) -> str:
        """The line's text; only a line without a problem has one."""
        text: str = self.head["text"]
        return text


@dataclass(frozen=True, slots=True)
class Source:
    """Says where texts come from.

    path    a file; STANDARD_INPUT, which can be read only once
    kind    one of KINDS; empty: by the suffix of the file, txt for the standard input
    column  the field of a JSON line, or the column of CSV, that holds the text
    """

    path: Path
    kind: str = ""
    column: str = "text"

    def lines(self) -> Iterator[Line]:
        """Yield every line that is not blank.

        Raises BadInput for a file that cannot be read, is of no known kind, or is CSV without the column.
        """
        kind = self.kind or ("txt" if self.is_standard_input else self.path.suffix.removeprefix("."))
        read = KINDS.get(kind)
        if read is None:
            known = [f".{kind}" for kind in KINDS]
            raise BadInput(
                f"{self.path}: unknown suffix {self.path.suffix!r}; expected one of {known}, or --format to say which"
            )
        with self._open() as file:
            yield from read(file, self)

    @property
    def is_standard_input(self) -> bool:
        """Whether the texts come from the standard input."""
        return self.path == STANDARD_INPUT

    def _open(self) -> AbstractContextManager[IO[bytes]]:
        if self.is_standard_input:
            return nullcontext(sys.stdin.buffer)
        try:
            return self.path.open("rb")
        except OSError as error:
            raise BadInput(f"{self.path} cannot be read: {error.strerror}") from error


def _read_lines(file: IO[bytes], parse: Callable[[str], dict[str, Any]]) -> Iterator[Line]:
    for number, line in enumerate(file, 1):  # of bytes, so that only a newline ends a line
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield Line({"line": number, **parse(text.rstrip("\r\n"))})
        except UnicodeDecodeError as error:
            yield Line({"line": number}, f"not UTF-8 ({error})")
        except ValueError as error:
            yield Line({"line": number}, str(error))


def _read_json(file: IO[bytes], source: Source) -> Iterator[Line]:
    expected = f'expected {{"{source.column}": "..."}}, and other fields if you like'

    def parse(line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({error}); {expected}") from error
        if not isinstance(record, dict) or not isinstance(record.get(source.column), str):
            raise ValueError(f'no string as "{source.column}"; {expected}')
        if not isinstance(record.get("id"), str | int | None):
            raise ValueError(f'the "id" is neither a string nor a whole number; {expected}')
        return _fields(record, source.column)

    return _read_lines(file, parse)


def _read_text(file: IO[bytes], source: Source) -> Iterator[Line]:
    return _read_lines(file, lambda line: {"text": line})


def _read_csv(file: IO[bytes], source: Source) -> Iterator[Line]:
    """The header says what separates cells: a comma, a semicolon or a tab, whichever it has most of."""
    csv.field_size_limit(sys.maxsize)  # how long a text may be is for the server to say
    text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    try:
        first = text.readline()
        delimiter = max(",;\t", key=first.count)
        names = next(csv.reader([first], delimiter=delimiter), [])
        if source.column not in names:
            raise BadInput(
                f"{source.path} has no column {source.column!r} in its first line, but {names}; name the column of the "
                "texts by --column"
            )
        rows = csv.reader(text, delimiter=delimiter)
        for row in rows:
            if row:
                yield _row(rows.line_num + 1, row, names, source.column)
    except csv.Error as error:
        raise BadInput(f"{source.path} is no CSV: {error}") from error
    finally:
        text.detach()  # the file is closed by whoever opened it


def _row(number: int, row: Sequence[str], names: Sequence[str], column: str) -> Line:
    if len(row) != len(names):
        return Line({"line": number}, f"{len(row)} cells; the first line has {len(names)}")
    if any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
        return Line({"line": number}, "not UTF-8; convert the file first")
    return Line({"line": number, **_fields(dict(zip(names, row, strict=True)), column)})


def _fields(record: Mapping[str, Any], column: str) -> dict[str, Any]:
    """Return the id, the text and then the other fields; those that an answer has itself are put into `given`."""
    others = {name: value for name, value in record.items() if name not in (column, "id")}
    given = {name: value for name, value in others.items() if name in OF_THE_ANSWER}
    return {
        **({"id": record["id"]} if "id" in record and column != "id" else {}),
        "text": record[column],
        **{name: value for name, value in others.items() if name not in given},
        **({"given": given} if given else {}),
    }


KINDS: Mapping[str, Callable[[IO[bytes], Source], Iterator[Line]]] = {
    "jsonl": _read_json,
    "csv": _read_csv,
    "txt": _read_text,
}
