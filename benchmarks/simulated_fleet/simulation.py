"""Lets requests come to a fleet, and has all of it happen in the order of the simulated clock. It is deterministic."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.simulated_fleet.costs import Costs
from benchmarks.simulated_fleet.machine import Machine, Thread
from benchmarks.simulated_fleet.process import Call, Process, Served
from benchmarks.simulated_fleet.recording import Recording
from benchmarks.simulated_fleet.routing import ROUTERS, Connections, Router
from benchmarks.simulated_fleet.stepped import RecordedStepper
from service.autopilot.pilot import PERIOD_S
from service.spans.types import DoubleArray

Then = Callable[[float], None]
UNTIL_KNOWN_S = 1.0  # from the end of a replica until requests in its hands are known to be lost


@dataclass(frozen=True, slots=True)
class Fleet:
    """What serves: so many replicas, each a machine with cores and processes.

    has_client  whether the client of a benchmark shares the cores, and reads answers late when they are busy
    routing     a key of ROUTERS; a client of a benchmark keeps connections instead
    """

    served: Served
    replicas: int = 1
    cores: int = 2
    processes: int = 1
    routing: str = "least-loaded"
    has_client: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of all calls, in the order in which they were due.

    levels   (when, mean level of the processes) at every look of the autopilots
    loop_s   seconds that the event loops' Python took, of all processes
    layers   layers that ran per sequence, on average
    """

    calls: list[Call]
    seconds: float
    levels: list[tuple[float, float]] = field(default_factory=list)
    loop_s: float = 0.0
    layers: float = 0.0

    def between(self, start: float, end: float) -> list[Call]:
        """Return the calls that were due then."""
        return [call for call in self.calls if start <= call.due < end]


def simulate(
    fleet: Fleet,
    costs: Costs,
    recording: Recording,
    due: DoubleArray,
    *,
    texts: Sequence[int] | None = None,
    seed: int = 0,
    losses: Mapping[float, int] | None = None,
) -> Outcome:
    """Have requests come at some moments.

    texts   for which text each is; None: drawn at random
    losses  by moment: how many replicas end then, with all that they have open; requests go to the others at once
    """
    return _Run(fleet, costs, recording, due, texts, seed, losses or {}).run()


class _Run:
    """One simulation. Its events are on a heap: when, in which order, and what."""

    def __init__(
        self,
        fleet: Fleet,
        costs: Costs,
        recording: Recording,
        due: DoubleArray,
        texts: Sequence[int] | None,
        seed: int,
        losses: Mapping[float, int],
    ) -> None:
        if texts is None:
            draw = np.random.default_rng((seed, 1))
            texts = draw.integers(len(recording.texts), size=len(due)).tolist()
        self._calls = [
            Call(number, moment, text) for number, (moment, text) in enumerate(zip(due.tolist(), texts, strict=True))
        ]
        self._fleet, self._costs = fleet, costs
        chance = random.Random(seed)
        self._router: Router = Connections(chance) if fleet.has_client else ROUTERS[fleet.routing](chance)
        stepper = RecordedStepper(recording)
        self._machines: list[Machine] = []
        self._processes: list[Process] = []
        self._of_machine: dict[Machine, list[Process]] = {}
        for number in range(fleet.replicas):
            machine = Machine(fleet.cores)
            threads = max(1, fleet.cores // fleet.processes)
            served = replace(fleet.served, threads=threads, cores=fleet.cores)
            own = [
                Process(machine, number * fleet.processes + index, costs, recording, stepper, served, self._settled)
                for index in range(fleet.processes)
            ]
            self._machines.append(machine)
            self._processes += own
            self._of_machine[machine] = own
        self._all = list(self._processes)
        self._client = _Client(self._machines[0], costs.python.client / 2) if fleet.has_client else None
        self._losses = sorted(losses.items())
        self._events: list[tuple[float, int, Machine]] = []
        self._order = 0
        self._unsettled = len(self._calls)
        self._outcome = Outcome(self._calls, float(due[-1]) if len(due) else 0.0)

    def run(self) -> Outcome:
        """Let everything happen until every call has its answer."""
        looks = PERIOD_S if self._fleet.served.flight else math.inf
        coming, number_of_calls = 0, len(self._calls)
        while self._unsettled:
            arrives = self._calls[coming].due if coming < number_of_calls else math.inf
            lost = self._losses[0][0] if self._losses else math.inf
            happens = min(arrives, looks, lost)
            if not self._events and arrives == math.inf:
                raise RuntimeError(
                    f"{self._unsettled} requests are left without an answer, and nothing happens any more"
                )
            if self._events and self._events[0][0] <= happens:
                when, _, machine = heapq.heappop(self._events)
                if machine.due == when:  # else it was shared anew meanwhile, and is on the heap once more
                    machine.run_to(when)
                    self._schedule(machine)
            elif arrives == happens:
                self._arrive(self._calls[coming], arrives)
                coming += 1
            elif lost == happens:
                self._lose(self._losses.pop(0)[1], lost)
            else:
                self._look(looks)
                looks += PERIOD_S
        self._finish()
        return self._outcome

    def _schedule(self, machine: Machine) -> None:
        if machine.share() and machine.due < math.inf:
            self._order += 1
            heapq.heappush(self._events, (machine.due, self._order, machine))

    def _arrive(self, call: Call, now: float) -> None:
        if self._client is not None:
            machine = self._client.machine
            machine.run_to(now)
            self._client.do(lambda now: self._router.choose(self._processes).arrive(call, now))
            self._schedule(machine)
            return
        process = self._router.choose(self._processes)
        process.machine.run_to(now)
        process.arrive(call, now)
        self._schedule(process.machine)

    def _settled(self, call: Call, now: float) -> None:
        """Take note of a call's answer; a client of the benchmark has yet to read it."""
        if self._client is not None:
            self._client.do(lambda now: self._read(call, now))
        else:
            self._read(call, now)

    def _read(self, call: Call, now: float) -> None:
        call.done = now
        self._unsettled -= 1
        self._router.settled(call)

    def _look(self, now: float) -> None:
        for process in self._processes:
            process.look(now)
        levels = [process.level for process in self._processes]
        self._outcome.levels.append((now, sum(levels) / len(levels)))

    def _lose(self, count: int, now: float) -> None:
        """End some replicas; at least one is left."""
        for machine in self._machines[: min(count, len(self._machines) - 1)]:
            machine.run_to(now)
            machine.stop()
            machine.share()
            for process in self._of_machine[machine]:
                self._processes.remove(process)
                for call in process.die():
                    call.status = "lost"
                    self._read(call, now + UNTIL_KNOWN_S)
        del self._machines[: min(count, len(self._machines) - 1)]

    def _finish(self) -> None:
        outcome = self._outcome
        sequences = sum(process.told.sequences for process in self._all)
        outcome.layers = sum(process.told.layers for process in self._all) / max(1, sequences)
        outcome.loop_s = sum(process.loop_s for process in self._all)


class _Client:
    """The client's thread, which does one thing after the other and goes before the server."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        """seconds: of each thing that it does."""
        self.machine = machine
        self._seconds = seconds
        self._thread = Thread(-1)
        self._waiting: deque[Then] = deque()

    def do(self, then: Then) -> None:
        """Do one more thing; `then` is called when it is done."""
        self._waiting.append(then)
        if len(self._waiting) == 1:
            self.machine.start(self._thread, "client", self._seconds, self._done)

    def _done(self, now: float) -> None:
        then = self._waiting.popleft()
        if self._waiting:
            self.machine.start(self._thread, "client", self._seconds, self._done)
        then(now)
