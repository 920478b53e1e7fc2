"""What attention adds to a score by how far the key lies from the query: one learned table, shared by all layers.

Distances fall into buckets: near ones have one each, far ones share wider and wider ones, and keys before the query
have others than keys after it (T5, Raffel et al. 2020; MPNet, Song et al. 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.models.packed import Ragged

BUCKETS = 32
_FARTHEST = 128  # pieces; from here on all distances share a bucket


@dataclass(frozen=True, eq=False)
class Bias:
    """What one layer adds to the scores of some rows.

    by_distance  (heads, 2 * farthest + 1) for keys that lie farthest before the query, ..., farthest after it
    positions    (active pieces,) where each query lies in its sequence; None: all pieces are active
    """

    by_distance: Tensor
    positions: Tensor | None = None

    @property
    def farthest(self) -> int:
        return self.by_distance.shape[1] // 2

    def padded(self, active: Ragged, rows: Ragged) -> Tensor:
        """Lay it out as padded attention adds it: (batch, heads, longest active, longest), or with a batch of 1."""
        longest, farthest = rows.longest, self.farthest
        of_keys = self.by_distance[:, farthest + 1 - longest : farthest + longest]
        table = of_keys.unfold(1, longest, 1).flip(1)  # (heads, query, key)
        if self.positions is None:
            return table[None]
        return table[:, active.pad(self.positions[:, None]).squeeze(2)].transpose(0, 1)


class RelativeBias(nn.Embedding):
    """The table: (BUCKETS, heads)."""

    def __init__(self, num_heads: int, farthest: int) -> None:
        """farthest: the largest distance between two pieces of a sequence."""
        super().__init__(BUCKETS, num_heads)
        self._buckets = bucket_of(torch.arange(-farthest, farthest + 1, device="cpu"))

    def by_distance(self) -> Tensor:
        """Look up all distances; see Bias."""
        return self.weight.index_select(0, self._buckets.to(self.weight.device)).T


class FixedBias(nn.Module):
    """A RelativeBias whose weights will not change: all distances are looked up already."""

    def __init__(self, table: RelativeBias) -> None:
        super().__init__()
        self.register_buffer("_by_distance", table.by_distance().detach().contiguous())

    def by_distance(self) -> Tensor:
        """Return all distances; see Bias."""
        return self.get_buffer("_by_distance")


def bucket_of(distances: Tensor) -> Tensor:
    """Return the bucket of distances, key minus query in pieces: int64.

    It is worked out as Transformers does, since at the edge of a bucket the last bit of a logarithm decides.
    """
    half = BUCKETS // 2
    exact = half // 2  # nearer distances have a bucket each
    apart = distances.abs()
    share = torch.log(apart.clamp_min(1).float() / exact) / math.log(_FARTHEST / exact)
    shared = (exact + (share * (half - exact)).long()).clamp_max(half - 1)
    return (distances > 0) * half + torch.where(apart < exact, apart, shared)
