"""Measures how much two exits agree. Every measure is a consistency C: larger means more alike; a vote is C > tau.

A measure compares two readings of the same sequences on the host and returns (sequences,) float64. Divergences of
single cells are pooled over the valid cells of a sequence by their mean, as in the paper, or by their maximum, which is
that of the cell that agrees least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from service.exits.parameters import Scale
from service.exits.reading import Reading
from service.spans.types import DoubleArray, FloatArray, IntArray

Compare = Callable[[Reading, Reading], DoubleArray]
PerCell = FloatArray | DoubleArray
Divergence = Callable[[Reading, Reading], PerCell]
"""Returns (cells,) divergences, or (cells, K) terms whose sums over the labels are the divergences."""


def kl_divergence(earlier: Reading, current: Reading) -> PerCell:
    """Return (cells, K) terms of KL(p_earlier || p_current) / log K, the divergence of Eq. 7 of VEE-BERT."""
    terms = earlier.log_probs - current.log_probs
    terms *= earlier.probs
    terms /= np.float32(math.log(terms.shape[1]))
    return terms


def reverse_kl_divergence(earlier: Reading, current: Reading) -> PerCell:
    """Return (cells, K) terms of KL(p_current || p_earlier) / log K."""
    return kl_divergence(current, earlier)


def js_divergence(earlier: Reading, current: Reading) -> PerCell:
    """Return (cells,) the Jensen-Shannon divergence / log 2, in [0, 1] (footnote 7 of VEE-BERT)."""
    p, q = earlier.probs, current.probs
    total = p + q
    halves = p * np.log(2 * p / total) + q * np.log(2 * q / total)
    divergence: PerCell = np.minimum(_over_labels(halves) / np.float32(2 * math.log(2)), np.float32(1))
    return divergence


def hellinger_distance(earlier: Reading, current: Reading) -> PerCell:
    """Return (cells,) the Hellinger distance, in [0, 1] (footnote 7 of VEE-BERT)."""
    difference = np.sqrt(earlier.probs) - np.sqrt(current.probs)
    distance: PerCell = np.minimum(np.sqrt(_over_labels(np.square(difference)) / 2), np.float32(1))
    return distance


def squared_euclidean_distance(earlier: Reading, current: Reading) -> PerCell:
    """Return (cells, K) terms of the squared Euclidean distance of the probabilities; a cell's sum is in [0, 2]."""
    terms: PerCell = np.square(earlier.probs - current.probs)
    return terms


def label_differs(earlier: Reading, current: Reading) -> PerCell:
    """Return (cells,) 1 where the most probable labels differ, else 0."""
    differs: PerCell = (earlier.labels != current.labels).astype(np.float32)
    return differs


def pooled_by_mean(divergence: Divergence) -> Compare:
    """Return a measure: -(mean over valid cells of `divergence`), never above 0.

    For `kl_divergence` this is Eq. 7 of VEE-BERT without its leading minus: as printed, it would grow with
    disagreement, while the text calls it the negative of the average divergence. For `label_differs` it is the Hamming
    distance of the lists of labels, where section 4.1 asks for the edit distance: it is never below Levenshtein's, so
    it is never less strict, and it needs no dynamic programming. `edit_levenshtein` is the exact edit distance.
    """

    def compare(earlier: Reading, current: Reading) -> DoubleArray:
        return _negated(_mean(divergence(earlier, current), current))

    return compare


def pooled_by_max(divergence: Divergence) -> Compare:
    """Return a measure: -(largest `divergence` of a valid cell), never above 0."""

    def compare(earlier: Reading, current: Reading) -> DoubleArray:
        return _negated(_max(divergence(earlier, current), current))

    return compare


def euclidean(earlier: Reading, current: Reading) -> DoubleArray:
    """Return -norm(T_i - T_m) / sqrt(Z) over the probabilities of the valid cells, in [-sqrt 2, 0].

    This is the measure of section 4.1 of VEE-BERT, divided by sqrt(Z) so that tau does not depend on the length.
    """
    return _negated(np.sqrt(_mean(squared_euclidean_distance(earlier, current), current)))


def euclidean_of_worst_cell(earlier: Reading, current: Reading) -> DoubleArray:
    """Return -(largest Euclidean distance of a valid cell), in [-sqrt 2, 0]."""
    return _negated(np.sqrt(_max(squared_euclidean_distance(earlier, current), current)))


def cosine(earlier: Reading, current: Reading) -> DoubleArray:
    """Return the cosine of the two tables of probabilities as vectors (section 4.1 of VEE-BERT), in [0, 1]."""
    one, other = earlier.probs.astype(np.float64), current.probs.astype(np.float64)
    squares = _sum(np.square(one), current) * _sum(np.square(other), current)
    return np.minimum(_sum(one * other, current) / np.sqrt(squares), 1.0)


def cosine_of_worst_cell(earlier: Reading, current: Reading) -> DoubleArray:
    """Return the smallest cosine of a valid cell's two distributions, in [0, 1]."""
    one, other = earlier.probs.astype(np.float64), current.probs.astype(np.float64)
    squares = _over_labels(np.square(one)) * _over_labels(np.square(other))
    return 1.0 - np.maximum(_max(1.0 - _over_labels(one * other) / np.sqrt(squares), current), 0.0)


def edit_levenshtein(earlier: Reading, current: Reading) -> DoubleArray:
    """Return -(Levenshtein distance of the lists of most probable labels) / Z, in [-1, 0] (section 4.1 of VEE-BERT)."""
    from rapidfuzz.distance import Levenshtein  # read by this measure alone: models and executors load without it

    distances = []
    for one, other in zip(_by_sequence(earlier), _by_sequence(current), strict=True):
        hamming = int(np.count_nonzero(one != other))  # it bounds the band that has to be searched
        distances.append(Levenshtein.distance(one.tolist(), other.tolist(), score_cutoff=hamming) / len(one))
    return _negated(np.array(distances))


