"""Logs as one JSON object a line. What is watched is a metric; a log line tells of an event, never a text or a key."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime

_ABOUT_THE_MACHINE = (OSError, MemoryError, RuntimeError)  # exceptions whose message speaks of no value


class JsonFormatter(logging.Formatter):
    """time, level, logger, event; the record's `data`, if any; the traceback, if any.

    What an exception says is left out where it may quote the value that it is about, as a ValueError or a KeyError
    does, since that may be somebody's text. What it is and where it came from is told.
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
    """The tracebacks of an exception and of those that led to it, oldest first."""
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
    """Send every logger's lines to standard error in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
