"""The shapes of POST /, which are Hugging Face's for token classification."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Discriminator, Field, FiniteFloat, Tag
from typing_extensions import TypedDict

from service.api.schemas.ner import MOST_LABELS, PRIORITY, RequestModel, Text
from service.engine.sequence import Priority


def _text_or_texts(inputs: object) -> str | None:
    if isinstance(inputs, str):
        return "string"
    return "list" if isinstance(inputs, list) else None


class HuggingFaceParameters(RequestModel):
    """The parameters of a Transformers pipeline for token classification; null means the same as left out."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = Field(
        None,
        description="none: an item for every word of an entity, with a B- or I- tag; all others alike: an item for "
        "every entity, because the model finds whole ones and there are no tags of pieces to merge",
    )
    ignore_labels: list[str] | None = Field(
        None,
        fail_fast=True,
        max_length=MOST_LABELS,
        description="leave out items whose entity_group or entity is one of these",
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="changes nothing: long sentences are read in overlapping windows anyway, none is cut off",
    )


class HuggingFaceRequest(RequestModel):
    """What Hugging Face's clients send for token classification."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": "Ada Lovelace worked with Charles Babbage in London."}]},
    )

    inputs: Annotated[
        Annotated[Text, Tag("string")] | Annotated[list[Text], Tag("list"), Field(fail_fast=True)],
        Discriminator(
            _text_or_texts,
            custom_error_type="text_or_texts",
            custom_error_message="expected a string or a list of strings",
        ),
    ] = Field(description="one text; or several, answered in order, all or none")
    parameters: HuggingFaceParameters | None = None
    options: dict[str, Any] | None = Field(
        None,
        description="changes nothing: older clients ask here for the hosted service's cache, or to wait for a model",
    )
    priority: Priority = Field("interactive", description=PRIORITY)


class HuggingFaceEntity(TypedDict):
    """An entity, or one of its words. Offsets count code points, end exclusive: text[start:end] is `word`."""

    entity_group: str
    score: FiniteFloat
    word: str
    start: int
    end: int
    entity: NotRequired[Annotated[str, Field(description="with aggregation_strategy none: B- or I- and the label")]]
    index: NotRequired[
        Annotated[int, Field(description="with aggregation_strategy none: which word of the text, from 1")]
    ]
