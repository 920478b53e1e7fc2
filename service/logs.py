"""Logs: one event a line, as JSON or for people. A line never holds a text or a key; figures are metrics."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "plain"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being worked on; it is put on every line."""

_ABOUT_THE_MACHINE = (OSError, MemoryError, RuntimeError)  # their messages quote no value
_MAX_KINDS = 1_000  # of events that are counted apart


class JsonFormatter(logging.Formatter):
    """Formats a record as an object of time, level, logger and event, with its `data` and its traceback, if any.

    The message of an exception is left out if it may quote the offending value, as a ValueError or a KeyError does,
    since the value may be a user's text. The exception's type and its traceback are always logged.
    """

    def format(self, record: logging.LogRecord) -> str:
        head = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        told = _traceback(record)
        line = {**head, **_data(record), **({"traceback": told} if told else {})}
        return json.dumps(line, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """Formats a record for people: local time, level, event, then its data as name=value; a traceback follows."""

    def format(self, record: logging.LogRecord) -> str:
        time_ = datetime.fromtimestamp(record.created).isoformat(" ", timespec="milliseconds")
        data = "".join(f" {name}={_plain(value)}" for name, value in _data(record).items())
        told = _traceback(record)
        return f"{time_} {record.levelname:7} {record.getMessage()}{data}" + (f"\n{told}" if told else "")


class Sparing(logging.Filter):
    """Keeps clients from filling the log: of one warning or error, lets `most` through in `per_s` seconds.

    The next one that is let through says how many were left out (`left_out`). Records below a warning, such as changes
    of the policy, are always let through: whoever makes them is trusted.
    """

    def __init__(self, most: int = 20, per_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most = most
        self._per_s = per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int, str], _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is let through."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, record.levelno, str(record.msg))
        with self._lock:
            if kind not in self._seen and len(self._seen) >= _MAX_KINDS:
                kind = ("", 0, "")
            seen, now = self._seen.setdefault(kind, _Seen()), self._clock()
            if now - seen.since >= self._per_s:
                seen.since, seen.count = now, 0
            seen.count += 1
            if seen.count > self._most:
                seen.left_out += 1
                return False
            if seen.left_out:
                record.data = {**getattr(record, "data", {}), "left_out": seen.left_out}
                seen.left_out = 0
        return True


class _Seen:
    """What was seen of one kind of record: how many since `since`, and how many in all that nobody was told of."""

    __slots__ = ("count", "left_out", "since")

    def __init__(self) -> None:
        self.since = float("-inf")
        self.count = 0
        self.left_out = 0


def _data(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record's data, with the id of the request that is being worked on, if there is one."""
    current = request_id.get()
    return {**({"request_id": current} if current else {}), **getattr(record, "data", {})}


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and not text.isprintable() else text


def _traceback(record: logging.LogRecord) -> str:
    """Return the tracebacks of a record's exception and of the exceptions that led to it, oldest first."""
    told: list[str] = []
    error = record.exc_info[1] if record.exc_info else None
    while error is not None:
        name = type(error).__qualname__
        says = f": {error}" if isinstance(error, _ABOUT_THE_MACHINE) else ""
        told.append(
            f"Traceback (most recent call last):\n{''.join(traceback.format_tb(error.__traceback__))}{name}{says}"
        )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich led to\n\n".join(reversed(told))


def start_logging(level: LogLevel = "info", form: LogFormat = "json") -> None:
    """Send our records from `level` on, and the warnings of every library, to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else PlainFormatter())
    handler.addFilter(Sparing())
    wanted = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(wanted, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("service").setLevel(wanted)
