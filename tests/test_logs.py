"""Log lines: what they tell of, and what they never do."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from service.logs import JsonFormatter, LogFormat, LogLevel, PlainFormatter, Sparing, request_id, start_logging

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


def event(level: int = logging.WARNING, message: str = "key refused", **data: object) -> logging.LogRecord:
    record = logging.LogRecord("service", level, __file__, 1, message, (), None)
    record.data = data
    return record


def test_the_id_of_the_request_that_is_worked_on_is_on_every_line() -> None:
    token = request_id.set("find-me")
    try:
        assert json.loads(JsonFormatter().format(event(version=2)))["request_id"] == "find-me"
    finally:
        request_id.reset(token)
    assert "request_id" not in json.loads(JsonFormatter().format(event(version=2)))


def test_a_line_for_people_is_one_line_with_names_and_values() -> None:
    line = PlainFormatter().format(event(logging.INFO, "ready", url="http://a", policy={"tau": 1}, odd="a\nb"))
    assert line.partition("INFO")[2] == '    ready url=http://a policy={"tau": 1} odd="a\\nb"'


def test_of_one_warning_only_so_many_are_logged_and_the_next_says_how_many_were_not() -> None:
    now = [0.0]
    sparing = Sparing(most=3, per_s=10, clock=lambda: now[0])
    assert [sparing.filter(event()) for _ in range(5)] == [True] * 3 + [False] * 2
    assert sparing.filter(event(message="another")) and sparing.filter(event(logging.ERROR))
    now[0] = 10.0
    record = event(status=401)
    assert sparing.filter(record) and record.data == {"status": 401, "left_out": 2}  # type: ignore[attr-defined]
    record = event()
    assert sparing.filter(record) and record.data == {}  # type: ignore[attr-defined]


def test_what_trusted_callers_do_is_always_logged() -> None:
    sparing = Sparing(most=3)
    assert all(sparing.filter(event(logging.INFO, "policy changed")) for _ in range(100))


def test_warnings_of_endlessly_many_kinds_are_spared_too_and_take_no_memory() -> None:
    sparing = Sparing(most=3)
    assert sum(sparing.filter(event(message=f"kind {number}")) for number in range(5_000)) == 1_003


@pytest.fixture
def restored() -> Iterator[None]:
    """The test run's own logging comes back."""
    root, ours = logging.getLogger(), logging.getLogger("service")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("level", "form", "said"),
    [
        ("info", "json", ['"event": "of ours"', '"event": "a warning"']),
        ("debug", "plain", ["DEBUG   detail", "INFO    of ours", "WARNING a warning"]),
        ("error", "json", []),
    ],
)
def test_level_and_format_are_the_operators(
    level: LogLevel, form: LogFormat, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(level, form)
    logging.getLogger("service.a").debug("detail")
    logging.getLogger("service.a").info("of ours")
    logging.getLogger("of_a_library").info("chatter")
    logging.getLogger("of_a_library").warning("a warning")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))
