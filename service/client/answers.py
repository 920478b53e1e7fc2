"""Answers a file of texts into a file of answers, in order; after an interruption it goes on after the last answer.

An answer repeats its line's number and all its fields, so that the file stands alone and a changed file of texts is
noticed.
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import groupby, tee
from pathlib import Path
from typing import IO, Any

from ner_client import Client, TextsRefused
from service.client.lines import Line, Source
from service.errors import BadInput

Record = dict[str, Any]  # a line of the file of answers


def answer_file(source: Source, target: Path, client: Client, labels: Sequence[str] = ()) -> Iterator[Record]:
    """Answer every line of `source` into `target`; yield every answer once it is written, an earlier run's first.

    labels: keep only entities of these; empty: all

    A line that cannot be answered gets "error" in place of a result. Raises BadInput for files that cannot be used or
    do not belong together, and the client's ServerLost.
    """
    try:
        with target.open("ab+") as output:
            _claim(output, target)
            lines = source.lines()
            yield from _earlier(output, target, lines, source.path)
            for record in answers(lines, client, labels):
                output.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
                output.flush()
                yield record
    except OSError as error:
        raise BadInput(f"{target} cannot be written: {error.strerror}") from error


def answered_by(target: Path) -> Counter[tuple[str, int]]:
    """Count the answers that are on file, by the model (name@version) and the version of the policy that gave them."""
    found: Counter[tuple[str, int]] = Counter()
    if target.is_file():
        for written in target.read_bytes().splitlines():
            with suppress(ValueError, TypeError, KeyError):  # what is wrong with it is said when it is gone on with
                record = json.loads(written)
                found[record["model"], record["policy_version"]] += 1
    return found


def _claim(output: IO[bytes], target: Path) -> None:
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadInput(f"{target} is being written by another process; wait for it, or end it") from error


def _earlier(output: IO[bytes], target: Path, lines: Iterator[Line], source: Path) -> Iterator[Record]:
    """Yield the answers of an earlier run, each compared with its line; remove a last one that was cut off."""
    advice = f"name another --output for {source}"
    output.seek(0)
    end = 0
    for written in output:
        if not written.endswith(b"\n") and written.startswith(b'{"line": '[: len(written)]):
            output.truncate(end)
            return
        end += len(written)
        try:
            record = json.loads(written)
            number = record["line"]
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{target} holds something else than answers; {advice}") from error
        line = next(lines, None)
        if line is None or not _is_of(record, line):
            raise BadInput(
                f"{target} answers another line {number} than {source} has; {advice}, or remove it to start again"
            )
        yield record


def _is_of(record: Record, line: Line) -> bool:
    """Tell whether an answer that was read is of this line: whether it has all its fields, and no other id or text."""
    names = line.head.keys() | (record.keys() & {"id", "text"})
    return all(json.dumps(record.get(name)) == json.dumps(line.head.get(name)) for name in names)  # as text: NaN is NaN


def answers(lines: Iterator[Line], client: Client, labels: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the answers of lines, in order; several requests are on their way at a time."""
    for has_no_text, run in groupby(lines, key=lambda line: bool(line.problem)):
        if has_no_text:
            yield from ({**line.head, "error": line.problem} for line in run)
        else:
            yield from _answered(run, client, labels)


def _answered(lines: Iterator[Line], client: Client, labels: Sequence[str]) -> Iterator[Record]:
    """Yield the answers of lines that have a text. The client reads on while the first ones wait for theirs."""
    asked, texts = tee(lines)
    results = client.ner_many((line.text for line in texts), return_exceptions=True, labels=labels or None)
    with closing(results):
        for line, result in zip(asked, results, strict=True):
            yield {**line.head, **({"error": str(result)} if isinstance(result, TextsRefused) else result)}
