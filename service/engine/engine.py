"""One worker that runs admitted requests layer by layer and answers every one: with a result or with an error."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from service.engine.admission import Admission, EngineLoad
from service.engine.forecast import Forecast
from service.engine.idle import IdleWork
from service.engine.labelled import Labelled, LabelledRuns
from service.engine.reuse import Reuse, ReuseSource
from service.engine.samples import SampleRuns
from service.engine.scheduler import Scheduler, Step
from service.engine.sequence import Priority, Request, Sequence
from service.engine.settling import settle
from service.engine.shadows import Shadows
from service.errors import BadInput, EngineFailed, NotReady, ServiceError, TimedOut
from service.policy.captured import CapturedPolicy
from service.stepping.inspection import inspect
from service.stepping.stepper import Stepper

log = logging.getLogger(__name__)

MAX_WORKER_FAILURES = 3
GIVE_WAY_S = 0.005  # that a step of bulk work waits at most for interactive requests that are on their way here or back
LOOK_S = 0.0005  # between two looks whether they are


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Limits of what may wait and run at a time, and of what one step may hold.

    queue_texts, queue_pieces  most texts and pieces of all admitted requests that are not answered yet, and as many
                               again of bulk work
    max_step_pieces            most pieces of one layer step
    step_overdue_s             after so many seconds in one step, the engine no longer counts as alive
    """

    queue_texts: int = 4_096
    queue_pieces: int = 262_144
    max_step_pieces: int = 1_024
    step_overdue_s: float = 30.0


class EngineObserver(Protocol):
    """Receives the engine's events; the server passes them on to metrics, live policy and autopilot."""

    def step_done(self, layer: int, sequences: int, pieces: int, seconds: float) -> None:
        """Take note that `layer` ran over so many sequences and pieces, in `seconds`, its share of the step's."""

    def sequence_left(self, sequence: Sequence, num_layers: int) -> None:
        """Take note that a sequence has left and its spans are decoded."""

    def sequence_reused(self, sequence: Sequence, source: ReuseSource) -> None:
        """Take note that a sequence has the answer of an equal one, and ran no layer."""

    def queue_changed(self, waiting: int, running: int) -> None:
        """Take note of how many interactive requests wait for their first step, and of how many have started."""


class PolicySource(Protocol):
    """Gives requests their exit policy; `service.policy` implements it."""

    def capture(self, override: Mapping[str, Any] | None = None) -> CapturedPolicy:
        """Return the policy in force, with a request's own changes. Raises BadInput for changes that do not fit."""

    def renew(self, captured: CapturedPolicy, override: Mapping[str, Any] | None) -> CapturedPolicy:
        """Return `captured` while its version is in force, else a new capture. Raises BadInput, as `capture` does."""


