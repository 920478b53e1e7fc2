"""The shapes of the exit policy's routes; the shapes of its parameters are read from the strategies themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, NotRequired, get_type_hints

from pydantic import Field, FiniteFloat, WithJsonSchema
from typing_extensions import TypedDict

from service.exits.operating_points import LOSS_UNIT, PRESETS, Preset
from service.exits.parameters import Kind
from service.exits.policies import STRATEGIES
from service.exits.policy import ExitPolicy
from service.policy.versions import Source

Number = Annotated[int | FiniteFloat, WithJsonSchema({"type": "number"})]  # as it was sent: 1 stays 1
Interval = tuple[Number, Number]
Time = Annotated[str, Field(description="ISO 8601 in UTC")]


class FiguresOut(TypedDict):
    """What calibration measured; F1 x 100, intervals of 95 %."""

    f1: Number
    f1_interval: Interval
    f1_loss: Annotated[Number, Field(description="full depth's F1 minus this one")]
    f1_loss_interval: Interval
    average_exit_layer: Number
    average_exit_layer_interval: Interval
    average_exit_layer_by_token: Number
    speedup_layers: Annotated[Number, Field(description="layers of the model / average exit layer")]
    speedup_latency: Annotated[Number, Field(description="measured time of full depth / of this policy")]


class ShadowOut(TypedDict):
    """What running early leavers on to full depth found."""

    runs: int
    disagreements: Annotated[int, Field(description="of these, the ones with other entities at full depth")]
    disagreement_rate: Annotated[FiniteFloat | None, Field(description="null before the first run")]
    disagreement_interval: Annotated[
        tuple[FiniteFloat, FiniteFloat] | None, Field(description="of 95 %; null before the first run")
    ]


class ObservedOut(TypedDict):
    """What has happened under the version in force."""

    average_exit_layer: Annotated[FiniteFloat | None, Field(description="null before the first sequence")]
    sequences: int
    since: Time
    shadow: ShadowOut


class AutopilotOut(TypedDict):
    """The autopilot's objective, and its level."""

    p95_ms: Number
    max_f1_loss: Number
    max_disagreement: Number | None
    certified: Annotated[bool, Field(description="whether it uses certified levels alone, and full depth otherwise")]
    level: Annotated[
        int | None, Field(description="0 is the most accurate; null where the policy is none of its levels")
    ]
    highest_level: Annotated[int, Field(description="the fastest that it may use just now")]


class PromisedOut(TypedDict):
    """What is promised."""

    max_disagreement: Annotated[Number, Field(description="1 - F1 of the answers against full depth's")]
    confidence: Annotated[Number, Field(description="of a certificate")]
    max_f1_loss: NotRequired[Annotated[Number, Field(description=f"{LOSS_UNIT}: where it was asked for, it gave this")]]
    full_f1: NotRequired[Annotated[Number, Field(description="beside it: F1 x 100 of full depth that it was based on")]]


class PromiseOut(PromisedOut):
    """What is promised, and whether the policy in force is certified for it."""

    certified: Annotated[bool, Field(description="false for a moment after an alarm, until another policy is in force")]


class VersionOut(TypedDict):
    """What is known of the version in force, beside its parameters."""

    version: int
    updated_at: Time
    updated_by: Source
    preset: Annotated[Preset | None, Field(description="the preset that this policy is")]
    expected: Annotated[FiguresOut | None, Field(description="null for a policy that was not calibrated")]
    observed: ObservedOut
    autopilot: Annotated[AutopilotOut | None, Field(description="null while it is off")]
    promise: Annotated[PromiseOut | None, Field(description="null while nothing is promised")]
    dry_run: NotRequired[Annotated[Literal[True], Field(description="of a dry run alone: nothing was changed")]]


def _shape(policy: type[ExitPolicy], ending: str, around: Mapping[str, Any] | None = None) -> Any:
    """Return the shape of a strategy's parameters, in the order of the wire, and of the fields `around` them."""
    types = get_type_hints(policy)
    fields: dict[str, Any] = {"strategy": Literal[policy.strategy]}
    fields |= {name: Number if types[name] is float else types[name] for name in policy.parameters()}
    shape: Any = TypedDict(policy.__name__ + ending, {**fields, **(around or {})})  # type: ignore[misc] # made at run time
    shape.__doc__ = policy.__doc__
    return shape


