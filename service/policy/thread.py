"""Threads that look after the live policy, beside the serving, until they are told to end."""

from __future__ import annotations

import logging
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


class LookingThread(PolicyThread):
    """Looks again and again, first before its thread starts. A look that fails is logged, and tried again later."""

    def __init__(self, name: str, *, period_s: float, pause_s: float, failure: str) -> None:
        """period_s: between two looks; pause_s: after one that failed; failure: what is logged then."""
        super().__init__(name)
        self._period_s = period_s
        self._pause_s = pause_s
        self._failure = failure

    def start(self) -> None:
        """Look once, and start the thread."""
        self._try_to_look()
        super().start()

    @abstractmethod
    def look(self) -> None:
        """Look once, and do what is to be done."""

    def _run(self) -> None:
        pause_s = self._period_s
        while not self._stop.wait(pause_s):
            pause_s = self._period_s if self._try_to_look() else self._pause_s

    def _try_to_look(self) -> bool:
        try:
            self.look()
            return True
        except Exception:  # whatever it was, what comes later must count
            log = logging.getLogger(type(self).__module__)
            log.exception("%s; the next try is in %g s", self._failure, self._pause_s)
            return False
