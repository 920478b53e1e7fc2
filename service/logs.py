"""Logs as one JSON object per line. A line reports an event, and never holds a text or a key; figures are metrics."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime

_ABOUT_THE_MACHINE = (OSError, MemoryError, RuntimeError)  # their messages quote no value


class JsonFormatter(logging.Formatter):
    """Formats a record as an object of time, level, logger and event, with its `data` and its traceback, if any.

    The message of an exception is left out if it may quote the offending value, as a ValueError or a KeyError does,
    since the value may be a user's text. The exception's type and its traceback are always logged.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line["traceback"] = _describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def _describe(error: BaseException | None) -> str:
    """Return the tracebacks of an exception and of the exceptions that led to it, oldest first."""
    told: list[str] = []
    while error is not None:
        name = type(error).__qualname__
        says = f": {error}" if isinstance(error, _ABOUT_THE_MACHINE) else ""
        told.append(
            f"Traceback (most recent call last):\n{''.join(traceback.format_tb(error.__traceback__))}{name}{says}"
        )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich led to\n\n".join(reversed(told))


def log_as_json(level: int = logging.INFO) -> None:
    """Send the records of every logger, from `level` on, to standard error as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