_BY_STRATEGY = Field(discriminator="strategy")
_AROUND = get_type_hints(VersionOut, include_extras=True)
_PARAMETERS = [_shape(policy, "Parameters") for policy in STRATEGIES.values()]
_IN_FORCE = [_shape(policy, "InForce", _AROUND) for policy in STRATEGIES.values()]
ParametersOut: Any = Annotated[reduce(or_, _PARAMETERS), _BY_STRATEGY]
ExitPolicyOut: Any = Annotated[reduce(or_, _IN_FORCE), _BY_STRATEGY]


_JSON_TYPES: Mapping[Kind, str] = {"number": "number", "integer": "integer", "flag": "boolean", "choice": "string"}


def _schema_of_parameters() -> dict[str, Any]:
    """Return for every parameter of any strategy what a change may set it to, and what it means where."""
    schemas: dict[str, Any] = {}
    for strategy in STRATEGIES.values():
        for name, parameter in strategy.parameters().items():
            types = [_JSON_TYPES[parameter.kind], "null"]
            schema = schemas.setdefault(name, {"type": types, "description": "null: its default"})
            schema["description"] += f"; {strategy.strategy}: {parameter.meaning}"
    return schemas


CHANGES: Mapping[str, Any] = {
    "type": "object",
    "title": "ExitPolicyChanges",
    "description": "Strategy and parameters, which the strategy must have, or exactly one goal, a promise or the "
    "autopilot.",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "strategy": {
            "type": "string",
            "enum": [*STRATEGIES],
            "description": "what is left out takes the calibrated default of this strategy; without it, stays as it is",
        },
        **_schema_of_parameters(),
        "preset": {"type": "string", "enum": [*PRESETS], "description": "a goal"},
        "speedup": {"type": "number", "description": "a goal: times full depth's measured speed"},
        "max_f1_loss": {"type": "number", "description": f"a goal: {LOSS_UNIT}"},
        "average_exit_layer": {"type": "number", "description": "a goal: layers per sequence"},
        "rollback_to": {"type": "integer", "description": "a goal: the policy of this version"},
        "max_disagreement": {
            "type": ["number", "null"],
            "description": "a promise: 1 - F1 of the answers against full depth's, by the fastest operating point that "
            "is certified for it on this traffic; null ends it and leaves the policy as it is",
        },
        "confidence": {"type": ["number", "null"], "description": "beside it: of a certificate; 0.95 if left out"},
        "on": {
            "type": "string",
            "enum": ["traffic"],
            "description": "beside max_f1_loss: makes it a promise, kept on this traffic by bounding the disagreement",
        },
        "autopilot": {
            "type": ["object", "null"],
            "description": "merged with its objective; null switches it off",
            "properties": {
                "p95_ms": {"type": "number", "description": "milliseconds from request to answer"},
                "max_f1_loss": {"type": "number", "description": LOSS_UNIT},
                "max_disagreement": {
                    "type": ["number", "null"],
                    "description": "share of early answers that may differ from full depth's; with certified, what is "
                    "promised",
                },
                "certified": {"type": "boolean", "description": "use certified levels alone, and full depth otherwise"},
            },
        },
    },
}
"""The shape of a change, for the API's document; what it means is decided, and refused, by the live policy."""

EXAMPLES: Mapping[str, Any] = {
    "a preset": {"value": {"preset": "fast"}},
    "another goal": {"value": {"speedup": 2.0}},
    "a strategy with parameters": {"value": {"strategy": "vee", "tau": -0.01, "patience": 1}},
    "a strategy with its defaults": {"value": {"strategy": "learned"}},
    "back to a version": {"value": {"rollback_to": 1}},
    "a promise": {"value": {"max_disagreement": 0.02, "confidence": 0.95}},
    "a promise of F1": {"value": {"max_f1_loss": 2.0, "on": "traffic"}},
    "the autopilot": {"value": {"autopilot": {"p95_ms": 100, "max_f1_loss": 1.0}}},
}
"""Changes that a calibrated model takes whatever policy is in force."""


