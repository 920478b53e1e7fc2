"""Reads a file of texts line by line: JSON lines (.jsonl), or plain text (.txt) with one text per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import BadInput


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank.

    head     the first fields of its answer: the line's number from 1; its id, if any; its text, if that can be read
    problem  why it has no text; empty if it has one
    """

    head: dict[str, Any]
    problem: str = ""

    @property
    def number(self) -> int:
        """The line's number from 1; blank lines count, too."""
        number: int = self.head["line"]
        return number

    @property
    def text(self) -> str:
        """The line's text; only a line without a problem has one."""
        text: str = self.head["text"]
        return text


def read_lines(path: Path) -> Iterator[Line]:
    """Yield every line that is not blank. Raises BadInput for a file that cannot be read or has another suffix."""
    parse = _PARSERS.get(path.suffix)
    if parse is None:
        raise BadInput(f"{path}: unknown suffix {path.suffix!r}; expected one of {sorted(_PARSERS)}")
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    with file:
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


def _parse_json(line: str) -> dict[str, Any]:
    expected = 'expected {"text": "..."}, and an "id" if you like'
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}); {expected}") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError(f'no string as "text"; {expected}')
    if not isinstance(record.get("id"), str | int | None):
        raise ValueError(f'the "id" is neither a string nor a whole number; {expected}')
    return {name: record[name] for name in ("id", "text") if name in record}


def _parse_text(line: str) -> dict[str, Any]:
    return {"text": line}


_PARSERS: Mapping[str, Callable[[str], dict[str, Any]]] = {".jsonl": _parse_json, ".txt": _parse_text}
