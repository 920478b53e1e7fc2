"""The trace of one sequence: for every layer that ran, what the vote saw there. Computed only on request."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import torch

from service.engine.sequence import Sequence
from service.exits.confidence import entropy
from service.exits.consistency import Cells
from service.exits.policies.vee import Vee
from service.spans.decode import decode


def trace_sequence(sequence: Sequence, *, nested: bool, labels: Seq[str]) -> list[dict[str, Any]]:
    """One item a layer, as on the wire: consistency with each earlier layer, votes, entropies, entities.

    Under a strategy that does not vote, consistency is VEE's default measure and `votes` is null. Entities carry word
    indices turned into character offsets of the text, like the answer's.
    """
    policy = sequence.policy
    voter = policy if isinstance(policy, Vee) else Vee()
    items: list[dict[str, Any]] = []
    for layer, table in enumerate(sequence.tables, 1):
        cells = Cells(torch.zeros(len(table), dtype=torch.long, device=table.device), (len(table),))
        consistency = tuple(voter.evidence(sequence.tables[:layer], cells)[0].tolist())
        uncertainty = entropy(table)
        best = table.max(dim=1)
        spans = decode(best.indices.cpu().numpy(), best.values.cpu().numpy(), sequence.input.num_words, nested=nested)
        items.append(
            {
                "layer": layer,
                "consistency": list(consistency),
                "votes": policy.votes(consistency) if isinstance(policy, Vee) else None,
                "entropy_mean": uncertainty.mean().item(),
                "entropy_max": uncertainty.max().item(),
                "entities": [
                    {
                        "start": int(sequence.input.word_starts[span.start]),
                        "end": int(sequence.input.word_ends[span.end - 1]),
                        "label": labels[span.label - 1],
                        "score": span.score,
                    }
                    for span in spans
                ],
            }
        )
    return items
