"""Launches attention with a bias by distance as one kernel on a GPU, since PyTorch's over packed rows adds none.

The kernel is in `attention_kernel`, which needs Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.models.packed import Ragged
from service.models.relative_bias import Bias

QUERIES, KEYS = 32, 64  # of a tile
WARPS = 4


def attend(query: Tensor, key: Tensor, value: Tensor, active: Ragged, rows: Ragged, bias: Bias) -> Tensor:
    """Let every active row attend to all rows of its sequence, with a bias by distance.

    query (active pieces, heads, width), key and value (pieces, heads, width) -> (active pieces, heads, width); bfloat16
    """
    from service.executors import attention_kernel

    _, heads, width = query.shape
    result = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    bounds = active.cu_seqlens, rows.cu_seqlens
    positions = bounds[0] if bias.positions is None else bias.positions  # the first is not looked at
    attention_kernel.attend[(active.batch, heads, -(-active.longest // QUERIES))](
        *(query, key, value, bias.by_distance, positions, *bounds, result),
        *(query.stride(0), key.stride(0), bias.farthest, width**-0.5),
        WIDTH=width,
        BLOCK=max(16, 1 << (width - 1).bit_length()),
        QUERIES=QUERIES,
        KEYS=KEYS,
        SOME_HALTED=bias.positions is not None,
        num_warps=WARPS,
    )
    return result
