"""Whoever waits for an answer: until a deadline, and as long as the connection is there. Neither takes a task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from service.errors import ServiceError, TimedOut

T = TypeVar("T")


class ClientLeft(ServiceError):
    """The client closed its connection before its answer was ready."""


class Departure:
    """Tells whoever works for a client that its connection has ended; a connection works on one request at a time."""

    def __init__(self) -> None:
        self._has_happened = False
        self._tell: Callable[[], object] | None = None

    def happen(self) -> None:
        """Say that the connection has ended."""
        self._has_happened = True
        if self._tell is not None:
            self._tell()

    def watch(self, tell: Callable[[], object]) -> None:
        """Have `tell` called once the connection has ended: at once if it has."""
        self._tell = tell
        if self._has_happened:
            tell()

    def forget(self) -> None:
        """Have nobody called any more."""
        self._tell = None


class Caller:
    """Waits for one piece of work at a time, in the running event loop; a context, outside of which it waits no more.

    The loop's own timers are the heap of deadlines (libuv's, in C): one that is set and cleared costs less than an
    entry of a heap of ours would.
    """

    def __init__(self, departure: Departure, deadline: float) -> None:
        """deadline: in monotonic seconds."""
        self.loop = asyncio.get_running_loop()
        self._departure = departure
        self._deadline = deadline
        self._work: asyncio.Future[Any] | None = None  # that is waited for
        self._reason: ServiceError | None = None  # why nobody waits any more

    def __enter__(self) -> Caller:
        self._timer = self.loop.call_later(self._deadline - time.monotonic(), self._be_late)
        self._departure.watch(self._leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._departure.forget()
        self._reason = None  # its traceback holds this

    @property
    def reason(self) -> ServiceError | None:
        """Why nobody waits any more; None as long as somebody does."""
        return self._reason

    async def wait_for(self, work: Future[T] | asyncio.Future[T]) -> T:
        """Return what `work` comes to. Raises its error; or TimedOut, ClientLeft or another reason to stop waiting."""
        if self._reason is not None:
            work.cancel()
            raise self._reason
        waiting = asyncio.wrap_future(work)  # a future of the loop stays as it is
        self._work = waiting
        try:
            return await waiting
        except asyncio.CancelledError:
            if self.reason is None or _is_cancelled():
                raise
            raise self.reason from None
        finally:
            self._work = None

    def check_time(self) -> None:
        """Raise TimedOut if the deadline has passed."""
        if time.monotonic() > self._deadline:
            raise late()

    def _be_late(self) -> None:
        self.stop_waiting(late())

    def _leave(self) -> None:
        self.stop_waiting(ClientLeft("the client closed its connection"))

    def stop_waiting(self, reason: ServiceError) -> bool:
        """Cancel the work that is waited for, and return True; return False if there was a reason to do so before.

        `wait_for` raises the first reason that was given.
        """
        if self._reason is not None:
            return False
        self._reason = reason
        if self._work is not None:
            self._work.cancel()
        return True


def _is_cancelled() -> bool:
    """Return whether the task itself is cancelled, and not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def late() -> TimedOut:
    """Return the error of a request whose time is over."""
    return TimedOut("the request's timeout_ms passed before its answer was ready; ask for more time, or send less")
