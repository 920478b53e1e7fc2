"""POST /: the wire format of Hugging Face's clients for token classification, so that they can be pointed here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from service.api.answering import ERRORS, AnsweredText, Asked, answer
from service.api.exact_route import ExactRoute
from service.api.keys import require_read
from service.api.respond import respond
from service.api.schemas.hugging_face import HuggingFaceEntity, HuggingFaceParameters, HuggingFaceRequest
from service.spans.types import IntArray

router = APIRouter(route_class=ExactRoute)

_OF_A_TEXT, _OF_TEXTS = list[HuggingFaceEntity], list[list[HuggingFaceEntity]]


@router.post(
    "/",
    response_model=_OF_A_TEXT | _OF_TEXTS,
    responses=ERRORS,
    dependencies=[Depends(require_read)],
)
async def token_classification(body: HuggingFaceRequest, request: Request) -> Response:
    """Find the named entities of a text, or of several, for Hugging Face's clients: their `token_classification`."""
    parameters = body.parameters or HuggingFaceParameters()
    ignored = frozenset(parameters.ignore_labels or ())
    asked = Asked(texts=body.inputs, field="inputs", keep=lambda entity: entity.label not in ignored)
    found = await answer(request, asked)
    items_of = _word_items if parameters.aggregation_strategy == "none" else _entity_items
    results = [[item for item in items_of(text) if item.get("entity") not in ignored] for text in found.texts]
    if isinstance(body.inputs, str):
        return respond(_OF_A_TEXT, results[0], headers=found.headers)
    return respond(_OF_TEXTS, results, headers=found.headers)


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
