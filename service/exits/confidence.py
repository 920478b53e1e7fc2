"""How sure one layer's span table is of itself. Tables are packed: (cells, K) float32 log-probabilities."""

from __future__ import annotations

import math

from torch import Tensor


def entropy(table: Tensor) -> Tensor:
    """Normalised entropy of every cell: (cells, K) log-probabilities -> (cells,) in [0, 1], 0 = certain.

    Eq. 6 of VEE-BERT per cell, without its sign slip: H / log K.
    """
    return -(table.exp() * table.clamp_min(-1e4)).sum(dim=1) / math.log(table.shape[1])
