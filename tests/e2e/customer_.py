"""Somebody who asks a server all the time while a test does something to it. No test lives here."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self

from tests.api.servers_ import PATIENCE_S


class Customer(ABC):
    """Asks again and again, in a thread, until its context ends."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.enough = threading.Event()
        self._thread = threading.Thread(target=self.ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        self._thread.join(PATIENCE_S)

    @abstractmethod
    def ask(self) -> None:
        """Ask until it is `enough`."""
