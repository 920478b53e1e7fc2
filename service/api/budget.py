"""Limits how many bytes of requests are worked on at a time."""

from __future__ import annotations

from service.errors import Overloaded


class BodyBudget:
    """A number of bytes that bodies share; one body alone always fits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self, num_bytes: int) -> None:
        """Take bytes from the budget. Raises Overloaded if it has too few left."""
        if self._taken and self._taken + num_bytes > self._limit:
            raise Overloaded(
                f"requests of {self._taken} bytes are being worked on; {num_bytes} more are over the limit of "
                f"{self._limit} (NER_QUEUE_BYTES); send it again later"
            )
        self._taken += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Return bytes that were taken."""
        self._taken -= num_bytes
