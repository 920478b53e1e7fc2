"""One worker that runs admitted requests layer by layer and answers every one: with a result or with an error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from service.engine.runner import Runner
from service.engine.scheduler import Scheduler, Step
from service.engine.sequence import Request, Sequence
from service.engine.shadows import Shadows
from service.errors import BadInput, EngineFailed, NotReady, Overloaded, ServiceError, TimedOut
from service.policy.captured import CapturedPolicy

log = logging.getLogger(__name__)

MAX_WORKER_FAILURES = 3
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What may wait and run at a time, and what one step may hold.

    queue_texts, queue_pieces  over all admitted requests that are not answered yet
    max_step_pieces            pieces of one layer step
    step_overdue_s             a step that takes longer means that the engine makes no progress
    """

    queue_texts: int = 4_096
    queue_pieces: int = 262_144
    max_step_pieces: int = 1_024
    step_overdue_s: float = 30.0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What the engine has to do at a moment.

    admitted_pieces  of all requests since the start
    open_pieces      of requests that are not answered yet
    waiting_s        how long the request has waited that waits longest for its first step; 0 where none does
    """

    admitted_pieces: int
    open_pieces: int
    waiting_s: float


class EngineObserver(Protocol):
    """Whom the engine tells what happened; metrics implement it."""

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """One layer ran over some sequences."""

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """One sequence has its answer."""

    def queue_changed(self, waiting: int, running: int) -> None:
        """Requests that wait for their first step, and that have begun."""


class Engine:
    """Admission, the worker thread, and the futures.

    A step is three lines: schedule, run, settle. An exception in a step fails the request that it is about and nobody
    else's. `capture` yields the live policy, with a request's changes to it; asked when its first sequence starts.
    Only when no request has a step to run, a shadow has one.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        capture: Callable[[Mapping[str, Any] | None], CapturedPolicy],
        limits: EngineLimits,
        observer: EngineObserver,
        shadows: Shadows | None = None,
        prepare: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prepare` is run by `start`, in the worker's thread, before anything else runs there.

        Without `shadows` none are run.
        """
        self._runner = runner
        self._capture = capture
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._shadows = shadows or Shadows()
        self._scheduler = Scheduler(runner.num_layers, limits.max_step_pieces)
        self._changed = threading.Condition()  # guards the fields below
        self._admitted: list[Request] = []
        self._open: set[Request] = set()
        self._running = 0
        self._reported = (0, 0)  # waiting and running, as the observer knows them
        self._texts = 0
        self._pieces = 0
        self._admitted_pieces = 0
        self._is_closing = False
        self._has_failed = False
        self._step_started: float | None = None
        self._prepare = prepare
        self._prepared: Future[None] = Future()
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the worker, and return once it is prepared; what `prepare` raises is raised here."""
        self._worker.start()
        self._prepared.result()

    def close(self, timeout_s: float = 5.0) -> None:
        """Finish what was admitted, then stop; later submissions get NotReady. A step that hangs is a failure."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._worker.ident is not None:
            self._worker.join(timeout_s)
            if self._worker.is_alive():
                log.error(
                    "the engine did not end within %g s; its step has run for %.1f s", timeout_s, self.step_age_s()
                )
                self._has_failed = True
        self._shadows.drop()
        for request in tuple(self._open):  # a worker that never started, or that is gone
            self._answer(request, NotReady("the service ended before the request ran; send it to another instance"))
        self._report_queue()

    @property
    def has_failed(self) -> bool:
        """Whether the worker gave up after too many failures; the process should end."""
        return self._has_failed

    @property
    def is_alive(self) -> bool:
        """Whether the worker can make progress: it runs, and no step of it is overdue. Idle is alive."""
        return self._worker.is_alive() and self.step_age_s() < self._limits.step_overdue_s

    def step_age_s(self) -> float:
        """How long the current step has been running; 0 between steps."""
        started = self._step_started
        return 0.0 if started is None else self._clock() - started

    @property
    def has_room(self) -> bool:
        """Whether another text could be admitted at all: asked before the work of tokenising it."""
        return self._texts < self._limits.queue_texts and self._pieces < self._limits.queue_pieces

    def load(self) -> EngineLoad:
        """What there is to do just now."""
        with self._changed:
            waiting = [request.submitted for request in self._open if request.captured is None]
            waiting_s = max(0.0, self._clock() - min(waiting)) if waiting else 0.0
            return EngineLoad(self._admitted_pieces, self._pieces, waiting_s)

    def submit(self, request: Request) -> None:
        """Admit a request, whole or not at all; its future is always answered. Raises Overloaded or NotReady."""
        with self._changed:
            if self._is_closing:
                raise NotReady("the service is shutting down; send the request again to another instance")
            self._admit(request)
            request.sequences = [Sequence(request, seq) for text in request.texts for seq in text.sequences]
            request.unfinished = len(request.sequences)
            request.future.set_running_or_notify_cancel()  # from here on only the engine settles it
            if not request.sequences:
                self._start(request)
                self._answer(request, None)
                self._report_queue()
                return
            self._admitted.append(request)
            self._report_queue()
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Nobody waits for `request` any more: its room is free at once, its sequences leave at the next boundary."""
        request.is_cancelled = True
        self._answer(request, ServiceError("the caller left before the answer was ready"))
        self._report_queue()

    def _admit(self, request: Request) -> None:
        request.cost = self._cost(request)
        texts, pieces = self._texts + len(request.texts), self._pieces + request.cost
        if texts > self._limits.queue_texts or pieces > self._limits.queue_pieces:
            raise Overloaded(
                f"the queue holds {self._texts} texts and {self._pieces} tokens; {len(request.texts)} and "
                f"{request.cost} more are over its limits of {self._limits.queue_texts} texts "
                f"(NER_QUEUE_TEXTS) and {self._limits.queue_pieces} tokens (NER_QUEUE_TOKENS); send it again later"
            )
        self._texts, self._pieces = texts, pieces
        self._admitted_pieces += request.num_pieces
        self._open.add(request)

    def _cost(self, request: Request) -> int:
        """What the queue counts it as: its pieces, or less where the policy knows before what it will come to."""
        try:
            policy = self._capture(request.override).policy
        except BadInput:  # its changes fit no more, which it is told when it starts
            return request.num_pieces
        layers = self._runner.num_layers
        return sum(policy.work(sequence, layers) for text in request.texts for sequence in text.sequences)

    def _work(self) -> None:
        """Prepare, then work until closed. A fault outside a step costs all open requests; too many, the process."""
        try:
            self._prepare()
        except BaseException as error:
            self._prepared.set_exception(error)
            return
        self._prepared.set_result(None)
        for failures in range(1, MAX_WORKER_FAILURES + 1):
            try:
                self._run_steps()
                return
            except Exception:  # a fault of ours: whatever it is, everybody gets an answer
                log.exception("the engine's worker failed, %d of at most %d times", failures, MAX_WORKER_FAILURES)
                self._abandon()
        with self._changed:
            self._has_failed = self._is_closing = True
        self._abandon()  # what was submitted since

    def _run_steps(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._admitted or self._scheduler.has_work or self._is_closing or self._shadows.has_work
                )
                for request in self._admitted:
                    self._scheduler.add(request.sequences)
                self._admitted.clear()
                if self._is_closing and not self._scheduler.has_work:
                    return
            step = self._scheduler.next_step()
            if step is not None:
                self._run(step)
            elif self._shadows.has_work:
                self._run_shadow()

    def _abandon(self) -> None:
        """Answer every open request with an error, and begin with nothing waiting."""
        with self._changed:
            abandoned = tuple(self._open)
            self._admitted.clear()
            self._scheduler = Scheduler(self._runner.num_layers, self._limits.max_step_pieces)
        self._step_started = None
        self._shadows.drop()
        for request in abandoned:
            for sequence in request.sequences:
                sequence.release()
            self._answer(request, EngineFailed("the engine failed on this request; the log has the details"))
        self._report_queue()

    def _run(self, step: Step) -> None:
        started = self._clock()
        sequences = [sequence for sequence in step.sequences if self._is_wanted(sequence, started)]
        self._report_queue()
        if not sequences:
            return
        self._step_started = started
        pieces = sum(sequence.step_pieces for sequence in sequences)
        self._advance(step.layer, sequences)
        self._step_started = None
        self._report_queue()
        self._tell(self._observer.step_done, step.layer, len(sequences), pieces, self._clock() - started)

    def _run_shadow(self) -> None:
        """One layer of one shadow; where that fails, nobody but the statistics has lost anything."""
        self._step_started = self._clock()
        try:
            self._shadows.run_layer(self._runner)
        except Exception:
            log.warning("a shadow run failed and was dropped", exc_info=True)
        self._step_started = None

    def _advance(self, layer: int, sequences: Seq[Sequence]) -> None:
        """Run one layer; who leaves is answered, who stays waits before the next one, whom it fails on fails alone."""
        leaving = []
        for sequence, evidence in self._in_parts(sequences, lambda part: self._runner.run_layer(layer, part)):
            sequence.history.append(evidence)
            try:
                sequence.exit_reason = sequence.policy.decide(sequence.history, self._runner.num_layers)
            except Exception:
                self._fail(sequence)
                continue
            if sequence.exit_reason is None:
                self._scheduler.add([sequence])
            else:
                leaving.append(sequence)
        self._leave(leaving)

    def _in_parts(
        self, sequences: Seq[Sequence], do: Callable[[Seq[Sequence]], Seq[Result]]
    ) -> list[tuple[Sequence, Result]]:
        """What the device does for each sequence. Where it fails, halves are tried, down to whom it fails on alone.

        So neither a poisoned sequence nor a step too large for the device's memory costs anybody else the answer.
        """
        try:
            return list(zip(sequences, do(sequences), strict=True))
        except Exception:
            if len(sequences) == 1:
                self._fail(sequences[0])
                return []
            log.warning("a step over %d sequences failed and is tried in halves", len(sequences), exc_info=True)
        middle = len(sequences) // 2
        return self._in_parts(sequences[:middle], do) + self._in_parts(sequences[middle:], do)

    def _fail(self, sequence: Sequence) -> None:
        """Answer the request of a sequence that the engine failed on; called while the exception is handled."""
        log.exception("request %s failed at layer %d", sequence.request.request_id, sequence.layer + 1)
        sequence.release()
        self._answer(
            sequence.request, EngineFailed("the engine failed on this request; the log has the details under its id")
        )

    def _is_wanted(self, sequence: Sequence, now: float) -> bool:
        """Whether somebody still waits for it; what nobody waits for leaves here, at a layer boundary."""
        request = sequence.request
        if request.is_cancelled:
            self.cancel(request)
        elif now > request.deadline:
            self._answer(request, TimedOut("the request's timeout_ms passed before its answer was ready"))
        elif request.captured is None:
            self._start(request)
        if request in self._open:
            return True
        sequence.release()  # its request is answered: cancelled, too late, or another sequence of it failed
        return False

    def _start(self, request: Request) -> None:
        """Capture the policy of a request whose first sequence is about to run."""
        try:
            captured = self._capture(request.override)
        except BadInput as error:  # the live policy changed since its changes were checked, and they fit no more
            self._answer(request, error)
            return
        with self._changed:
            if request not in self._open:  # cancelled just now
                return
            request.captured, request.started = captured, self._clock()
            self._running += 1

    def _leave(self, sequences: Seq[Sequence]) -> None:
        if not sequences:
            return
        started = self._clock()
        decoded = self._in_parts(sequences, self._runner.read_spans)
        for sequence, spans in decoded:
            sequence.spans = spans
            self._shadows.offer(sequence, self._runner.num_layers)
            sequence.release()
            self._tell(self._observer.sequence_left, sequence, self._runner.num_layers)
        now = self._clock()
        for sequence, _ in decoded:
            request = sequence.request
            request.decode_s += (now - started) / len(decoded)
            request.unfinished -= 1
            if request.unfinished == 0:
                self._answer(request, None)

    def _answer(self, request: Request, error: ServiceError | None) -> None:
        """Settle a request's future, once, and give its place in the queue back.

        What its sequences hold on the device is given back by the worker, which may be using it just now.
        """
        with self._changed:
            if request not in self._open:
                return
            self._open.remove(request)
            self._texts -= len(request.texts)
            self._pieces -= request.cost
            self._running -= request.captured is not None
        request.finished = self._clock()
        if error is None:
            request.future.set_result(request)
        else:
            request.future.set_exception(error)

    def _report_queue(self) -> None:
        counts = len(self._open) - self._running, self._running
        if counts != self._reported:
            self._reported = counts
            self._tell(self._observer.queue_changed, *counts)

    def _tell(self, event: Callable[..., None], *details: object) -> None:
        """Tell the observer; its failure is logged and stops nobody."""
        try:
            event(*details)
        except Exception:
            log.exception("an observer failed")
