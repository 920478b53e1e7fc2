"""POST /ner: a request in, its entities out. Tokenising runs beside the event loop, inference in the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence as Seq
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.api.keys import require_read
from service.api.schemas import ErrorOut, NerRequest, NerResult, NerResults
from service.api.state import Service, service_of
from service.engine.sequence import Request as EngineRequest
from service.engine.sequence import Sequence
from service.errors import BadInput, NotReady, Overloaded, TimedOut, TooLarge
from service.spans.types import Entity
from service.text.types import EncodedText

router = APIRouter()

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut} for status in (400, 401, 413, 422, 429, 500, 503, 504)
}
CLIENT_LEFT = 499  # nobody reads it; it keeps the count of answers honest


@router.post("/ner", response_model=NerResult | NerResults, responses=_ERRORS, dependencies=[Depends(require_read)])
async def ner(body: NerRequest, request: Request) -> Response:
    """Find the named entities of a text, or of several."""
    service = service_of(request)
    received = time.monotonic()
    texts = [body.text] if body.text is not None else body.texts or []
    _check(service, body, texts)
    service.controls.capture(body.exit_policy)  # refuses changes that do not fit, before any work is done
    if not service.engine.has_room:
        refusal = Overloaded("the queue is full; send the request again later")
        service.metrics.request_refused(refusal)
        raise refusal
    encoded = await asyncio.to_thread(service.text_encoder.encode_batch, texts, split=body.split)
    num_tokens = sum(text.num_pieces for text in encoded)
    if num_tokens > service.settings.queue_tokens:
        limit = f"{service.settings.queue_tokens} (NER_QUEUE_TOKENS)"
        raise _too_large(service, f"the request has {num_tokens} tokens; the limit is {limit}; send it in parts")
    timeout_s = (body.timeout_ms or service.settings.timeout_ms) / 1_000
    submitted = time.monotonic()
    pending = EngineRequest(
        texts=tuple(encoded),
        deadline=received + timeout_s,
        submitted=submitted,
        request_id=request.state.request_id,
        override=body.exit_policy,
        wants_trace=body.trace,
    )
    try:
        service.engine.submit(pending)
    except (Overloaded, NotReady) as refusal:
        service.metrics.request_refused(refusal)
        raise
    if not await _wait(service, pending, request):
        return Response(status_code=CLIENT_LEFT)
    return _answer(service, body, pending, received, submitted)


def _check(service: Service, body: NerRequest, texts: Seq[str]) -> None:
    """Raise BadInput or TooLarge for what the shape alone does not show."""
    settings = service.settings
    most, variable = min((settings.max_texts, "NER_MAX_TEXTS"), (settings.queue_texts, "NER_QUEUE_TEXTS"))
    if len(texts) > most:
        raise _too_large(service, f"texts has {len(texts)} items; the limit is {most} ({variable})")
    for index, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            where = "text" if body.text is not None else f"texts[{index}]"
            limit = f"{settings.max_text_chars} (NER_MAX_TEXT_CHARS)"
            raise _too_large(service, f"{where} has {len(text)} characters; the limit is {limit}")
    known = service.config.labels
    if unknown := sorted(set(body.labels or ()) - set(known)):
        raise BadInput(f"labels: {', '.join(unknown)} unknown; this model has {', '.join(known)}")
    if body.timeout_ms is not None and body.timeout_ms > settings.timeout_ms:
        raise BadInput(f"timeout_ms is {body.timeout_ms}; the limit is {settings.timeout_ms} (NER_TIMEOUT_MS)")


def _too_large(service: Service, message: str) -> TooLarge:
    service.metrics.request_too_large()
    return TooLarge(message)


async def _wait(service: Service, pending: EngineRequest, request: Request) -> bool:
    """Wait for the engine's answer; -> False when the client left first. Raises the engine's error, or TimedOut.

    Whoever stops waiting cancels the request, and the engine drops it at the next layer boundary.
    """
    answer = asyncio.wrap_future(pending.future)
    answer.add_done_callback(lambda future: future.cancelled() or future.exception())  # mark it as seen
    departure = asyncio.ensure_future(_client_left(request))
    try:
        timeout_s = max(0.0, pending.deadline - time.monotonic())
        await asyncio.wait((answer, departure), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()
            return True
        if departure.done():
            service.metrics.client_left()
            return False
        raise TimedOut("the request's timeout_ms passed before its answer was ready; ask for more time, or send less")
    except TimedOut:
        service.metrics.request_timed_out()
        raise
    finally:
        if not answer.done():
            service.engine.cancel(pending)
        departure.cancel()


async def _client_left(request: Request) -> None:
    """Return once the client is gone; the body has been read, so only its leaving can still arrive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(
    service: Service, body: NerRequest, pending: EngineRequest, received: float, submitted: float
) -> JSONResponse:
    captured = pending.captured
    if captured is None:
        raise RuntimeError("an answered request has no policy")
    wanted = set(body.labels) if body.labels is not None else None
    results: list[dict[str, Any]] = []
    position = 0
    for text in pending.texts:
        sequences = pending.sequences[position : position + len(text.sequences)]
        position += len(text.sequences)
        entities = service.text_encoder.entities(text, [sequence.spans for sequence in sequences])
        kept = [e for e in entities if e.score >= body.min_score and (wanted is None or e.label in wanted)]
        results.append(_result(service, text, sequences, kept, captured.version))
        if body.trace:
            results[-1]["exit_policy"] = captured.policy.to_json()
    finished = time.monotonic()
    stages_s = {
        "tokenize": submitted - received,
        "queue": pending.started - pending.submitted,
        "inference": pending.finished - pending.started - pending.decode_s,
        "decode": pending.decode_s + finished - pending.finished,
    }
    stages_s = {stage: max(0.0, seconds) for stage, seconds in stages_s.items()}
    labels = [entity["label"] for result in results for entity in result["entities"]]
    service.metrics.request_answered(finished - received, stages_s, labels)
    timing_ms = {stage: round(1_000 * seconds, 3) for stage, seconds in stages_s.items()}
    timing_ms["total"] = round(1_000 * (finished - received), 3)
    for result in results:
        result["timing_ms"] = timing_ms
    headers = {
        "X-Exit-Policy-Version": str(captured.version),
        "Server-Timing": ", ".join(f"{stage};dur={value}" for stage, value in timing_ms.items()),
    }
    return JSONResponse(results[0] if body.text is not None else {"results": results}, headers=headers)


def _result(
    service: Service, text: EncodedText, sequences: Seq[Sequence], entities: Seq[Entity], version: int
) -> dict[str, Any]:
    return {
        "entities": [
            {
                "start": entity.start,
                "end": entity.end,
                "text": text.text[entity.start : entity.end],
                "label": entity.label,
                "score": round(entity.score, 6),
            }
            for entity in entities
        ],
        "exit_layer": max((sequence.layer for sequence in sequences), default=0),
        "num_layers": service.config.num_layers,
        "sequences": [
            {
                "start": sequence.input.start,
                "end": sequence.input.end,
                "exit_layer": sequence.layer,
                "exit_reason": sequence.exit_reason,
                **({"trace": sequence.trace} if sequence.trace is not None else {}),
            }
            for sequence in sequences
        ],
        "policy_version": version,
        "model": service.model_reference,
    }
