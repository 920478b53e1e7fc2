"""What is written in one turn of the event loop is sent in one piece, in order, and nothing of it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from service.api.joined_writes import JOINED_BYTES, JoinedWrites


class Recorder:
    """A transport that remembers what was asked of it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("closed")

    def abort(self) -> None:
        self.done.append("aborted")

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.done))

    def is_closing(self) -> bool:
        return "closed" in self.done


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def recorded(loop: asyncio.AbstractEventLoop) -> tuple[JoinedWrites, Recorder]:
    recorder = Recorder()
    return JoinedWrites(cast("asyncio.Transport", recorder), loop), recorder


def turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))


def test_a_head_and_its_body_are_sent_in_one_piece_at_the_end_of_the_turn(loop: asyncio.AbstractEventLoop) -> None:
    joined, recorder = recorded(loop)
    joined.write(b"head ")
    joined.write(b"body")
    assert recorder.done == []
    turn(loop)
    joined.write(b"next")
    turn(loop)
    assert recorder.done == [b"head body", b"next"]


def test_what_is_long_is_sent_at_once_with_what_stands_before_it(loop: asyncio.AbstractEventLoop) -> None:
    joined, recorder = recorded(loop)
    joined.write(b"head")
    joined.write(b"x" * JOINED_BYTES)
    assert recorder.done == [b"head" + b"x" * JOINED_BYTES]
    joined.write(b"tail")
    turn(loop)
    assert recorder.done[1:] == [b"tail"]


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (JoinedWrites.close, [b"answer", "closed"]),
        (JoinedWrites.write_eof, [b"answer", "eof"]),
        (JoinedWrites.abort, ["aborted"]),
        (JoinedWrites.get_write_buffer_size, [b"answer"]),
    ],
)
def test_what_was_written_goes_before_the_end_and_is_dropped_by_an_abort(
    loop: asyncio.AbstractEventLoop, ask: Callable[[JoinedWrites], object], expected: list[Any]
) -> None:
    joined, recorder = recorded(loop)
    joined.write(b"answer")
    told = ask(joined)
    turn(loop)
    assert recorder.done == expected
    assert told in (None, len(b"answer"))


def test_all_else_is_the_transports(loop: asyncio.AbstractEventLoop) -> None:
    joined, _ = recorded(loop)
    assert not joined.is_closing()
    joined.close()
    assert joined.is_closing()