def _by_sequence(reading: Reading) -> list[IntArray]:
    """Return the most probable label of every cell, sequence by sequence."""
    return np.split(reading.labels, reading.first_cells[1:])


def entity_set(earlier: Reading, current: Reading) -> DoubleArray:
    """Return 1 where the decoded entities, which are what a client would get, are the same, else 0."""
    pairs = zip(earlier.entity_keys, current.entity_keys, strict=True)
    return np.array([float(one == other) for one, other in pairs])


def entity_jaccard(earlier: Reading, current: Reading) -> DoubleArray:
    """Return the decoded entities in common / those in either reading, in [0, 1]; 1 where neither has any."""
    pairs = zip(earlier.span_sets, current.span_sets, strict=True)
    return np.array([len(one & other) / len(one | other) if one or other else 1.0 for one, other in pairs])


def _over_labels(terms: PerCell) -> PerCell:
    """Sum over labels, one after another, so that no cell's sum depends on its place: (cells, K) -> (cells,)."""
    total = terms[:, 0] + terms[:, 1]
    for label in range(2, terms.shape[1]):
        total += terms[:, label]
    return total


def _sum(per_cell: PerCell, of: Reading) -> DoubleArray:
    """Sum over the cells of every sequence, in float64: (cells,) or (cells, K) -> (sequences,)."""
    width = 1 if per_cell.ndim == 1 else per_cell.shape[1]
    sums: DoubleArray = np.add.reduceat(per_cell.ravel().astype(np.float64), width * of.first_cells)
    return sums


def _mean(per_cell: PerCell, of: Reading) -> DoubleArray:
    return _sum(per_cell, of) / of.cell_counts


def _max(per_cell: PerCell, of: Reading) -> DoubleArray:
    whole = per_cell if per_cell.ndim == 1 else _over_labels(per_cell)
    largest: DoubleArray = np.maximum.reduceat(whole, of.first_cells).astype(np.float64)
    return largest


def _negated(distance: DoubleArray) -> DoubleArray:
    """Return -distance, but never above 0 by rounding; for identical tables it is 0, not -0."""
    return 0.0 - np.maximum(distance, 0.0)


@dataclass(frozen=True, slots=True)
class Consistency:
    """Describes a measure of consistency.

    compare          compares an earlier and the current reading: (sequences,) float64
    lowest, highest  the range of a threshold
    tau              the default threshold
    scale            how a threshold is drawn
    """

    compare: Compare
    lowest: float
    highest: float
    tau: float
    scale: Scale


MEASURES_OF_ENTITIES = ("entity_set", "entity_jaccard")
ROOT_2 = math.sqrt(2)
BELOW_0, BELOW_1 = Scale(farthest=-1.0), Scale(surest=1.0, farthest=0.0)
OF_KL, OF_EUCLIDEAN = (
    Scale(farthest=-30.0),
    Scale(farthest=-ROOT_2),
)  # a divergence has no lowest value
OF_ENTITIES = Scale(surest=1.0, farthest=0.0, is_even=True)
CONSISTENCIES: Mapping[tuple[str, str], Consistency] = {  # (measure, pooling)
    ("kl", "mean"): Consistency(pooled_by_mean(kl_divergence), -math.inf, 0.0, -0.001, OF_KL),
    ("kl", "max"): Consistency(pooled_by_max(kl_divergence), -math.inf, 0.0, -0.2, OF_KL),
    ("reverse_kl", "mean"): Consistency(pooled_by_mean(reverse_kl_divergence), -math.inf, 0.0, -0.001, OF_KL),
    ("reverse_kl", "max"): Consistency(pooled_by_max(reverse_kl_divergence), -math.inf, 0.0, -0.2, OF_KL),
    ("js", "mean"): Consistency(pooled_by_mean(js_divergence), -1.0, 0.0, -0.001, BELOW_0),
    ("js", "max"): Consistency(pooled_by_max(js_divergence), -1.0, 0.0, -0.1, BELOW_0),
    ("hellinger", "mean"): Consistency(pooled_by_mean(hellinger_distance), -1.0, 0.0, -0.01, BELOW_0),
    ("hellinger", "max"): Consistency(pooled_by_max(hellinger_distance), -1.0, 0.0, -0.3, BELOW_0),
    ("euclidean", "mean"): Consistency(euclidean, -ROOT_2, 0.0, -0.03, OF_EUCLIDEAN),
    ("euclidean", "max"): Consistency(euclidean_of_worst_cell, -ROOT_2, 0.0, -0.4, OF_EUCLIDEAN),
    ("cosine", "mean"): Consistency(cosine, 0.0, 1.0, 0.999, BELOW_1),
    ("cosine", "max"): Consistency(cosine_of_worst_cell, 0.0, 1.0, 0.9, BELOW_1),
    ("edit", "mean"): Consistency(pooled_by_mean(label_differs), -1.0, 0.0, -0.001, BELOW_0),
    ("edit", "max"): Consistency(pooled_by_max(label_differs), -1.0, 0.0, -0.5, BELOW_0),
    ("edit_levenshtein", "mean"): Consistency(edit_levenshtein, -1.0, 0.0, -0.001, BELOW_0),
    ("entity_set", "mean"): Consistency(entity_set, 0.0, 1.0, 0.5, OF_ENTITIES),
    ("entity_jaccard", "mean"): Consistency(entity_jaccard, 0.0, 1.0, 0.9, OF_ENTITIES),
}
