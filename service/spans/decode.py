"""A span table to spans: candidates best first, each kept unless it conflicts with a better one (Yu et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from service.spans.types import FloatArray, Span

FEW = 32  # so many are sorted faster one by one


def decode(candidates: FloatArray, *, nested: bool) -> list[Span]:
    """The entities of one sequence, in order of (start, end): those of `choose`."""
    return spans_of(choose(candidates, nested=nested))


def choose(candidates: FloatArray, *, nested: bool) -> FloatArray:
    """The candidates that are entities, in the order that they have.

    candidates: (n, 4) first word, last word, label and log-probability of the cells whose most probable label is not
    0, in the order of the table. The most probable are chosen first, ties by (start, end). (Yu et al. sort by the raw
    score, which changes when label 0 is subtracted from every label; the probability does not.)
    """
    if len(candidates) < 2:
        return candidates
    rows = candidates.tolist()
    starts, ends = [int(first) for first, *_ in rows], [int(last) + 1 for _, last, *_ in rows]
    kept = keep_compatible(starts, ends, [-log_prob for *_, log_prob in rows], nested=nested)
    return candidates[sorted(kept)]  # the table's order is that of (start, end)


def spans_of(chosen: FloatArray) -> list[Span]:
    """What `choose` left, as spans."""
    return [
        Span(int(first), int(last) + 1, int(label), math.exp(log_prob))
        for first, last, label, log_prob in chosen.tolist()
    ]


def keep_compatible(starts: Sequence[int], ends: Sequence[int], costs: Sequence[float], *, nested: bool) -> list[int]:
    """Indices of the candidates (start, end, cost) that survive, cheapest first, ties by (start, end).

    A nested model refuses a span that crosses a kept one: starts inside it and ends outside, or the reverse. A flat one
    refuses any overlap. Kept spans of a nested model form a tree, so for a candidate it is enough to know, at its first
    position, the nearest end of a kept span that began before, and at its last, the nearest start of one that goes on.
    """
    if len(starts) < 2:
        return list(range(len(starts)))
    if len(starts) <= FEW:
        keys = list(zip(costs, starts, ends, strict=True))
        order = sorted(range(len(keys)), key=keys.__getitem__)
    else:
        order = np.lexsort((ends, starts, costs)).tolist()
    size = max(ends)
    kept: list[int] = []
    if not nested:
        taken = bytearray(size)
        for index in order:
            start, end = starts[index], ends[index]
            if not (taken[start] or taken[end - 1] or 1 in taken[start:end]):
                taken[start:end] = b"\x01" * (end - start)
                kept.append(index)
        return kept
    # by position: smallest inclusive end of a kept span that starts before and covers the position,
    # largest start of a kept span that covers the position and ends after it
    nearest_end = np.full(size, size, dtype=np.int64)
    nearest_start = np.full(size, -1, dtype=np.int64)
    end_at, start_at = nearest_end.data, nearest_start.data  # read as Python integers: much faster
    for index in order:
        start, end = starts[index], ends[index]
        last = end - 1
        if end_at[start] < last or start_at[last] > start:
            continue
        kept.append(index)
        if last > start:
            np.minimum(nearest_end[start + 1 : end], last, out=nearest_end[start + 1 : end])
            np.maximum(nearest_start[start:last], start, out=nearest_start[start:last])
    return kept
