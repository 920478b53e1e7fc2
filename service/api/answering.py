"""Finds the entities of a request's texts: checks its limits, submits it to the engine, waits, and counts the answer.

The routes decide what a request and its answer look like on the wire.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from service.api.schemas.errors import ErrorOut
from service.api.state import Service, service_of
from service.engine.sequence import Request as EngineRequest
from service.engine.sequence import Sequence
from service.errors import NotReady, Overloaded, ServiceError, TimedOut, TooLarge
from service.policy.captured import CapturedPolicy
from service.spans.types import Entity
from service.text.types import EncodedText

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut} for status in (400, 401, 413, 415, 422, 429, 500, 503, 504)
}


T = TypeVar("T")


class ClientLeft(ServiceError):
    """The client closed its connection before its answer was ready."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    texts        several texts, or a string if the request gave one text
    field        the name of the request's field that holds the texts, for messages
    keep         returns whether an entity that was found is wanted
    split        whether texts are split into sentences
    timeout_ms   the request's own time limit; None for the operator's
    wants_trace  whether the layers that ran are to be inspected
    override     changes to the exit policy for this request alone
    """

    texts: str | Seq[str]
    field: str
    keep: Callable[[Entity], bool]
    split: bool = True
    timeout_ms: int | None = None
    wants_trace: bool = False
    override: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AnsweredText:
    """A text, its sequences after the last layer that each ran, and the entities that are wanted."""

    encoded: EncodedText
    sequences: Seq[Sequence]
    entities: Seq[Entity]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: its texts in order, the policy that decided them, and milliseconds by stage."""

    texts: Seq[AnsweredText]
    captured: CapturedPolicy
    timing_ms: dict[str, float]

    @property
    def headers(self) -> dict[str, str]:
        """The headers that an answer has for its policy and its times."""
        return {
            "X-Exit-Policy-Version": str(self.captured.version),
            "Server-Timing": ", ".join(f"{stage};dur={value}" for stage, value in self.timing_ms.items()),
        }


async def answer(request: Request, asked: Asked) -> Answer:
    """Find the entities of a request. Tokenising runs in a thread beside the event loop, inference in the engine.

    Raises BadInput, TooLarge, Overloaded, NotReady, TimedOut, ClientLeft or the engine's own error.
    """
    service = service_of(request)
    received = time.monotonic()
    texts = [asked.texts] if isinstance(asked.texts, str) else asked.texts
    _check_sizes(service, asked, texts)
    captured = service.policy.capture(asked.override)  # refuses changes that do not fit, before any work is done
    if not service.engine.has_room:
        service.metrics.http.request_refused("queue_full")
        raise Overloaded("the queue is full; send the request again later")
    deadline = received + (asked.timeout_ms or service.settings.timeout_ms) / 1_000
    caller = _Caller(service, request, deadline)
    try:
        return await _answer(service, caller, asked, texts, captured, received)
    finally:
        caller.forget()


async def _answer(
    service: Service, caller: _Caller, asked: Asked, texts: Seq[str], captured: CapturedPolicy, received: float
) -> Answer:
    encoded = await _encode(service, caller, asked, texts)
    num_tokens = sum(text.num_pieces for text in encoded)
    if num_tokens > service.settings.queue_tokens:
        limit = f"{service.settings.queue_tokens} (NER_QUEUE_TOKENS)"
        raise _too_large(service, f"the request has {num_tokens} tokens; the limit is {limit}; send it in parts")
    pending = EngineRequest(
        texts=tuple(encoded),
        deadline=caller.deadline,
        submitted=time.monotonic(),
        request_id=caller.request_id,
        override=asked.override,
        captured=captured,
        wants_trace=asked.wants_trace,
    )
    try:
        service.engine.submit(pending)
    except Overloaded:
        service.metrics.http.request_refused("queue_full")
        raise
    except NotReady:
        service.metrics.http.request_refused("not_ready")
        raise
    await _run(service, caller, pending)
    return _read(service, pending, asked, received)


