"""Measures how sure one layer's span table is. Tables are packed: (cells, K) float32 log-probabilities."""

from __future__ import annotations

import math

from torch import Tensor


def entropy(table: Tensor) -> Tensor:
    """Return the normalised entropy of every cell: (cells, K) log-probabilities -> (cells,) in [0, 1], 0 = certain.

    This is H / log K: Eq. 6 of VEE-BERT for one cell, without its sign slip.
    """
    return -(table.exp() * table.clamp_min(-1e4)).sum(dim=1) / math.log(table.shape[1])
