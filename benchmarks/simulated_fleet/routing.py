"""Which serving process gets a request. A balancer knows what each has open: how many requests, how many characters."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from benchmarks.simulated_fleet.process import Call, Process
from service.engine.forecast import PIECES_PER_CHAR, REQUEST_WORK


class Router(Protocol):
    """Chooses among the processes that are well, of which there is at least one."""

    def choose(self, processes: Sequence[Process]) -> Process:
        """Return the process for the next request."""

    def settled(self, call: Call) -> None:
        """Take note that a call has its answer."""


class _Stateless:
    def settled(self, call: Call) -> None:
        """Take no note."""


class Random(_Stateless):
    """Any process, each as likely: what many balancers that know nothing of each other come to."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def choose(self, processes: Sequence[Process]) -> Process:
        """See Router."""
        return processes[self._draw.randrange(len(processes))]


class RoundRobin(_Stateless):
    """One after the other."""

    def __init__(self, draw: random.Random) -> None:
        self._next = 0

    def choose(self, processes: Sequence[Process]) -> Process:
        """See Router."""
        chosen = processes[self._next % len(processes)]
        self._next += 1
        return chosen


class LeastLoaded(_Stateless):
    """The process with the fewest open requests; among equals, one after the other."""

    def __init__(self, draw: random.Random) -> None:
        self._after = -1

    def load(self, process: Process) -> float:
        """Return what is compared."""
        return len(process.open)

    def choose(self, processes: Sequence[Process]) -> Process:
        """See Router."""
        first = self._after + 1
        in_turn = (*processes[first % len(processes) :], *processes[: first % len(processes)])
        chosen = min(in_turn, key=self.load)
        self._after = processes.index(chosen)
        return chosen


class LengthAware(LeastLoaded):
    """The process with the least open work, counted by characters as the service's own forecast counts it at first."""

    def load(self, process: Process) -> float:
        """See LeastLoaded."""
        return REQUEST_WORK * len(process.open) + PIECES_PER_CHAR * process.chars


class Connections:
    """A client that keeps connections: it takes the one that became free last, or else opens one.

    The system gives each new connection to a process at random. `benchmarks.load_client` is such a client.
    """

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._idle: list[Process] = []

    def choose(self, processes: Sequence[Process]) -> Process:
        """See Router."""
        return self._idle.pop() if self._idle else processes[self._draw.randrange(len(processes))]

    def settled(self, call: Call) -> None:
        """Keep the connection."""
        if call.process is not None:
            self._idle.append(call.process)


ROUTERS: Mapping[str, Callable[[random.Random], Router]] = {
    "random": Random,
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "length-aware": LengthAware,
}
