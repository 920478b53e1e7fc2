"""Types of spans and entities, with the conventions that hold everywhere.

Words count from 0 within a sequence, character offsets are Unicode code points within a text, all ends are exclusive,
and table label 0 means no entity.
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
    """Says that the words [start, end) of a sequence have `label`, with probability `score`."""

    start: int
    end: int
    label: int
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Entity:
    """Says that the characters [start, end) of a text have `label`, with probability `score` (1.0 for gold)."""

    start: int
    end: int
    label: str
    score: float = 1.0
