"""What the learned rule looks at: a few numbers that an exit and a vote have at hand anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from service.exits.reading import Reading

FEATURES = (
    "log_entropy_max",  # of the least certain cell
    "log_doubt",  # -log of the probability that every cell's label is right, were cells independent
    "missed",  # highest probability of an entity among the cells where none is most probable
    "weakest",  # 1 - the lowest probability of a cell's label among the cells where an entity is most probable
    "log_entities",  # entities decoded, + 1
    "log_words",
    "is_unchanged",  # decoded the same as the layer before
    "votes",  # earlier layers that decoded the same
)
SMALLEST = 1e-6


def features(readings: Sequence[Reading]) -> Tensor:
    """The latest exit's FEATURES, in the light of the earlier ones -> (sequences, features) float64."""
    *earlier, current = readings
    cells, (log_prob, label) = current.cells, current.best
    unsure = 1.0 - log_prob.exp()  # (cells,) probability of everything but the most probable label
    entropy_max = cells.max(current.entropy)
    doubt = 0.0 - cells.sum(log_prob)
    missed = cells.max(unsure.masked_fill(label > 0, 0.0))
    weakest = cells.max(unsure.masked_fill(label == 0, 0.0))
    of_cells = torch.stack([entropy_max, doubt], dim=1).add(SMALLEST).log()
    return torch.cat([of_cells, torch.stack([missed, weakest], dim=1), _of_spans(earlier, current)], dim=1)


def _of_spans(earlier: Sequence[Reading], current: Reading) -> Tensor:
    """(sequences, 4): the features that decoded entities and words give."""
    rows = []
    before = [reading.span_sets for reading in earlier]
    for index, (found, num_words) in enumerate(zip(current.span_sets, current.num_words, strict=True)):
        agreements = [float(of_layer[index] == found) for of_layer in before]
        unchanged = agreements[-1] if agreements else 0.0
        rows.append((math.log1p(len(found)), math.log(num_words), unchanged, sum(agreements)))
    return torch.tensor(rows, dtype=torch.float64, device=current.table.device)
