"""The shapes of POST /ner. An exit policy depends on its strategy, and is checked where it is resolved."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from typing_extensions import TypedDict

from service.api.schemas.exit_policy import ParametersOut
from service.engine.sequence import Priority
from service.exits.policies import EXIT_REASONS

MOST_UNKNOWN = 5  # fields of a body that are looked at
MOST_LABELS = 1_024  # that a request may name
MOST_PARAMETERS = 64  # of an exit policy, likewise
PRIORITY = "bulk: may wait, and is done with what interactive requests leave"

Milliseconds = Annotated[FiniteFloat, Field(ge=0)]


def _whole_characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair at character {error.start}; send whole characters") from None
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


class RequestModel(BaseModel):
    """A request's body. However much of it does not fit, checking it takes little time."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _stop_at_the_first_unknown_fields(cls, given: Any) -> Any:
        """Look at a few unknown fields alone: each one is an error with a message of its own."""
        if not isinstance(given, dict) or len(given) <= len(cls.model_fields) + MOST_UNKNOWN:
            return given
        known = {name: given[name] for name in cls.model_fields if name in given}
        return known | {name: given[name] for name in islice((n for n in given if n not in known), MOST_UNKNOWN)}


class NerRequest(RequestModel):
    """One text, or several: a request gives exactly one of `text` and `texts`."""

    model_config = ConfigDict(
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
    labels: list[str] | None = Field(
        None, fail_fast=True, max_length=MOST_LABELS, description="keep only entities of these labels"
    )
    min_score: float = Field(0.0, ge=0, le=1, description="keep only entities at least this probable")
    timeout_ms: int | None = Field(None, ge=1, description="give up after this many milliseconds")
    split: bool = Field(True, description="split texts into sentences; false takes each as one")
    trace: bool = Field(False, description="say what the exit policy is and what it saw at every layer")
    exit_policy: dict[str, Any] | None = Field(
        None,
        max_length=MOST_PARAMETERS,
        description="for this request only: policy parameters, or a goal",
    )
    priority: Priority = Field("interactive", description=PRIORITY)

    @model_validator(mode="after")
    def _one_input(self) -> NerRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give exactly one of text (a string) and texts (a list of strings)")
        return self


class EntityOut(TypedDict):
    """An entity. Offsets count code points, end exclusive: text[start:end] is `text`."""

    start: int
    end: int
    text: str
    label: str
    score: FiniteFloat


class TracedEntity(TypedDict):
    """An entity as one layer saw it."""

    start: int
    end: int
    label: str
    score: FiniteFloat


class TraceItem(TypedDict):
    """What one layer that ran saw."""

    layer: int
    consistency: Annotated[list[FiniteFloat], Field(description="with layer 1, 2, ...")]
    votes: int | None
    entropy_mean: FiniteFloat
    entropy_max: FiniteFloat
    evidence: Annotated[list[FiniteFloat], Field(description="what the strategy decided by; empty at the last layer")]
    entities: list[TracedEntity]


class WordLayer(TypedDict):
    """A word, and the layer after which it halted."""

    start: int
    end: int
    layer: int


class SequenceOut(TypedDict):
    """One sentence, or one window of a long one."""

    start: int
    end: int
    exit_layer: int
    exit_reason: Annotated[str, Field(json_schema_extra={"enum": [*EXIT_REASONS]})]
    trace: NotRequired[Annotated[list[TraceItem], Field(description="where it was asked for")]]
    word_layers: NotRequired[
        Annotated[list[WordLayer], Field(description="with trace, under a strategy by which words halt one by one")]
    ]


class TimingOut(TypedDict):
    """The times of a request by stage, in milliseconds."""

    tokenize: Milliseconds
    queue: Milliseconds
    inference: Milliseconds
    decode: Milliseconds
    total: Milliseconds


class NerResult(TypedDict):
    """The answer for one text."""

    entities: list[EntityOut]
    exit_layer: Annotated[int, Field(description="the deepest of its sequences; 0 for a blank text")]
    num_layers: int
    sequences: list[SequenceOut]
    policy_version: int
    model: str
    timing_ms: TimingOut
    exit_policy: NotRequired[
        Annotated[ParametersOut, Field(description="with trace: the policy that this was decided by")]
    ]


class NerResults(TypedDict):
    """The answer for `texts`."""

    results: list[NerResult]
