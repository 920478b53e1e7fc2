"""Log lines: what they tell of, and what they never do."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from service.logs import JsonFormatter

SECRET = "Zanzibarbara"


def logged(error: Exception, cause: Exception | None = None) -> dict[str, str]:
    """The line of an exception."""
    try:
        try:
            raise cause or error
        except Exception as first:
            if cause is None:
                raise
            raise error from first
    except Exception:
        record = logging.LogRecord("service", logging.ERROR, __file__, 1, "request failed", (), sys.exc_info())
    line: dict[str, str] = json.loads(JsonFormatter().format(record))
    return line


@pytest.mark.parametrize("kind", [ValueError, KeyError, TypeError, AssertionError, IndexError, Exception])
def test_what_an_exception_says_of_a_value_is_not_logged_but_what_and_where_it_is(kind: type[Exception]) -> None:
    told = logged(kind(SECRET))["traceback"]
    assert SECRET not in told
    assert told.startswith("Traceback") and told.endswith(kind.__name__) and "test_logs.py" in told


@pytest.mark.parametrize("kind", [OSError, RuntimeError, MemoryError])
def test_what_an_exception_says_of_the_machine_is_logged(kind: type[Exception]) -> None:
    assert logged(kind("no room"))["traceback"].endswith(f"{kind.__name__}: no room")


def test_what_led_to_an_exception_is_told_by_the_same_rules() -> None:
    told = logged(RuntimeError("a step failed"), cause=ValueError(SECRET))["traceback"]
    assert told.count("Traceback") == 2 and told.index("ValueError") < told.index("RuntimeError: a step failed")
    assert SECRET not in told
