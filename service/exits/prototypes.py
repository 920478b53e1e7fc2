"""DE3-BERT's distances (He et al. 2024): how far the cells of a span table lie from the prototypes of their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.exits.reading import Reading
from service.spans.types import FloatArray

CANDIDATE = 0.05  # a cell is a candidate where an entity has at least this probability (ours; as in training)
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """points: (exits, K, rank), a model's, one for every exit and label; label 0 by its hard negatives."""

    points: FloatArray


def distance_ratio(distances: FloatArray, predicted: NDArray[np.int64]) -> FloatArray:
    """DR = .5 (1 + (r1 - r2) / max(r1, r2)): r1 to the predicted label's prototype, r2 to the nearest other one.

    distances (cells, K), predicted (cells,) -> (cells,) in [0, 1], small where the prediction is much the nearest.
    .5 where both are 0 (our reading).
    """
    rows = np.arange(len(distances))
    nearest = distances[rows, predicted]
    others = distances.copy()
    others[rows, predicted] = np.inf
    other = others.min(axis=1)
    larger = np.maximum(nearest, other)
    found: FloatArray = 0.5 * (1 + np.divide(nearest - other, larger, out=np.zeros_like(larger), where=larger > 0))
    return found


def entropy_distance_ratio(entropy: FloatArray, ratio: FloatArray, weight: float) -> FloatArray:
    """EDR = (weight + 1) / (weight / DR + 1 / Entropy), in a form that bears zeros: (cells,) each.

    weight 0 leaves the entropy, a very large one the distance ratio.
    """
    found: FloatArray = (1 + weight) * ratio * entropy / (weight * entropy + ratio + _EPSILON)
    return found


def largest_edr(reading: Reading, points: FloatArray, weight: float) -> NDArray[np.float64]:
    """(sequences,) EDR of the least certain candidate cell; 0 where there is no candidate.

    points: (K, rank) of the exit that the reading is of. A cell lies at a_s + b_e, what the bilinear form reads of its
    first and its last word.
    """
    starts, ends = reading.projections
    log_probs = reading.log_probs
    chosen = np.flatnonzero(log_probs[:, 0] < np.log1p(-CANDIDATE))
    found = np.zeros(len(reading.num_words))
    if not len(chosen):
        return found
    first, last, owner = reading.words_of_cells(chosen)
    cells = starts[first] + ends[last]
    distances = np.sqrt(np.maximum(np.square(cells[:, None, :] - points).sum(axis=2), 0)).astype(np.float32)
    table = log_probs[chosen]
    entropy = -(np.exp(table) * table).sum(axis=1) / np.log(table.shape[1])
    ratio = distance_ratio(distances, table.argmax(axis=1))
    np.maximum.at(found, owner, entropy_distance_ratio(entropy, ratio, weight).astype(np.float64))
    return found
