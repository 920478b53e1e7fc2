"""The trace of one sequence: for every layer that ran, what the vote saw there. Computed only on request."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

from service.engine.sequence import Sequence
from service.exits.policies.vee import Vee


def trace_words(sequence: Sequence) -> list[dict[str, int]] | None:
    """Every word with the layer after which it halted; None under a strategy by which words move together."""
    if sequence.words is None:
        return None
    rows = zip(sequence.input.word_starts, sequence.input.word_ends, sequence.words.layers, strict=True)
    return [{"start": int(start), "end": int(end), "layer": int(layer)} for start, end, layer in rows]


def trace_sequence(sequence: Sequence, *, labels: Seq[str]) -> list[dict[str, Any]]:
    """One item a layer, as on the wire: consistency with each earlier layer, votes, entropies, evidence, entities.

    Under a strategy that does not compare tables, consistency is VEE's default measure and `votes` is null. Evidence is
    what the sequence's own strategy decided by; the last layer's is empty. Entities carry word indices turned into
    character offsets of the text, like the answer's.
    """
    policy = sequence.policy
    voter = policy if isinstance(policy, Vee) else Vee()
    readings = sequence.seen  # of every layer: a traced sequence computes all its exits
    items: list[dict[str, Any]] = []
    for layer, (reading, evidence) in enumerate(zip(readings, sequence.history, strict=True), 1):
        consistency = tuple(voter.evidence(readings[:layer])[0].tolist())
        items.append(
            {
                "layer": layer,
                "consistency": list(consistency),
                "votes": policy.votes(consistency) if isinstance(policy, Vee) else None,
                "entropy_mean": float(reading.figure("entropy_mean")[0]),
                "entropy_max": float(reading.figure("entropy_max")[0]),
                "evidence": list(evidence),
                "entities": [
                    {
                        "start": int(sequence.input.word_starts[span.start]),
                        "end": int(sequence.input.word_ends[span.end - 1]),
                        "label": labels[span.label - 1],
                        "score": span.score,
                    }
                    for span in reading.spans[0]
                ],
            }
        )
    return items
