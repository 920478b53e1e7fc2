"""The shapes of fits to the traffic."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from service.api.schemas.exit_policy import OperatingPointOut, Time
from service.api.schemas.ner import RequestModel
from service.policy.traffic_fits import MOST_POINTS

MOST_PROVENANCE = 20
Rule = Annotated[dict[str, Any], Field(description="features, weights and bias of the learned rule")]


class FitRequest(RequestModel):
    """What was fitted to the traffic; `calibrate --from-traffic` makes one."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    rule: Rule
    points: list[dict[str, Any]] = Field(
        min_length=1, max_length=MOST_POINTS, description="tau, deepest_exit and the figures of an operating point"
    )
    provenance: dict[str, int | float | str | bool] = Field(
        default_factory=dict, max_length=MOST_PROVENANCE, description="what the figures hold for"
    )


class InForceRequest(RequestModel):
    """Which points are offered beside the model's own."""

    in_force: int = Field(ge=0, description="the number of a fit; 0 for the model's own points alone")


class FitOut(TypedDict):
    """A fit: a rule, and operating points whose F1 is that against full depth's answers on samples of the traffic."""

    fit: Annotated[int, Field(description="its number, by which policies name it")]
    at: Time
    rule: Rule
    points: list[OperatingPointOut]
    provenance: dict[str, Any]


class FitsOut(TypedDict):
    """The fits that are kept, oldest first."""

    model: str
    rule: Annotated[dict[str, Any] | None, Field(description="the model's own; null where it was not calibrated")]
    in_force: Annotated[int, Field(description="the number of the fit whose points are offered; 0 for none")]
    fits: list[FitOut]
