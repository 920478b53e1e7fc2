"""Shows what a passage saw after each layer. The form on the wire is decided elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from service.exits.parameters import Evidence
from service.exits.policies.vee import Vee
from service.spans.types import Span
from service.stepping.passage import Passage


@dataclass(frozen=True, slots=True)
class LayerView:
    """Holds what a passage saw after one layer that ran.

    layer                      from 1
    consistency                with layers 1, ..., layer - 1; by the measure of the passage's own policy if that is VEE,
                               else by VEE's default measure
    votes                      how many earlier layers agree with this one; None under a strategy without votes
    entropy_mean, entropy_max  normalised entropy over the valid cells of the table
    evidence                   what the policy decided by; empty at the last layer
    spans                      what the exit found
    """

    layer: int
    consistency: tuple[float, ...]
    votes: int | None
    entropy_mean: float
    entropy_max: float
    evidence: Evidence
    spans: tuple[Span, ...]


def inspect(passage: Passage) -> list[LayerView]:
    """Return a view of every layer of a passage that keeps every exit and has not been released."""
    policy = passage.policy
    comparing = policy if isinstance(policy, Vee) else Vee()
    readings = passage.seen
    views = []
    for layer, (reading, evidence) in enumerate(zip(readings, passage.history, strict=True), 1):
        consistency = tuple(comparing.evidence(readings[:layer])[0].tolist())
        views.append(
            LayerView(
                layer,
                consistency,
                policy.votes(consistency),
                float(reading.figure("entropy_mean")[0]),
                float(reading.figure("entropy_max")[0]),
                evidence,
                tuple(reading.spans[0]),
            )
        )
    return views
