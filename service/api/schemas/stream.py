"""The shapes of the lines of POST /ner/stream: what is sent, and what comes back."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.ner import NerResult, Text


class LineIn(BaseModel):
    """A line: one text. Fields that are not named here are passed over."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"examples": [{"id": "a1", "text": "Ada Lovelace lived in London."}]}
    )

    text: Text
    id: str | int | None = Field(None, description="is repeated in the line's answer")


class LineOut(NerResult):
    """The answer to a line that was answered; of another one, `line` and `id` come with an error's fields."""

    line: Annotated[int, Field(description="the number of the line from 1; blank lines count, and have no answer")]
    id: NotRequired[str | int]
