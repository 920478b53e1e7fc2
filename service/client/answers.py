"""Answers a file of texts into a file of answers, in order; after an interruption it goes on after the last answer.

An answer repeats its line's number and all its fields, so that the file stands alone and a changed file of texts is
noticed.
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from service.client.http import NerClient, TextsRefused
from service.client.lines import Line, Source
from service.errors import BadInput

_IN_FLIGHT = 4  # requests at a time: the server works on one while others are on their way
_CHUNK_TEXTS, _CHUNK_CHARS = 32, 50_000  # of one request: far below the server's limits

Record = dict[str, Any]  # a line of the file of answers


def answer_file(source: Source, target: Path, client: NerClient, labels: Sequence[str] = ()) -> Iterator[Record]:
    """Answer every line of `source` into `target`; yield every answer once it is written, an earlier run's first.

    labels: keep only entities of these; empty: all

    A line that cannot be answered gets "error" in place of a result. Raises BadInput for files that cannot be used or
    do not belong together, and ServerLost.
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


def answers(lines: Iterator[Line], client: NerClient, labels: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the answers of lines, in order; several requests are on their way at a time."""
    pending: deque[Future[list[Record]]] = deque()
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        try:
            for chunk in _chunks(lines):
                pending.append(pool.submit(_ask, client, chunk, labels))
                if len(pending) > _IN_FLIGHT:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            client.stop()
            pool.shutdown(cancel_futures=True)


def _chunks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    num_chars = 0
    for line in lines:
        length = 0 if line.problem else len(line.text)
        if chunk and (len(chunk) == _CHUNK_TEXTS or num_chars + length > _CHUNK_CHARS):
            yield chunk
            chunk, num_chars = [], 0
        chunk.append(line)
        num_chars += length
    if chunk:
        yield chunk


def _ask(client: NerClient, chunk: Sequence[Line], labels: Sequence[str]) -> list[Record]:
    """Return the answers of a chunk; ask for all its texts at once or, if the server refuses that, for each alone."""
    readable = [line for line in chunk if not line.problem]
    try:
        results = iter(client.ner([line.text for line in readable], labels) if readable else [])
    except TextsRefused as refusal:
        if len(chunk) > 1:
            return [record for line in chunk for record in _ask(client, [line], labels)]
        return [{**line.head, "error": str(refusal)} for line in chunk]
    return [{**line.head, **({"error": line.problem} if line.problem else next(results))} for line in chunk]
