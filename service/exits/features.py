"""What the learned rule looks at: a few numbers that an exit and a vote have at hand anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.exits.reading import BYTES_OF_A_KEY, Reading

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


def features(readings: Sequence[Reading]) -> list[tuple[float, ...]]:
    """Per sequence the latest exit's FEATURES, in the light of the earlier ones.

    In plain floats: few sequences are faster so, and no batch mate can change the last bit of a logarithm.
    """
    *earlier, current = readings
    before = [reading.entity_keys for reading in earlier]
    rows: list[tuple[float, ...]] = []
    for index, (entities, num_words) in enumerate(zip(current.entity_keys, current.num_words, strict=True)):
        entropy_max, _, _, doubt, missed, weakest = current.summary_rows[index]
        agreements = [of_layer[index] == entities for of_layer in before]
        rows.append(
            (
                math.log(entropy_max + SMALLEST),
                math.log(doubt + SMALLEST),
                missed,
                weakest,
                math.log1p(len(entities) // BYTES_OF_A_KEY),
                math.log(num_words),
                1.0 if agreements and agreements[-1] else 0.0,
                float(sum(agreements)),
            )
        )
    return rows
