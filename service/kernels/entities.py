"""Decodes in machine code: finds which candidates of a sequence are entities, as `service.spans.decode.choose` does."""

from __future__ import annotations

from service.kernels.rows import kernel


@kernel
def choose(cells, order, is_nested):
    """Move the candidates that are entities to the front, in their order; return how many there are.

    cells: (n, 4) float32 as in `choose` of service.spans.decode; order: (n,) int64 to work in. Taken by falling
    probability, a candidate is kept unless it crosses a kept one, or, in a flat model, overlaps it.
    """
    count = len(cells)
    if count < 2:
        return count
    for index in range(count):
        order[index] = index
    _sort(order, cells)
    kept = 0
    for place in range(count):
        candidate = order[place]
        if _fits(cells, candidate, order, kept, is_nested):
            order[kept] = candidate
            kept += 1
    _sort(order[:kept], cells[:0])
    for place in range(kept):
        for field in range(4):
            cells[place, field] = cells[order[place], field]  # never before its own place
    return kept


@kernel
def _sort(order, cells):
    """Sort by falling log-probability, ties by index, with Shell's sort; by index alone where `cells` is empty."""
    gap = 1
    while gap < len(order) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for start in range(gap, len(order)):
            moved, place = order[start], start
            while place >= gap and _comes_before(moved, order[place - gap], cells):
                order[place] = order[place - gap]
                place -= gap
            order[place] = moved
        gap //= 3


@kernel
def _comes_before(one, other, cells):
    if len(cells) and cells[one, 3] != cells[other, 3]:
        return cells[one, 3] > cells[other, 3]
    return one < other


@kernel
def _fits(cells, candidate, kept, count, is_nested):
    """Tell whether a candidate conflicts with none of the first `count` kept ones."""
    first, last = cells[candidate, 0], cells[candidate, 1]
    for place in range(count):
        other_first, other_last = cells[kept[place], 0], cells[kept[place], 1]
        if first > other_last or other_first > last:
            continue
        if not is_nested or first < other_first <= last < other_last or other_first < first <= other_last < last:
            return False
    return True
