"""What all streams of lines share: room in memory, turns of the event loop, and their end when the server ends."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.api.budget import BodyBudget
from service.engine.engine import Engine
from service.errors import Overloaded

ROOM_S = 0.02  # between two looks whether there is room for a line
GIVE_WAY_S = 0.01  # that a line waits at most for interactive requests to be answered
LOOK_S = 0.001  # between two looks whether they are


class Streams:
    """The streams that are open. All methods are called by one thread, the event loop's."""

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of the lines that all streams hold."""
        self._budget = BodyBudget(max_bytes)
        self._open: set[Callable[[], None]] = set()
        self._turns = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def joined(self, num_bytes: int, end: Callable[[], None]) -> Iterator[None]:
        """Count a stream that holds so many bytes at most; `end` has it end. Raises Overloaded if there is no room."""
        self._budget.take(num_bytes)
        self._open.add(end)
        try:
            yield
        finally:
            self._open.remove(end)
            self._budget.give_back(num_bytes)

    async def take_turn(self, engine: Engine) -> None:
        """Wait until a stream may begin a line: there is room for it, and interactive requests are answered.

        Of all streams, one line is begun in a turn of the event loop, so that no turn becomes long; and none while an
        interactive request is open, unless it has waited for GIVE_WAY_S.
        """
        async with self._turns:
            await asyncio.sleep(0)  # the line before is begun in this turn
            while not _has_room(engine):
                await asyncio.sleep(ROOM_S)
            give_up = time.monotonic() + GIVE_WAY_S
            while engine.forecast.has_open and time.monotonic() < give_up:
                await asyncio.sleep(LOOK_S)

    def end(self) -> None:
        """Have every stream end after the lines that are under way."""
        for end in tuple(self._open):
            end()


def _has_room(engine: Engine) -> bool:
    """Return whether a line could be admitted, and would not wait long."""
    try:
        engine.forecast_of("bulk").check(math.inf)
    except Overloaded:
        return False
    return engine.has_room("bulk")
