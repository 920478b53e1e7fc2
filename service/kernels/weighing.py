"""Works out how sure an exit is of cells: a few figures of each cell's scores, and their sums. Knows no words."""

from __future__ import annotations

import numpy as np

from service.kernels import maths
from service.kernels.layout import CONFIDENCE_MEAN, DOUBT, ENTROPY_MAX, ENTROPY_MEAN, MISSED, WEAKEST
from service.kernels.rows import kernel, total
from service.kernels.simd import lowest_and_highest

_ONE, _ZERO = np.float32(1), np.float32(0)

# the figures of a cell: highest score of a label; sum of shares, then its logarithm; entropy; probability of anything
# but the best label; the same where no entity is best, and where one is; the best label
HIGHEST, NORMALIZER, ENTROPY, UNSURE, UNSURE_OF_NONE, UNSURE_OF_ENTITY, BEST = range(7)
NUM_FIGURES = 7


@kernel
def weigh_cells(scores, figures):
    """Work out the figures of every cell but those of `keep_apart`; label 0 has score 0.

    scores (labels, cells), figures (NUM_FIGURES, cells) float32
    """
    labels, count = scores.shape
    highest, normalizer, entropy, unsure = figures[HIGHEST], figures[NORMALIZER], figures[ENTROPY], figures[UNSURE]
    best = figures[BEST]
    for cell in range(count):
        highest[cell] = _ZERO
    for cell in range(count):
        best[cell] = _ZERO
    for label in range(labels):
        _keep_best(scores[label], np.float32(label + 1), highest, best)
    for cell in range(count):
        normalizer[cell] = maths.exp(-highest[cell])
    for cell in range(count):
        entropy[cell] = -normalizer[cell] * highest[cell]
    for label in range(labels):
        _add_share(scores[label], highest, normalizer, entropy)
    for cell in range(count):
        unsure[cell] = _ONE - _ONE / normalizer[cell]
    for cell in range(count):
        normalizer[cell] = maths.log(normalizer[cell])
    inverse = _ONE / maths.log(np.float32(labels + 1))
    for cell in range(count):
        entropy[cell] = (normalizer[cell] - entropy[cell] * (_ONE - unsure[cell])) * inverse


@kernel
def _keep_best(scores, label, highest, best):
    """Where a label's scores are the highest so far, keep them and the label."""
    for index in range(len(scores)):
        best[index] = label if scores[index] > highest[index] else best[index]
        highest[index] = max(highest[index], scores[index])


@kernel
def _add_share(scores, highest, normalizer, entropy):
    """Add a label's share of every cell, and what it adds to the entropy."""
    for index in range(len(scores)):
        relative = scores[index] - highest[index]
        share = maths.exp(relative)
        normalizer[index] += share
        entropy[index] += share * relative


@kernel
def keep_apart(figures):
    """Work out how unsure cells are: apart for cells whose most probable label is an entity's, and for the others."""
    unsure, best, of_none, of_entity = (
        figures[UNSURE],
        figures[BEST],
        figures[UNSURE_OF_NONE],
        figures[UNSURE_OF_ENTITY],
    )
    for cell in range(len(unsure)):
        of_none[cell] = unsure[cell] if best[cell] == _ZERO else _ZERO
    for cell in range(len(unsure)):
        of_entity[cell] = unsure[cell] if best[cell] > _ZERO else _ZERO


@kernel
def sum_up(num_cells, figures, summary):
    """Add cells to a summary, (SUMMARY,) float64, whose means are still sums; padding has figures of 0."""
    width = figures.shape[1]
    summary[ENTROPY_MAX] = max(summary[ENTROPY_MAX], lowest_and_highest(figures[ENTROPY].ctypes.data, width)[1])
    summary[ENTROPY_MEAN] += total(figures[ENTROPY])
    summary[CONFIDENCE_MEAN] += num_cells - total(figures[UNSURE])
    summary[DOUBT] += total(figures[NORMALIZER])
    summary[MISSED] = max(summary[MISSED], lowest_and_highest(figures[UNSURE_OF_NONE].ctypes.data, width)[1])
    summary[WEAKEST] = max(summary[WEAKEST], lowest_and_highest(figures[UNSURE_OF_ENTITY].ctypes.data, width)[1])
