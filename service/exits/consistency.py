"""How much two exits agree. Every measure is a consistency: larger means more alike, and a vote is C > tau.

Compared are readings of the same sequences; the result is (sequences,) float64. Divergences of single cells are pooled
over a sequence's valid cells by their mean, as in the paper, or by their maximum: the cell that agrees least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from service.exits.reading import Reading

MIN_LOG_PROB = -30.0  # keeps a probability of 0 from making a divergence infinite

Compare = Callable[[Reading, Reading], Tensor]


def kl_divergence(earlier: Tensor, current: Tensor) -> Tensor:
    """KL(p_earlier || p_current) of every cell: (cells, K), (cells, K) -> (cells,), in units of log K.

    The divergence of Eq. 7 of VEE-BERT. Log-probabilities are clamped at MIN_LOG_PROB.
    """
    earlier, current = earlier.clamp_min(MIN_LOG_PROB), current.clamp_min(MIN_LOG_PROB)
    return (earlier.exp() * (earlier - current)).sum(dim=1) / math.log(current.shape[1])


def reverse_kl_divergence(earlier: Tensor, current: Tensor) -> Tensor:
    """KL(p_current || p_earlier) of every cell, as `kl_divergence`."""
    return kl_divergence(current, earlier)


def js_divergence(earlier: Tensor, current: Tensor) -> Tensor:
    """Jensen-Shannon divergence / log 2 of every cell, in [0, 1] (footnote 7 of VEE-BERT)."""
    p, q = earlier.clamp_min(MIN_LOG_PROB).exp(), current.clamp_min(MIN_LOG_PROB).exp()
    total = p + q  # not logaddexp: its last bit depends on where in the batch a cell stands
    halves = p * (2 * p / total).log() + q * (2 * q / total).log()
    return (halves.sum(dim=1) / (2 * math.log(2))).clamp_max(1.0)


def hellinger_distance(earlier: Tensor, current: Tensor) -> Tensor:
    """Hellinger distance of every cell, in [0, 1] (footnote 7 of VEE-BERT)."""
    difference = (earlier / 2).exp() - (current / 2).exp()
    return difference.square().sum(dim=1).div(2).sqrt().clamp_max(1.0)


def squared_euclidean_distance(earlier: Tensor, current: Tensor) -> Tensor:
    """Squared Euclidean distance of every cell's probabilities, in [0, 2]."""
    return (earlier.exp() - current.exp()).square().sum(dim=1)


def pooled_by_mean(divergence: Callable[[Tensor, Tensor], Tensor]) -> Compare:
    """-(mean over valid cells of `divergence`), never above 0.

    For `kl_divergence` this is Eq. 7 of VEE-BERT without its leading minus: as printed it would grow with disagreement,
    against the text, which calls it the negative of the average divergence.
    """

    def compare(earlier: Reading, current: Reading) -> Tensor:
        return _negated(current.cells.mean(divergence(earlier.table, current.table)))

    return compare


def pooled_by_max(divergence: Callable[[Tensor, Tensor], Tensor]) -> Compare:
    """-(largest `divergence` of a valid cell), never above 0."""

    def compare(earlier: Reading, current: Reading) -> Tensor:
        return _negated(current.cells.max(divergence(earlier.table, current.table)))

    return compare


def euclidean(earlier: Reading, current: Reading) -> Tensor:
    """-norm(T_i - T_m) / sqrt(Z) over the probabilities of the valid cells, in [-sqrt 2, 0].

    Section 4.1 of VEE-BERT; divided by sqrt(Z) so that tau does not depend on the length.
    """
    return _negated(current.cells.mean(squared_euclidean_distance(earlier.table, current.table)).sqrt())


def euclidean_of_worst_cell(earlier: Reading, current: Reading) -> Tensor:
    """-(largest Euclidean distance of a valid cell), in [-sqrt 2, 0]."""
    return _negated(current.cells.max(squared_euclidean_distance(earlier.table, current.table)).sqrt())


def cosine(earlier: Reading, current: Reading) -> Tensor:
    """Cosine of the two tables of probabilities as vectors (section 4.1 of VEE-BERT), in [0, 1]."""
    one, other, cells = earlier.table.double().exp(), current.table.double().exp(), current.cells
    products = cells.sum((one * other).sum(dim=1))
    squares = cells.sum(one.square().sum(dim=1)) * cells.sum(other.square().sum(dim=1))
    return (products / squares.sqrt()).clamp_max(1.0)


def cosine_of_worst_cell(earlier: Reading, current: Reading) -> Tensor:
    """Smallest cosine of a valid cell's two distributions, in [0, 1]."""
    one, other = earlier.table.double().exp(), current.table.double().exp()
    squares = one.square().sum(dim=1) * other.square().sum(dim=1)
    return 1.0 - current.cells.max(1.0 - (one * other).sum(dim=1) / squares.sqrt())


