"""Cuts the texts of requests beside everything else, part by part. What a part is, the text path says."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from service.engine.sequence import Priority
from service.errors import NotReady

IN_PLACE_CHARS = 512  # of a request whose texts are cut at once: half a millisecond, of the hardest some
SHORT_CHARS = 8_192  # of a request whose texts are cut in the thread for short ones

T = TypeVar("T")
Work = Generator[object, None, T]


def do_at_once(work: Work[T]) -> T:
    """Do all parts of a work that is short, and return what it returns. Raises what it raises."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result


class Cutter:
    """Threads that do work in parts: one for short requests, so that they never wait for a part of a long one, one for
    long ones, and one for bulk work.

    Of the requests in a thread, the one that has had the fewest parts gets the next one; so a text that is hard to cut
    costs its own request time, and hardly anybody else. Work whose future is cancelled ends before its next part. The
    threads start when they are first needed, and are daemons: nothing that is being cut keeps the process from ending.
    """

    def __init__(self) -> None:
        self._short, self._long, self._bulk = (_Lane(f"cutting {kind} texts") for kind in ("short", "long", "bulk"))

    def close(self) -> None:
        """Drop what is not cut yet, and have the threads end after their part; waits for neither."""
        for lane in (self._short, self._long, self._bulk):
            lane.close()

    def submit(self, work: Work[T], num_chars: int, priority: Priority = "interactive") -> Future[T]:
        """Do `work`, of so many characters; the future gets what it returns or raises. Cancel it to drop the work.

        Raises NotReady once closed.
        """
        if priority == "bulk":
            return self._bulk.submit(work)
        return (self._short if num_chars <= SHORT_CHARS else self._long).submit(work)


class _Lane:
    """A thread, and what it works on."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._changed = threading.Condition()  # guards the two fields below
        self._waiting: list[tuple[int, int, Work[Any], Future[Any]]] = []  # a heap, by parts done, then by arrival
        self._is_closing = False
        self._numbers = itertools.count()

    def submit(self, work: Work[T]) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._is_closing:
                raise NotReady("the service is shutting down; send the request again to another instance")
            heapq.heappush(self._waiting, (0, next(self._numbers), work, future))
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify()
        return future

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            for _, _, _, future in self._waiting:
                future.cancel()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                if self._is_closing:
                    return
                parts, number, work, future = heapq.heappop(self._waiting)
            if self._goes_on(work, future):
                self._put_back(parts + 1, number, work, future)

    def _put_back(self, parts: int, number: int, work: Work[Any], future: Future[Any]) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (parts, number, work, future))
            if self._is_closing:
                future.cancel()

    @staticmethod
    def _goes_on(work: Work[Any], future: Future[Any]) -> bool:
        """Do a part; return whether there is another one. The future is answered, or cancelled, if there is none."""
        if future.cancelled():
            work.close()
            return False
        try:
            next(work)
            return True
        except StopIteration as done:
            if future.set_running_or_notify_cancel():
                future.set_result(done.value)
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the future
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        return False
