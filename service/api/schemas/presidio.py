"""The shapes of POST /analyze, which are those of Presidio's analyzer."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Discriminator, Field, FiniteFloat, Tag
from typing_extensions import TypedDict

from service.api.schemas.ner import MOST_LABELS, RequestModel, Text


def _text_or_texts(text: object) -> str | None:
    if isinstance(text, str):
        return "string"
    return "list" if isinstance(text, list) else None


class AnalyzeRequest(RequestModel):
    """What clients of Presidio's analyzer send. What would be looked for by rules, and in vain here, is refused."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "Ada Lovelace worked with Charles Babbage in London.", "language": "en"}]
        },
    )

    text: Annotated[
        Annotated[Text, Tag("string")] | Annotated[list[Text], Tag("list"), Field(fail_fast=True)],
        Discriminator(
            _text_or_texts,
            custom_error_type="text_or_texts",
            custom_error_message="expected a string or a list of strings",
        ),
    ] = Field(description="one text; or several, answered in order, all or none")
    language: str = Field(description="of the text; it must be the model's")
    entities: list[str] | None = Field(
        None, fail_fast=True, max_length=MOST_LABELS, description="keep only entities of these types; none: all"
    )
    score_threshold: float | None = Field(None, ge=0, le=1, description="keep only entities at least this probable")
    correlation_id: str | None = Field(None, description="changes nothing: X-Request-Id finds a request in the log")
    return_decision_process: bool | None = Field(None, description="changes nothing: there is no rule to tell of")


class RecognizerResult(TypedDict):
    """An entity. Offsets count code points, end exclusive."""

    analysis_explanation: None
    end: int
    entity_type: str
    score: FiniteFloat
    start: int
