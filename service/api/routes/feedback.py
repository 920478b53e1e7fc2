"""POST /feedback: texts with their right entities. What is counted of them, `service.levels.labels` knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request, Response

from service.api.bodies import BodyRoute
from service.api.errors import described
from service.api.keys import require_admin
from service.api.respond import respond
from service.api.schemas.feedback import FeedbackOut, FeedbackRequest, RightEntity
from service.api.state import Service, service_of
from service.errors import BadInput, TooLarge
from service.levels.labels import labelled_of
from service.spans.types import Entity

router = APIRouter(route_class=BodyRoute)


@router.post(
    "/feedback",
    status_code=202,
    response_model=FeedbackOut,
    responses=described(401, 403, 413, 415, 422, 429, 503),
    dependencies=[Depends(require_admin)],
)
async def take_feedback(body: FeedbackRequest, request: Request) -> Response:
    """Have every operating point scored on a text with its right entities, in idle time; only counts are kept."""
    service = service_of(request)
    if len(body.text) > (most := service.settings.max_text_chars):
        raise TooLarge(f"text has {len(body.text)} characters; the limit is {most} (NER_MAX_TEXT_CHARS)")
    entities = right_entities(service, body.text, body.entities)
    cutting = service.text_encoder.cutting([body.text], split=body.split)
    (encoded,) = await asyncio.wrap_future(service.cutter.submit(cutting, len(body.text)))
    if entities and not encoded.sequences:
        raise BadInput("text has no words, and so no entities; expected none")
    sentences = labelled_of(encoded.sequences, entities, service.config.labels)
    service.engine.submit_labelled(sentences)
    found = {"sentences": len(sentences), "waiting": service.labelled.waiting, "counted": service.gold.sentences}
    return respond(FeedbackOut, found, status=202)


def right_entities(service: Service, text: str, given: Sequence[RightEntity]) -> list[Entity]:
    """Return the entities that were given. Raises BadInput for one that the text or the model cannot have."""
    known = service.config.labels
    found: dict[Entity, int] = {}
    for index, one in enumerate(given):
        where = f"entities[{index}]"
        if one.label not in known:
            raise BadInput(f"{where} has the label {one.label[:100]!r}; this model has {', '.join(known)}")
        if not one.start < one.end <= len(text):
            raise BadInput(
                f"{where} is from {one.start} to {one.end}; expected start below end, and end at most {len(text)}, the "
                "characters of the text"
            )
        if one.text is not None and one.text != text[one.start : one.end]:
            raise BadInput(
                f"{where} says {one.text[:100]!r}, and the text has {text[one.start : one.end][:100]!r} there; "
                "expected offsets in code points, as POST /ner gives them"
            )
        entity = Entity(one.start, one.end, one.label)
        if entity in found:
            raise BadInput(f"{where} is the same as entities[{found[entity]}]; expected each once")
        found[entity] = index
    return list(found)
