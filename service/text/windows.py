"""Cuts a sentence that is too long for the model into windows, and says which window answers for which word."""

from __future__ import annotations

from itertools import pairwise

from service.spans.types import IntArray

Window = tuple[int, int, int, int]  # first word, end, first owned word, end of owned words; ends are exclusive


def cut_windows(bounds: IntArray, first: int, last: int, max_pieces: int, overlap_pieces: int) -> list[Window]:
    """Cut words [first, last) into windows of at most `max_pieces` pieces that overlap by about `overlap_pieces`.

    bounds: (words + 1,) the pieces of word w are [bounds[w], bounds[w + 1])
    A window owns all its words except the outer half of each overlap, so every word of [first, last) is owned by
    exactly one window. A word with more pieces than a window holds gets a window of its own.
    """
    if bounds[last] - bounds[first] <= max_pieces:
        return [(first, last, first, last)]
    pieces = bounds[first : last + 1].tolist()  # these alone: a text has many sentences
    spans: list[tuple[int, int]] = []
    words = last - first
    start = 0
    while True:
        end = start + 1
        while end < words and pieces[end + 1] - pieces[start] <= max_pieces:
            end += 1
        spans.append((start, end))
        if end == words:
            break
        next_start = end
        while next_start - 1 > start and pieces[end] - pieces[next_start - 1] <= overlap_pieces:
            next_start -= 1
        # the next window must reach beyond this one: reduce the overlap if the next word does not fit beside it
        while next_start < end and pieces[end + 1] - pieces[next_start] > max_pieces:
            next_start += 1
        start = next_start
    cuts = [0]
    cuts += [(left_end + right_start + 1) // 2 for (_, left_end), (right_start, _) in pairwise(spans)]
    cuts.append(words)
    return [
        (first + start, first + end, first + own_first, first + own_last)
        for (start, end), (own_first, own_last) in zip(spans, pairwise(cuts), strict=True)
    ]
