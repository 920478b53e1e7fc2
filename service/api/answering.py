"""Finds the entities of a request's texts: checks its limits, submits it to the engine, waits, and counts the answer.

The routes decide what a request and its answer look like on the wire. The framework's way and the short one end here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Generator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from starlette.types import Scope

from service.api.caller import Caller, ClientLeft
from service.api.schemas.errors import ErrorOut
from service.api.state import Service
from service.engine.cutter import IN_PLACE_CHARS, do_at_once
from service.engine.forecast import OpenWork
from service.engine.sequence import Priority, Sequence
from service.engine.sequence import Request as EngineRequest
from service.errors import NotReady, Overloaded, ServiceError, TimedOut, TooLarge
from service.metrics.http import RefusedFor
from service.policy.captured import CapturedPolicy
from service.spans.types import Entity
from service.text.types import EncodedText

LONG_SEQUENCES = 64  # of a request with which the event loop takes about a millisecond

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut} for status in (400, 401, 413, 415, 422, 429, 500, 503, 504)
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    texts        several texts, or a string if the request gave one text
    field        the name of the request's field that holds the texts, for messages
    keep         returns whether an entity that was found is wanted
    render       returns the answer's body
    split        whether texts are split into sentences
    timeout_ms   the request's own time limit; None for the operator's, or none at all if it waits
    waits        whether it waits as long as it takes, and asks again where there is no room: a line of a stream
    priority     bulk work is done with what interactive requests leave
    wants_trace  whether the layers that ran are to be inspected
    override     changes to the exit policy for this request alone
    """

    texts: str | Seq[str]
    field: str
    keep: Callable[[Entity], bool]
    render: Callable[[Answer], bytes]
    split: bool = True
    timeout_ms: int | None = None
    wants_trace: bool = False
    override: Mapping[str, Any] | None = None
    priority: Priority = "interactive"
    waits: bool = False


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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is sent: its headers, with lower-case names, and its body of JSON."""

    headers: list[tuple[bytes, bytes]]
    body: bytes

    @staticmethod
    def of(found: Answer, body: bytes) -> Reply:
        """Return the reply with an answer's body; its headers tell its policy and its times, too."""
        times = ", ".join([f"{stage};dur={value}" for stage, value in found.timing_ms.items()])
        return Reply(
            [
                (b"x-exit-policy-version", b"%d" % found.captured.version),
                (b"server-timing", times.encode()),
                (b"content-length", b"%d" % len(body)),
                (b"content-type", b"application/json"),
            ],
            body,
        )

    def to_response(self) -> Response:
        """Return it as the framework has it."""
        response = Response(self.body)
        response.raw_headers = self.headers
        return response


async def answer(service: Service, scope: Scope, asked: Asked) -> Reply:
    """Find the entities that the request of an HTTP scope asks for.

    Texts that are not short are cut in threads beside the event loop, inference runs in the engine, and a long answer
    is rendered in a thread, too. Raises BadInput, TooLarge, Overloaded, NotReady, TimedOut, ClientLeft or the engine's
    own error.
    """
    try:
        return await _answer(service, scope, asked)
    except ServiceError as error:
        if not asked.waits:
            service.tracing.failed(scope, error)
        raise


async def _answer(service: Service, scope: Scope, asked: Asked) -> Reply:
    arrived: float = scope["state"]["arrived"]
    texts = [asked.texts] if isinstance(asked.texts, str) else asked.texts
    _check_sizes(service, asked, texts)
    num_chars = sum(map(len, texts))
    is_endless = asked.waits and asked.timeout_ms is None
    deadline = math.inf if is_endless else arrived + (asked.timeout_ms or service.settings.timeout_ms) / 1_000
    with _enter(service, asked, num_chars, deadline) as work:
        captured = service.policy.capture(asked.override)  # refuses changes that do not fit, before any work is done
        try:
            with Caller(scope["state"]["departure"], deadline) as caller:
                work.when_refused(lambda error: _refuse(service, asked, caller, error))
                encoded = await _encode(service, caller, asked, texts, num_chars)
                pending = EngineRequest(
                    texts=tuple(encoded),
                    deadline=deadline,
                    submitted=time.monotonic(),
                    request_id=scope["state"]["request_id"],
                    override=asked.override,
                    captured=captured,
                    wants_trace=asked.wants_trace,
                    priority=asked.priority,
                    future=caller.loop.create_future(),
                )
                try:
                    await _run(service, caller, asked, pending, work)
                    reply = await _finish(service, caller, pending, asked, scope)
                finally:
                    pending.let_go()
        except TimedOut:  # the engine's own, too
            if not asked.waits:
                service.metrics.http.request_timed_out()
            raise
        except ClientLeft:
            service.metrics.http.client_left()
            raise
        work.was_done()
        return reply


