"""A serving process: an event loop, which takes requests and sends answers, and an engine, side by side on a machine.

    arrive -> loop: refused, or taken and submitted -> engine: step after step -> loop: replied

Forecast, admission, deadlines, scheduler and autopilot are the service's own. What is simulated is time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Literal

from benchmarks.simulated_fleet.costs import Costs
from benchmarks.simulated_fleet.machine import Machine, Thread
from benchmarks.simulated_fleet.recording import Recording
from benchmarks.simulated_fleet.stepped import InForce, RecordedStepper, SteppedEngine, Told
from service.autopilot.law import ControlLaw, State
from service.autopilot.traffic import Traffic
from service.engine.engine import EngineLimits
from service.engine.forecast import OpenWork
from service.engine.scheduler import Step
from service.engine.sequence import Request
from service.errors import Overloaded, TimedOut
from service.kernels.spare_cores import LOOK_S, SpareCores

Status = Literal["open", "answered", "refused", "late", "lost"]
NOBODY: Future[None] = Future()  # waits for the requests of a simulation


class Call:
    """A request from its client's side. Times are seconds of the simulated clock.

    due      when it was to be sent; latency counts from then
    arrived  when the event loop had it
    done     when its answer was sent, or, with a client on the machine, read
    level    the policy that decided it
    """

    __slots__ = ("arrived", "done", "due", "level", "number", "process", "request", "status", "text", "work")

    def __init__(self, number: int, due: float, text: int) -> None:
        self.number, self.due, self.text = number, due, text
        self.arrived = self.done = 0.0
        self.status: Status = "open"
        self.level = ""
        self.request: Request | None = None
        self.work: OpenWork | None = None
        self.process: Process | None = None


@dataclass(frozen=True, slots=True)
class Flight:
    """How the autopilot is set: the levels it may choose from, and the p95 that it is to keep."""

    levels: tuple[str, ...]
    law: ControlLaw


@dataclass(frozen=True, slots=True)
class Served:
    """How a process serves: its threads, its time limit, and its policy or its autopilot.

    cores  of the process, as it knows them
    """

    policy: str
    flight: Flight | None = None
    threads: int = 1
    cores: int = 1
    timeout_s: float = 10.0


class Process:
    """One serving process; `open` are the calls that it has and has not answered, `chars` their characters."""

    def __init__(
        self,
        machine: Machine,
        number: int,
        costs: Costs,
        recording: Recording,
        stepper: RecordedStepper,
        served: Served,
        settled: Callable[[Call, float], None],
    ) -> None:
        """settled: told of every call that has its answer, whatever that is."""
        self.machine, self.number = machine, number
        self.open: set[Call] = set()
        self.chars = 0
        self._costs, self._recording, self._stepper, self._served = costs, recording, stepper, served
        self._settled = settled
        self._now = 0.0
        self.traffic = Traffic(self._clock)
        self.told = Told(self.traffic)
        self.in_force = InForce(recording.policies.items(), served.policy)
        limits = EngineLimits(max_step_pieces=costs.max_step_pieces)
        self._engine = SteppedEngine(
            stepper, policy=self.in_force, limits=limits, observer=self.told, clock=self._clock
        )
        self._forecast = self._engine.forecast
        self._loop, self._worker = Thread(number), Thread(number)
        self._is_loop_idle = self._is_worker_idle = True
        self._tasks: deque[tuple[bool, Call]] = deque()  # whether it is answered, or comes
        self._left_in_turn = 0
        self._of_requests: dict[Request, Call] = {}
        self._spare = SpareCores(served.threads, served.cores)
        self._threads, self._looked_at, self._loop_s = served.threads, 0.0, 0.0
        self._state, self._moved = State(level=0), 0.0
        if served.flight:
            self.in_force.use(served.flight.levels[0])

    def _clock(self) -> float:
        return self._now

    @property
    def level(self) -> int:
        """The autopilot's level."""
        return self._state.level

    @property
    def loop_s(self) -> float:
        """Seconds that the event loop's Python took."""
        return self._loop.spent_s

    # the event loop

    def arrive(self, call: Call, now: float) -> None:
        """Have a call in the socket."""
        self.open.add(call)
        self.chars += self._recording.chars[call.text]
        call.process = self
        self._tasks.append((False, call))
        self._wake_loop(now)

    def _wake_loop(self, now: float) -> None:
        if self._is_loop_idle:
            self._is_loop_idle = False
            self.machine.start(self._loop, "sleep", self._costs.python.wake, self._next_task)

    def _next_task(self, now: float) -> None:
        """Do the next task of the turn; when the turn is over, all that has come meanwhile is the next turn."""
        if not self._tasks:
            self._is_loop_idle = True
            return
        seconds = 0.0
        if self._left_in_turn == 0:
            self._left_in_turn, seconds = len(self._tasks), self._costs.python.turn
        self._left_in_turn -= 1
        is_answered, call = self._tasks.popleft()
        self._now = now
        of_task, done = (self._costs.python.reply, self._reply) if is_answered else self._take(call, now)
        self.machine.start(self._loop, "python", seconds + of_task, partial(done, call))

    def _take(self, call: Call, now: float) -> tuple[float, Callable[[Call, float], None]]:
        """Refuse a call by its head, or take it: return how long that is, and what follows."""
        call.arrived = now
        deadline = now + self._served.timeout_s
        try:
            self._forecast.check(deadline)
            call.work = self._forecast.enter(self._recording.chars[call.text], deadline)
        except Overloaded:
            return self._costs.python.refusal, self._refused
        seconds = self._costs.python.take + self._costs.python.piece * self._recording.pieces[call.text]
        return seconds, self._submit

    def _submit(self, call: Call, now: float) -> None:
        self._now = now
        text, work = self._recording.texts[call.text], call.work
        assert work is not None, "a call is submitted after it was taken"
        request = Request((text,), call.arrived + self._served.timeout_s, now, future=NOBODY)
        try:
            self._engine.submit(request)
        except Overloaded:
            self._leave(call, "refused", now)
        else:
            call.request, self._of_requests[request] = request, call
            work.is_known(request, self._recording.chars[call.text])
            work.when_refused(lambda _: self._engine.cancel(request))
            self._wake_worker(now)
        self._next_task(now)

    def _refused(self, call: Call, now: float) -> None:
        self._settle(call, "refused", now)
        self._next_task(now)

    def _reply(self, call: Call, now: float) -> None:
        self._now = now
        request = call.request
        assert request is not None, "a call is answered after it was submitted"
        if request.error is None and now <= request.deadline:
            call.level = self.in_force.name_of(request.policy)
            if call.work is not None:
                call.work.was_done()
            self.traffic.answered(call.arrived, now)
            self._leave(call, "answered", now)
        else:
            is_late = request.error is None or isinstance(request.error, TimedOut)
            self._leave(call, "late" if is_late else "refused", now)
        self._next_task(now)

    def _leave(self, call: Call, status: Status, now: float) -> None:
        if call.work is not None:
            call.work.__exit__(None, None, None)
        self._settle(call, status, now)

    def _settle(self, call: Call, status: Status, now: float) -> None:
        call.status = status
        self.open.discard(call)
        self.chars -= self._recording.chars[call.text]
        self._settled(call, now)

    # the engine

    def _wake_worker(self, now: float) -> None:
        if self._is_worker_idle:
            self._is_worker_idle = False
            self.machine.start(self._worker, "sleep", self._costs.python.wake, self._next_step)

    def _next_step(self, now: float) -> None:
        self._now = now
        step = self._engine.begin()
        self._hand_over(now)
        if step is None:
            self._is_worker_idle = True
            return
        python, count = self._costs.python, len(step.sequences)
        with_exit, looked_at, leave = self._stepper.work_of(step)
        seconds = python.step + python.sequence * count + python.evidence * looked_at + python.answer * leave
        self.machine.start(self._worker, "python", seconds, partial(self._run_layer, step, with_exit))

    def _run_layer(self, step: Step, with_exit: bool, now: float) -> None:
        threads = self._threads_now(now)
        kernels = self._costs.of_threads(threads)
        seconds = kernels.seconds(step.layer, len(step.sequences), step.pieces, with_exit)
        self.machine.start(self._worker, "kernel", seconds, partial(self._end_step, step), cores=threads)

    def _end_step(self, step: Step, now: float) -> None:
        self._now = now
        self._engine.end(step)
        self._hand_over(now)
        self._next_step(now)

    def _hand_over(self, now: float) -> None:
        """Give the event loop what was answered."""
        if self._engine.answered:
            self._tasks.extend((True, self._of_requests.pop(request)) for request in self._engine.answered)
            self._engine.answered.clear()
            self._wake_loop(now)

    def _threads_now(self, now: float) -> int:
        """Return with how many threads a layer runs, by what the event loop takes, as the kernels' team does."""
        if (passed := now - self._looked_at) >= LOOK_S:
            spent_s = self._loop.spent_s
            self._threads = self._spare.take_note((spent_s - self._loop_s) / passed)
            self._looked_at, self._loop_s = now, spent_s
        return self._threads

    # the autopilot

    def look(self, now: float) -> None:
        """Have the autopilot look once, as `service.autopilot.pilot` does, at levels that are this process's own."""
        flight = self._served.flight
        if flight is None:
            return
        self._now = now
        seen = self.traffic.look(self._engine.load(), self._moved, len(flight.levels) - 1)
        before, self._state = self._state.level, flight.law.next(self._state, seen)
        if self._state.level != before:
            self._moved = now
            self.in_force.use(flight.levels[self._state.level])

    def die(self) -> list[Call]:
        """End at once; return the calls that had no answer yet."""
        lost = list(self.open)
        self.open.clear()
        self._tasks.clear()
        self._of_requests.clear()
        return lost
