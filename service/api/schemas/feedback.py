"""The shapes of POST /feedback."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from service.api.schemas.ner import RequestModel, Text

MOST_ENTITIES = 10_000  # of one text


class RightEntity(RequestModel):
    """An entity of the text. What an answer of POST /ner says of one fits, so that an answer can be corrected."""

    start: int = Field(ge=0, description="in code points")
    end: int = Field(ge=0, description="exclusive: text[start:end] is the entity")
    label: str = Field(description="one of the model's labels")
    text: str | None = Field(None, description="if given, it must be text[start:end]")
    score: float | None = Field(None, description="of no importance")


class FeedbackRequest(RequestModel):
    """A text, and all of its right entities."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "Ada Lovelace worked with Charles Babbage in London.",
                    "entities": [
                        {"start": 0, "end": 12, "label": "PER"},
                        {"start": 25, "end": 40, "label": "PER"},
                        {"start": 44, "end": 50, "label": "LOC"},
                    ],
                }
            ]
        }
    )

    text: Text
    entities: list[RightEntity] = Field(
        fail_fast=True, max_length=MOST_ENTITIES, description="all that the text has; none for a text without any"
    )
    split: bool = Field(True, description="as the text was asked for: split into sentences, or taken as one")


class FeedbackOut(TypedDict):
    """What has become of it: it waits to be counted."""

    sentences: Annotated[int, Field(description="of the text, that will be counted in idle time")]
    waiting: Annotated[int, Field(description="in all")]
    counted: Annotated[int, Field(description="so far, of all texts")]