def _enter(service: Service, asked: Asked, num_chars: int, deadline: float) -> OpenWork:
    """Count a request's work from now on, if there is room and time for it. Raises Overloaded."""
    forecast = service.engine.forecast_of(asked.priority)
    if not service.engine.has_room(asked.priority):
        _count_refusal(service, asked, "queue_full")
        raise Overloaded("the queue is full; send the request again later", retry_after_s=forecast.retry_after_s())
    try:
        return forecast.enter(num_chars, deadline)
    except Overloaded:
        _count_refusal(service, asked, "too_late")
        raise


def _refuse(service: Service, asked: Asked, caller: Caller, error: Overloaded) -> None:
    """Refuse a request that waits, because others took the time that it would need."""
    if caller.stop_waiting(error):
        _count_refusal(service, asked, "too_late")


def _count_refusal(service: Service, asked: Asked, reason: RefusedFor) -> None:
    if not asked.waits:  # else it asks again, and is a line and no request
        service.metrics.http.request_refused(reason)


def _check_sizes(service: Service, asked: Asked, texts: Seq[str]) -> None:
    """Raise TooLarge for too many texts, or for a text that is too long."""
    settings = service.settings
    most, variable = min((settings.max_texts, "NER_MAX_TEXTS"), (settings.queue_texts, "NER_QUEUE_TEXTS"))
    if len(texts) > most:
        raise _too_large(service, asked, f"{asked.field} has {len(texts)} items; the limit is {most} ({variable})")
    for index, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            where = asked.field if isinstance(asked.texts, str) else f"{asked.field}[{index}]"
            limit = f"{settings.max_text_chars} (NER_MAX_TEXT_CHARS)"
            raise _too_large(service, asked, f"{where} has {len(text)} characters; the limit is {limit}")


def _too_large(service: Service, asked: Asked, message: str) -> TooLarge:
    _count_refusal(service, asked, "too_large")
    return TooLarge(message)


async def _encode(service: Service, caller: Caller, asked: Asked, texts: Seq[str], num_chars: int) -> list[EncodedText]:
    """Return the texts as the model reads them: cut at once if they are short, else in a thread."""
    cutting = _cut(service, asked, texts)
    if num_chars <= IN_PLACE_CHARS:
        return do_at_once(cutting)
    return await caller.wait_for(service.cutter.submit(cutting, num_chars, asked.priority))


def _cut(service: Service, asked: Asked, texts: Seq[str]) -> Generator[None, None, list[EncodedText]]:
    """Cut the texts into what the model reads, in parts. Raises TooLarge once they have more pieces than may be."""
    cutting = service.text_encoder.cutting(texts, split=asked.split)
    most = service.settings.queue_tokens
    while True:
        try:
            num_pieces = next(cutting)
        except StopIteration as done:
            encoded: list[EncodedText] = done.value
            _check_pieces(service, asked, sum(text.num_pieces for text in encoded), most)
            return encoded
        _check_pieces(service, asked, num_pieces, most)
        yield


def _check_pieces(service: Service, asked: Asked, num_pieces: int, most: int) -> None:
    if num_pieces > most:
        limit = f"{most} (NER_QUEUE_TOKENS)"
        raise _too_large(
            service, asked, f"the request has at least {num_pieces} tokens; the limit is {limit}; send it in parts"
        )


