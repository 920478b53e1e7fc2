"""One worker that runs admitted requests layer by layer and answers every one: with a result or with an error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from service.engine.admission import Admission, EngineLoad
from service.engine.scheduler import Scheduler, Step
from service.engine.sequence import Request, Sequence
from service.engine.shadows import Shadows
from service.errors import BadInput, EngineFailed, NotReady, ServiceError, TimedOut
from service.policy.captured import CapturedPolicy
from service.stepping.inspection import inspect
from service.stepping.stepper import Stepper

log = logging.getLogger(__name__)

MAX_WORKER_FAILURES = 3


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


class EngineObserver(Protocol):
    """Whom the engine tells what happened; metrics implement it."""

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """One layer ran over some sequences."""

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """One sequence has its answer."""

    def queue_changed(self, waiting: int, running: int) -> None:
        """Requests that wait for their first step, and that have begun."""


class LivePolicy(Protocol):
    """Where requests get their exit policy from; `service.policy` implements it."""

    def capture(self, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        """Return the policy in force, with a request's own changes. Raises BadInput for changes that do not fit."""

    def renew(self, captured: CapturedPolicy, override: Mapping[str, Any] | None) -> CapturedPolicy:
        """Return `captured` while its version is in force, else capture anew. Raises BadInput."""


