"""The thread that keeps a replica's policy in step with the store that replicas share."""

from __future__ import annotations

import logging
from typing import Protocol

from service.policy.live import LivePolicy
from service.policy.thread import PolicyThread

log = logging.getLogger(__name__)

POLL_S = 0.25  # so that a push that got lost is made up for well within a second


class Pushes(Protocol):
    """Tells of changes of a store that others make; any may get lost."""

    def wait(self, seconds: float) -> None:
        """Return when somebody has changed the store, at the latest after so many seconds."""

    def close(self) -> None:
        """Give back connections; nobody waits any more."""


class PolicyFollower(PolicyThread):
    """Follows the store: at once after a push, and every POLL_S in any case."""

    def __init__(self, live: LivePolicy, pushes: Pushes) -> None:
        """pushes: of the store that `live` has."""
        super().__init__("policy-follower")
        self._live = live
        self._pushes = pushes

    def close(self) -> None:
        """End the thread, and give back the connections; the policy stays as it is."""
        super().close()
        self._pushes.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._pushes.wait(POLL_S)
            try:
                self._live.follow()
            except Exception:  # whatever it was, later changes must arrive
                log.exception("the policy store could not be followed; the next try is in %g s", POLL_S)
