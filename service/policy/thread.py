"""A thread that looks after the live policy, beside the serving, until it is told to end."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class PolicyThread(ABC):
    """Changes the live policy from a daemon thread of its own."""

    def __init__(self, name: str) -> None:
        """name: of the thread."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; the policy stays as it is."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """Work until `_stop` is set."""
