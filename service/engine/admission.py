"""Admission: the requests that were admitted and are not answered yet, limited in texts and in pieces."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import get_args

from service.engine.sequence import Priority, Request
from service.errors import Overloaded
from service.policy.captured import CapturedPolicy


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The engine's work for interactive requests at one moment. Bulk work waits without harm, and is not counted.

    admitted_pieces  pieces of all such requests admitted since the start
    open_pieces      cost of those that are not answered yet, in pieces that run to full depth
    waiting_s        seconds for which a request has waited for its first step since its turn came, at most
    """

    admitted_pieces: int
    open_pieces: int
    waiting_s: float


@dataclass(slots=True)
class _Taken:
    """The open requests of one priority: how many, how many of them have begun, and the places they take."""

    requests: int = 0
    running: int = 0
    texts: int = 0
    pieces: int = 0


class Admission:
    """Admits requests, as a whole or not at all, and frees their places. Several threads may use it.

    Two limits apply: the number of texts, whatever their length, and their cost in pieces that run to full depth. Each
    priority has places of its own, so that bulk work takes none from interactive requests.
    """

    def __init__(self, max_texts: int, max_pieces: int) -> None:
        self._max_texts = max_texts
        self._max_pieces = max_pieces
        self._lock = threading.Lock()  # guards the fields below
        self._open: set[Request] = set()
        self._taken: dict[Priority, _Taken] = {priority: _Taken() for priority in get_args(Priority)}
        self._admitted_pieces = 0

    def has_room(self, priority: Priority) -> bool:
        """Return whether another text of a priority could be admitted at all."""
        taken = self._taken[priority]
        return taken.texts < self._max_texts and taken.pieces < self._max_pieces

    @property
    def open(self) -> tuple[Request, ...]:
        """All requests that are not answered."""
        with self._lock:
            return tuple(self._open)

    @property
    def counts(self) -> tuple[int, int]:
        """How many interactive requests wait for their first step, and how many have begun."""
        with self._lock:
            taken = self._taken["interactive"]
            return taken.requests - taken.running, taken.running

    @property
    def bulk_requests(self) -> int:
        """How many bulk requests are open."""
        return self._taken["bulk"].requests

    def admit(self, request: Request) -> None:
        """Admit a request. Raises Overloaded if it does not fit within the limits."""
        with self._lock:
            taken = self._taken[request.priority]
            texts, pieces = taken.texts + len(request.texts), taken.pieces + request.cost
            if texts > self._max_texts or pieces > self._max_pieces:
                raise Overloaded(
                    f"the queue holds {taken.texts} texts and {taken.pieces} tokens; {len(request.texts)} and "
                    f"{request.cost} more are over its limits of {self._max_texts} texts "
                    f"(NER_QUEUE_TEXTS) and {self._max_pieces} tokens (NER_QUEUE_TOKENS); send it again later"
                )
            taken.texts, taken.pieces = texts, pieces
            taken.requests += 1
            if request.priority == "interactive":
                self._admitted_pieces += request.num_pieces
            self._open.add(request)

    def start(self, request: Request, captured: CapturedPolicy, now: float) -> None:
        """Note that a request starts under a policy at `now`; leave it as it is if it was answered meanwhile."""
        with self._lock:
            if request in self._open:
                request.captured, request.started, request.has_started = captured, now, True
                self._taken[request.priority].running += 1

    def give_back(self, request: Request) -> bool:
        """Free the place of a request, once; return whether it was still open."""
        with self._lock:
            if request not in self._open:
                return False
            self._open.remove(request)
            taken = self._taken[request.priority]
            taken.texts -= len(request.texts)
            taken.pieces -= request.cost
            taken.requests -= 1
            taken.running -= request.has_started
            return True

    def is_open(self, request: Request) -> bool:
        """Return whether a request is admitted and not answered."""
        return request in self._open

    def load(self, now: float) -> EngineLoad:
        """Return the engine's work at `now`, in monotonic seconds."""
        with self._lock:
            interactive = [request for request in self._open if request.priority == "interactive"]
            turns = [request.turn for request in interactive if not request.has_started]
            waiting_s = max(0.0, now - min(turns, default=now))
            return EngineLoad(self._admitted_pieces, self._taken["interactive"].pieces, waiting_s)