class Engine:
    """Runs what was admitted on a worker thread, and settles the futures.

    A step is three lines: schedule, run, settle. An exception in a step fails the request that it is about and nobody
    else's. A request is decided by the policy that is in force when its first sequence starts. Only when no request has
    a step to run, a shadow has one.
    """

    def __init__(
        self,
        stepper: Stepper,
        *,
        policy: LivePolicy,
        limits: EngineLimits,
        observer: EngineObserver,
        shadows: Shadows | None = None,
        prepare: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prepare` is run by `start`, in the worker's thread, before anything else runs there.

        Without `shadows` none are run.
        """
        self._stepper = stepper
        self._policy = policy
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._shadows = shadows or Shadows()
        self._admission = Admission(limits.queue_texts, limits.queue_pieces)
        self._scheduler = Scheduler(stepper.num_layers, limits.max_step_pieces)
        self._changed = threading.Condition()  # guards the fields below
        self._newcomers: list[Request] = []
        self._is_closing = False
        self._has_failed = False
        self._reported = (0, 0)  # waiting and running, as the observer knows them
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
        for request in self._admission.open:  # a worker that never started, or that is gone
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
        return self._admission.has_room

    def load(self) -> EngineLoad:
        """What there is to do just now."""
        return self._admission.load(self._clock())

    def submit(self, request: Request) -> None:
        """Admit a request, whole or not at all; its future is always answered.

        Raises Overloaded or NotReady; and BadInput where it came without a captured policy and its changes do not fit.
        """
        if request.captured is None:
            request.captured = self._policy.capture(request.override)
        policy, num_layers = request.captured.policy, self._stepper.num_layers
        inputs = [sequence for text in request.texts for sequence in text.sequences]
        request.cost = sum(policy.work(sequence, num_layers) for sequence in inputs)
        sequences = [Sequence(one, policy, keeps_every_exit=request.wants_trace, request=request) for one in inputs]
        with self._changed:
            if self._is_closing:
                raise NotReady("the service is shutting down; send the request again to another instance")
            self._admission.admit(request)
            request.sequences, request.unfinished = sequences, len(sequences)
            request.future.set_running_or_notify_cancel()  # from here on only the engine settles it
            if sequences:
                self._newcomers.append(request)
                self._changed.notify()
            else:
                self._start(request)
                self._answer(request, None)
            self._report_queue()

    def cancel(self, request: Request) -> None:
        """Nobody waits for `request` any more: its room is free at once, its sequences leave at the next boundary."""
        request.is_cancelled = True
        self._answer(request, ServiceError("the caller left before the answer was ready"))
        self._report_queue()

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
                    lambda: self._newcomers or self._scheduler.has_work or self._is_closing or self._shadows.has_work
                )
                for request in self._newcomers:
                    self._scheduler.add(request.sequences)
                self._newcomers.clear()
                if self._is_closing and not self._scheduler.has_work:
                    return
            if self._scheduler.has_work:
                self._step()
            elif self._shadows.has_work:
                self._run_shadow()

    def _step(self) -> None:
        step = self._schedule()
        moved = self._run(step)
        self._settle(step, moved)

    def _abandon(self) -> None:
        """Answer every open request with an error, and begin with nothing waiting."""
        with self._changed:
            abandoned = self._admission.open
            self._newcomers.clear()
            self._scheduler = Scheduler(self._stepper.num_layers, self._limits.max_step_pieces)
        self._step_started = None
        self._shadows.drop()
        for request in abandoned:
            for sequence in request.sequences:
                sequence.release()
            self._answer(request, EngineFailed("the engine failed on this request; the log has the details"))
        self._report_queue()

    def _schedule(self) -> Step:
        """Take the next step; sequences that nobody waits for any more leave here, at a layer boundary."""
        self._step_started = now = self._clock()
        step = self._scheduler.next_step()
        wanted = tuple(sequence for sequence in step.sequences if self._is_wanted(sequence, now))
        self._report_queue()
        return Step(step.layer, wanted, sum(sequence.step_pieces for sequence in wanted))

    def _run(self, step: Step) -> list[Sequence]:
        """Advance the step's sequences by its layer; return those that it did not fail on."""
        return self._in_parts(step.sequences, self._stepper.advance) if step.sequences else []

    def _settle(self, step: Step, moved: Seq[Sequence]) -> None:
        """Answer those that leave; those that stay wait before their next layer."""
        self._scheduler.add(sequence for sequence in moved if sequence.exit_reason is None)
        self._leave([sequence for sequence in moved if sequence.exit_reason is not None])
        self._report_queue()
        seconds, self._step_started = self.step_age_s(), None
        if step.sequences:
            self._tell(self._observer.step_done, step.layer, len(step.sequences), step.pieces, seconds)

    def _run_shadow(self) -> None:
        """Run one layer of one shadow; where that fails, nobody but the statistics has lost anything."""
        self._step_started = self._clock()
        try:
            self._shadows.run_layer(self._stepper)
        except Exception:
            log.warning("a shadow run failed and was dropped", exc_info=True)
        self._step_started = None

    def _in_parts(self, sequences: Seq[Sequence], do: Callable[[Seq[Sequence]], object]) -> list[Sequence]:
        """Have the device do something for some sequences; return those that it did it for.

        Where it fails, halves are tried, down to whom it fails on alone. So neither a poisoned sequence nor a step too
        large for the device's memory costs anybody else the answer.
        """
        try:
            do(sequences)
            return list(sequences)
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
        elif not request.has_started:
            self._start(request)
        if self._admission.is_open(request):
            return True
        sequence.release()  # its request is answered: cancelled, too late, or another sequence of it failed
        return False

    def _start(self, request: Request) -> None:
        """Begin a request: the policy that is in force now decides all its sequences."""
        try:
            captured = self._policy.renew(request.policy, request.override)
        except BadInput as error:  # the live policy changed since its changes were checked, and they fit no more
            self._answer(request, error)
            return
        for sequence in request.sequences:
            sequence.policy = captured.policy
        self._admission.start(request, captured, self._clock())

    def _leave(self, sequences: Seq[Sequence]) -> None:
        if not sequences:
            return
        started = self._clock()
        decoded = self._in_parts(sequences, self._read)
        for sequence in decoded:
            self._shadows.offer(sequence, self._stepper.num_layers)
            sequence.release()
            self._tell(self._observer.sequence_left, sequence, self._stepper.num_layers)
        now = self._clock()
        for sequence in decoded:
            request = sequence.request
            request.decode_s += (now - started) / len(decoded)
            request.unfinished -= 1
            if request.unfinished == 0:
                self._answer(request, None)

    def _read(self, sequences: Seq[Sequence]) -> None:
        """Decode what sequences answer, and view the layers of those whose request wants a trace."""
        for sequence, spans in zip(sequences, self._stepper.read_spans(sequences), strict=True):
            sequence.spans = spans
            if sequence.keeps_every_exit:
                sequence.views = inspect(sequence)

    def _answer(self, request: Request, error: ServiceError | None) -> None:
        """Settle a request's future, once, and give its place in the queue back.

        What its sequences hold on the device is given back by the worker, which may be using it just now.
        """
        if not self._admission.give_back(request):
            return
        request.finished = self._clock()
        if error is None:
            request.future.set_result(request)
        else:
            request.future.set_exception(error)

    def _report_queue(self) -> None:
        counts = self._admission.counts
        if counts != self._reported:
            self._reported = counts
            self._tell(self._observer.queue_changed, *counts)

    def _tell(self, event: Callable[..., None], *details: object) -> None:
        """Tell the observer; its failure is logged and stops nobody."""
        try:
            event(*details)
        except Exception:
            log.exception("an observer failed")
