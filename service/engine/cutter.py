"""Cuts the texts of requests beside everything else, part by part. What a part is, the text path says."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from service.engine.sequence import Priority
from service.errors import NotReady

IN_PLACE_CHARS = 512  # of a request whose texts are cut at once: half a millisecond, of the hardest some
SHORT_CHARS = 8_192  # of a request whose texts are cut in the thread for short ones
BEGUN_CHARS = 100_000  # of the requests in a thread that have begun and are of one size; one alone may have more

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

    Of the requests that have begun in a thread, the one that has had the fewest parts gets the next one; so a text that
    is hard to cut costs its own request time, and hardly anybody else. Those that have begun hold what the tokenizer
    made of their texts, some tens of bytes a character. So of each size, by powers of two, at most BEGUN_CHARS have
    begun; the others begin in the order of their arrival among those of their size, and wait for no larger ones. Work
    whose future is cancelled ends before the next part. The threads start when they are first needed, and are daemons:
    nothing that is being cut keeps the process from ending.
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
            return self._bulk.submit(work, num_chars)
        return (self._short if num_chars <= SHORT_CHARS else self._long).submit(work, num_chars)


@dataclass(slots=True, order=True)
class _Task:
    """Work, its size, and its future; the least is the one that has had the fewest parts."""

    parts: int
    number: int
    num_chars: int = field(compare=False)
    work: Work[Any] = field(compare=False)
    future: Future[Any] = field(compare=False)

    @property
    def size(self) -> int:
        return self.num_chars.bit_length()


class _Lane:
    """A thread, and what it works on."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._changed = threading.Condition()  # guards the fields below
        self._new: dict[int, _Task] = {}  # by number, the oldest first
        self._begun: list[_Task] = []  # a heap
        self._begun_chars: Counter[int] = Counter()  # by size, of these and of the one that is being worked on
        self._is_closing = False
        self._numbers = itertools.count()

    def submit(self, work: Work[T], num_chars: int) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._is_closing:
                raise NotReady("the service is shutting down; send the request again to another instance")
            number = next(self._numbers)
            self._new[number] = _Task(0, number, num_chars, work, future)
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify()
        future.add_done_callback(partial(self._forget, number))
        return future

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            waiting = [*self._new.values(), *self._begun]
            self._changed.notify()
        for task in waiting:
            task.future.cancel()

    def _forget(self, number: int, future: Future[Any]) -> None:
        """Drop work that was cancelled, and so its texts: at once if it has not begun, else before the next part."""
        with self._changed:
            self._new.pop(number, None)
            for task in self._begun if future.cancelled() else ():
                if task.number == number:
                    task.parts = -1
                    heapq.heapify(self._begun)
                    break

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._begun or self._is_closing)
                if self._is_closing:
                    return
                task = self._next()
            if self._goes_on(task.work, task.future):
                task.parts += 1
                self._put_back(task)
            else:
                with self._changed:
                    self._begun_chars[task.size] -= task.num_chars
            del task  # it has the texts

    def _next(self) -> _Task:
        """Take the newcomer that came first of those for which there is room; else who has had the fewest parts."""
        full: set[int] = set()  # sizes; who comes later waits for the others of its size
        for number, task in self._new.items():
            begun = self._begun_chars[task.size]
            if task.size not in full and (not begun or begun + task.num_chars <= BEGUN_CHARS):
                self._begun_chars[task.size] += task.num_chars
                return self._new.pop(number)
            full.add(task.size)
        return heapq.heappop(self._begun)

    def _put_back(self, task: _Task) -> None:
        with self._changed:
            if task.future.cancelled():
                task.parts = -1
            heapq.heappush(self._begun, task)
            is_closing = self._is_closing
        if is_closing:
            task.future.cancel()

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
