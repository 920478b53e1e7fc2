"""Spans of words and entities of characters: the conventions that everything else keeps.

Words count from 0 within a sequence, character offsets are Unicode code points within a text, all ends are exclusive,
table label 0 means no entity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]


class Span(NamedTuple):
    """Words [start, end) carry `label`, with probability `score`."""

    start: int
    end: int
    label: int
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Entity:
    """Characters [start, end) of a text carry `label`, with probability `score` (1.0 for gold)."""

    start: int
    end: int
    label: str
    score: float = 1.0
