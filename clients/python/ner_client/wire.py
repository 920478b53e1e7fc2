"""The shapes of the wire: what a request may ask for, and what answers hold. A newer server may send more fields."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any, Literal, NotRequired, TypedDict


class Options(TypedDict, total=False):
    """What a request may ask for, beside its texts; what is None counts as left out.

    labels       keep only entities of these labels
    min_score    keep only entities at least this probable
    split        False takes every text as one sentence
    timeout_ms   the server gives up after this many milliseconds
    exit_policy  parameters of the exit policy, or a goal, for this request alone
    trace        say what the policy saw at every layer
    priority     "bulk": the request may wait, and is done with what others leave; many texts always are
    """

    labels: Seq[str] | None
    min_score: float | None
    split: bool | None
    timeout_ms: int | None
    exit_policy: Mapping[str, Any] | None
    trace: bool | None
    priority: Literal["interactive", "bulk"] | None


class Entity(TypedDict):
    """An entity. Offsets count characters of the str, end exclusive: text[start:end] is `text`."""

    start: int
    end: int
    text: str
    label: str
    score: float


class Sequence(TypedDict):
    """A sentence, or a window of a long one: the layer after which it left, and why."""

    start: int
    end: int
    exit_layer: int
    exit_reason: str
    trace: NotRequired[list[dict[str, Any]]]


class Timing(TypedDict):
    """The times of a request by stage, in milliseconds."""

    tokenize: float
    queue: float
    inference: float
    decode: float
    total: float


class Result(TypedDict):
    """The answer for one text; its `exit_layer` is the deepest of its sequences, 0 for a blank text."""

    entities: list[Entity]
    exit_layer: int
    num_layers: int
    sequences: list[Sequence]
    policy_version: int
    model: str
    timing_ms: Timing
    exit_policy: NotRequired[dict[str, Any]]


class Model(TypedDict):
    """A model that the server serves; the entities of a nested one may lie in each other."""

    name: str
    version: str
    labels: list[str]
    nested: bool
    num_layers: int
    hidden_size: int
    strategies: list[str]
    card: str
