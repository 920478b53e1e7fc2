"""Takes a body that comes in pieces apart into lines. What a line means, `line_stream` knows."""

from __future__ import annotations

from collections.abc import AsyncIterator


async def lines_of(pieces: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[bytes | None]:
    """Yield every line without its line feed, the last one also if it has none.

    Yields None for a line of more than `most_bytes`, of which no more than that is ever held.
    """
    held: bytearray | None = bytearray()  # the line so far; None once it is too long
    async for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            line = _longer(held, end, most_bytes)
            held = bytearray()
            yield None if line is None else bytes(line)
        held = _longer(held, rest, most_bytes)
    if held or held is None:
        yield None if held is None else bytes(held)


def _longer(line: bytearray | None, part: bytes, most_bytes: int) -> bytearray | None:
    if line is None or len(line) + len(part) > most_bytes:
        return None
    line += part
    return line
