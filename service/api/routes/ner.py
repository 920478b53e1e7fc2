"""POST /ner: the service's own wire format."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from service.api.answering import ERRORS, Answer, AnsweredText, Asked, answer
from service.api.bodies import BodyRoute
from service.api.keys import require_read
from service.api.respond import checked_json
from service.api.schemas.ner import NerRequest, NerResult, NerResults
from service.api.state import Service, service_of
from service.engine.sequence import Sequence
from service.errors import BadInput
from service.exits.words import WordProgress
from service.stepping.inspection import LayerView

router = APIRouter(route_class=BodyRoute)


@router.post("/ner", response_model=NerResult | NerResults, responses=ERRORS, dependencies=[Depends(require_read)])
async def ner(body: NerRequest, request: Request) -> Response:
    """Find the named entities of a text, or of several."""
    service = service_of(request)
    return (await answer(service, request.scope, ask(service, body))).to_response()


def ask(service: Service, body: NerRequest) -> Asked:
    """Return what a body asks for. Raises BadInput for labels or a time limit that cannot be."""
    _check(service, body)
    wanted = frozenset(service.config.labels if body.labels is None else body.labels)
    texts = body.text if body.text is not None else body.texts or []
    is_alone = isinstance(texts, str)
    return Asked(
        texts=texts,
        field="text" if is_alone else "texts",
        keep=lambda entity: entity.score >= body.min_score and entity.label in wanted,
        render=partial(_render, service, is_alone=is_alone, with_policy=body.trace),
        split=body.split,
        timeout_ms=body.timeout_ms,
        wants_trace=body.trace,
        override=body.exit_policy,
        priority=body.priority,
    )


def _render(service: Service, found: Answer, *, is_alone: bool, with_policy: bool) -> bytes:
    results = [
        {
            **_result(service, text),
            "policy_version": found.captured.version,
            "model": service.model_reference,
            "timing_ms": found.timing_ms,
            **({"exit_policy": found.captured.policy.to_json()} if with_policy else {}),
        }
        for text in found.texts
    ]
    content = results[0] if is_alone else {"results": results}
    if with_policy:  # numbers of every layer, which may be no numbers
        return checked_json(NerResult if is_alone else NerResults, content)
    return to_json(content)


def _check(service: Service, body: NerRequest) -> None:
    """Raise BadInput for labels that the model does not have, or a time limit over the operator's."""
    known = service.config.labels
    if unknown := sorted(set(body.labels or ()) - set(known)):
        raise BadInput(f"labels: {', '.join(unknown)} unknown; this model has {', '.join(known)}")
    most_ms = service.settings.timeout_ms
    if body.timeout_ms is not None and body.timeout_ms > most_ms:
        raise BadInput(f"timeout_ms is {body.timeout_ms}; the limit is {most_ms} (NER_TIMEOUT_MS)")


def _result(service: Service, text: AnsweredText) -> dict[str, Any]:
    return {
        "entities": [
            {
                "start": entity.start,
                "end": entity.end,
                "text": text.encoded.text[entity.start : entity.end],
                "label": entity.label,
                "score": round(entity.score, 6),
            }
            for entity in text.entities
        ],
        "exit_layer": max((sequence.layer for sequence in text.sequences), default=0),
        "num_layers": service.config.num_layers,
        "sequences": [_sequence(service, sequence) for sequence in text.sequences],
    }


def _sequence(service: Service, sequence: Sequence) -> dict[str, Any]:
    found: dict[str, Any] = {
        "start": sequence.input.start,
        "end": sequence.input.end,
        "exit_layer": sequence.layer,
        "exit_reason": sequence.exit_reason,
    }
    if sequence.views is not None:
        found["trace"] = [_layer(sequence, view, service.config.labels) for view in sequence.views]
        if sequence.words is not None:
            found["word_layers"] = _word_layers(sequence, sequence.words)
    return found


def _layer(sequence: Sequence, view: LayerView, labels: Seq[str]) -> dict[str, Any]:
    """Return what a layer that ran saw; its spans of words become entities by character, as in the answer."""
    starts, ends = sequence.input.word_starts, sequence.input.word_ends
    return {
        "layer": view.layer,
        "consistency": list(view.consistency),
        "votes": view.votes,
        "entropy_mean": view.entropy_mean,
        "entropy_max": view.entropy_max,
        "evidence": list(view.evidence),
        "entities": [
            {
                "start": int(starts[span.start]),
                "end": int(ends[span.end - 1]),
                "label": labels[span.label - 1],
                "score": span.score,
            }
            for span in view.spans
        ],
    }


def _word_layers(sequence: Sequence, words: WordProgress) -> list[dict[str, int]]:
    """Return every word with the layer after which it halted."""
    rows = zip(sequence.input.word_starts, sequence.input.word_ends, words.layers, strict=True)
    return [{"start": int(start), "end": int(end), "layer": int(layer)} for start, end, layer in rows]
