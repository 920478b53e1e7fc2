"""A span table to spans: candidates best first, each kept unless it conflicts with a better one (Yu et al. 2020)."""

from __future__ import annotations

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
    kept = keep_compatible(first[candidates], last[candidates] + 1, -log_probs[candidates], nested)
    cells = candidates[np.sort(kept)]  # cells lie row by row: their order is that of (start, end)
    probabilities = np.exp(log_probs[cells].astype(np.float64))
    columns = (first[cells], last[cells] + 1, labels[cells], probabilities)
    return [Span(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def keep_compatible(starts: IntArray, ends: IntArray, costs: FloatArray, nested: bool) -> list[int]:
    """Indices of the candidates (start, end, cost) that survive, cheapest first, ties by (start, end).

    A nested model refuses a span that crosses a kept one: starts inside it and ends outside, or the reverse. A flat one
    refuses any overlap. Kept spans of a nested model form a tree, so for a candidate it is enough to know, at its first
    position, the nearest end of a kept span that began before, and at its last, the nearest start of one that goes on.
    """
    order: list[int] = np.lexsort((ends, starts, costs)).tolist()
    if len(order) < 2:
        return order
    first, behind, size = starts.tolist(), ends.tolist(), int(ends.max())
    kept: list[int] = []
    if not nested:
        taken = bytearray(size)
        for index in order:
            start, end = first[index], behind[index]
            if not (taken[start] or taken[end - 1] or 1 in taken[start:end]):
                taken[start:end] = b"\x01" * (end - start)
                kept.append(index)
        return kept
    # by position: smallest inclusive end of a kept span that starts before and covers the position,
    # largest start of a kept span that covers the position and ends behind it
    nearest_end = np.full(size, size, dtype=np.int64)
    nearest_start = np.full(size, -1, dtype=np.int64)
    end_at, start_at = nearest_end.data, nearest_start.data  # read as Python integers: much faster
    for index in order:
        start, end = first[index], behind[index]
        last = end - 1
        if end_at[start] < last or start_at[last] > start:
            continue
        kept.append(index)
        if last > start:
            np.minimum(nearest_end[start + 1 : end], last, out=nearest_end[start + 1 : end])
            np.maximum(nearest_start[start:last], start, out=nearest_start[start:last])
    return kept
