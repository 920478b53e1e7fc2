"""A span table to spans: candidates best first, each kept unless it conflicts with a better one (Yu et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.spans.table import cell_words
from service.spans.types import FloatArray, IntArray, Span


def decode(labels: IntArray, log_probs: FloatArray, num_words: int, *, nested: bool) -> list[Span]:
    """The entities of one sequence, in order of (start, end).

    labels    (cells,) most probable label of every valid cell, 0 for none
    log_probs (cells,) its log-probability: candidates are sorted by it, ties by (start, end). (Yu et al. sort by the
              raw score, which changes when label 0 is subtracted from every label; the probability does not.)
    """
    candidates = np.flatnonzero(labels)
    if not len(candidates):
        return []
    first, last = cell_words(num_words)
    starts, ends = first[candidates].tolist(), (last[candidates] + 1).tolist()
    scores = log_probs[candidates]
    kept = keep_compatible(list(zip(starts, ends, (-scores).tolist(), strict=True)), nested)
    probabilities = np.exp(scores.astype(np.float64)).tolist()
    candidate_labels = labels[candidates].tolist()
    spans = [Span(starts[i], ends[i], candidate_labels[i], probabilities[i]) for i in kept]
    return sorted(spans, key=lambda span: (span.start, span.end))


def keep_compatible(candidates: Sequence[tuple[int, int, float]], nested: bool) -> list[int]:
    """Indices of the (start, end, cost) candidates that survive, cheapest first, ties by (start, end).

    A nested model refuses a span that crosses a kept one: starts inside it and ends outside, or the reverse. A flat one
    refuses any overlap. Each candidate costs O(1) in a nested model, O(length) in a flat one: kept spans form a tree,
    so it is enough to know, for every position, the nearest end of a kept span that began before it, and the nearest
    start of one that ends behind it.
    """
    order = sorted(range(len(candidates)), key=lambda i: (candidates[i][2], candidates[i][0], candidates[i][1]))
    if len(order) < 2:
        return order
    size = max(end for _, end, _ in candidates)
    kept: list[int] = []
    if not nested:
        taken = bytearray(size)
        for index in order:
            start, end, _ = candidates[index]
            if 1 not in taken[start:end]:
                taken[start:end] = b"\x01" * (end - start)
                kept.append(index)
        return kept
    # over positions: smallest inclusive end of a kept span that starts before and still covers the position,
    # largest start of a kept span that covers the position and ends behind it
    nearest_end = np.full(size, size, dtype=np.int64)
    nearest_start = np.full(size, -1, dtype=np.int64)
    for index in order:
        start, end, _ = candidates[index]
        last = end - 1
        if nearest_end[start] < last or nearest_start[last] > start:
            continue
        kept.append(index)
        if last > start:
            np.minimum(nearest_end[start + 1 : end], last, out=nearest_end[start + 1 : end])
            np.maximum(nearest_start[start:last], start, out=nearest_start[start:last])
    return kept