class Engine:
    """Runs admitted requests on a worker thread, and settles their futures, those of a step all at once.

    A step is three lines: schedule, run, settle. An exception in a step fails only the request that causes it. The
    policy that is in force when a request's first sequence starts decides the whole request. Shadows and samples run
    only while no interactive request has a step to run. They go before bulk work, of which they are a small share, and
    which would leave them nothing.
    """

    def __init__(
        self,
        stepper: Stepper,
        *,
        policy: PolicySource,
        limits: EngineLimits,
        observer: EngineObserver,
        shadows: Shadows | None = None,
        samples: SampleRuns | None = None,
        labelled: LabelledRuns | None = None,
        reuse: Reuse | None = None,
        prepare: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`start` has the worker's thread run `prepare` before anything else.

        Without `shadows`, no shadow runs; nor does any sample without `samples`, or any labelled sentence without
        `labelled`. Without `reuse`, every sequence runs, also if an equal one is under way.
        """
        self._stepper = stepper
        self._policy = policy
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._shadows = shadows or Shadows()
        self._samples = samples
        self._labelled = labelled
        # samples first, which keep a promise, and shadows last: they alone may be dropped
        self._idle: list[IdleWork] = [work for work in (samples, labelled, self._shadows) if work is not None]
        self._reuse = reuse or Reuse(is_on=False)
        self._admission = Admission(limits.queue_texts, limits.queue_pieces)
        self._forecasts: dict[Priority, Forecast] = {
            priority: Forecast(stepper.num_layers, clock) for priority in get_args(Priority)
        }
        self._scheduler = Scheduler(stepper.num_layers, limits.max_step_pieces)
        self._changed = threading.Condition()  # guards the three fields below, and who tells of the queue
        self._newcomers: list[Request] = []
        self._is_closing = False
        self._has_failed = False
        self._answered: deque[Request] = deque()  # whose futures are not settled yet
        self._reported = (0, 0)  # waiting and running, as the observer was last told
        self._step_started: float | None = None
        self._prepare = prepare
        self._prepared: Future[None] = Future()
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the worker, and return once it is prepared. Raises whatever `prepare` raises."""
        self._worker.start()
        self._prepared.result()

    def close(self, timeout_s: float = 5.0) -> None:
        """Finish the admitted requests, then stop; later submissions get NotReady.

        If the worker does not end within `timeout_s`, the engine has failed, and the open requests get NotReady.
        """
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
        for request in self._admission.open:  # the worker never started, hangs, or is gone
            self._answer(request, NotReady("the service ended before the request ran; send it to another instance"))
        self._hand_over()

    @property
    def has_failed(self) -> bool:
        """Whether the worker failed too often, or hung when it was to end; the process should then end."""
        return self._has_failed

    @property
    def is_alive(self) -> bool:
        """Whether the worker can make progress: it runs, and its step is not overdue. An idle engine is alive."""
        return self._worker.is_alive() and self.step_age_s() < self._limits.step_overdue_s

    def step_age_s(self) -> float:
        """Return for how many seconds the current step has run; 0 between steps."""
        started = self._step_started
        return 0.0 if started is None else self._clock() - started

    @property
    def forecast(self) -> Forecast:
        """The forecast of interactive requests."""
        return self._forecasts["interactive"]

    def forecast_of(self, priority: Priority) -> Forecast:
        """Return the forecast that is kept by whoever submits requests; here it says whose turn comes when."""
        return self._forecasts[priority]

    def has_room(self, priority: Priority = "interactive") -> bool:
        """Return whether another text could be admitted at all; callers ask before they tokenise it."""
        return self._admission.has_room(priority)

    @property
    def bulk_requests(self) -> int:
        """How many bulk requests are admitted and not answered."""
        return self._admission.bulk_requests

    @property
    def cache_bytes(self) -> int:
        """How much memory the answers take that are kept for equal sentences, about."""
        return self._reuse.cache_bytes

    def load(self) -> EngineLoad:
        """Return the engine's work at this moment."""
        return self._admission.load(self._clock())

    def submit(self, request: Request) -> None:
        """Admit a request, as a whole or not at all; the future of an admitted request is always answered.

        Raises Overloaded or NotReady; and BadInput for a request without a captured policy whose override does not fit.
        """
        if request.captured is None:
            request.captured = self._policy.capture(request.override)
        policy, num_layers = request.captured.policy, self._stepper.num_layers
        inputs = [sequence for text in request.texts for sequence in text.sequences]
        request.cost = sum(policy.work(sequence, num_layers) for sequence in inputs)
        request.turn = self._forecasts[request.priority].turn(request.cost, request.submitted, request.deadline)
        sequences = [Sequence(one, policy, keeps_every_exit=request.wants_trace, request=request) for one in inputs]
        with self._changed:
            if self._is_closing:
                raise NotReady("the service is shutting down; send the request again to another instance")
            self._admission.admit(request)
            request.sequences, request.unfinished = sequences, len(sequences)
            if sequences:
                self._newcomers.append(request)
                self._changed.notify()
            else:
                self._start(request)
                self._answer(request, None)
            self._hand_over()

    def submit_labelled(self, sentences: Seq[Labelled]) -> None:
        """Let labelled sentences run in idle time. Raises Overloaded, TooLarge, or NotReady where none are taken."""
        if self._labelled is None:
            raise NotReady("labelled sentences are not taken here")
        self._labelled.add(sentences)
        with self._changed:
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Drop a request: its place is free at once, and its sequences leave at the next layer boundary."""
        request.is_cancelled = True
        self._answer(request, ServiceError("the caller left before the answer was ready"))
        self._hand_over()

    def _work(self) -> None:
        """Prepare, then run steps until closed. A fault outside a step fails all open requests; too many end this."""
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
        self._abandon()  # requests that were submitted meanwhile

    def _run_steps(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._newcomers or self._scheduler.has_work or self._is_closing or self._idle_work()
                )
                for request in self._newcomers:
                    self._scheduler.add(request.sequences)
                self._newcomers.clear()
                if self._is_closing and not self._scheduler.has_work:
                    return
            if self._scheduler.has_interactive:
                self._step()
            elif work := self._idle_work():
                self._run_idle(work)
            elif self._scheduler.has_work and self._gave_way():
                self._step()

    def _gave_way(self) -> bool:
        """Before a step of bulk work, let interactive requests have the processor; return False for newcomers."""
        with self._changed:
            for _ in range(round(GIVE_WAY_S / LOOK_S)):
                if self._newcomers or not self.forecast.has_open:
                    break
                self._changed.wait(LOOK_S)
            return not self._newcomers

    def _step(self) -> None:
        step = self._schedule()
        moved = self._run(step)
        self._settle(step, moved)

    def _abandon(self) -> None:
        """Answer every open request with an error, and start over with an empty schedule."""
        with self._changed:
            abandoned = self._admission.open
            self._newcomers.clear()
            self._scheduler = Scheduler(self._stepper.num_layers, self._limits.max_step_pieces)
        self._step_started = None
        self._shadows.drop()
        self._reuse.clear()
        for request in abandoned:
            for sequence in request.sequences:
                sequence.release()
            self._answer(request, EngineFailed("the engine failed on this request; the log has the details"))
        self._hand_over()

    def _schedule(self) -> Step:
        """Return the next step, without the sequences that nobody waits for any more."""
        self._step_started = now = self._clock()
        step = self._scheduler.next_step()
        wanted = [sequence for sequence in step.sequences if self._is_wanted(sequence, now)]
        if step.layer == 1:
            wanted, answered = self._reuse.begin(wanted)
            self._reused(answered, "cache")
        self._hand_over()
        return Step(step.layer, tuple(wanted), sum(sequence.step_pieces for sequence in wanted))

    def _run(self, step: Step) -> list[Sequence]:
        """Advance the step's sequences by its layer; return the sequences that did not fail."""
        return self._in_parts(step.sequences, self._stepper.advance) if step.sequences else []

    def _settle(self, step: Step, moved: Seq[Sequence]) -> None:
        """Answer the sequences that leave, and put the others before their next layer."""
        self._scheduler.add(sequence for sequence in moved if sequence.exit_reason is None)
        self._leave([sequence for sequence in moved if sequence.exit_reason is not None])
        self._hand_over()
        seconds, self._step_started = self.step_age_s(), None
        last = max((sequence.layer for sequence in moved), default=step.layer)  # of a step that ran several layers
        for layer in range(step.layer, last + 1 if step.sequences else step.layer):
            seconds_each = seconds / (last - step.layer + 1)
            self._tell(self._observer.step_done, layer, len(step.sequences), step.pieces, seconds_each)

    def _idle_work(self) -> IdleWork | None:
        return next((work for work in self._idle if work.has_work), None)

    def _run_idle(self, work: IdleWork) -> None:
        """Run one layer of a shadow or a sample. If that fails, only the statistics are the worse for it."""
        self._step_started = self._clock()
        try:
            work.run_layer(self._stepper)
        except Exception:
            log.warning("a run in idle time failed and was dropped", exc_info=True)
        self._step_started = None

    def _in_parts(self, sequences: Seq[Sequence], do: Callable[[Seq[Sequence]], object]) -> list[Sequence]:
        """Call `do`, which uses the device, on some sequences; return the sequences for which it succeeded.

        If it fails, it is tried on each half, and so on down to single sequences. So neither a faulty sequence nor a
        step that is too large for the device's memory costs another request its answer.
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
        """Answer the request of a failed sequence with an error; called while the exception is handled."""
        if self._admission.is_open(sequence.request):  # else another sequence of it has failed, and was logged
            log.exception("request %s failed, with %d layers run", sequence.request.request_id, sequence.layer)
        self._drop(sequence)
        self._answer(
            sequence.request, EngineFailed("the engine failed on this request; the log has the details under its id")
        )

    def _is_wanted(self, sequence: Sequence, now: float) -> bool:
        """Return whether a sequence's request is still open, starting it if it is new; else release the sequence."""
        request = sequence.request
        if request.is_cancelled:
            self.cancel(request)
        elif now > request.deadline:
            self._answer(request, TimedOut("the request's timeout_ms passed before its answer was ready"))
        elif not request.has_started:
            self._start(request)
        if self._admission.is_open(request):
            return True
        self._drop(sequence)  # its request is answered: cancelled, too late, or another sequence of it failed
        return False

    def _drop(self, sequence: Sequence) -> None:
        """Let go of a sequence that will not be answered; those that follow it run on their own."""
        sequence.release()
        self._scheduler.add(self._reuse.give_up(sequence))

    def _start(self, request: Request) -> None:
        """Start a request: the policy that is in force now decides all its sequences."""
        try:
            captured = self._policy.renew(request.policy, request.override)
        except BadInput as error:  # the live policy has changed since the override was checked
            self._answer(request, error)
            return
        for sequence in request.sequences:
            sequence.policy = captured.policy
        if self._samples is not None and not captured.is_override:
            for sequence in request.sequences:
                self._samples.offer(sequence.input)
        self._admission.start(request, captured, self._clock())

    def _leave(self, sequences: Seq[Sequence]) -> None:
        if not sequences:
            return
        started = self._clock()
        decoded = self._in_parts(sequences, self._read)
        followers: list[Sequence] = []
        for sequence in decoded:
            self._shadows.offer(sequence, self._stepper.num_layers)
            sequence.release()
            followers += self._reuse.end(sequence)
            self._tell(self._observer.sequence_left, sequence, self._stepper.num_layers)
        now = self._clock()
        for sequence in decoded:
            sequence.request.decode_s += (now - started) / len(decoded)
        self._finish(decoded)
        self._reused(followers, "under_way")

    def _reused(self, sequences: Seq[Sequence], source: ReuseSource) -> None:
        """Take note that sequences have the answers of equal ones."""
        for sequence in sequences:
            self._tell(self._observer.sequence_reused, sequence, source)
        self._finish(sequences)

    def _finish(self, sequences: Seq[Sequence]) -> None:
        """Take note that sequences have their answers, and answer the requests that were waiting for no others."""
        for sequence in sequences:
            request = sequence.request
            request.unfinished -= 1
            if request.unfinished == 0:
                self._answer(request, None)

    def _read(self, sequences: Seq[Sequence]) -> None:
        """Decode the spans of sequences, and inspect the layers of those whose request wants a trace."""
        for sequence, spans in zip(sequences, self._stepper.read_spans(sequences), strict=True):
            sequence.spans = spans
            if sequence.keeps_every_exit:
                sequence.views = inspect(sequence)

    def _answer(self, request: Request, error: ServiceError | None) -> None:
        """Answer a request, once, and free its place in the queue; `_hand_over` tells whoever waits.

        The states of its sequences are left to the worker, which may be using them at this moment and releases them.
        """
        if not self._admission.give_back(request):
            return
        request.finished, request.error = self._clock(), error
        self._answered.append(request)

    def _hand_over(self) -> None:
        """Tell the observer of the queue, and whoever waits of the requests that were answered."""
        self._report_queue()
        answered: list[Request] = []
        while self._answered:
            with suppress(IndexError):  # another thread was faster
                answered.append(self._answered.popleft())
        settle(answered)

    def _report_queue(self) -> None:
        with self._changed:  # else an older count might be told after a newer one
            counts = self._admission.counts
            if counts != self._reported:
                self._reported = counts
                self._tell(self._observer.queue_changed, *counts)

    def _tell(self, event: Callable[..., None], *details: object) -> None:
        """Tell the observer of an event; if it fails, log that and go on."""
        try:
            event(*details)
        except Exception:
            log.exception("an observer failed")