class ParametersOfPoint(TypedDict):
    """A calibrated policy."""

    parameters: ParametersOut


class OperatingPointOut(ParametersOfPoint, FiguresOut):
    """A calibrated policy, and what was measured for it."""

    preset: NotRequired[Annotated[Preset, Field(description="the preset that it is; left out where it is none")]]


class MeasuredOut(TypedDict):
    """What samples of the traffic say of an operating point since they began; intervals of 95 % hold at any time."""

    agreement: Annotated[
        FiniteFloat | None, Field(description="F1 against full depth, a fraction; null before an entity was seen")
    ]
    agreement_interval: tuple[FiniteFloat, FiniteFloat]
    average_exit_layer: Annotated[FiniteFloat | None, Field(description="null before the first sample")]
    average_exit_layer_interval: tuple[FiniteFloat, FiniteFloat]
    speedup_layers: Annotated[FiniteFloat | None, Field(description="layers of the model / average exit layer")]
    uncounted: Annotated[
        FiniteFloat, Field(description="share of the entities that are errors beyond those that count in a sentence")
    ]


class GoldOut(TypedDict):
    """What texts with their right entities say of an operating point, or of full depth; F1 x 100."""

    f1: Annotated[Number | None, Field(description="null before an entity was seen")]
    f1_interval: Annotated[
        Interval, Field(description="of 95 %, where the texts were drawn from the traffic at random")
    ]


class FeedbackFiguresOut(GoldOut):
    """What texts with their right entities say of full depth."""

    sentences: Annotated[int, Field(description="that were counted")]


class LevelOut(ParametersOfPoint):
    """An operating point: what calibration measured on its dev set, and what was measured on this traffic."""

    preset: Annotated[Preset | None, Field(description="the preset that it is")]
    expected: FiguresOut
    measured: Annotated[
        MeasuredOut | None, Field(description="null where nothing is sampled, or words halt one by one")
    ]
    gold: Annotated[GoldOut | None, Field(description="null before the first feedback, or where words halt one by one")]
    certified: Annotated[
        bool | None,
        Field(description="proven to keep what is promised; null where it is not tested, or nothing is promised"),
    ]


class SamplingOut(TypedDict):
    """What has been sampled since the server started."""

    since: Time
    measured_since: Annotated[
        str, Field(description="from when on levels were measured, ISO 8601 in UTC: the start, or a fit to the traffic")
    ]
    samples: Annotated[int, Field(description="sentences that were run to full depth")]
    waiting: Annotated[int, Field(description="sentences that were drawn and are still to be run")]
    sentences: Annotated[int, Field(description="of which the samples were drawn")]
    uncovered: Annotated[int, Field(description="of these, the ones for which there was no room")]
    probability: Annotated[Number, Field(description="with which the next sentence is drawn")]


class EvidenceOut(PromisedOut):
    """What is promised, and the evidence for it."""

    since: Annotated[Time, Field(description="when the evidence of this window began")]
    samples: Annotated[int, Field(description="of this window")]
    alarms: Annotated[int, Field(description="raised since it is promised")]


class LevelsOut(TypedDict):
    """What every operating point gives on this traffic, cheapest first."""

    sampling: Annotated[SamplingOut | None, Field(description="null where nothing is sampled")]
    promise: Annotated[EvidenceOut | None, Field(description="null while nothing is promised")]
    feedback: Annotated[FeedbackFiguresOut | None, Field(description="null before the first one was counted")]
    levels: list[LevelOut]


class HistoryEntryOut(TypedDict):
    """One change; a policy is its strategy and parameters, and what the autopilot or a promise had to keep."""

    version: Annotated[int, Field(description="that it made")]
    at: Time
    by: Source
    changed_by: Annotated[
        str | None, Field(description="who, as X-Changed-By said; of a start or a promise's move, why")
    ]
    before: Annotated[dict[str, Any] | None, Field(description="null for a start from the default")]
    after: dict[str, Any]
