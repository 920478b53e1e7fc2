"""What the formulas say, sequence by sequence and cell by cell in Python's floats. No test lives here.

A table is a list of cells, row by row; a cell is a list of log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from service.exits.reading import Reading

Cell = Sequence[float]
Table = Sequence[Cell]
SpanSet = set[tuple[int, int, int]]


def tables_of(reading: Reading) -> list[Table]:
    """Every sequence's table."""
    rows: Iterator[Cell] = iter(reading.table.double().tolist())
    return [[next(rows) for _ in words_of_cells(count)] for count in reading.num_words]


def words_of_cells(num_words: int) -> list[tuple[int, int]]:
    """First and last word, inclusive, of every cell."""
    return [(first, last) for first in range(num_words) for last in range(first, num_words)]


def num_words_of(table: Table) -> int:
    return next(count for count in range(1, 1_000) if len(words_of_cells(count)) == len(table))


def argmax(cell: Cell) -> int:
    return max(range(len(cell)), key=lambda label: cell[label])


def decoded(table: Table, nested: bool = True) -> SpanSet:
    """Start, end, label: the most probable cells first, each kept unless it crosses (flat: overlaps) a kept one."""
    kept: SpanSet = set()
    words = words_of_cells(num_words_of(table))
    found = [(-max(cell), start, last + 1, argmax(cell)) for (start, last), cell in zip(words, table, strict=True)]
    for _, start, end, label in sorted(found):
        crossed = any(s < start < e < end or start < s < end < e for s, e, _ in kept)
        overlapped = any(s < end and start < e for s, e, _ in kept)
        if label and not (crossed if nested else overlapped):
            kept.add((start, end, label))
    return kept


def entropies(table: Table) -> list[float]:
    """Eq. 6 of every cell, without its sign slip."""
    return [-sum(math.exp(p) * p for p in cell) / math.log(len(cell)) for cell in table]


def candidates(table: Table) -> list[tuple[int, int, int, float]]:
    """First word, last word, label and log-probability of the cells whose most probable label is an entity's."""
    words = words_of_cells(num_words_of(table))
    found = [(*place, argmax(cell), max(cell)) for place, cell in zip(words, table, strict=True)]
    return [candidate for candidate in found if candidate[2] > 0]


def summary(table: Table) -> list[float]:
    """In the order of SUMMARY."""
    uncertainty, labels, best = entropies(table), [argmax(cell) for cell in table], [max(cell) for cell in table]
    return [
        max(uncertainty),
        sum(uncertainty) / len(table),
        sum(map(math.exp, best)) / len(table),
        -sum(best),
        max([0.0, *(1 - math.exp(cell[0]) for cell, label in zip(table, labels, strict=True) if label == 0)]),
        max([0.0, *(1 - math.exp(p) for p, label in zip(best, labels, strict=True) if label > 0)]),
    ]


def features(tables: Sequence[Table], nested: bool = True) -> list[float]:
    """What the learned rule looks at, in the order of FEATURES; the latest exit last."""
    *earlier, table = tables
    entropy_max, _, _, doubt, missed, weakest = summary(table)
    found = decoded(table, nested)
    agreements = [float(decoded(other, nested) == found) for other in earlier]
    return [
        math.log(entropy_max + 1e-6),
        math.log(doubt + 1e-6),
        missed,
        weakest,
        math.log(len(found) + 1),
        math.log(num_words_of(table)),
        agreements[-1] if agreements else 0.0,
        sum(agreements),
    ]


def kl(one: Cell, other: Cell) -> float:
    """Log-probabilities below -30 count as -30."""
    pairs = [(max(p, -30.0), max(q, -30.0)) for p, q in zip(one, other, strict=True)]
    return sum(math.exp(p) * (p - q) for p, q in pairs) / math.log(len(one))


def js(one: Cell, other: Cell) -> float:
    pairs = [(math.exp(p), math.exp(q)) for p, q in zip(one, other, strict=True)]
    return sum(x * math.log2(2 * x / (p + q)) for p, q in pairs for x in (p, q)) / 2


def hellinger(one: Cell, other: Cell) -> float:
    return math.sqrt(sum((math.exp(p / 2) - math.exp(q / 2)) ** 2 for p, q in zip(one, other, strict=True)) / 2)


def euclidean(one: Cell, other: Cell) -> float:
    return math.dist([math.exp(p) for p in one], [math.exp(q) for q in other])


def cosine(one: Cell, other: Cell) -> float:
    p, q = [math.exp(value) for value in one], [math.exp(value) for value in other]
    return sum(x * y for x, y in zip(p, q, strict=True)) / (math.hypot(*p) * math.hypot(*q))


def levenshtein(one: Sequence[int], other: Sequence[int]) -> int:
    """The textbook's whole table."""
    above = list(range(len(other) + 1))
    for row, a in enumerate(one, 1):
        current = [row]
        for column, b in enumerate(other, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (a != b)))
        above = current
    return above[-1]


def edit_levenshtein(one: Table, other: Table) -> float:
    return -levenshtein([argmax(cell) for cell in one], [argmax(cell) for cell in other]) / len(one)


def jaccard(one: Table, other: Table) -> float:
    union = decoded(one) | decoded(other)
    return len(decoded(one) & decoded(other)) / len(union) if union else 1.0


def pooled(
    pool: Callable[[list[float]], float], per_cell: Callable[[Cell, Cell], float]
) -> Callable[[Table, Table], float]:
    return lambda one, other: pool([per_cell(p, q) for p, q in zip(one, other, strict=True)])


def minus_mean(distances: list[float]) -> float:
    return -sum(distances) / len(distances)


def minus_max(distances: list[float]) -> float:
    return -max(distances)


def minus_root_mean_square(distances: list[float]) -> float:
    return -math.sqrt(sum(distance**2 for distance in distances) / len(distances))


def flattened(one: Table, other: Table) -> float:
    return cosine([p for cell in one for p in cell], [q for cell in other for q in cell])


CONSISTENCIES: dict[tuple[str, str], Callable[[Table, Table], float]] = {  # (measure, pooling)
    ("kl", "mean"): pooled(minus_mean, kl),
    ("kl", "max"): pooled(minus_max, kl),
    ("reverse_kl", "mean"): pooled(minus_mean, lambda one, other: kl(other, one)),
    ("reverse_kl", "max"): pooled(minus_max, lambda one, other: kl(other, one)),
    ("js", "mean"): pooled(minus_mean, js),
    ("js", "max"): pooled(minus_max, js),
    ("hellinger", "mean"): pooled(minus_mean, hellinger),
    ("hellinger", "max"): pooled(minus_max, hellinger),
    ("euclidean", "mean"): pooled(minus_root_mean_square, euclidean),
    ("euclidean", "max"): pooled(minus_max, euclidean),
    ("cosine", "mean"): flattened,
    ("cosine", "max"): pooled(min, cosine),
    ("edit", "mean"): pooled(minus_mean, lambda one, other: float(argmax(one) != argmax(other))),
    ("edit", "max"): pooled(minus_max, lambda one, other: float(argmax(one) != argmax(other))),
    ("edit_levenshtein", "mean"): edit_levenshtein,
    ("entity_set", "mean"): lambda one, other: float(decoded(one) == decoded(other)),
    ("entity_jaccard", "mean"): jaccard,
}
