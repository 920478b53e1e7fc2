"""How good an exit policy is on annotated data, and how deep it goes: the same `evidence` and `decide` as serving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from service.data.readers import Example
from service.evaluation.evaluate import encode_examples, score_json
from service.evaluation.predict import decode_table, entities_of_texts, run_to_full_depth
from service.exits.consistency import Cells
from service.exits.policy import Evidence, ExitPolicy
from service.models.multi_exit import MultiExitModel
from service.spans.score import Score, keys, score
from service.spans.types import Span
from service.text.encoder import TextEncoder


@dataclass(frozen=True, slots=True)
class PolicyScore:
    """F1 counts of a policy, and the exit layer of every sequence, in text order."""

    micro: Score
    exit_layers: tuple[int, ...]

    @property
    def average_exit_layer(self) -> float:
        """Per sequence."""
        return sum(self.exit_layers) / len(self.exit_layers)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; F1, precision and recall are x 100."""
        counts = Counter(self.exit_layers)
        return {
            **score_json(self.micro),
            "average_exit_layer": round(self.average_exit_layer, 4),
            "sequences": len(self.exit_layers),
            "exit_layers": {str(layer): counts[layer] for layer in sorted(counts)},
        }


def evaluate_policy(
    model: MultiExitModel,
    text_encoder: TextEncoder,
    examples: Sequence[Example],
    policy: ExitPolicy,
    *,
    device: torch.device,
    split: bool = True,
) -> PolicyScore:
    """Let `policy` decide for every sequence, over tables computed to full depth."""
    texts = encode_examples(text_encoder, examples, split=split)
    sequences = [sequence for text in texts for sequence in text.sequences]
    num_layers = model.config.num_layers
    exit_layers = [0] * len(sequences)
    spans: list[list[Span]] = [[] for _ in sequences]
    for batch, packed, tables in run_to_full_depth(model, sequences, device=device):
        cells = Cells(packed.cell_sequence, packed.cell_counts)
        histories: list[list[Evidence]] = [[] for _ in batch]
        for layer in range(1, num_layers + 1):
            if policy.needs_table(layer, num_layers):
                seen = [table for i, table in enumerate(tables[:layer], 1) if policy.needs_table(i, num_layers)]
                evidence = [tuple(row) for row in policy.evidence(seen, cells).tolist()]
            else:
                evidence = [() for _ in batch]
            leaving: list[int] = []
            for position, (index, history) in enumerate(zip(batch, histories, strict=True)):
                history.append(evidence[position])
                if not exit_layers[index] and policy.decide(history, num_layers) is not None:
                    exit_layers[index] = layer
                    leaving.append(position)
            if leaving:
                decoded = decode_table(tables[layer - 1], packed, nested=model.config.nested)
                for position in leaving:
                    spans[batch[position]] = decoded[position]
    micro = Score()
    for example, found in zip(examples, entities_of_texts(text_encoder, texts, spans), strict=True):
        micro += score(keys(example.entities), keys(found))
    return PolicyScore(micro, tuple(exit_layers))