async def _run(service: Service, caller: Caller, asked: Asked, pending: EngineRequest, work: OpenWork) -> None:
    """Have the engine run a request. Whoever stops waiting cancels it: it is dropped at the next layer."""
    try:
        await _submit(service, caller, asked, pending)
        work.is_known(pending, sum([len(text.text) for text in pending.texts]))
        await caller.wait_for(pending.future)
    except BaseException:
        service.engine.cancel(pending)  # in vain if the engine itself refused or answered it
        raise


async def _submit(service: Service, caller: Caller, asked: Asked, pending: EngineRequest) -> None:
    try:
        if _is_long(pending):
            await caller.wait_for(asyncio.ensure_future(asyncio.to_thread(service.engine.submit, pending)))
        else:
            service.engine.submit(pending)
    except Overloaded as error:
        _count_refusal(service, asked, "queue_full")
        retry_after_s = service.engine.forecast_of(asked.priority).retry_after_s()
        raise Overloaded(str(error), retry_after_s=retry_after_s) from None
    except NotReady:
        _count_refusal(service, asked, "not_ready")
        raise


def _is_long(pending: EngineRequest) -> bool:
    """Whether a request has so many sequences that what is done with all of them leaves the event loop."""
    return pending.wants_trace or sum([len(text.sequences) for text in pending.texts]) > LONG_SEQUENCES


async def _finish(service: Service, caller: Caller, pending: EngineRequest, asked: Asked, scope: Scope) -> Reply:
    """Return the answer of a finished request, rendered, and count it. Raises TimedOut if it is late by then."""
    arrived: float = scope["state"]["arrived"]

    def finish() -> tuple[Answer, Reply]:
        found = _read(service, pending, asked, arrived)
        return found, Reply.of(found, asked.render(found))

    if _is_long(pending):
        found, reply = await caller.wait_for(asyncio.ensure_future(asyncio.to_thread(finish)))
    else:
        found, reply = finish()
    caller.check_time()
    service.metrics.http.entities_answered([entity.label for text in found.texts for entity in text.entities])
    if not asked.waits:
        service.tracing.answered(scope, found.timing_ms, _attributes(asked, found))
    if asked.priority == "bulk":  # its times say nothing of the service, nor does the autopilot care
        return reply
    stages_s = {stage: milliseconds / 1_000 for stage, milliseconds in found.timing_ms.items()}
    duration_s = stages_s.pop("total")
    service.metrics.http.request_answered(duration_s, stages_s)
    service.traffic.answered(arrived, arrived + duration_s)
    return reply


def _attributes(asked: Asked, found: Answer) -> dict[str, str | int]:
    """Return what a trace tells of an answer; never a text."""
    layers = [sequence.layer for text in found.texts for sequence in text.sequences]
    return {
        "ner.priority": asked.priority,
        "ner.policy_version": found.captured.version,
        "ner.texts": len(found.texts),
        "ner.sequences": len(layers),
        "ner.exit_layer": max(layers, default=0),
    }


def _read(service: Service, pending: EngineRequest, asked: Asked, arrived: float) -> Answer:
    """Return the answer of a request that the engine has finished."""
    texts: list[AnsweredText] = []
    position = 0
    for encoded in pending.texts:
        sequences = pending.sequences[position : position + len(encoded.sequences)]
        position += len(encoded.sequences)
        entities = service.text_encoder.entities(encoded, [sequence.spans for sequence in sequences])
        texts.append(AnsweredText(encoded, sequences, list(filter(asked.keep, entities))))
    finished = time.monotonic()
    stages_s = {
        "tokenize": pending.submitted - arrived,
        "queue": pending.started - pending.submitted,
        "inference": pending.finished - pending.started - pending.decode_s,
        "decode": pending.decode_s + finished - pending.finished,
    }
    timing_ms = {stage: round(1_000 * max(0.0, seconds), 3) for stage, seconds in stages_s.items()}
    timing_ms["total"] = round(1_000 * (finished - arrived), 3)
    return Answer(texts, pending.policy, timing_ms)