def edit(earlier: Reading, current: Reading) -> Tensor:
    """-(share of valid cells whose most probable label differs), in [-1, 0].

    Section 4.1 of VEE-BERT asks for the edit distance of the two lists of labels; the Hamming distance is never below
    Levenshtein's, so never less strict, and needs no dynamic programme (`edit_levenshtein` does).
    """
    return _negated(current.cells.mean((earlier.best[1] != current.best[1]).float()))


def edit_of_worst_cell(earlier: Reading, current: Reading) -> Tensor:
    """0 where all most probable labels are the same, else -1."""
    return _negated(current.cells.max((earlier.best[1] != current.best[1]).float()))


def edit_levenshtein(earlier: Reading, current: Reading) -> Tensor:
    """-(Levenshtein distance of the lists of most probable labels) / Z, exact, in [-1, 0] (section 4.1)."""
    counts = current.cells.counts
    differing = (edit(earlier, current) * -torch.tensor(counts, device=current.table.device)).round().tolist()
    lists = zip(earlier.best[1].cpu().split(counts), current.best[1].cpu().split(counts), differing, strict=True)
    distances = [  # the Hamming distance bounds the band that has to be searched
        Levenshtein.distance(one.tolist(), other.tolist(), score_cutoff=int(hamming)) / len(one)
        for one, other, hamming in lists
    ]
    return _negated(torch.tensor(distances, dtype=torch.float64, device=current.table.device))


def entity_set(earlier: Reading, current: Reading) -> Tensor:
    """1 where the decoded entities are the same, else 0: what the caller would get."""
    pairs = zip(earlier.span_sets, current.span_sets, strict=True)
    return torch.tensor([float(one == other) for one, other in pairs], dtype=torch.float64, device=current.table.device)


def entity_jaccard(earlier: Reading, current: Reading) -> Tensor:
    """Decoded entities in common / in either, in [0, 1]; 1 where neither has any."""
    pairs = zip(earlier.span_sets, current.span_sets, strict=True)
    shares = [len(one & other) / len(one | other) if one or other else 1.0 for one, other in pairs]
    return torch.tensor(shares, dtype=torch.float64, device=current.table.device)


def _negated(distance: Tensor) -> Tensor:
    """Rounding never lifts a consistency above 0, and identical tables are 0, not -0."""
    return 0.0 - distance.clamp_min(0.0)


@dataclass(frozen=True, slots=True)
class Consistency:
    """A measure, the range in which a threshold for it makes sense, and a threshold to start from."""

    compare: Compare
    lowest: float
    highest: float
    tau: float


ROOT_2 = math.sqrt(2)
CONSISTENCIES: Mapping[tuple[str, str], Consistency] = {  # (measure, pooling)
    ("kl", "mean"): Consistency(pooled_by_mean(kl_divergence), -math.inf, 0.0, -0.001),
    ("kl", "max"): Consistency(pooled_by_max(kl_divergence), -math.inf, 0.0, -0.2),
    ("reverse_kl", "mean"): Consistency(pooled_by_mean(reverse_kl_divergence), -math.inf, 0.0, -0.001),
    ("reverse_kl", "max"): Consistency(pooled_by_max(reverse_kl_divergence), -math.inf, 0.0, -0.2),
    ("js", "mean"): Consistency(pooled_by_mean(js_divergence), -1.0, 0.0, -0.001),
    ("js", "max"): Consistency(pooled_by_max(js_divergence), -1.0, 0.0, -0.1),
    ("hellinger", "mean"): Consistency(pooled_by_mean(hellinger_distance), -1.0, 0.0, -0.01),
    ("hellinger", "max"): Consistency(pooled_by_max(hellinger_distance), -1.0, 0.0, -0.3),
    ("euclidean", "mean"): Consistency(euclidean, -ROOT_2, 0.0, -0.03),
    ("euclidean", "max"): Consistency(euclidean_of_worst_cell, -ROOT_2, 0.0, -0.4),
    ("cosine", "mean"): Consistency(cosine, 0.0, 1.0, 0.999),
    ("cosine", "max"): Consistency(cosine_of_worst_cell, 0.0, 1.0, 0.9),
    ("edit", "mean"): Consistency(edit, -1.0, 0.0, -0.001),
    ("edit", "max"): Consistency(edit_of_worst_cell, -1.0, 0.0, -0.5),
    ("edit_levenshtein", "mean"): Consistency(edit_levenshtein, -1.0, 0.0, -0.001),
    ("entity_set", "mean"): Consistency(entity_set, 0.0, 1.0, 0.5),
    ("entity_jaccard", "mean"): Consistency(entity_jaccard, 0.0, 1.0, 0.9),
}
