"""Decodes candidates into spans: best first, each is kept unless it conflicts with a better one (Yu et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from service.spans.types import FloatArray, Span

FEW = 32  # up to this number, Python sorts faster than numpy


def decode(candidates: FloatArray, *, nested: bool) -> list[Span]:
    """Return the entities of one sequence in order of (start, end); `candidates` as in `choose`."""
    return spans_of(choose(candidates, nested=nested))


def choose(candidates: FloatArray, *, nested: bool) -> FloatArray:
    """Return the candidates that are entities, in their order.

    candidates: (n, 4) first word, last word (inclusive), label and log-probability of the cells whose most probable
    label is not 0, in the order of the table. The most probable candidates are chosen first, ties by (start, end).
    (Yu et al. sort by the raw score, which changes when the score of label 0 is subtracted from that of every label;
    the probability does not.)
    """
    if len(candidates) < 2:
        return candidates
    rows = candidates.tolist()
    starts, ends = [int(first) for first, *_ in rows], [int(last) + 1 for _, last, *_ in rows]
    kept = keep_compatible(starts, ends, [-log_prob for *_, log_prob in rows], nested=nested)
    return candidates[sorted(kept)]  # the table's order is that of (start, end)


def spans_of(chosen: FloatArray) -> list[Span]:
    """Turn the candidates that `choose` returns into spans."""
    return [
        Span(int(first), int(last) + 1, int(label), math.exp(log_prob))
        for first, last, label, log_prob in chosen.tolist()
    ]


def keep_compatible(starts: Sequence[int], ends: Sequence[int], costs: Sequence[float], *, nested: bool) -> list[int]:
    """Return the indices of the candidates (start, end, cost) that are kept, cheapest first, ties by (start, end).

    A nested model refuses a span that crosses a kept one: that starts inside and ends outside of it, or the reverse. A
    flat model refuses any overlap. Kept spans of a nested model form a tree, so two numbers decide about a candidate:
    at its first position, the nearest end of a kept span that starts before the position, and at its last position, the
    nearest start of a kept span that ends after it.
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
    # by position: the smallest (inclusive) end of a kept span that starts before the position and covers it,
    # and the largest start of a kept span that covers the position and ends after it
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