def _check_sizes(service: Service, asked: Asked, texts: Seq[str]) -> None:
    """Raise TooLarge for too many texts, or for a text that is too long."""
    settings = service.settings
    most, variable = min((settings.max_texts, "NER_MAX_TEXTS"), (settings.queue_texts, "NER_QUEUE_TEXTS"))
    if len(texts) > most:
        raise _too_large(service, f"{asked.field} has {len(texts)} items; the limit is {most} ({variable})")
    for index, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            where = asked.field if isinstance(asked.texts, str) else f"{asked.field}[{index}]"
            limit = f"{settings.max_text_chars} (NER_MAX_TEXT_CHARS)"
            raise _too_large(service, f"{where} has {len(text)} characters; the limit is {limit}")


def _too_large(service: Service, message: str) -> TooLarge:
    service.metrics.http.request_refused("too_large")
    return TooLarge(message)


class _Caller:
    """Whoever waits for an answer: until a deadline, in monotonic seconds, and as long as the connection is there."""

    def __init__(self, service: Service, request: Request, deadline: float) -> None:
        self.deadline = deadline
        self.request_id: str = request.state.request_id
        self._metrics = service.metrics.http
        self._departure = asyncio.ensure_future(_departure(request))

    async def wait_for(self, work: asyncio.Future[T]) -> T:
        """Return what `work` comes to. Raises its error, or TimedOut or ClientLeft, and then the work goes on."""
        work.add_done_callback(lambda future: future.cancelled() or future.exception())  # mark it as seen
        timeout_s = max(0.0, self.deadline - time.monotonic())
        await asyncio.wait((work, self._departure), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        try:
            if work.done():
                return work.result()
            if self._departure.done():
                self._metrics.client_left()
                raise ClientLeft("the client closed its connection")
            raise TimedOut(
                "the request's timeout_ms passed before its answer was ready; ask for more time, or send less"
            )
        except TimedOut:
            self._metrics.request_timed_out()
            raise

    def forget(self) -> None:
        """Wait for nothing any more."""
        self._departure.cancel()


async def _departure(request: Request) -> None:
    """Return once the client is gone; the body has been read, so only a disconnect can still arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _encode(service: Service, caller: _Caller, asked: Asked, texts: Seq[str]) -> list[EncodedText]:
    """Cut the texts into what the model reads, beside the event loop; whoever stops waiting stops it, too."""
    is_over = threading.Event()
    work = asyncio.to_thread(service.text_encoder.encode_batch, texts, split=asked.split, is_over=is_over.is_set)
    try:
        return await caller.wait_for(asyncio.ensure_future(work))
    finally:
        is_over.set()


async def _run(service: Service, caller: _Caller, pending: EngineRequest) -> None:
    """Wait for the engine. Whoever stops waiting cancels the request: the engine drops it at the next layer."""
    answered = asyncio.wrap_future(pending.future)
    try:
        await caller.wait_for(answered)
    finally:
        if not answered.done():
            service.engine.cancel(pending)


def _read(service: Service, pending: EngineRequest, asked: Asked, received: float) -> Answer:
    """Return the answer of a finished request, and count it."""
    texts: list[AnsweredText] = []
    position = 0
    for encoded in pending.texts:
        sequences = pending.sequences[position : position + len(encoded.sequences)]
        position += len(encoded.sequences)
        entities = service.text_encoder.entities(encoded, [sequence.spans for sequence in sequences])
        texts.append(AnsweredText(encoded, sequences, list(filter(asked.keep, entities))))
    finished = time.monotonic()
    stages_s = {
        "tokenize": pending.submitted - received,
        "queue": pending.started - pending.submitted,
        "inference": pending.finished - pending.started - pending.decode_s,
        "decode": pending.decode_s + finished - pending.finished,
    }
    stages_s = {stage: max(0.0, seconds) for stage, seconds in stages_s.items()}
    labels = [entity.label for text in texts for entity in text.entities]
    service.metrics.http.request_answered(finished - received, stages_s, labels)
    service.traffic.answered(received, finished)
    timing_ms = {stage: round(1_000 * seconds, 3) for stage, seconds in stages_s.items()}
    timing_ms["total"] = round(1_000 * (finished - received), 3)
    return Answer(texts, pending.policy, timing_ms)
