"""POST /: the wire format of Hugging Face's clients for token classification, so that they can be pointed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from service.api.answering import ERRORS, Answer, AnsweredText, Asked, answer
from service.api.bodies import BodyRoute
from service.api.keys import require_read
from service.api.schemas.hugging_face import HuggingFaceEntity, HuggingFaceParameters, HuggingFaceRequest
from service.api.state import Service, service_of
from service.spans.types import IntArray

router = APIRouter(route_class=BodyRoute)

ItemsOf = Callable[[AnsweredText], Iterator[HuggingFaceEntity]]


@router.post(
    "/",
    response_model=list[HuggingFaceEntity] | list[list[HuggingFaceEntity]],
    responses=ERRORS,
    dependencies=[Depends(require_read)],
)
async def token_classification(body: HuggingFaceRequest, request: Request) -> Response:
    """Find the named entities of a text, or of several, for Hugging Face's clients: their `token_classification`."""
    service = service_of(request)
    return (await answer(service, request.scope, ask(service, body))).to_response()


def ask(_: Service, body: HuggingFaceRequest) -> Asked:
    """Return what a body asks for."""
    parameters = body.parameters or HuggingFaceParameters()
    ignored = frozenset(parameters.ignore_labels or ())
    items_of = _word_items if parameters.aggregation_strategy == "none" else _entity_items
    is_alone = isinstance(body.inputs, str)
    return Asked(
        texts=body.inputs,
        field="inputs",
        keep=lambda entity: entity.label not in ignored,
        render=partial(_render, items_of=items_of, ignored=ignored, is_alone=is_alone),
        priority=body.priority,
    )


def _render(found: Answer, *, items_of: ItemsOf, ignored: frozenset[str], is_alone: bool) -> bytes:
    results = [[item for item in items_of(text) if item.get("entity") not in ignored] for text in found.texts]
    return to_json(results[0] if is_alone else results)


def _entity_items(answered: AnsweredText) -> Iterator[HuggingFaceEntity]:
    for entity in answered.entities:
        yield _item(answered, entity.label, entity.score, entity.start, entity.end)


def _word_items(answered: AnsweredText) -> Iterator[HuggingFaceEntity]:
    """Yield one item per word of an entity, entity by entity; a word inside two nested entities comes twice.

    `score` is the entity's; words count from 1, since a pipeline's special piece is at 0.
    """
    if not answered.entities:
        return
    starts, ends = _words(answered)
    for entity in answered.entities:
        first, last = np.searchsorted(starts, (entity.start, entity.end)).tolist()
        for word in range(first, last):
            item = _item(answered, entity.label, entity.score, int(starts[word]), int(ends[word]))
            prefix = "B" if word == first else "I"
            yield {**item, "entity": f"{prefix}-{entity.label}", "index": word + 1}


def _words(answered: AnsweredText) -> tuple[IntArray, IntArray]:
    """Return (words,) starts and ends in characters. A word that two windows share counts in the one that owns it."""
    owned = [(sequence.input, slice(*sequence.input.owned)) for sequence in answered.sequences]
    return (
        np.concatenate([sequence.word_starts[words] for sequence, words in owned]),
        np.concatenate([sequence.word_ends[words] for sequence, words in owned]),
    )


def _item(answered: AnsweredText, label: str, score: float, start: int, end: int) -> HuggingFaceEntity:
    word = answered.encoded.text[start:end]
    return {"entity_group": label, "score": round(score, 6), "word": word, "start": start, "end": end}
