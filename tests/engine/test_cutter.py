"""Cutting beside everything else: part by part, and never to the end for nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Generator, Iterator

import pytest

from service.engine.cutter import BEGUN_CHARS, SHORT_CHARS, Cutter, do_at_once
from service.errors import NotReady

PATIENCE_S = 60.0


@pytest.fixture
def cutter() -> Iterator[Cutter]:
    cutter = Cutter()
    yield cutter
    cutter.close()


class Parts:
    """Work of some parts, the first of which waits for `gate`; `done` has the names of all parts in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()

    def work(self, name: str, parts: int, *, is_gated: bool = False) -> Generator[None, None, str]:
        self.begun.set()
        try:
            for _ in range(parts - 1):
                if is_gated:
                    assert self.gate.wait(PATIENCE_S)
                self.done.append(name)
                yield
            self.done.append(name)
            return name
        finally:
            self.ended.set()


def test_the_future_gets_what_the_work_returns_or_raises(cutter: Cutter) -> None:
    def broken() -> Generator[None, None, str]:
        yield
        raise ValueError("no")

    assert cutter.submit(Parts().work("a", 3), 1).result(PATIENCE_S) == "a"
    with pytest.raises(ValueError, match="no"):
        cutter.submit(broken(), 1).result(PATIENCE_S)
    assert cutter.submit(Parts().work("b", 1), 1).result(PATIENCE_S) == "b"  # the thread goes on


def test_work_that_is_done_at_once_is_done_to_its_end_and_returns_or_raises_as_it_does() -> None:
    def broken() -> Generator[None, None, str]:
        yield
        raise ValueError("no")

    parts = Parts()
    assert do_at_once(parts.work("a", 3)) == "a" and parts.done == ["a"] * 3
    with pytest.raises(ValueError, match="no"):
        do_at_once(broken())


def test_a_newcomer_gets_its_parts_before_the_rest_of_what_had_more(cutter: Cutter) -> None:
    parts = Parts()
    long = cutter.submit(parts.work("long", 10, is_gated=True), 1)
    assert parts.begun.wait(PATIENCE_S)
    brief = cutter.submit(parts.work("brief", 2), 1)
    parts.gate.set()
    assert long.result(PATIENCE_S) and brief.result(PATIENCE_S)
    assert parts.done.index("brief") == 1 and parts.done[:5].count("brief") == 2


def test_a_short_request_does_not_wait_for_a_part_of_a_long_one(cutter: Cutter) -> None:
    parts = Parts()
    long = cutter.submit(parts.work("long", 2, is_gated=True), SHORT_CHARS + 1)
    assert cutter.submit(parts.work("short", 2), SHORT_CHARS).result(PATIENCE_S) == "short"
    assert not long.done()
    parts.gate.set()
    assert long.result(PATIENCE_S) == "long"


@pytest.mark.parametrize("num_chars", [SHORT_CHARS, SHORT_CHARS + 1])
def test_no_request_waits_for_a_part_of_bulk_work(cutter: Cutter, num_chars: int) -> None:
    parts = Parts()
    bulk = cutter.submit(parts.work("bulk", 2, is_gated=True), num_chars, "bulk")
    assert cutter.submit(parts.work("a", 2), num_chars).result(PATIENCE_S) == "a"
    assert not bulk.done()
    parts.gate.set()
    assert bulk.result(PATIENCE_S) == "bulk"


def test_work_that_is_cancelled_ends_before_its_next_part(cutter: Cutter) -> None:
    parts = Parts()
    future = cutter.submit(parts.work("a", 10, is_gated=True), 1)
    assert parts.begun.wait(PATIENCE_S)
    assert future.cancel()
    parts.gate.set()
    assert parts.ended.wait(PATIENCE_S) and len(parts.done) <= 1


def test_so_much_has_begun_at_a_time_and_no_more(cutter: Cutter) -> None:
    most = 3
    parts = Parts()
    futures = [cutter.submit(parts.work("0", 3, is_gated=True), BEGUN_CHARS // most)]
    assert parts.begun.wait(PATIENCE_S)
    futures += [cutter.submit(parts.work(name, 3), BEGUN_CHARS // most) for name in "12345"]
    parts.gate.set()
    assert [future.result(PATIENCE_S) for future in futures] == list("012345")
    begun = [set(parts.done[:index]) for index in range(len(parts.done) + 1)]
    ended = [{name for name in "012345" if parts.done[:index].count(name) == 3} for index in range(len(begun))]
    assert max(len(some - others) for some, others in zip(begun, ended, strict=True)) == most


def test_large_ones_begin_one_after_another_and_a_smaller_one_waits_for_none_of_them(cutter: Cutter) -> None:
    parts = Parts()
    first = cutter.submit(parts.work("first", 3, is_gated=True), BEGUN_CHARS + 1)
    assert parts.begun.wait(PATIENCE_S)
    second = cutter.submit(parts.work("second", 3), BEGUN_CHARS + 2)
    small = cutter.submit(parts.work("small", 2), SHORT_CHARS + 1)
    parts.gate.set()
    assert first.result(PATIENCE_S) and second.result(PATIENCE_S) and small.result(PATIENCE_S)
    assert parts.done == ["first", "small", "first", "small", "first", "second", "second", "second"]


def test_what_was_cancelled_after_it_had_begun_makes_room_before_the_next_part(cutter: Cutter) -> None:
    parts, others = Parts(), Parts()
    gone = cutter.submit(parts.work("gone", 9), BEGUN_CHARS)
    hangs = cutter.submit(others.work("hangs", 2, is_gated=True), SHORT_CHARS + 1)
    assert others.begun.wait(PATIENCE_S) and parts.done
    assert gone.cancel()
    waits = cutter.submit(parts.work("waits", 1), BEGUN_CHARS)
    others.gate.set()
    assert waits.result(PATIENCE_S) == "waits" and hangs.result(PATIENCE_S) == "hangs"
    assert parts.done == ["gone", "waits"]


def test_work_that_is_cancelled_before_it_begins_is_dropped_at_once(cutter: Cutter) -> None:
    class Text:
        pass

    def work(_: Text) -> Generator[None, None, None]:
        yield

    parts, text = Parts(), Text()
    gone = weakref.ref(text)
    hangs = cutter.submit(parts.work("a", 2, is_gated=True), SHORT_CHARS + 1)
    assert parts.begun.wait(PATIENCE_S)
    waits = cutter.submit(work(text), SHORT_CHARS + 1)
    del text
    assert gone() is not None and waits.cancel()
    assert gone() is None
    parts.gate.set()
    assert hangs.result(PATIENCE_S) == "a"


def test_what_is_not_cut_when_it_closes_is_cancelled_and_nothing_more_is_taken(cutter: Cutter) -> None:
    parts = Parts()
    first, second = (cutter.submit(parts.work(name, 2, is_gated=True), 1) for name in "ab")
    cutter.close()
    parts.gate.set()
    for future in (first, second):
        with pytest.raises(BaseException):  # noqa: B017 (a cancelled future's error is no Exception)
            future.result(PATIENCE_S)
        assert future.cancelled()
    with pytest.raises(NotReady):
        cutter.submit(parts.work("c", 1), 1)


def test_a_part_that_hangs_does_not_keep_the_process_from_ending() -> None:
    code = (
        "import threading; from service.engine.cutter import Cutter\n"
        "def work():\n    threading.Event().wait()\n    yield\n"
        "cutter = Cutter(); cutter.submit(work(), 1); cutter.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)
