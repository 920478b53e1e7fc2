"""POST /analyze and GET /supportedentities: the wire format of Presidio's analyzer, so that its clients can be pointed
here. The model's entities are all that is found: nothing that has a form, such as a card number."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from service.api.answering import ERRORS, Answer, AnsweredText, Asked, answer
from service.api.bodies import BodyRoute
from service.api.errors import described
from service.api.keys import require_read
from service.api.respond import respond
from service.api.schemas.presidio import AnalyzeRequest, RecognizerResult
from service.api.state import Service, service_of
from service.errors import BadInput

router = APIRouter(route_class=BodyRoute)

_TYPES = {
    "PER": "PERSON",
    "LOC": "LOCATION",
    "GPE": "LOCATION",
    "FAC": "LOCATION",
    "ORG": "ORGANIZATION",
    "NORP": "NRP",
    "MISC": "NRP",  # nationalities, religions and the like are most of CoNLL's MISC
}


@router.post(
    "/analyze",
    response_model=list[RecognizerResult] | list[list[RecognizerResult]],
    responses=ERRORS,
    dependencies=[Depends(require_read)],
)
async def analyze(body: AnalyzeRequest, request: Request) -> Response:
    """Find the entities of a text, or of several, for clients of Presidio's analyzer. It finds no card numbers."""
    service = service_of(request)
    return (await answer(service, request.scope, ask(service, body))).to_response()


def ask(service: Service, body: AnalyzeRequest) -> Asked:
    """Return what a body asks for. Raises BadInput for another language, and for types that cannot be found."""
    known = _supported(service, body.language)
    wanted = frozenset(body.entities or known)
    if unknown := sorted(wanted - set(known)):
        raise BadInput(
            f"entities: {', '.join(unknown)} cannot be found here; {service.model_reference} finds {', '.join(known)}. "
            "What has a form, such as a card number, is found by Presidio's own analyzer"
        )
    least = body.score_threshold or 0.0
    return Asked(
        texts=body.text,
        field="text",
        keep=lambda entity: entity.score >= least and _type_of(entity.label) in wanted,
        render=partial(_render, is_alone=isinstance(body.text, str)),
    )


@router.get(
    "/supportedentities",
    response_model=list[str],
    responses=described(401, 422),
    dependencies=[Depends(require_read)],
)
async def supported_entities(request: Request, language: str | None = None) -> Response:
    """Return the types of entities that POST /analyze finds; `language` must be the model's, if it is given."""
    return respond(list[str], _supported(service_of(request), language))


def _supported(service: Service, language: str | None) -> list[str]:
    """Return the types of the model's labels. Raises BadInput for another language than the model's."""
    reads = service.config.text.language
    if language not in (None, reads):
        raise BadInput(f"language is {language!r}; {service.model_reference} reads {reads!r} alone")
    return sorted({_type_of(label) for label in service.config.labels})


def _type_of(label: str) -> str:
    """Return Presidio's name of a label; one that it has no name for keeps its own."""
    return _TYPES.get(label, label)


def _render(found: Answer, *, is_alone: bool) -> bytes:
    results = [_results(text) for text in found.texts]
    return to_json(results[0] if is_alone else results)


def _results(text: AnsweredText) -> list[dict[str, Any]]:
    return [
        {
            "analysis_explanation": None,
            "end": entity.end,
            "entity_type": _type_of(entity.label),
            "score": round(entity.score, 6),
            "start": entity.start,
        }
        for entity in text.entities
    ]
