"""A body in pieces becomes lines, wherever the pieces end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.lines import lines_of


def lines(pieces: Sequence[bytes], most_bytes: int = 100) -> list[bytes | None]:
    async def come() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def collect() -> list[bytes | None]:
        return [line async for line in lines_of(come(), most_bytes)]

    return asyncio.run(collect())


@settings(derandomize=True, deadline=None, max_examples=100)
@given(body=st.lists(st.sampled_from([b"a", b"bc", b"\n", b""]), max_size=12).map(b"".join), size=st.integers(1, 5))
def test_lines_are_those_of_the_whole_body(body: bytes, size: int) -> None:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert lines(pieces) == (body.removesuffix(b"\n").split(b"\n") if body else [])


def test_a_line_that_is_too_long_is_none_and_costs_no_other_its_place() -> None:
    pieces = [b"abcd\nabc", b"de\nabcde", b"", b"f\n", b"\nabcd"]
    assert lines(pieces, most_bytes=4) == [b"abcd", None, None, b"", b"abcd"]
    assert lines([b"abc", b"de"], most_bytes=4) == [None]
