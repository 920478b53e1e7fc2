"""The shapes of POST /ner and POST /. The exit policy's depend on its strategy and are checked where it is resolved."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Milliseconds = Annotated[float, Field(ge=0)]


def _whole_characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair at character {error.start}; send whole characters") from None
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class NerRequest(BaseModel):
    """Exactly one of `text` and `texts`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"text": "Ada Lovelace worked with Charles Babbage in London."}],
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}}},
                {"required": ["texts"], "properties": {"texts": {"type": "array"}}},
            ],
        },
    )

    text: Text | None = Field(None, description="one text")
    texts: list[Text] | None = Field(None, fail_fast=True, description="several texts, answered in order, all or none")
    labels: list[str] | None = Field(None, fail_fast=True, description="keep only entities of these labels")
    min_score: float = Field(0.0, ge=0, le=1, description="keep only entities at least this probable")
    timeout_ms: int | None = Field(None, ge=1, description="give up after this many milliseconds")
    split: bool = Field(True, description="split texts into sentences; false takes each as one")
    trace: bool = Field(False, description="say what the exit policy is and what it saw at every layer")
    exit_policy: dict[str, Any] | None = Field(None, description="policy parameters for this request only")

    @model_validator(mode="after")
    def _one_input(self) -> NerRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give exactly one of text (a string) and texts (a list of strings)")
        return self


class EntityOut(BaseModel):
    """Code points, end exclusive: text[start:end] is `text`."""

    start: int
    end: int
    text: str
    label: str
    score: float


class TraceItem(BaseModel):
    """One layer that ran: what it saw."""

    layer: int
    consistency: list[float] = Field(description="with layer 1, 2, ...")
    votes: int | None
    entropy_mean: float
    entropy_max: float
    evidence: list[float] = Field(description="what the strategy decided by; empty at the last layer")
    entities: list[dict[str, Any]]


class WordLayer(BaseModel):
    """A word, and the layer after which it halted."""

    start: int
    end: int
    layer: int


class SequenceOut(BaseModel):
    """One sentence, or one window of a long one."""

    start: int
    end: int
    exit_layer: int
    exit_reason: Literal["vote", "confidence", "learned", "budget", "last_layer"]
    trace: list[TraceItem] | None = None
    word_layers: list[WordLayer] | None = Field(
        None, description="with trace, under a strategy by which words halt one by one"
    )


class TimingOut(BaseModel):
    """Milliseconds."""

    tokenize: Milliseconds
    queue: Milliseconds
    inference: Milliseconds
    decode: Milliseconds
    total: Milliseconds


class NerResult(BaseModel):
    """The answer for one text."""

    entities: list[EntityOut]
    exit_layer: int = Field(description="the deepest of its sequences; 0 for a blank text")
    num_layers: int
    sequences: list[SequenceOut]
    policy_version: int
    model: str
    exit_policy: dict[str, Any] | None = Field(None, description="with trace: the policy that this was decided by")
    timing_ms: TimingOut


class NerResults(BaseModel):
    """The answer for `texts`."""

    results: list[NerResult]


def _text_or_texts(inputs: object) -> str | None:
    if isinstance(inputs, str):
        return "string"
    return "list" if isinstance(inputs, list) else None


class HuggingFaceParameters(BaseModel):
    """As a Transformers pipeline for token classification takes them; null is as good as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = Field(
        None,
        description="none: an item for every word of an entity, with a B- or I- tag; all others alike: an item for "
        "every entity, because the model finds whole ones and there are no tags of pieces to merge",
    )
    ignore_labels: list[str] | None = Field(
        None, fail_fast=True, description="leave out items whose entity_group or entity is one of these"
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="changes nothing: long sentences are read in overlapping windows anyway, none is cut off",
    )


class HuggingFaceRequest(BaseModel):
    """What Hugging Face's clients send for token classification."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
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


class HuggingFaceEntity(BaseModel):
    """An entity, or one of its words; code points, end exclusive: text[start:end] is `word`."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int
    entity: str | None = Field(None, description="with aggregation_strategy none: B- or I- and the label")
    index: int | None = Field(None, description="with aggregation_strategy none: which word of the text, from 1")


class Health(BaseModel):
    """How it is."""

    status: Literal["alive", "ready", "draining", "stuck"]


class ErrorOut(BaseModel):
    """The body of every error."""

    error: str
    error_type: str
    request_id: str
