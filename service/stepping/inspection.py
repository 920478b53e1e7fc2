"""What a passage saw after each layer, for whoever wants to look into it. The wire's form is decided elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from service.exits.parameters import Evidence
from service.exits.policies.vee import Vee
from service.spans.types import Span
from service.stepping.passage import Passage


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer that ran.

    consistency   with layer 1, 2, ...: the passage's own where its strategy compares tables by it, else VEE's default
                  measure
    votes         earlier layers that agree with it; None under a strategy without votes
    entropy_mean, entropy_max  normalised entropy over the cells of the table
    evidence      what the strategy decided by; empty at the last layer
    spans         what the exit found
    """

    layer: int
    consistency: tuple[float, ...]
    votes: int | None
    entropy_mean: float
    entropy_max: float
    evidence: Evidence
    spans: tuple[Span, ...]


def inspect(passage: Passage) -> list[LayerView]:
    """View every layer of a passage that has kept every exit, and has not been released."""
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
